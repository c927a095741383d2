//! What can go wrong while reading, comparing and repairing.

use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::model::TableName;

/// Copying from a database, or comparing two, could not go on.
#[derive(Debug, Error)]
pub enum SqliteError {
    /// SQLite refused; `is_retryable` says whether it was only locked.
    #[error("{path:?}: {source}")]
    Sql {
        /// The database.
        path: PathBuf,
        /// SQLite's words.
        source: rusqlite::Error,
    },
    /// There is no ordinary table of that name.
    #[error("{path:?} has no table {table}")]
    NoTable {
        /// The database.
        path: PathBuf,
        /// The name.
        table: TableName,
    },
    /// The table's content cannot be copied or compared by key.
    #[error("table {table} in {path:?}: {why}")]
    Table {
        /// The database.
        path: PathBuf,
        /// Whose trouble.
        table: TableName,
        /// What it is.
        why: String,
    },
    /// Rows could not be put aside.
    #[error("rows of {path:?} could not be put into a file in {dir:?}: {source}")]
    Spool {
        /// The database.
        path: PathBuf,
        /// The folder.
        dir: PathBuf,
        /// The system's words.
        source: std::io::Error,
    },
}

impl SqliteError {
    /// Whether the same call may succeed later.
    pub fn is_retryable(&self) -> bool {
        use rusqlite::ErrorCode as Code;
        let SqliteError::Sql { source, .. } = self else { return false };
        matches!(source.sqlite_error_code(), Some(Code::DatabaseBusy | Code::DatabaseLocked | Code::SchemaChanged))
    }

    pub(super) fn sql(path: &Path) -> impl Fn(rusqlite::Error) -> SqliteError + '_ {
        |source| SqliteError::Sql { path: path.to_path_buf(), source }
    }
}
