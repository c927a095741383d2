//! `AUTOINCREMENT` sequences that give ids in a node's range. Applied rows leave `sqlite_sequence` as it was.

use std::path::Path;

use rusqlite::{Connection, OptionalExtension};

use super::connect::{Access, connect, quote_ident, quote_text};
use super::error::CaptureError;
use super::inspect::tables;
use crate::log::CapturesTable;
use crate::model::limits;
use crate::view::{Ids, StrayIds};

/// Looks at every captured table whose ids SQLite gives, and gives those that do not keep to the range.
///
/// A plain `INTEGER PRIMARY KEY` draws the greatest id in the table plus one, so a range cannot hold: received rows with
/// greater ids carry it away. With `AUTOINCREMENT` a sequence counts too, and a range holds as long as no greater id is
/// in the table. (<https://sqlite.org/autoinc.html>)
///
/// # Errors
/// The database cannot be opened or read.
pub fn stray_ids(path: &Path, range: Ids, captures: &CapturesTable) -> Result<Vec<StrayIds>, CaptureError> {
    let fail = |error| CaptureError::sqlite(path, "looking at ids", error);
    let conn = connect(path, Access::Read, limits::DATABASE_BUSY_TIMEOUT).map_err(fail)?;
    let (found, _) = tables(&conn).map_err(fail)?;
    let mut strays = Vec::new();
    for table in found.into_iter().filter(|table| captures(&table.def.name)) {
        let Some(alias) = table.alias else { continue };
        let name = table.def.name.as_str();
        let column = &table.def.columns[alias].name;
        let stray = |what: String, mend| StrayIds { table: table.def.name.clone(), what, mend };
        if !is_autoincrement(&conn, name).map_err(fail)? {
            let what = format!(
                "{column} is a plain INTEGER PRIMARY KEY: SQLite gives it the greatest id in the table plus one, so a range cannot \
                 hold; make it AUTOINCREMENT"
            );
            strays.push(stray(what, None));
            continue;
        }
        let beyond: Option<i64> = conn
            .query_row(
                &format!(
                    "SELECT max({0}) FROM main.{1} WHERE {0} > {2}",
                    quote_ident(column),
                    quote_ident(name),
                    range.last
                ),
                [],
                |row| row.get(0),
            )
            .map_err(fail)?;
        if let Some(beyond) = beyond {
            let what = format!(
                "{column} has the id {beyond}, beyond the range: SQLite gives an AUTOINCREMENT column at least the greatest id in \
                 the table plus one, so the range cannot hold here; give this node the greatest range of all, or have the \
                 application choose the ids"
            );
            strays.push(stray(what, None));
            continue;
        }
        let last = sequence(&conn, name).map_err(fail)?;
        if last.is_some_and(|last| range.contains(last.saturating_add(1))) {
            continue;
        }
        let sql = format!(
            "SELECT max({0}) FROM main.{1} WHERE {0} BETWEEN {2} AND {3}",
            quote_ident(column),
            quote_ident(name),
            range.first,
            range.last
        );
        let most: Option<i64> = conn.query_row(&sql, [], |row| row.get(0)).map_err(fail)?;
        let most = most.into_iter().chain(last.filter(|last| range.contains(*last))).max();
        let last = last.map_or("has given no id yet".to_owned(), |last| format!("has given {last}"));
        let what = format!("the AUTOINCREMENT sequence of {column} {last}");
        let before = most.unwrap_or(range.first.saturating_sub(1));
        strays.push(match before < range.last {
            true => {
                let name = quote_text(name);
                let mend = format!(
                    "DELETE FROM sqlite_sequence WHERE name = {name}; INSERT INTO sqlite_sequence (name, seq) VALUES ({name}, {before})"
                );
                stray(what, Some(mend))
            }
            false => stray(format!("{what}; the range is used up: give the node another one"), None),
        });
    }
    Ok(strays)
}

/// Runs what mends strays, all or none.
///
/// # Errors
/// The database cannot be written.
pub fn mend_ids(path: &Path, strays: &[StrayIds]) -> Result<(), CaptureError> {
    let fail = |error| CaptureError::sqlite(path, "giving ids", error);
    let mut conn = connect(path, Access::Write, limits::DATABASE_BUSY_TIMEOUT).map_err(fail)?;
    let transaction = conn.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate).map_err(fail)?;
    for mend in strays.iter().filter_map(|stray| stray.mend.as_ref()) {
        transaction.execute_batch(mend).map_err(fail)?;
    }
    transaction.commit().map_err(fail)
}

fn is_autoincrement(conn: &Connection, table: &str) -> rusqlite::Result<bool> {
    let sql = "SELECT sql FROM sqlite_schema WHERE type = 'table' AND name = ?1";
    let sql: Option<String> = conn.query_row(sql, [table], |row| row.get(0)).optional()?;
    Ok(sql.is_some_and(|sql| sql.to_ascii_uppercase().contains("AUTOINCREMENT")))
}

/// `None` before its first row, or where no table has a sequence.
fn sequence(conn: &Connection, table: &str) -> rusqlite::Result<Option<i64>> {
    let there = "SELECT count(*) FROM sqlite_schema WHERE name = 'sqlite_sequence'";
    if conn.query_row(there, [], |row| row.get::<_, i64>(0))? == 0 {
        return Ok(None);
    }
    let sql = "SELECT seq FROM sqlite_sequence WHERE name = ?1 COLLATE NOCASE";
    conn.query_row(sql, [table], |row| row.get(0)).optional()
}
