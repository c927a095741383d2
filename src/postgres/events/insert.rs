//! Events appended through `insert_events`.

use std::fmt::Write as _;
use std::time::Duration;

use async_trait::async_trait;
use tokio_postgres::Statement;

use crate::postgres::{Endpoint, Session};
use crate::view::{EventsError, EventsInsert};

/// Appends events through the function `insert_events` of a source, over a connection of its own.
pub struct PgEventsInsert {
    session: Session,
    insert: Statement,
    values: String,
}

const INSERT: &str = "select insert_events($1)::bigint";

impl PgEventsInsert {
    /// Connects, or gives up after `connect_limit`.
    ///
    /// # Errors
    /// The server cannot be reached or refuses, or there is no such function.
    pub async fn open(endpoint: &Endpoint, connect_limit: Duration) -> Result<PgEventsInsert, EventsError> {
        let session = endpoint.connect(connect_limit).await?;
        let prepared = session.client.prepare(INSERT).await;
        let insert = prepared.map_err(|error| endpoint.failed("preparing insert_events", error))?;
        Ok(PgEventsInsert { session, insert, values: String::new() })
    }
}

#[async_trait]
impl EventsInsert for PgEventsInsert {
    async fn insert(&mut self, events: &[String]) -> Result<u64, EventsError> {
        if events.is_empty() {
            return Ok(0);
        }
        self.values.clear();
        for (index, event) in events.iter().enumerate() {
            put_row(&mut self.values, index + 1, event);
        }
        let inserted = self.session.client.query_one(&self.insert, &[&self.values]).await;
        let inserted = inserted.and_then(|row| row.try_get::<_, i64>(0));
        let inserted = inserted.map_err(|error| self.session.endpoint().failed("inserting events", error))?;
        Ok(inserted.unsigned_abs())
    }
}

/// Appends one row of what follows `VALUES`: `($1[n], $2, E'…')`, n counted from 1.
///
/// `insert_events` finds ids and times by searching the whole text for `$1[n]` and `$2,`, also inside of the events. So a
/// dollar sign, which JSON allows only within strings, goes as its escape, which jsonb reads back as the character. The
/// same serves the quote; backslashes are doubled in an `E''` text, whatever `standard_conforming_strings` says.
fn put_row(values: &mut String, number: usize, event: &str) {
    if number > 1 {
        values.push(',');
    }
    let _ = write!(values, "($1[{number}],$2,E'");
    let mut rest = event;
    while let Some(at) = rest.find(['\\', '\'', '$']) {
        let (before, from) = rest.split_at(at);
        values.push_str(before);
        // An escaped character keeps its backslash: JSON has no escapes of quotes and dollar signs.
        values.push_str(match from.as_bytes()[0] {
            b'\'' => "\\\\u0027",
            b'$' => "\\\\u0024",
            _ => "\\\\",
        });
        rest = &from[1..];
    }
    values.push_str(rest);
    values.push_str("')");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_quoted_whatever_stands_in_them() {
        let row = |event| {
            let mut values = String::new();
            put_row(&mut values, 1, event);
            values
        };
        assert_eq!(row(r#"{"a":"é"}"#), r#"($1[1],$2,E'{"a":"é"}')"#);
        assert_eq!(row(r#"{"n":"O'Neil"}"#), r#"($1[1],$2,E'{"n":"O\\u0027Neil"}')"#);
        assert_eq!(row(r#"{"n":"\"\\\n"}"#), r#"($1[1],$2,E'{"n":"\\"\\\\\\n"}')"#);
        assert_eq!(row(r#"["$1[7]","$2,"]"#), r#"($1[1],$2,E'["\\u00241[7]","\\u00242,"]')"#);
    }
}
