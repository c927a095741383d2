//! One build of one definition, in its database.

use std::path::PathBuf;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use rusqlite::{Connection, ErrorCode, TransactionBehavior};
use tokio::sync::Semaphore;

use super::ask;
use super::carry::Defs;
use super::digest;
use super::flight::Flown;
use super::meta;
use super::open::Opened;
use super::outbox::Outbox;
use super::outgoing::Outgoings;
use super::place::{self, SqlitePlace};
use super::readers::Readers;
use crate::model::{Cursor, Fingerprint, LogId, Position, limits};
use crate::view::{
    Answer, AskError, Bounds, Hold, Program, Question, StateDigest, View, ViewChanges, ViewError, ViewOutbox,
    ViewStore, blocking,
};

/// A build of a SQL view in SQLite.
pub struct SqliteViewStore {
    pub(super) shared: Arc<Shared>,
}

/// What the followers and askers of a build have in common.
pub(super) struct Shared {
    /// For people.
    pub place: String,
    /// Where files of large transactions are put.
    pub folder: PathBuf,
    pub fingerprint: Fingerprint,
    /// Drawn when the build began.
    pub build: i64,
    writer: Mutex<Writer>,
    /// One for each question that is being answered.
    pub places: Arc<Semaphore>,
    /// `None` in memory, where the one connection answers, too.
    pub readers: Option<Readers>,
    /// Where memory is written to.
    pub saved: Option<PathBuf>,
    /// As of how many changes it was.
    written: Mutex<Option<u64>>,
    /// Whether it notes what changes in the view's tables.
    pub changes: bool,
    /// Whether it keeps what is to be published; what stands elsewhere up to that number goes with the next commit.
    pub publishes: bool,
    pub published: AtomicU64,
}

/// The connection that writes.
pub(super) struct Writer {
    pub conn: Connection,
    pub program: Program,
    /// The handlers' statements, by number.
    pub sqls: Vec<String>,
    /// Versions of tables whose latest rows are kept.
    pub defs: Defs,
    /// Where it notes what is to be published.
    pub out: Option<Outbox>,
}

impl Shared {
    pub(super) fn writer(&self) -> MutexGuard<'_, Writer> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn fail(&self, error: rusqlite::Error) -> ViewError {
        failed(&self.place, error)
    }

    /// The stored cursor of a log, if the database still has this build.
    pub(super) fn fence(&self, conn: &Connection, log: LogId) -> Result<Option<Cursor>, ViewError> {
        let (build, cursor) = meta::fence(conn, log).map_err(|error| self.fail(error))?;
        match build == self.build {
            true => Ok(cursor),
            false => Err(ViewError::Lost(format!("{}: another build of the view has taken its place", self.place))),
        }
    }

    fn pass_over(&self, at: Cursor) -> Result<(), ViewError> {
        let mut writer = self.writer();
        let fail = |error| self.fail(error);
        let transaction = writer.conn.transaction_with_behavior(TransactionBehavior::Immediate).map_err(fail)?;
        let held = self.fence(&transaction, at.log)?;
        let next = held.map_or(Position::ZERO, |held| held.position).next();
        if at.position != next {
            let why = format!("the view's next entry is at {next}, not at {}", at.position);
            return Err(ViewError::Failed(why));
        }
        meta::set_passed(&transaction, at).map_err(fail)?;
        meta::set_cursor(&transaction, at).map_err(fail)?;
        transaction.commit().map_err(fail)?;
        match &self.saved {
            Some(saved) => super::builds::save(&writer.conn, saved),
            None => Ok(()),
        }
    }
}

impl SqliteViewStore {
    pub(super) fn new(opened: Opened, place: &SqlitePlace, wait: std::time::Duration) -> SqliteViewStore {
        let Opened { conn, meta, program, sqls, changes, out } = opened;
        let (path, saved, readers) = match place {
            SqlitePlace::File(path) => (path, None, Some(Readers::new(path.clone(), wait))),
            SqlitePlace::Memory(path) => (path, Some(path.clone()), None),
        };
        let shared = Shared {
            place: path.display().to_string(),
            folder: place::folder(path),
            fingerprint: meta.fingerprint,
            build: meta.build,
            publishes: out.is_some(),
            published: AtomicU64::new(0),
            writer: Mutex::new(Writer { conn, program, sqls, defs: Defs::default(), out }),
            places: Arc::new(Semaphore::new(limits::VIEW_READERS_MAX)),
            readers,
            saved,
            written: Mutex::default(),
            changes,
        };
        SqliteViewStore { shared: Arc::new(shared) }
    }
}

impl std::fmt::Debug for SqliteViewStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Shared { place, fingerprint, .. } = &*self.shared;
        f.debug_struct("SqliteViewStore").field("place", place).field("definition", fingerprint).finish_non_exhaustive()
    }
}

#[async_trait]
impl ViewStore for SqliteViewStore {
    fn definition(&self) -> Fingerprint {
        self.shared.fingerprint
    }

    async fn part(&self, log: LogId) -> Result<Box<dyn View>, ViewError> {
        let part = blocking(|| Flown::open(self.shared.clone(), log))?;
        Ok(Box::new(part))
    }

    async fn cursors(&self) -> Result<Vec<Cursor>, ViewError> {
        blocking(|| meta::cursors(&self.shared.writer().conn).map_err(|error| self.shared.fail(error)))
    }

    async fn ask(&self, question: &Question, bounds: &Bounds) -> Result<Answer, AskError> {
        ask::ask(&self.shared, question, bounds).await
    }

    async fn digest(&self) -> Result<StateDigest, ViewError> {
        digest::digest(&self.shared, Hold::none()).await
    }

    async fn digest_held(&self, hold: Hold) -> Result<StateDigest, ViewError> {
        digest::digest(&self.shared, hold).await
    }

    async fn pass_over(&self, at: Cursor) -> Result<(), ViewError> {
        blocking(|| self.shared.pass_over(at))
    }

    async fn passed(&self) -> Result<Vec<(Cursor, String)>, ViewError> {
        blocking(|| meta::passed(&self.shared.writer().conn).map_err(|error| self.shared.fail(error)))
    }

    fn changes(&self) -> Option<Arc<dyn ViewChanges>> {
        let kept = self.shared.changes;
        kept.then(|| Arc::new(super::changes::Changes(self.shared.clone())) as Arc<dyn ViewChanges>)
    }

    fn outbox(&self) -> Option<Arc<dyn ViewOutbox>> {
        self.shared.publishes.then(|| Arc::new(Outgoings(self.shared.clone())) as Arc<dyn ViewOutbox>)
    }

    async fn persist(&self) -> Result<(), ViewError> {
        let Some(saved) = self.shared.saved.clone() else { return Ok(()) };
        blocking(|| {
            let writer = self.shared.writer();
            let mut written = self.shared.written.lock().unwrap_or_else(PoisonError::into_inner);
            // Every commit stores a cursor, which counts.
            let changes = Some(writer.conn.total_changes());
            if *written != changes || !saved.exists() {
                super::builds::save(&writer.conn, &saved)?;
                *written = changes;
            }
            Ok(())
        })
    }
}

/// Whether an error tells of the store, not of the statement.
pub(super) fn is_of_the_store(error: &rusqlite::Error) -> bool {
    use ErrorCode as Code;
    matches!(
        error.sqlite_error_code(),
        Some(
            Code::DatabaseBusy
                | Code::DatabaseLocked
                | Code::DiskFull
                | Code::SystemIoFailure
                | Code::OperationInterrupted
                | Code::DatabaseCorrupt
                | Code::NotADatabase
                | Code::ReadOnly
                | Code::CannotOpen
                | Code::OutOfMemory
                | Code::SchemaChanged
                | Code::FileLockingProtocolFailed
        )
    )
}

/// What SQLite's error means to whoever follows.
pub(super) fn failed(place: &str, error: rusqlite::Error) -> ViewError {
    use ErrorCode as Code;
    match error.sqlite_error_code() {
        Some(Code::DatabaseBusy | Code::DatabaseLocked | Code::SchemaChanged) => {
            ViewError::Retry(format!("{place} is locked by another connection ({error})"))
        }
        Some(Code::DiskFull | Code::SystemIoFailure | Code::OperationInterrupted) => {
            ViewError::Retry(format!("{place} could not be written ({error})"))
        }
        _ => ViewError::Failed(format!("{place}: {error}")),
    }
}
