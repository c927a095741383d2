//! Connections to a user's database, and names in SQL.

use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags};

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
    if access == Access::Read && needs_recovery(&conn) {
        recover(path, busy_timeout)?;
    }
    conn.busy_timeout(busy_timeout)?;
    conn.pragma_update(None, "foreign_keys", false)?;
    conn.set_prepared_statement_cache_capacity(64);
    Ok(conn)
}

const TOUCH: &str = "SELECT count(*) FROM sqlite_schema";

/// Whether a writer was killed in mid-transaction, so that its journal must be rolled back before anybody can read; a
/// connection that only reads may not (SQLITE_READONLY_ROLLBACK, <https://sqlite.org/rescode.html>).
fn needs_recovery(conn: &Connection) -> bool {
    let touched = conn.query_row(TOUCH, [], |_| Ok(()));
    touched.is_err_and(|error| error.sqlite_error_code() == Some(ErrorCode::ReadOnly))
}

/// What the next writer would do.
fn recover(path: &Path, busy_timeout: Duration) -> rusqlite::Result<()> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let writer = Connection::open_with_flags(path, flags)?;
    writer.busy_timeout(busy_timeout)?;
    writer.query_row(TOUCH, [], |_| Ok(()))
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
    fn a_database_whose_writer_was_killed_can_be_read() {
        let dir = tempfile::tempdir().expect("a folder");
        let (path, killed) = (dir.path().join("shop.db"), dir.path().join("killed.db"));
        let writer = Connection::open(&path).expect("created");
        let fill = "with recursive c(i) as (select 1 union all select i + 1 from c where i < 2000)
                    insert into t(v) select hex(randomblob(100)) from c";
        let schema =
            "pragma journal_mode = delete; pragma cache_size = 2; create table t (id integer primary key, v text);";
        writer.execute_batch(&format!("{schema} {fill}; begin; update t set v = 'half'; {fill};")).expect("written");
        // What a crash leaves: pages written over, and the journal that has them as they were.
        for suffix in ["", "-journal"] {
            let file = |path: &Path| format!("{}{suffix}", path.display());
            std::fs::copy(file(&path), file(&killed)).expect("copied");
        }
        let conn = connect(&killed, Access::Read, Duration::from_secs(1)).expect("recovered");
        let rows = |sql: &str| conn.query_row(sql, [], |row| row.get::<_, i64>(0)).expect("readable");
        assert_eq!(rows("select count(*) from t"), 2000);
        assert_eq!(rows("select count(*) from t where v = 'half'"), 0);
    }

    #[test]
    fn a_missing_file_is_not_created() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("missing.db");
        assert!(connect(&path, Access::Write, Duration::ZERO).is_err());
        assert!(!path.exists());
    }
}
