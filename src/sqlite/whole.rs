//! All rows of some tables, from one snapshot that nobody writes behind unseen: writers are held up until capture has read
//! what they have committed.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rusqlite::Connection;

use super::apply::define;
use super::connect::{Access, connect};
use super::copy::{applied, open_read_only};
use super::failure::SqliteError;
use super::range::select;
use super::types::from_sql;
use crate::model::{Cursor, Row, TableName, limits};
use crate::view::{Snapshot, SnapshotWriter};

/// A database whose writers wait until this is dropped, or a snapshot is taken.
#[derive(Debug)]
pub struct Held {
    writer: Connection,
    path: PathBuf,
}

impl Held {
    /// Waits for who is writing, and has all others wait.
    ///
    /// # Errors
    /// The file cannot be opened, or somebody writes for longer than [`limits::DATABASE_BUSY_TIMEOUT`].
    pub fn new(path: &Path) -> Result<Held, SqliteError> {
        let fail = SqliteError::sql(path);
        let writer = connect(path, Access::Write, limits::DATABASE_BUSY_TIMEOUT).map_err(&fail)?;
        writer.execute_batch("BEGIN IMMEDIATE").map_err(&fail)?;
        Ok(Held { writer, path: path.to_path_buf() })
    }

    /// Takes the snapshot, lets writers go on, and puts the rows into a file in `dir`; with what of the node's log they
    /// contain of what was received. `stop` is asked now and then whether it is wanted no more.
    ///
    /// # Errors
    /// A table is not there; the database cannot be read, or the file not written.
    pub fn snapshot(
        self,
        tables: &[TableName],
        dir: &Path,
        stop: &dyn Fn() -> bool,
    ) -> Result<(Snapshot, Option<Cursor>), SqliteError> {
        let path = &self.path;
        let fail = SqliteError::sql(path);
        let mut conn = open_read_only(path)?;
        let snapshot = conn.transaction().map_err(&fail)?;
        // A transaction sees what there is when it first reads.
        let cursor = applied(&snapshot).map_err(&fail)?;
        drop(self.writer);
        let spool = |error| SqliteError::Spool { path: path.clone(), dir: dir.to_path_buf(), source: error };
        let mut writer = SnapshotWriter::new(dir).map_err(&spool)?;
        for table in tables {
            let def = define(&snapshot, table).map_err(&fail)?;
            let def = def.ok_or_else(|| SqliteError::NoTable { path: path.clone(), table: table.clone() })?;
            let def = Arc::new(def);
            writer.table(def.clone()).map_err(&spool)?;
            let mut statement = snapshot.prepare(&select(&def, false, false, false)).map_err(&fail)?;
            let mut rows = statement.raw_query();
            let mut count = 0u32;
            while let Some(row) = rows.next().map_err(&fail)? {
                count += 1;
                if count.is_multiple_of(1024) && stop() {
                    let why = "reading it was broken off".to_owned();
                    return Err(SqliteError::Table { path: path.clone(), table: table.clone(), why });
                }
                let values = (0..def.columns.len()).map(|i| row.get_ref(i).map(from_sql));
                let values: Row = values.collect::<Result<_, _>>().map_err(&fail)?;
                writer.push(values).map_err(&spool)?;
            }
        }
        Ok((writer.finish().map_err(spool)?, cursor))
    }
}
