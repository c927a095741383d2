//! The node's database, whichever it is.

use std::fmt;
use std::path::{Path, PathBuf};

use tokio::runtime::Handle;

use super::policy::Policy;
use super::settings::{DatabaseSettings, Exit, NodeError};
use crate::log::{Capture, CaptureFailure, CaptureTrouble, CapturesTable, NeedsValues};
use crate::model::{LogId, SourceCursor, TableDef, TableName, limits};
use crate::postgres::{self, Endpoint, PgApplier, PgApplierOptions, PgCapture, PgCaptureOptions, PgError, PgReader};
use crate::sqlite;
use crate::view::{EventsError, Ids, Inspection, LaneView, StrayIds, TableReader, Trouble, ViewError};

/// Where a database is.
#[derive(Clone, Debug)]
pub enum Store {
    /// A file; it must exist.
    Sqlite(PathBuf),
    /// A database of a server.
    Postgres(Box<Endpoint>),
}

impl fmt::Display for Store {
    /// Without secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Store::Sqlite(path) => write!(f, "sqlite:{}", path.display()),
            Store::Postgres(endpoint) => f.write_str(endpoint.name()),
        }
    }
}

/// For whom a database is captured.
pub(super) struct CaptureFor {
    pub log: LogId,
    pub captured: CapturesTable,
    /// Columns at which filters and owners look.
    pub needed: Option<NeedsValues>,
    /// Where large transactions wait: a folder on the log's disk.
    pub spool_dir: PathBuf,
    pub node: Box<str>,
    /// How far the log has read this database; `None` if never.
    pub resume: Option<SourceCursor>,
}

impl Store {
    /// Looks at the database without changing it.
    pub(super) async fn inspect(&self, policy: &Policy) -> Result<Inspection, NodeError> {
        let captures = (!policy.captures_nothing()).then(|| policy.captures_table());
        self.look(captures.as_ref()).await
    }

    /// The same for a database that only follows.
    pub(super) async fn inspect_copy(&self) -> Result<Inspection, NodeError> {
        self.look(None).await
    }

    async fn look(&self, captures: Option<&CapturesTable>) -> Result<Inspection, NodeError> {
        match self {
            Store::Sqlite(path) => sqlite::inspect(path).map_err(|error| {
                let (locked, advice) = match error.is_locked() {
                    true => (true, "find who locks it, and try again"),
                    false => (
                        false,
                        "create it, or correct [database] url (relative paths are relative to the configuration file)",
                    ),
                };
                let why = "the node needs its database at start";
                NodeError::new("WS-SQLITE-004", Exit::Unreachable, error, why, advice).locked(locked)
            }),
            Store::Postgres(endpoint) => {
                let limit = limits::DATABASE_CONNECT_TIMEOUT;
                let inspection = postgres::inspect(endpoint, captures, limit).await.map_err(unreachable)?;
                if inspection.refusals.is_empty() {
                    return Ok(inspection);
                }
                let what = format!("the database {self} is not ready for a node:\n{}", inspection.refusals.join("\n"));
                let why = "the node reads the server's transaction log and writes received changes";
                let advice = "do what stands behind each `do:`, and start again";
                Err(NodeError::new("WS-PG-040", Exit::Configuration, what, why, advice))
            }
        }
    }

    /// Opens the database for capture.
    pub(super) async fn capture(
        &self,
        settings: &DatabaseSettings,
        wanted: CaptureFor,
    ) -> Result<Box<dyn Capture>, NodeError> {
        let CaptureFor { log, captured, needed, spool_dir, node, resume } = wanted;
        match self {
            Store::Sqlite(path) => {
                let path = path.clone();
                let options = sqlite::CaptureOptions { path, log, captured, spool_dir, node, resume };
                let capture = sqlite::Capture::open(options).map_err(|error| self.uncaptured(error.into()))?;
                Ok(Box::new(capture))
            }
            Store::Postgres(endpoint) => {
                let options = PgCaptureOptions {
                    endpoint: (**endpoint).clone(),
                    runtime: Handle::current(),
                    log,
                    captured,
                    needed,
                    spool_dir,
                    node,
                    resume,
                    slot_retain_max: settings.slot_retain_max,
                };
                let capture = PgCapture::open(options).await.map_err(|error| self.uncaptured(error))?;
                Ok(Box::new(capture))
            }
        }
    }

    fn uncaptured(&self, error: CaptureFailure) -> NodeError {
        // A server that is not there now is waited for, as a file that is locked.
        let locked = matches!(error.kind, CaptureTrouble::Locked)
            || matches!((self, error.kind), (Store::Postgres(_), CaptureTrouble::Retry));
        if error.kind == CaptureTrouble::Operator {
            return NodeError::new(
                "WS-NODE-012",
                Exit::Operator,
                error,
                "the database and this node's log do not belong together any more: one of them was restored, replaced or copied",
                "put back the one that was changed; or, to accept the database as it is now, run `watershed source drop database \
                 --yes` and start again: its tables are then copied afresh by whoever follows them, and from whomever they follow",
            );
        }
        let exit = match error.kind {
            CaptureTrouble::Locked | CaptureTrouble::Retry => Exit::Unreachable,
            _ => Exit::Failure,
        };
        let why = "local changes could not be captured";
        let code = match self {
            Store::Sqlite(_) => "WS-SQLITE-003",
            Store::Postgres(_) => "WS-PG-041",
        };
        NodeError::new(code, exit, error, why, "mend it and start again").locked(locked)
    }

    /// What tells the database from every other, however it is named; `None` for a file that is not there yet.
    ///
    /// # Errors
    /// Words: it cannot be reached.
    pub(super) async fn identity(&self) -> Result<Option<String>, String> {
        match self {
            Store::Sqlite(path) => Ok(sqlite::file_identity(path)),
            Store::Postgres(endpoint) => postgres::identity_of(endpoint).await.map(Some).map_err(|error| error.words()),
        }
    }

    /// Opens the database as a view of the node's log.
    pub(super) async fn applier(
        &self,
        settings: &DatabaseSettings,
        log: LogId,
        spool_dir: PathBuf,
        copy: Option<&str>,
    ) -> Result<Box<dyn LaneView>, NodeError> {
        let fire_triggers = settings.fire_triggers;
        match self {
            Store::Sqlite(path) => {
                let options = sqlite::ApplierOptions { fire_triggers, ..sqlite::ApplierOptions::new(path, log) };
                let view = sqlite::Applier::open(options).map_err(|error| unusable("WS-SQLITE-001", error))?;
                Ok(Box::new(view))
            }
            Store::Postgres(endpoint) => {
                let endpoint = (**endpoint).clone();
                let (exact, copy) = (settings.exact, copy.map(Into::into));
                let options = PgApplierOptions { endpoint, log, fire_triggers, exact, spool_dir, copy };
                let view = PgApplier::open(options).await.map_err(|error| unusable("WS-PG-042", error))?;
                Ok(Box::new(view))
            }
        }
    }

    /// Opens the database for reading tables, with a folder for what has to wait; the error is words for people.
    pub(super) async fn reader(&self, dir: &Path) -> Result<Box<dyn TableReader>, String> {
        match self {
            Store::Sqlite(path) => Ok(Box::new(sqlite::Reader::open(path).map_err(|error| error.to_string())?)),
            Store::Postgres(endpoint) => {
                let reader = PgReader::spooling(endpoint, dir.to_path_buf()).await;
                Ok(Box::new(reader.map_err(|error| error.words())?))
            }
        }
    }

    /// Builds the indexes that the copy of a table has put off; the error is words for people.
    pub(super) async fn build_indexes(&self, table: &TableName) -> Result<usize, String> {
        match self {
            Store::Sqlite(_) => Ok(0),
            Store::Postgres(endpoint) => postgres::build(endpoint, table).await.map_err(|error| error.words()),
        }
    }

    /// Builds the indexes that copies have put off which ended otherwise; `busy` are being copied.
    pub(super) async fn build_leftover(&self, busy: &[TableName]) -> Result<usize, String> {
        match self {
            Store::Sqlite(_) => Ok(0),
            Store::Postgres(endpoint) => postgres::build_leftover(endpoint, busy).await.map_err(|error| error.words()),
        }
    }

    /// Tables whose new ids do not keep to the range.
    pub(super) async fn stray_ids(&self, range: Ids, captures: &CapturesTable) -> Result<Vec<StrayIds>, NodeError> {
        match self {
            Store::Sqlite(path) => {
                sqlite::stray_ids(path, range, captures).map_err(|error| self.uncaptured(error.into()))
            }
            Store::Postgres(endpoint) => {
                postgres::stray_ids(endpoint, range, captures, limits::DATABASE_CONNECT_TIMEOUT)
                    .await
                    .map_err(unreachable)
            }
        }
    }

    /// Has them keep to it.
    pub(super) async fn mend_ids(&self, strays: &[StrayIds]) -> Result<(), NodeError> {
        match self {
            Store::Sqlite(path) => sqlite::mend_ids(path, strays).map_err(|error| self.uncaptured(error.into())),
            Store::Postgres(endpoint) => {
                postgres::mend_ids(endpoint, strays, limits::DATABASE_CONNECT_TIMEOUT).await.map_err(unreachable)
            }
        }
    }

    /// Whether a node captures it, or has captured it; the error is words for people.
    pub(super) async fn is_captured(&self) -> Result<bool, String> {
        match self {
            Store::Sqlite(path) => sqlite::is_captured(path).map_err(|error| error.to_string()),
            Store::Postgres(endpoint) => postgres::is_captured(endpoint).await.map_err(|error| error.words()),
        }
    }

    /// Takes everything of Watershed's out of the database; the error is words for people.
    pub(super) async fn uninstall(&self, copy: Option<&str>) -> Result<(), String> {
        match self {
            Store::Sqlite(path) => sqlite::uninstall(path).map_err(|error| error.to_string()),
            Store::Postgres(endpoint) => postgres::uninstall(endpoint, copy).await.map_err(|error| error.words()),
        }
    }

    /// The statement that makes a table there.
    pub(super) fn create_table(&self, table: &TableDef) -> String {
        match self {
            Store::Sqlite(_) => sqlite::create_table(table),
            Store::Postgres(_) => postgres::create_table(table),
        }
    }
}

fn unusable(code: &'static str, error: ViewError) -> NodeError {
    let locked = error.is_retryable() || matches!(error, ViewError::Lost(_));
    let why = "the node's database cannot be used";
    NodeError::new(code, Exit::Unreachable, error, why, "mend it and start again").locked(locked)
}

fn unreachable(error: PgError) -> NodeError {
    let error = EventsError::from(error);
    let (exit, locked) = match error.trouble {
        Trouble::Unreachable => (Exit::Unreachable, true),
        Trouble::Invalid => (Exit::Configuration, false),
        _ => (Exit::Failure, false),
    };
    NodeError::new(error.code, exit, error.what, error.why, error.fix).locked(locked)
}
