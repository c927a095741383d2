//! The sending side of first copies: chunks of a table in key order, each from one short snapshot.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rusqlite::{Connection, OpenFlags};

use super::apply::{define, stored_cursor};
use super::connect::quote_ident as quote;
use super::failure::SqliteError;
use super::indexes::indexed;
use super::range::{KeyRange, read_rows};
use crate::model::{Cursor, Kind, Row, TableName, limits};
use crate::view::Chunk;

/// Reads chunks over a read-only connection of its own; holds no transaction between them.
#[derive(Debug)]
pub struct Reader {
    conn: Connection,
    path: PathBuf,
    left: HashMap<TableName, u64>,
}

impl Reader {
    /// Opens an existing database.
    pub fn open(path: &Path) -> Result<Reader, SqliteError> {
        let conn = open_read_only(path)?;
        Ok(Reader { conn, path: path.to_path_buf(), left: HashMap::new() })
    }

    /// Reads the rows after the key `after` (exclusive; `None` from the start): at most `rows_max`, and none more once
    /// `bytes_max` bytes have been read.
    ///
    /// # Errors
    /// [`SqliteError::Table`] for a table without a primary key, or a row whose key has a NULL: such rows cannot be told
    /// apart, so a copy could not be resumed.
    pub fn read_chunk(
        &mut self,
        table: &TableName,
        after: Option<&Row>,
        rows_max: usize,
        bytes_max: usize,
    ) -> Result<Chunk, SqliteError> {
        let fail = SqliteError::sql(&self.path);
        let bad = |why: &str| SqliteError::Table { path: self.path.clone(), table: table.clone(), why: why.to_owned() };
        let transaction = self.conn.unchecked_transaction().map_err(&fail)?;
        let def = define(&self.conn, table).map_err(&fail)?;
        let def = def.ok_or_else(|| SqliteError::NoTable { path: self.path.clone(), table: table.clone() })?;
        let keys = def.key_columns();
        if keys.is_empty() {
            return Err(bad("it has no PRIMARY KEY, so it cannot be copied in parts"));
        }
        if after.is_some_and(|key| key.len() != keys.len()) {
            return Err(bad("the key to go on after has another number of columns"));
        }
        let range = KeyRange { after, upto: None };
        let found = read_rows(&self.conn, &def, range, rows_max.max(1), bytes_max).map_err(&fail)?;
        if found.rows.iter().any(|row| keys.iter().any(|&i| row[i].kind == Kind::Null)) {
            return Err(bad("a column of a row's key is NULL"));
        }
        let cursor = applied(&self.conn).map_err(&fail)?;
        // Whoever has to make the table makes it before the first row.
        let def = match after {
            None => indexed(&self.conn, def).map_err(&fail)?,
            Some(_) => def,
        };
        let left = match (after, self.left.get(table)) {
            (Some(_), Some(left)) => *left,
            _ => count(&self.conn, table).map_err(&fail)?,
        };
        transaction.commit().map_err(&fail)?;
        let left_estimate = if found.upto.is_some() { left.saturating_sub(found.rows.len() as u64) } else { 0 };
        self.left.insert(table.clone(), left_estimate);
        let (rows, upto) = (found.rows, found.upto);
        Ok(Chunk { def: Arc::new(def), rows, lines: None, upto, left_estimate, cursor, cut: None })
    }
}

/// A connection that writes nothing and creates nothing.
pub(super) fn open_read_only(path: &Path) -> Result<Connection, SqliteError> {
    let fail = SqliteError::sql(path);
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let conn = Connection::open_with_flags(path, flags).map_err(&fail)?;
    conn.busy_timeout(limits::DATABASE_BUSY_TIMEOUT).map_err(&fail)?;
    conn.execute_batch("PRAGMA cache_size = -16384").map_err(&fail)?;
    Ok(conn)
}

pub(super) fn applied(conn: &Connection) -> rusqlite::Result<Option<Cursor>> {
    let sql = "SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name = 'watershed_cursor'";
    let there: i64 = conn.prepare_cached(sql)?.query_row([], |row| row.get(0))?;
    if there == 0 { Ok(None) } else { stored_cursor(conn) }
}

fn count(conn: &Connection, table: &TableName) -> rusqlite::Result<u64> {
    let count: i64 =
        conn.query_row(&format!("SELECT count(*) FROM main.{}", quote(table.as_str())), [], |row| row.get(0))?;
    Ok(count.unsigned_abs())
}
