//! Values as the text that the server reads by the type that it wants.

use std::error::Error;

use bytes::BytesMut;
use tokio_postgres::types::{Format, IsNull, ToSql, Type, to_sql_checked};

use crate::model::Kind;
use crate::view::Cell;

/// A value as text; the server decides which type it has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct AsText(pub Option<String>);

impl ToSql for AsText {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        match &self.0 {
            Some(text) => {
                out.extend_from_slice(text.as_bytes());
                Ok(IsNull::No)
            }
            None => Ok(IsNull::Yes),
        }
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    fn encode_format(&self, _: &Type) -> Format {
        Format::Text
    }

    to_sql_checked!();
}

impl AsText {
    /// A parameter's value.
    ///
    /// # Errors
    /// Words: bytes that are no text, and no `bytea` either.
    pub(super) fn of(cell: &Cell<'_>) -> Result<AsText, String> {
        let text = match cell {
            Cell::Null => return Ok(AsText(None)),
            Cell::Boolean(value) => value.to_string(),
            Cell::Integer(value) => value.to_string(),
            Cell::Number(text) => (*text).to_owned(),
            Cell::Text(text) | Cell::Json(text) => text.to_string(),
            Cell::Value(value, _) if value.kind == Kind::Blob => {
                let mut text = String::with_capacity(2 + 2 * value.text.len());
                text.push_str("\\x");
                value.text.iter().for_each(|byte| text.push_str(&format!("{byte:02x}")));
                text
            }
            Cell::Value(value, _) => {
                std::str::from_utf8(&value.text).map_err(|_| "a text that is not UTF-8".to_owned())?.to_owned()
            }
        };
        Ok(AsText(Some(text)))
    }
}
