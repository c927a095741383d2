//! Connections that answer questions, a few at a time.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::limits::Limit;
use rusqlite::{Connection, OpenFlags};

use super::bounded;
use crate::model::limits;

/// Connections to one database file, opened when they are first needed.
pub(super) struct Readers {
    path: PathBuf,
    wait: Duration,
    idle: Mutex<Vec<Connection>>,
}

impl Readers {
    pub(super) fn new(path: PathBuf, wait: Duration) -> Readers {
        Readers { path, wait, idle: Mutex::default() }
    }

    /// One that is idle, or a new one.
    pub(super) fn take(&self) -> rusqlite::Result<Connection> {
        if let Some(conn) = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop() {
            return Ok(conn);
        }
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let conn = Connection::open_with_flags(&self.path, flags)?;
        conn.busy_timeout(self.wait)?;
        conn.execute_batch("PRAGMA query_only = ON; PRAGMA cache_size = -4096; PRAGMA trusted_schema = OFF")?;
        conn.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
        bounded::define(&conn, limits::VIEW_VALUE_BYTES_MAX)?;
        Ok(conn)
    }

    /// Takes it back, for the next question.
    pub(super) fn give(&self, conn: Connection) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < limits::VIEW_READERS_MAX {
            idle.push(conn);
        }
    }
}

/// What a question may use, while it is answered. SQLite counts no memory of one connection, so everything that takes much
/// of it is bounded: values, columns, the size of a program. (sqlite.org/limits.html)
pub(super) fn limit_question(conn: &Connection, columns: usize) -> rusqlite::Result<Vec<(Limit, i32)>> {
    let columns = i32::try_from(columns.max(limits::VIEW_COLUMNS_MAX)).unwrap_or(i32::MAX);
    let wanted = [
        (Limit::SQLITE_LIMIT_LENGTH, limits::VIEW_VALUE_BYTES_MAX as i32),
        (Limit::SQLITE_LIMIT_SQL_LENGTH, limits::VIEW_QUESTION_BYTES_MAX as i32),
        (Limit::SQLITE_LIMIT_COLUMN, columns),
        (Limit::SQLITE_LIMIT_EXPR_DEPTH, 200),
        (Limit::SQLITE_LIMIT_COMPOUND_SELECT, 50),
        (Limit::SQLITE_LIMIT_VDBE_OP, 100_000),
        (Limit::SQLITE_LIMIT_FUNCTION_ARG, 100),
        (Limit::SQLITE_LIMIT_ATTACHED, 0),
        (Limit::SQLITE_LIMIT_LIKE_PATTERN_LENGTH, 200),
        (Limit::SQLITE_LIMIT_VARIABLE_NUMBER, limits::VIEW_QUESTION_PARAMETERS_MAX as i32),
        (Limit::SQLITE_LIMIT_TRIGGER_DEPTH, 1),
        (Limit::SQLITE_LIMIT_WORKER_THREADS, 0),
    ];
    wanted.into_iter().map(|(limit, to)| Ok((limit, conn.set_limit(limit, to)?))).collect()
}

/// Takes limits back.
pub(super) fn unlimit(conn: &Connection, before: Vec<(Limit, i32)>) -> rusqlite::Result<()> {
    before.into_iter().try_for_each(|(limit, to)| conn.set_limit(limit, to).map(drop))
}
