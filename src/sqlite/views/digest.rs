//! What the state of a build is, as a number.

use std::sync::Arc;

use rusqlite::Connection;
use rusqlite::types::ValueRef;

use super::meta;
use super::store::Shared;
use crate::model::{Kind, Value, ValueClass};
use crate::sqlite::connect::{is_internal, quote_ident};
use crate::view::{RowSums, StateDigest, ViewError};

/// Over all tables of the view, in one snapshot.
pub(super) async fn digest(shared: &Arc<Shared>) -> Result<StateDigest, ViewError> {
    let here = shared.clone();
    let work = move || match &here.readers {
        Some(readers) => {
            let conn = readers.take().map_err(|error| here.fail(error))?;
            let digest = of(&conn).map_err(|error| here.fail(error));
            if digest.is_ok() {
                readers.give(conn);
            }
            digest
        }
        None => of(&here.writer().conn).map_err(|error| here.fail(error)),
    };
    let digest = tokio::task::spawn_blocking(work).await;
    digest.map_err(|error| ViewError::Failed(format!("the digest was not computed: {error}")))?
}

fn of(conn: &Connection) -> rusqlite::Result<StateDigest> {
    let snapshot = conn.unchecked_transaction()?;
    let cursors = meta::cursors(&snapshot)?;
    let sql = "SELECT name FROM pragma_table_list WHERE schema = 'main' AND type = 'table' ORDER BY name";
    let mut statement = snapshot.prepare(sql)?;
    let tables: Vec<String> = statement.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
    let mut sums = RowSums::default();
    for table in tables.iter().filter(|table| !is_internal(table)) {
        let mut rows = snapshot.prepare(&format!("SELECT * FROM main.{}", quote_ident(table)))?;
        let columns: Vec<String> = rows.column_names().map(str::to_owned).collect();
        sums.table(table, &columns);
        let mut found = rows.query([])?;
        let mut values = Vec::with_capacity(columns.len());
        while let Some(row) = found.next()? {
            values.clear();
            for index in 0..columns.len() {
                values.push(value(row.get_ref(index)?));
            }
            sums.row(&values);
        }
    }
    let (digest, rows) = sums.end();
    Ok(StateDigest { digest, rows, cursors })
}

/// A value with how it is compared: numbers by what they are worth.
fn value(value: ValueRef<'_>) -> (Value, ValueClass) {
    let class = match value {
        ValueRef::Integer(_) | ValueRef::Real(_) => ValueClass::Number,
        ValueRef::Blob(_) => ValueClass::Bytes,
        ValueRef::Null | ValueRef::Text(_) => ValueClass::Text,
    };
    let value = crate::sqlite::types::from_sql(value);
    match value.kind {
        // Infinity is a text of its own.
        Kind::Real if !value.text.last().is_some_and(u8::is_ascii_digit) => (value, ValueClass::Float),
        _ => (value, class),
    }
}
