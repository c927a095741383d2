//! What can go wrong at an events table in SQLite, and what to do about it.

use std::path::Path;

use rusqlite::{Error, ErrorCode};

use crate::view::{EventsError, Trouble};

/// An error of SQLite, with what was tried.
pub(super) fn failed(path: &Path, doing: &str, error: &Error) -> EventsError {
    let name = name(path);
    let missing = error.to_string().contains("no such table");
    let (code, trouble, fix) = match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            ("WS-SQLITE-011", Trouble::Unreachable, "nothing: it is tried again; find who holds the lock if it stays")
        }
        // A file that is not there is like a database that a server does not have.
        Some(ErrorCode::CannotOpen) => {
            ("WS-SQLITE-012", Trouble::Invalid, "check the path, and make the file: `watershed events init`")
        }
        Some(ErrorCode::PermissionDenied | ErrorCode::ReadOnly | ErrorCode::AuthorizationForStatementDenied) => {
            ("WS-SQLITE-013", Trouble::Invalid, "allow this user to read and write the file and its folder")
        }
        Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => {
            ("WS-SQLITE-014", Trouble::Invalid, "name a SQLite file; put a damaged one back from a backup")
        }
        _ if missing => ("WS-SQLITE-015", Trouble::Invalid, "make the events tables: `watershed events init`"),
        _ => ("WS-SQLITE-016", Trouble::Failure, "see SQLite's words above"),
    };
    EventsError { code, trouble, what: format!("{name}: {doing} failed"), why: error.to_string(), fix: fix.into() }
}

/// The table is not one of events.
pub(super) fn other_columns(path: &Path, why: String) -> EventsError {
    EventsError {
        code: "WS-SQLITE-017",
        trouble: Trouble::Invalid,
        what: format!("{}: the table events has other columns", name(path)),
        why,
        fix: "name the file that has the events, or make the table with `watershed events init`".into(),
    }
}

/// A stored row is not an event.
pub(super) fn not_an_event(path: &Path, why: String) -> EventsError {
    EventsError {
        code: "WS-SQLITE-018",
        trouble: Trouble::Invalid,
        what: format!("{}: a row of the table events cannot be read", name(path)),
        why,
        fix: "mend the row: id a whole number, ts a time as 2024-01-02 03:04:05.25+00, event JSON text".into(),
    }
}

/// What people call a database.
pub(super) fn name(path: &Path) -> String {
    format!("sqlite:{}", path.display())
}
