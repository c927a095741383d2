//! Watershed's tables in a user's database. Their SQL suits an old SQLite, because every writer parses it.
//!
//! ```text
//! watershed_state     name, value         facts about the capture, by name
//! watershed_tables    id, name, def, keys the definitions under which changes were logged
//! watershed_changes   seq, tbl, op, c0…   what the triggers logged and no log has yet; always keeps its last row, so
//!                                         that seq never starts again
//! watershed_origin    id                  has a row while received changes are applied: the triggers stand aside
//! ```

use std::path::Path;

use rusqlite::{Connection, OptionalExtension, TransactionBehavior, params};

use super::connect::{Access, connect, is_internal, quote_ident};
use super::error::CaptureError;
use crate::model::limits;

/// Columns of the change table before `c0`.
const CHANGE_COLUMNS_FIXED: usize = 3;
/// SQLite's default limit of columns in a table.
const SQLITE_COLUMNS_MAX: usize = 2000;
/// Columns that a captured table may have: its old and its new row stand side by side.
pub(crate) const CAPTURED_COLUMNS_MAX: usize = (SQLITE_COLUMNS_MAX - CHANGE_COLUMNS_FIXED) / 2;

const DDL: &str = "\
CREATE TABLE IF NOT EXISTS watershed_state(name TEXT PRIMARY KEY NOT NULL, value);
CREATE TABLE IF NOT EXISTS watershed_tables(id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL,
  def BLOB NOT NULL, keys TEXT NOT NULL, current INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS watershed_changes(seq INTEGER PRIMARY KEY, tbl INTEGER NOT NULL, op INTEGER NOT NULL, c0, c1);
CREATE TABLE IF NOT EXISTS watershed_origin(id INTEGER PRIMARY KEY);";

/// What a row of the change table says; the codes are stored.
pub(crate) mod op {
    /// `c0…`: the new row.
    pub const INSERT: i64 = 1;
    /// `c0…`: the new row, then the old one.
    pub const UPDATE: i64 = 2;
    /// `c0…`: the old row.
    pub const DELETE: i64 = 3;
    /// No row: the table's content was replaced unseen.
    pub const COPIED: i64 = 5;
    /// `c0…`: the row about to be written, then a row that shares only its rowid alias.
    pub const RIVAL_BY_ALIAS: i64 = 6;
    /// `c0…`: the row about to be written, then a row that shares another unique key with it.
    pub const RIVAL: i64 = 7;
}

/// Creates what is missing; does nothing where all is there. To be called in a write transaction.
pub(crate) fn create(conn: &Connection) -> rusqlite::Result<()> {
    conn.execute_batch(DDL)
}

/// Whether the change table exists: the database is, or was, captured.
pub(crate) fn is_installed(conn: &Connection) -> rusqlite::Result<bool> {
    let sql = "SELECT count(*) = 2 FROM sqlite_master WHERE type = 'table' AND name IN ('watershed_state', 'watershed_changes')";
    conn.query_row(sql, [], |row| row.get(0))
}

/// How many `cN` columns the change table has.
pub(crate) fn change_width(conn: &Connection) -> rusqlite::Result<usize> {
    let sql = "SELECT count(*) FROM pragma_table_info('watershed_changes')";
    let columns: u32 = conn.query_row(sql, [], |row| row.get(0))?;
    Ok((columns as usize).saturating_sub(CHANGE_COLUMNS_FIXED))
}

/// Widens the change table so that it takes old and new rows of that many columns.
pub(crate) fn widen(conn: &Connection, table_columns: usize) -> rusqlite::Result<()> {
    let width = change_width(conn)?;
    for column in width..2 * table_columns {
        conn.execute_batch(&format!("ALTER TABLE watershed_changes ADD COLUMN c{column}"))?;
    }
    Ok(())
}

/// A fact about the capture.
pub(crate) fn state(conn: &Connection, name: &str) -> rusqlite::Result<Option<String>> {
    let mut statement = conn.prepare_cached("SELECT value FROM watershed_state WHERE name = ?1")?;
    statement.query_row([name], |row| row.get(0)).optional()
}

/// Sets a fact about the capture.
pub(crate) fn set_state(conn: &Connection, name: &str, value: &str) -> rusqlite::Result<()> {
    let sql = "INSERT OR REPLACE INTO watershed_state(name, value) VALUES (?1, ?2)";
    conn.prepare_cached(sql)?.execute(params![name, value]).map(drop)
}

/// Removes all triggers and tables of Watershed, the appliers' included. To be called in a write transaction.
fn remove(conn: &Connection) -> rusqlite::Result<()> {
    for kind in ["trigger", "table"] {
        let sql = "SELECT name FROM sqlite_master WHERE type = ?1 AND name LIKE 'watershed\\_%' ESCAPE '\\'";
        let names: Vec<String> =
            conn.prepare(sql)?.query_map([kind], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
        for name in names.iter().filter(|name| is_internal(name)) {
            conn.execute_batch(&format!("DROP {kind} {}", quote_ident(name)))?;
        }
    }
    Ok(())
}

/// Whether a database is, or was, captured by a node.
pub fn is_captured(path: &Path) -> Result<bool, CaptureError> {
    let fail = |error| CaptureError::sqlite(path, "looking for what captures it", error);
    let conn = connect(path, Access::Read, limits::DATABASE_BUSY_TIMEOUT).map_err(fail)?;
    is_installed(&conn).map_err(fail)
}

/// Removes all of Watershed's triggers and tables from a database, the appliers' included. What has not been captured
/// yet is lost to the log.
pub fn uninstall(path: &Path) -> Result<(), CaptureError> {
    let fail = |error| CaptureError::sqlite(path, "uninstalling", error);
    let mut conn = connect(path, Access::Write, limits::DATABASE_BUSY_TIMEOUT).map_err(fail)?;
    let transaction = conn.transaction_with_behavior(TransactionBehavior::Immediate).map_err(fail)?;
    remove(&transaction).map_err(fail)?;
    transaction.commit().map_err(fail)
}
