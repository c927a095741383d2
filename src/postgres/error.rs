//! What can go wrong at a PostgreSQL server, and what to do about it.

use std::time::Duration;

use thiserror::Error;
use tokio_postgres::error::{DbError, SqlState};

use crate::view::{EventsError, Trouble, ViewError};

/// A server could not be used. Nothing was changed, unless it says otherwise.
#[derive(Debug, Error)]
pub enum PgError {
    /// The URL is none.
    #[error("{url}: {why}")]
    Url {
        /// As given, without a password.
        url: String,
        /// What is wrong with it.
        why: String,
    },
    /// Connecting took too long.
    #[error("{url} did not answer within {limit:?}")]
    Timeout {
        /// Without a password.
        url: String,
        /// How long was waited.
        limit: Duration,
    },
    /// The server refused, or the connection broke.
    #[error("{url}: {doing}: {source}")]
    Server {
        /// Without a password.
        url: String,
        /// What was tried.
        doing: String,
        /// The driver's words.
        source: tokio_postgres::Error,
    },
    /// There is no TLS as it is asked for.
    #[error("{url}: TLS: {why}")]
    Tls {
        /// Without a password.
        url: String,
        /// What is wrong.
        why: String,
    },
    /// The server asks for a password, and none was given.
    #[error("{url}: the server asks for a password, and there is none in the URL, PGPASSWORD or ~/.pgpass")]
    NoPassword {
        /// As given.
        url: String,
    },
    /// What came is not what was asked for.
    #[error("{url}: {doing}: {why}")]
    Unexpected {
        /// Without a password.
        url: String,
        /// What was tried.
        doing: String,
        /// What is wrong with it.
        why: String,
    },
}

impl PgError {
    /// The server's own error, if it is one.
    pub fn db(&self) -> Option<&DbError> {
        match self {
            PgError::Server { source, .. } => source.as_db_error(),
            _ => None,
        }
    }

    /// Whether the same may succeed later: the connection broke, the server starts or stops, or a lock, a deadlock or
    /// a timeout stood in the way. (postgresql.org/docs/15/errcodes-appendix.html)
    pub fn is_retryable(&self) -> bool {
        let Some(error) = self.db() else {
            return matches!(self, PgError::Timeout { .. } | PgError::Server { .. });
        };
        let code = error.code();
        let class = &code.code()[..2];
        matches!(class, "08" | "40" | "53" | "57" | "58")
            || [SqlState::LOCK_NOT_AVAILABLE, SqlState::OBJECT_IN_USE].contains(code)
    }
}

impl PgError {
    /// Whether whoever rules the server can mend it there, without us: it does not let the user in, or has no such database.
    pub fn is_mended_there(&self) -> bool {
        self.db().is_some_and(|error| matches!(&error.code().code()[..2], "28" | "3D"))
    }
}

impl From<PgError> for ViewError {
    fn from(error: PgError) -> ViewError {
        match error.is_retryable() {
            // Whatever was under way is rolled back: it begins again on a new connection.
            true => ViewError::Lost(words(&error)),
            false => ViewError::Failed(EventsError::from(error).to_string()),
        }
    }
}

impl PgError {
    /// The whole chain of words: the driver's own say only "db error".
    pub fn words(&self) -> String {
        words(self)
    }
}

fn words(error: &PgError) -> String {
    match error {
        PgError::Server { url, doing, source } => match source.as_db_error() {
            Some(db) => format!("{url}: {doing}: {db}"),
            None => {
                let cause = std::error::Error::source(source).map(|cause| format!(": {cause}")).unwrap_or_default();
                format!("{url}: {doing}: {source}{cause}")
            }
        },
        other => other.to_string(),
    }
}

impl From<PgError> for EventsError {
    fn from(error: PgError) -> EventsError {
        let (code, trouble, fix) = advice(&error);
        let (what, why) = match &error {
            PgError::Url { url, why } => (format!("{url} is not a PostgreSQL URL"), why.clone()),
            PgError::Timeout { url, limit } => {
                (format!("{url} cannot be reached"), format!("it did not answer within {limit:?}"))
            }
            PgError::Server { url, doing, .. } => {
                (format!("{url}: {doing} failed"), words(&error).split_off(url.len() + doing.len() + 4))
            }
            PgError::NoPassword { url } => {
                (format!("{url}: connecting failed"), words(&error).split_off(url.len() + 2))
            }
            PgError::Tls { url, why } => (format!("{url} cannot be reached by TLS"), why.clone()),
            PgError::Unexpected { url, doing, why } => (format!("{url}: {doing} failed"), why.clone()),
        };
        EventsError { code, trouble, what, why, fix: fix.to_string() }
    }
}

/// The code of an error, its kind, and what to do.
fn advice(error: &PgError) -> (&'static str, Trouble, &'static str) {
    const PASSWORD: (&str, Trouble, &str) =
        ("WS-PG-003", Trouble::Invalid, "check user and password, and the server's pg_hba.conf");
    let Some(db) = error.db() else {
        return match error {
            PgError::NoPassword { .. } => PASSWORD,
            PgError::Tls { .. } => (
                "WS-PG-028",
                Trouble::Invalid,
                "name who signed the server's certificate (sslrootcert=FILE) and the host as it stands there as a subject \
                 alternative name, have the server offer TLS (ssl = on), or ask for less (sslmode)",
            ),
            PgError::Url { .. } => ("WS-PG-001", Trouble::Invalid, "write postgres://USER@HOST:PORT/DATABASE"),
            PgError::Unexpected { .. } => ("WS-PG-009", Trouble::Failure, "report it, with the server's version"),
            _ => ("WS-PG-002", Trouble::Unreachable, "check host and port, and that the server runs and listens there"),
        };
    };
    let code = db.code();
    if [SqlState::INVALID_PASSWORD, SqlState::INVALID_AUTHORIZATION_SPECIFICATION].contains(code) {
        PASSWORD
    } else if *code == SqlState::INVALID_CATALOG_NAME {
        (
            "WS-PG-004",
            Trouble::Invalid,
            "check the database's name, or create it: `watershed events init --create-database`",
        )
    } else if *code == SqlState::INSUFFICIENT_PRIVILEGE {
        (
            "WS-PG-005",
            Trouble::Invalid,
            "grant it to this user, as the owner of the table: GRANT SELECT, INSERT ON … TO …",
        )
    } else if [SqlState::UNDEFINED_TABLE, SqlState::UNDEFINED_COLUMN, SqlState::UNDEFINED_FUNCTION].contains(code) {
        ("WS-PG-006", Trouble::Invalid, "make the events tables: `watershed events init`")
    } else if error.is_retryable() {
        ("WS-PG-007", Trouble::Unreachable, "nothing: it is tried again; look at the server's log if it does not pass")
    } else {
        ("WS-PG-008", Trouble::Failure, "see the server's words above, and its log")
    }
}
