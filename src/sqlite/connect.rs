//! Connections to a user's database, and names in SQL.

use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// Nothing is written.
    Read,
    /// Reads and writes.
    Write,
}

/// Opens an existing database file; never creates one. A lock is waited for at most `busy_timeout`.
///
/// Foreign keys are off (the bundled SQLite would have them on).
pub(crate) fn connect(path: &Path, access: Access, busy_timeout: Duration) -> rusqlite::Result<Connection> {
    let mode = match access {
        Access::Read => OpenFlags::SQLITE_OPEN_READ_ONLY,
        Access::Write => OpenFlags::SQLITE_OPEN_READ_WRITE,
    };
    let conn = Connection::open_with_flags(path, mode | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    conn.busy_timeout(busy_timeout)?;
    conn.pragma_update(None, "foreign_keys", false)?;
    conn.set_prepared_statement_cache_capacity(64);
    Ok(conn)
}

/// A table, column, index or trigger name as it stands in SQL.
pub(crate) fn quote_ident(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A text as it stands in SQL.
pub(crate) fn quote_text(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// Whether an object of the database is Watershed's own, or SQLite's.
pub(crate) fn is_internal(name: &str) -> bool {
    let starts = |prefix: &str| name.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix));
    starts("watershed_") || starts("sqlite_")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_quotes_stay_one_name() {
        assert_eq!(quote_ident(r#"a"b"#), r#""a""b""#);
        assert_eq!(quote_text("it's"), "'it''s'");
    }

    #[test]
    fn own_tables_are_known_whatever_their_case() {
        assert!(is_internal("Watershed_changes"));
        assert!(is_internal("sqlite_sequence"));
        assert!(!is_internal("watersheds"));
        assert!(!is_internal("é"));
    }

    #[test]
    fn a_missing_file_is_not_created() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("missing.db");
        assert!(connect(&path, Access::Write, Duration::ZERO).is_err());
        assert!(!path.exists());
    }
}
