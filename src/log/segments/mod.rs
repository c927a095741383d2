//! A log in a folder of append-only files. `docs/FORMAT.md` specifies the bytes.
//!
//! ```text
//! released ≤ durable = tail ≤ written ≤ preallocated
//! ```

mod encoder;
mod error;
mod format;
mod open;
mod queue;
mod read;
mod reserve;
mod retain;
mod scan;
mod segment;
mod shared;
mod storage;
mod verify;
mod worker;
mod writer;

pub use error::OpenError;
pub use open::Verified;
pub use storage::{FolderStorage, Lock, Storage, StoredFile};
pub use verify::verify;

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::sync::{Semaphore, oneshot, watch};

use self::queue::Pending;
use self::shared::Shared;
use self::worker::Worker;
use super::{Append, AppendError, CursorRefused, Limit, Log, LogInfo, MirrorStart, Source, SourceError};
use crate::model::{Batch, Catalog, Cursor, Epoch, Lamport, LinkId, LogId, Position, ReadFrom, SourceCursor, limits};

/// How long entries are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// For what nobody needs: counted from the time when the segment was full.
    pub time: Duration,
    /// For everything: beyond it the oldest segments go, needed or not. Preallocated bytes count.
    pub bytes: u64,
}

impl Default for Retention {
    fn default() -> Self {
        Retention { time: limits::RETAIN_TIME_DEFAULT, bytes: limits::RETAIN_BYTES_DEFAULT }
    }
}

/// How a log on disk is opened.
#[derive(Clone)]
pub struct SegmentOptions {
    /// Its folder, created if missing.
    pub dir: PathBuf,
    /// Preallocated per segment; a larger unit gets a larger segment.
    pub segment_bytes: u64,
    /// How long entries are kept.
    pub retain: Retention,
    /// `false` is for scratch data: nothing is durable then.
    pub fsync: bool,
    /// The log is a mirror: opening begins no epoch, and only [`super::Draft::Mirrored`] is taken, until
    /// [`SegmentLog::promote`].
    pub mirror: bool,
    /// With what a mirror begins; without it, one that is not there is not created.
    pub start: Option<MirrorStart>,
    /// Where the files are; `None`: the operating system's folder `dir`.
    pub storage: Option<Arc<dyn Storage>>,
}

impl SegmentOptions {
    /// The defaults, in that folder.
    pub fn new(dir: impl Into<PathBuf>) -> SegmentOptions {
        SegmentOptions {
            dir: dir.into(),
            segment_bytes: limits::SEGMENT_BYTES_DEFAULT,
            retain: Retention::default(),
            fsync: true,
            mirror: false,
            start: None,
            storage: None,
        }
    }
}

/// A log in a folder.
///
/// ```
/// # use watershed::log::{Append, Draft, Limit, Log, Source, segments::{SegmentLog, SegmentOptions}};
/// # use watershed::model::{EntryHeader, LinkId, Position};
/// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let dir = tempfile::tempdir()?;
/// let log = SegmentLog::open(SegmentOptions { segment_bytes: 1 << 16, ..SegmentOptions::new(dir.path()) })?;
/// let draft = Draft::Local { header: EntryHeader::default(), changes: bytes::Bytes::new() };
/// let at = log.append(Append { from: LinkId::LOCAL, tables: vec![], drafts: vec![draft], upto: None }).await?;
/// assert_eq!(log.read(Position::ZERO.into(), Limit::default()).await?.upto, at);
/// # Ok(()) }
/// ```
pub struct SegmentLog {
    id: LogId,
    shared: Arc<Shared>,
    room: Arc<Semaphore>,
    /// Stopped first, then the folder is unlocked.
    worker: Mutex<Option<Worker>>,
    lock: Mutex<Option<Box<dyn Send + Sync>>>,
}

impl SegmentLog {
    /// Opens a log for appending, or creates it: recovers it, and begins an epoch. Blocks.
    pub fn open(options: SegmentOptions) -> Result<SegmentLog, OpenError> {
        let storage = options.storage.clone().unwrap_or_else(|| Arc::new(FolderStorage::new(&options.dir)));
        let (shared, lock) = open::open(&options, storage)?;
        let worker = Worker::start(shared.clone())?;
        Ok(SegmentLog::assemble(shared, Some(worker), lock))
    }

    /// Opens the log of a node that is not running, without changing anything: appends are refused as if it were closed.
    pub fn open_read_only(dir: &Path) -> Result<SegmentLog, OpenError> {
        SegmentLog::open_read_only_in(Arc::new(FolderStorage::new(dir)))
    }

    /// The same, of any storage.
    pub fn open_read_only_in(storage: Arc<dyn Storage>) -> Result<SegmentLog, OpenError> {
        let (shared, lock) = open::open_read_only(storage)?;
        Ok(SegmentLog::assemble(shared, None, lock))
    }

    fn assemble(shared: Arc<Shared>, worker: Option<Worker>, lock: Box<dyn Send + Sync>) -> SegmentLog {
        let id = shared.ledger().id;
        SegmentLog {
            id,
            room: Arc::new(Semaphore::new(limits::APPEND_QUEUE_MAX)),
            worker: worker.into(),
            lock: Some(lock).into(),
            shared,
        }
    }

    /// Removes segments that are wholly at or below `upto`, whether they are needed or not.
    pub async fn trim(&self, upto: Position) -> Result<(), SourceError> {
        if self.shared.read_only {
            return Err(SourceError::Closed);
        }
        let upto = upto.min(*self.shared.tail.borrow());
        Ok(blocking(|| {
            // What stands in the segment that is written to can go once that has ended; if it cannot be ended now, later.
            if self.shared.segments().last().is_some_and(|last| last.base.0 <= upto) {
                let _ = retain::roll(&self.shared, true);
            }
            retain::trim(&self.shared, Some(upto))
        })?)
    }

    /// A mirror becomes a log of its own, in a new epoch; durable on return. Appends that are under way end before. Blocks.
    ///
    /// # Errors
    /// The epoch could not be written; it is a log of its own all the same, until it is closed.
    pub fn promote(&self) -> Result<(), AppendError> {
        let mut writer = self.shared.writer();
        let Some(writer) = writer.as_mut() else { return Err(AppendError::Closed) };
        {
            let mut ledger = self.shared.state.write().unwrap_or_else(PoisonError::into_inner);
            if !std::mem::take(&mut ledger.mirror) {
                return Ok(());
            }
            ledger.begin_epoch(Epoch::draw());
        }
        writer.recover(&self.shared).map_err(AppendError::Failed)?;
        writer.begin_mark(&self.shared)
    }

    /// From here on nothing up to and including `upto` is given any more, also where its segment has later entries; until the
    /// log is closed.
    pub fn hide(&self, upto: Position) {
        let upto = upto.min(*self.shared.tail.borrow());
        self.shared.hidden.fetch_max(upto.0, Ordering::Relaxed);
    }

    /// How long entries are kept from here on.
    pub fn set_retention(&self, retain: Retention) {
        *self.shared.retain.write().unwrap_or_else(PoisonError::into_inner) = retain;
    }

    /// Finishes what is queued, notes that everything is durable, and unlocks the folder. Later calls are refused.
    /// Dropping the log does the same, but tells nobody of an error.
    pub fn close(&self) -> Result<(), AppendError> {
        if self.shared.closed.swap(true, Ordering::SeqCst) {
            return Ok(());
        }
        self.room.close();
        if let Some(worker) = self.worker.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
            worker.stop();
        }
        if self.shared.queue.take_over() {
            queue::lead(&self.shared, true);
        }
        let marked = match self.shared.writer().take() {
            Some(mut writer) => writer.mark(&self.shared),
            None => Ok(()),
        };
        self.lock.lock().unwrap_or_else(PoisonError::into_inner).take();
        marked
    }
}

impl Drop for SegmentLog {
    fn drop(&mut self) {
        if let Err(error) = self.close() {
            tracing::error!(%error, "closing the log in {} failed; it will be recovered", self.shared.storage.place());
        }
    }
}

/// Runs what may wait for the disk, without holding up other tasks where the runtime has threads for them.
fn blocking<R>(f: impl FnOnce() -> R) -> R {
    match Handle::try_current().map(|handle| handle.runtime_flavor()) {
        Ok(RuntimeFlavor::MultiThread) => tokio::task::block_in_place(f),
        _ => f(),
    }
}

#[async_trait]
impl Source for SegmentLog {
    fn id(&self) -> LogId {
        self.id
    }

    fn tail(&self) -> watch::Receiver<Position> {
        self.shared.tail.subscribe()
    }

    fn catalog(&self) -> Arc<Catalog> {
        self.shared.catalog.clone()
    }

    async fn read(&self, from: ReadFrom, limit: Limit) -> Result<Batch, SourceError> {
        if self.shared.closed.load(Ordering::Relaxed) {
            return Err(SourceError::Closed);
        }
        blocking(|| read::read(&self.shared, from, limit))
    }

    async fn read_ahead(&self, from: ReadFrom, limit: Limit) -> Result<Batch, SourceError> {
        let shared = self.shared.clone();
        let read = tokio::task::spawn_blocking(move || {
            let read = read::read(&shared, from, limit);
            // The folder may be another's by now, who has removed what is missing here.
            if shared.closed.load(Ordering::Relaxed) { Err(SourceError::Closed) } else { read }
        });
        match read.await {
            Ok(read) => read,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                // The runtime ends.
                Err(_) => Err(SourceError::Closed),
            },
        }
    }

    async fn release(&self, upto: Position) -> Result<(), SourceError> {
        self.shared.released.store(upto.0, Ordering::Relaxed);
        if self.shared.read_only {
            return Ok(());
        }
        Ok(blocking(|| {
            // Where that fails, an append will tell.
            let _ = retain::roll(&self.shared, false);
            retain::trim(&self.shared, None)
        })?)
    }
}

#[async_trait]
impl Log for SegmentLog {
    async fn append_stamped(&self, append: Append) -> Result<(Cursor, Lamport), AppendError> {
        let permit = self.room.clone().acquire_owned().await.map_err(|_| AppendError::Closed)?;
        let (answer, answered) = oneshot::channel();
        // From here to the end of `lead` nothing awaits: whoever leads finishes, whatever becomes of the future.
        if self.shared.queue.push(Pending { append, answer, _permit: permit }) {
            blocking(|| queue::lead(&self.shared, false));
        }
        answered.await.unwrap_or(Err(AppendError::Closed))
    }

    fn source_cursor(&self, from: LinkId) -> Option<SourceCursor> {
        self.shared.ledger().cursors.get(&from).cloned()
    }

    fn check(&self, cursor: Cursor) -> Result<(), CursorRefused> {
        self.shared.ledger().check(cursor)
    }

    fn cursor_at(&self, position: Position) -> Cursor {
        self.shared.ledger().cursor_at(position)
    }

    fn info(&self) -> LogInfo {
        let (id, epochs, tail, lamport) = {
            let ledger = self.shared.ledger();
            (ledger.id, ledger.epochs.clone(), ledger.tail, ledger.lamport)
        };
        let bytes = self.shared.segments().iter().map(|segment| segment.end()).sum();
        LogInfo { id, epochs, oldest: self.shared.oldest(), tail, bytes, torn_bytes: self.shared.torn_bytes, lamport }
    }
}
