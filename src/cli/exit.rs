//! How a command ends.

use std::fmt;

use crate::node::config::{ConfigError, Mistake};
#[cfg(all(feature = "postgres", feature = "sqlite"))]
use crate::node::events::Refusal;
use crate::postgres::PgError;
use crate::view::{EventsError, Trouble};

/// Exit codes, as scripts see them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Done.
    Ok = 0,
    /// It failed.
    Failure = 1,
    /// The command line is not right.
    Usage = 2,
    /// The configuration is not valid.
    Config = 3,
    /// The node or the database cannot be reached.
    Unreachable = 4,
    /// An operator must decide.
    Operator = 5,
    /// Differences were found.
    Differences = 6,
    /// Another process has the data folder.
    Locked = 7,
    /// A signal ended a finite command.
    Interrupted = 130,
}

/// Why a command did not end with 0. Printed as `error[CODE]: message` / `why: …` / `do: …`.
#[derive(Clone, Debug)]
pub struct ExitError {
    /// Greppable: `WS-CLI-…`.
    pub code: Box<str>,
    /// What the process ends with.
    pub exit: Exit,
    /// What happened.
    pub message: Box<str>,
    /// Why.
    pub why: Box<str>,
    /// What to do.
    pub fix: Box<str>,
    /// The whole text where it was rendered elsewhere; empty prints nothing.
    shown: Option<Box<str>>,
}

impl ExitError {
    /// An error in three parts.
    pub fn new(code: &str, exit: Exit, message: impl ToString, why: impl ToString, fix: impl ToString) -> ExitError {
        let (message, why, fix) = (message.to_string().into(), why.to_string().into(), fix.to_string().into());
        ExitError { code: code.into(), exit, message, why, fix, shown: None }
    }

    /// Ends the process with that code; what there is to say has been said on stdout.
    pub fn quiet(exit: Exit) -> ExitError {
        let mut error = ExitError::new("", exit, "", "", "");
        error.shown = Some("".into());
        error
    }

    /// A command whose engine is not part of this build.
    pub fn not_connected(command: &str) -> ExitError {
        let message = format!("`watershed {command}` is not connected");
        let why = "its engine is not part of this build";
        ExitError::new("WS-CLI-001", Exit::Failure, message, why, "use a later version")
    }
}

impl fmt::Display for ExitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.shown {
            Some(shown) => f.write_str(shown),
            None => write!(f, "error[{}]: {}\nwhy: {}\ndo: {}", self.code, self.message, self.why, self.fix),
        }
    }
}

impl std::error::Error for ExitError {}

impl From<ConfigError> for ExitError {
    fn from(error: ConfigError) -> ExitError {
        let first = error.mistakes().first();
        let part = |get: fn(&Mistake) -> &str| first.map(get).unwrap_or_default().into();
        ExitError {
            code: part(|mistake| mistake.code),
            exit: Exit::Config,
            message: part(|mistake| &mistake.what),
            why: part(|mistake| &mistake.why),
            fix: part(|mistake| &mistake.fix),
            shown: Some(error.to_string().into()),
        }
    }
}

impl From<EventsError> for ExitError {
    fn from(error: EventsError) -> ExitError {
        let exit = match error.trouble {
            Trouble::Unreachable => Exit::Unreachable,
            Trouble::Invalid => Exit::Config,
            Trouble::Operator => Exit::Operator,
            Trouble::Failure => Exit::Failure,
        };
        ExitError::new(error.code, exit, error.what, error.why, error.fix)
    }
}

#[cfg(all(feature = "postgres", feature = "sqlite"))]
impl From<Refusal> for ExitError {
    /// Shows all of them, and ends by the gravest.
    fn from(refusal: Refusal) -> ExitError {
        let shown = refusal.to_string();
        match refusal.gravest() {
            Some(gravest) => ExitError { shown: Some(shown.into()), ..gravest.clone().into() },
            None => ExitError::quiet(Exit::Failure),
        }
    }
}

impl From<PgError> for ExitError {
    fn from(error: PgError) -> ExitError {
        EventsError::from(error).into()
    }
}

impl From<std::io::Error> for ExitError {
    /// For writing to stdout: a reader that has gone away ends the command quietly.
    fn from(error: std::io::Error) -> ExitError {
        if error.kind() == std::io::ErrorKind::BrokenPipe {
            return ExitError::quiet(Exit::Ok);
        }
        ExitError::new(
            "WS-CLI-002",
            Exit::Failure,
            "the output cannot be written",
            error,
            "make room, and run it again",
        )
    }
}
