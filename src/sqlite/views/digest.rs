//! What the state of a build is, as a number.

use std::sync::Arc;

use rusqlite::Connection;
use rusqlite::backup::{Backup, StepResult};
use rusqlite::types::ValueRef;

use super::meta;
use super::store::Shared;
use crate::model::{Kind, Value, ValueClass};
use crate::sqlite::connect::{is_internal, quote_ident};
use crate::view::{Hold, RowSums, StateDigest, ViewError};

/// Over all tables of the view, in one snapshot; once that is taken, what is held goes on.
pub(super) async fn digest(shared: &Arc<Shared>, hold: Hold) -> Result<StateDigest, ViewError> {
    let here = shared.clone();
    let work = move || match &here.readers {
        Some(readers) => {
            let conn = readers.take().map_err(|error| here.fail(error))?;
            let digest = of(&conn, hold).map_err(|error| here.fail(error));
            if digest.is_ok() {
                readers.give(conn);
            }
            digest
        }
        None => copied(&here).and_then(|copy| of(&copy, hold)).map_err(|error| here.fail(error)),
    };
    let digest = tokio::task::spawn_blocking(work).await;
    digest.map_err(|error| ViewError::Failed(format!("the digest was not computed: {error}")))?
}

/// A copy of what is in memory, which takes less time than to sum it up: nothing is applied or answered until it is made.
fn copied(shared: &Shared) -> rusqlite::Result<Connection> {
    let mut copy = Connection::open_in_memory()?;
    let writer = shared.writer();
    // Nobody else has the original, so that there is no lock to wait for.
    if Backup::new(&writer.conn, &mut copy)?.step(-1)? != StepResult::Done {
        return Err(rusqlite::Error::InvalidQuery);
    }
    Ok(copy)
}

fn of(conn: &Connection, hold: Hold) -> rusqlite::Result<StateDigest> {
    let snapshot = conn.unchecked_transaction()?;
    // The first read is what the snapshot is of.
    let cursors = meta::cursors(&snapshot)?;
    drop(hold);
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
