//! What can go wrong while capturing.

use std::io;
use std::path::{Path, PathBuf};

use rusqlite::ErrorCode;
use thiserror::Error;

use crate::model::{CodecError, LogId};

/// Capture could not go on. What is in the database's change table stays there: nothing is lost.
#[derive(Debug, Error)]
pub enum CaptureError {
    /// The database is locked by somebody else; the same call may succeed later.
    #[error("{path:?} is locked by another process while {doing}: {source}")]
    Locked {
        /// The database.
        path: PathBuf,
        /// What was tried.
        doing: &'static str,
        /// SQLite's words.
        source: rusqlite::Error,
    },
    /// SQLite refused.
    #[error("{path:?} failed while {doing}: {source}")]
    Sqlite {
        /// The database.
        path: PathBuf,
        /// What was tried.
        doing: &'static str,
        /// SQLite's words.
        source: rusqlite::Error,
    },
    /// The database file was restored, replaced or rolled back under the log. An operator decides.
    #[error(
        "{path:?} was restored or replaced: {why} (the log has read it up to {expected}, the database says {found})"
    )]
    Restored {
        /// The database.
        path: PathBuf,
        /// What gave it away.
        why: String,
        /// What the log has.
        expected: String,
        /// What the database has.
        found: String,
    },
    /// Changes that the log has not read are gone from the database. An operator decides.
    #[error("changes are missing in {path:?}: the log has read up to {read}, the oldest change there is {oldest}")]
    Gap {
        /// The database.
        path: PathBuf,
        /// Last change that the log has (inclusive).
        read: i64,
        /// First change that is there; 0 when there is none.
        oldest: i64,
    },
    /// Another log captured this database. An operator decides.
    #[error("{path:?} is captured by the log {found}, not by {expected}: its changes would be divided between the two")]
    OtherLog {
        /// The database.
        path: PathBuf,
        /// This log.
        expected: LogId,
        /// As the database has it.
        found: String,
    },
    /// A logged change cannot be read.
    #[error("change {seq} in {path:?} is not readable: {why}")]
    Damaged {
        /// The database.
        path: PathBuf,
        /// Its number.
        seq: i64,
        /// What is wrong with it.
        why: String,
    },
    /// A row is larger than a log takes.
    #[error("change {seq} in {path:?} has {bytes} bytes, more than a log takes; capture stops before it")]
    TooLarge {
        /// The database.
        path: PathBuf,
        /// Its number.
        seq: i64,
        /// Encoded, with the changes just before it.
        bytes: usize,
    },
    /// The database file cannot be looked at; it is never created.
    #[error("{path:?} cannot be opened: {source}")]
    File {
        /// The database.
        path: PathBuf,
        /// The system's words.
        source: io::Error,
    },
    /// A cursor was given that is none of a SQLite database.
    #[error("{0}")]
    Cursor(String),
    /// A stored table definition cannot be read.
    #[error("a stored definition is not readable: {0}")]
    Definition(#[from] CodecError),
    /// The spool of a large transaction could not be written.
    #[error("a large transaction could not be spooled: {0}")]
    Spool(#[from] io::Error),
}

impl CaptureError {
    /// Whether the same call may succeed later.
    pub fn is_retryable(&self) -> bool {
        use ErrorCode as Code;
        match self {
            CaptureError::Locked { .. } | CaptureError::Spool(_) => true,
            // The disk or its mount, not the database: whoever mends it need not start the node again.
            CaptureError::Sqlite { source, .. } => matches!(
                source.sqlite_error_code(),
                Some(Code::DiskFull | Code::SystemIoFailure | Code::CannotOpen | Code::ReadOnly | Code::OutOfMemory)
            ),
            _ => false,
        }
    }

    /// Whether somebody else holds a lock.
    pub fn is_locked(&self) -> bool {
        matches!(self, CaptureError::Locked { .. })
    }

    /// Whether database and log do not belong together any more, so that an operator must decide.
    pub fn needs_operator(&self) -> bool {
        matches!(self, CaptureError::Restored { .. } | CaptureError::Gap { .. } | CaptureError::OtherLog { .. })
    }

    pub(super) fn sqlite(path: &Path, doing: &'static str, source: rusqlite::Error) -> CaptureError {
        let path = path.to_path_buf();
        match is_busy(&source) {
            true => CaptureError::Locked { path, doing, source },
            false => CaptureError::Sqlite { path, doing, source },
        }
    }
}

/// Whether SQLite says that somebody else holds a lock, or (after a concurrent change of schema) to try again.
pub(super) fn is_busy(error: &rusqlite::Error) -> bool {
    matches!(
        error.sqlite_error_code(),
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked | ErrorCode::SchemaChanged)
    )
}
