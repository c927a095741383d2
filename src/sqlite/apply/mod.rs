//! Applies a node's log to a SQLite database: effects, cursor and lanes in one transaction.

mod bind;
mod chunk;
mod evicted;
mod lanes;
mod pass;
mod store;
mod target;
mod write;

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};

pub(crate) use bind::{Affinity, Hint, number, to_sql};
pub(crate) use store::cursor as stored_cursor;
pub(crate) use target::{Target, define};
pub(crate) use write::{Mode, RowFail, Writer};

use crate::model::{Batch, Cursor, LogId, TableName, limits};
use crate::view::{Lane, Spools, View, ViewError, blocking};
use target::Targets;

/// What an [`Applier`] is opened with.
#[derive(Clone, Debug)]
pub struct ApplierOptions {
    /// The database file. It is never created.
    pub path: PathBuf,
    /// The node's log, which the cursor counts in.
    pub log: LogId,
    /// Triggers of the database fire for received transactions; ours stand aside by the origin row. Foreign keys are
    /// never enforced for received transactions: they were at their origin.
    pub fire_triggers: bool,
    /// How long a lock of another connection is waited for before [`ViewError::Retry`].
    pub busy_timeout: Duration,
}

impl ApplierOptions {
    /// Triggers off, and the usual patience.
    pub fn new(path: impl Into<PathBuf>, log: LogId) -> ApplierOptions {
        ApplierOptions { path: path.into(), log, fire_triggers: false, busy_timeout: limits::DATABASE_BUSY_TIMEOUT }
    }

    /// Where the database lies.
    fn folder(&self) -> PathBuf {
        match self.path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder.to_path_buf(),
            _ => PathBuf::from("."),
        }
    }
}

/// A SQLite database as a view of a node's log.
///
/// Every call is one `BEGIN IMMEDIATE` transaction, in which the stored cursor is compared with the one last seen here
/// before anything is written; several log entries may share one, which ends at an entry's end. Rows are written by key:
/// inserts overwrite (an update that enters a filter arrives as an insert), deletes of missing rows are ignored, and an
/// update of a missing row inserts it if it is whole. What does not fit parks its table.
pub struct Applier {
    conn: Connection,
    options: ApplierOptions,
    /// What the database's cursor was when last seen.
    held: Option<Cursor>,
    lanes: BTreeMap<TableName, Lane>,
    targets: Targets,
    spools: Spools,
    lane_spools: HashMap<TableName, Spools>,
    torn: u64,
}

impl std::fmt::Debug for Applier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Applier").field("options", &self.options).field("held", &self.held).finish_non_exhaustive()
    }
}

impl Applier {
    /// Opens an existing database and creates our tables in it if they are missing.
    ///
    /// # Errors
    /// [`ViewError::Retry`] when it is locked, [`ViewError::Failed`] when it is missing, not a database, or read-only.
    pub fn open(options: ApplierOptions) -> Result<Applier, ViewError> {
        blocking(|| {
            let fail = |error| view_error(&options, error);
            let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
            let conn = Connection::open_with_flags(&options.path, flags).map_err(fail)?;
            configure(&conn, &options).map_err(fail)?;
            store::install(&conn).map_err(fail)?;
            let held = store::cursor(&conn).map_err(fail)?;
            let lanes = store::lanes(&conn).map_err(fail)?;
            Ok(Applier {
                conn,
                options: options.clone(),
                held,
                lanes,
                targets: Targets::default(),
                spools: Spools::default(),
                lane_spools: HashMap::new(),
                torn: 0,
            })
        })
    }

    /// Runs `write` in one transaction: the stored cursor is as we know it, and nothing stays if `write` fails.
    fn transact<T, E: From<ViewError>>(&mut self, write: impl FnOnce(&mut Applier) -> Result<T, E>) -> Result<T, E> {
        let lanes = self.lanes.clone();
        let torn = self.torn;
        self.begin()?;
        let done = match self.fenced() {
            Ok(()) => write(self),
            Err(fenced) => Err(fenced.into()),
        };
        let done = match done {
            Ok(value) => self.commit().map(|()| value).map_err(E::from),
            Err(error) => Err(error),
        };
        if done.is_err() {
            self.roll_back();
            // Lanes that somebody else changed are read again at the next begin.
            self.lanes = lanes;
            self.torn = torn;
            // What was seen of tables inside of it may have gone with it.
            self.targets = Targets::default();
        }
        done
    }

    fn fail(&self, error: rusqlite::Error) -> ViewError {
        view_error(&self.options, error)
    }

    fn begin(&mut self) -> Result<(), ViewError> {
        let begun = self.conn.prepare_cached("BEGIN IMMEDIATE").and_then(|mut begin| begin.execute([]));
        begun.map_err(|e| self.fail(e))?;
        if self.options.fire_triggers {
            let set = store::set_origin(&self.conn, true);
            set.map_err(|e| self.undo(e))?;
        }
        let revised = self.targets.revise(&self.conn);
        revised.map_err(|e| self.undo(e))?;
        let lanes = store::lanes(&self.conn);
        self.lanes = lanes.map_err(|e| self.undo(e))?;
        Ok(())
    }

    fn undo(&self, error: rusqlite::Error) -> ViewError {
        self.roll_back();
        self.fail(error)
    }

    /// Compares the stored cursor with ours.
    fn fenced(&self) -> Result<(), ViewError> {
        let found = store::cursor(&self.conn).map_err(|e| self.fail(e))?;
        match found == self.held {
            true => Ok(()),
            false => Err(ViewError::Fenced { expected: self.held, found }),
        }
    }

    fn commit(&mut self) -> Result<(), ViewError> {
        if self.options.fire_triggers {
            store::set_origin(&self.conn, false).map_err(|e| self.fail(e))?;
        }
        let committed = self.conn.prepare_cached("COMMIT").and_then(|mut commit| commit.execute([]));
        committed.map(drop).map_err(|e| self.fail(e))
    }

    fn roll_back(&self) {
        if !self.conn.is_autocommit()
            && let Err(error) = self.conn.execute_batch("ROLLBACK")
        {
            // Nothing is lost: SQLite rolls back by itself when the connection goes, and the next begin says so.
            tracing::warn!(%error, path = %self.options.path.display(), "rollback failed");
        }
    }
}

fn configure(conn: &Connection, options: &ApplierOptions) -> rusqlite::Result<()> {
    conn.busy_timeout(options.busy_timeout)?;
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, options.fire_triggers)?;
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_FKEY, false)?;
    // A quoted name that is no column is an error, never a string; except in the user's triggers, if they fire.
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_DQS_DML, options.fire_triggers)?;
    // 16 MiB of pages; what is more spills to the database file or the WAL, also inside of a transaction.
    conn.execute_batch("PRAGMA synchronous = FULL; PRAGMA cache_size = -16384; PRAGMA cache_spill = ON")?;
    conn.set_prepared_statement_cache_capacity(limits::APPLY_STATEMENTS_MAX);
    Ok(())
}

/// What SQLite's error means to the caller.
fn view_error(options: &ApplierOptions, error: rusqlite::Error) -> ViewError {
    use rusqlite::ErrorCode as Code;
    let place = options.path.display();
    match error.sqlite_error_code() {
        Some(Code::DatabaseBusy | Code::DatabaseLocked) => {
            ViewError::Retry(format!("{place} is locked by another connection ({error})"))
        }
        Some(Code::DiskFull | Code::SystemIoFailure | Code::OperationInterrupted) => {
            ViewError::Retry(format!("{place} could not be written ({error})"))
        }
        _ => ViewError::Failed(format!("{place}: {error}")),
    }
}

#[async_trait]
impl View for Applier {
    async fn cursor(&mut self) -> Result<Option<Cursor>, ViewError> {
        blocking(|| {
            self.begin()?;
            let found = store::cursor(&self.conn);
            self.roll_back();
            self.held = found.map_err(|e| self.fail(e))?;
            Ok(self.held)
        })
    }

    async fn apply(&mut self, batch: &Batch) -> Result<(), ViewError> {
        blocking(|| self.apply_main(batch))
    }
}
