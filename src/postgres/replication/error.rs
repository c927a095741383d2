//! What can go wrong while a transaction log is streamed.

use std::fmt;
use std::io;
use std::time::Duration;

use thiserror::Error;
use tokio_postgres::error::SqlState;

use super::pgoutput::DecodeError;

/// A server's error, in its words.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub struct ServerError {
    /// `ERROR`, `FATAL` or `PANIC`.
    pub severity: String,
    /// What kind of error.
    pub code: SqlState,
    /// What happened.
    pub message: String,
    /// More of it.
    pub detail: Option<String>,
    /// What to do.
    pub hint: Option<String>,
}

impl fmt::Display for ServerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} ({})", self.severity, self.message, self.code.code())?;
        let more = [("DETAIL", &self.detail), ("HINT", &self.hint)];
        more.iter()
            .filter_map(|(name, text)| Some((name, text.as_ref()?)))
            .try_for_each(|(name, text)| write!(f, "; {name}: {text}"))
    }
}

/// The transaction log cannot be streamed, or not further. The connection is of no more use.
#[derive(Debug, Error)]
pub enum ReplicationError {
    /// There is no connection.
    #[error("{url}: connecting: {source}")]
    Connect {
        /// Without a password.
        url: String,
        /// Why.
        source: io::Error,
    },
    /// The server did not answer in time.
    #[error("{url} did not answer within {limit:?}")]
    Timeout {
        /// Without a password.
        url: String,
        /// How long was waited.
        limit: Duration,
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
    /// We and the server do not agree on how to authenticate.
    #[error("{url}: authentication: {why}")]
    Authentication {
        /// Without a password.
        url: String,
        /// What is wrong.
        why: String,
    },
    /// The server refused.
    #[error("{url}: {doing}: {error}")]
    Server {
        /// Without a password.
        url: String,
        /// What was tried.
        doing: String,
        /// The server's words.
        error: Box<ServerError>,
    },
    /// The connection broke.
    #[error("{url}: {doing}: the connection is lost: {source}")]
    Lost {
        /// Without a password.
        url: String,
        /// What was tried.
        doing: String,
        /// The system's words.
        source: io::Error,
    },
    /// The server ended the stream in good order: it stops.
    #[error("{url}: the server has ended the stream")]
    Ended {
        /// Without a password.
        url: String,
    },
    /// Nothing came any more, not even an answer.
    #[error("{url}: nothing was heard for {limit:?}")]
    Silent {
        /// Without a password.
        url: String,
        /// How long was waited.
        limit: Duration,
    },
    /// What came is not what the protocol has there.
    #[error("{url}: {doing}: {why}")]
    Unexpected {
        /// Without a password.
        url: String,
        /// What was tried.
        doing: String,
        /// What is wrong.
        why: String,
    },
    /// A message of the stream cannot be read.
    #[error("{url}: {error}")]
    Decode {
        /// Without a password.
        url: String,
        /// What is wrong with it.
        error: DecodeError,
    },
}

impl ReplicationError {
    /// The server's own error, if it is one.
    pub fn server(&self) -> Option<&ServerError> {
        match self {
            ReplicationError::Server { error, .. } => Some(error),
            _ => None,
        }
    }

    /// The server's code, if it is its error.
    pub fn code(&self) -> Option<&SqlState> {
        self.server().map(|error| &error.code)
    }

    /// Whether the same may succeed later, on a new connection: it broke, the server starts or stops, or another process
    /// uses the slot still. (postgresql.org/docs/15/errcodes-appendix.html)
    pub fn is_retryable(&self) -> bool {
        match self {
            ReplicationError::Connect { .. } | ReplicationError::Timeout { .. } => true,
            ReplicationError::Lost { .. } | ReplicationError::Ended { .. } | ReplicationError::Silent { .. } => true,
            ReplicationError::Server { error, .. } => {
                let class = error.code.code().get(..2).unwrap_or_default();
                matches!(class, "08" | "40" | "53" | "57" | "58")
                    || [SqlState::LOCK_NOT_AVAILABLE, SqlState::OBJECT_IN_USE].contains(&error.code)
            }
            ReplicationError::Tls { .. }
            | ReplicationError::NoPassword { .. }
            | ReplicationError::Authentication { .. }
            | ReplicationError::Unexpected { .. }
            | ReplicationError::Decode { .. } => false,
        }
    }
}
