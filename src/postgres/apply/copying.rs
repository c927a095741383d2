//! Rows as `COPY … FROM STDIN` takes them.

use bytes::Bytes;
use futures_util::SinkExt;
use tokio_postgres::{Client, Error};

use super::raw::Cell;
use super::target::{Class, Target};
use crate::model::Kind;

/// Rows in COPY's text format.
#[derive(Debug, Default)]
pub(super) struct CopyText {
    pub bytes: Vec<u8>,
    pub rows: usize,
}

impl CopyText {
    /// Adds a row: the values of those columns.
    ///
    /// # Errors
    /// A value is of a kind that its column cannot keep.
    pub(super) fn row(&mut self, target: &Target, columns: &[usize], row: &[Cell<'_>]) -> Result<(), String> {
        for (n, &i) in columns.iter().enumerate() {
            if n > 0 {
                self.bytes.push(b'\t');
            }
            let (field, cell) = (&target.columns[i], row[i]);
            match (cell.kind, field.class) {
                (Kind::Null, _) => self.bytes.extend_from_slice(b"\\N"),
                (Kind::Blob, Class::Bytes) => {
                    self.bytes.extend_from_slice(b"\\\\x");
                    for byte in cell.text {
                        let digit = |n: u8| char::from_digit(u32::from(n), 16).unwrap_or('0') as u8;
                        self.bytes.extend_from_slice(&[digit(byte >> 4), digit(byte & 15)]);
                    }
                }
                (Kind::Text, Class::Bytes) | (Kind::Blob, _) => {
                    let what = if cell.kind == Kind::Text { "text" } else { "blob" };
                    return Err(format!("column {}: a {what} is no {}", field.name, field.cast));
                }
                (Kind::Unchanged | Kind::Same, _) => return Err(format!("column {} has no value", field.name)),
                (Kind::Typed | Kind::Integer | Kind::Real | Kind::Text, _) => escape(&mut self.bytes, cell.text),
            }
        }
        self.bytes.push(b'\n');
        self.rows += 1;
        Ok(())
    }
}

fn escape(out: &mut Vec<u8>, text: &[u8]) {
    if !text.iter().any(|byte| matches!(byte, b'\\' | b'\n' | b'\r' | b'\t')) {
        return out.extend_from_slice(text);
    }
    for &byte in text {
        match byte {
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            byte => out.push(byte),
        }
    }
}

/// The statement that takes rows with those columns.
pub(super) fn copy_statement(target: &Target, columns: &[usize]) -> String {
    let names: Vec<&str> = columns.iter().map(|&i| target.columns[i].name.as_str()).collect();
    format!("COPY {} ({}) FROM STDIN", target.rel, names.join(", "))
}

/// Sends rows and waits until they are there; gives how many there are.
pub(super) async fn copy_in(client: &Client, statement: &str, rows: Bytes) -> Result<u64, Error> {
    let sink = client.copy_in::<_, Bytes>(statement).await?;
    let mut sink = std::pin::pin!(sink);
    sink.send(rows).await?;
    sink.finish().await
}
