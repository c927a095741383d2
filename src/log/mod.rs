//! Logs: where transactions get their position and become durable.
//!
//! ```text
//! released ≤ applied by every view ≤ durable = tail ≤ appended
//! ```

mod capture;
mod ledger;
mod lock;
pub mod memory;
pub mod segments;
mod spool;

pub use capture::{Capture, CaptureFailure, CaptureTrouble, Captured, CapturesTable, NeedsValues, Polled};
pub use lock::{Locked, lock_file};
pub use spool::Spool;

use std::io;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use thiserror::Error;
use tokio::sync::watch;

use crate::model::{
    Batch, Catalog, Cursor, Entry, EntryHeader, Epoch, Lamport, LinkId, LogId, Position, ReadFrom, SourceCursor,
    TableDef, limits,
};

/// How much one read may return. At least one entry part is returned when there is one.
#[derive(Clone, Copy, Debug)]
pub struct Limit {
    /// Encoded bytes.
    pub bytes: usize,
    /// Entries, parts counted singly.
    pub entries: usize,
}

impl Default for Limit {
    fn default() -> Self {
        Limit { bytes: limits::READ_BYTES_MAX, entries: limits::READ_ENTRIES_MAX }
    }
}

/// Something read in order from a position.
///
/// To be correct, an implementation
/// - delivers entries in the one order in which they were appended, the same to every reader, with no gap;
/// - delivers an entry only when it is durable: `read` never returns a position beyond `tail`;
/// - delivers a large transaction's parts adjacent, and none of them before the last one is durable;
/// - sets `batch.upto` and `batch.next` always, and has every named table in `batch.catalog`.
#[async_trait]
pub trait Source: Send + Sync {
    /// Drawn once, when the log was created.
    fn id(&self) -> LogId;
    /// The durable tail: the last position that a reader may see.
    fn tail(&self) -> watch::Receiver<Position>;
    /// The definitions of all tables named in the log.
    fn catalog(&self) -> Arc<Catalog>;
    /// Entries after `from`; an empty batch means caught up (wait on [`Source::tail`]).
    async fn read(&self, from: ReadFrom, limit: Limit) -> Result<Batch, SourceError>;
    /// The same, for whoever is busy with what was read before: a source whose reading takes a processor's time reads on
    /// another thread from the first poll on. Dropping the future leaves that one read to its end.
    async fn read_ahead(&self, from: ReadFrom, limit: Limit) -> Result<Batch, SourceError> {
        self.read(from, limit).await
    }
    /// Nobody known needs entries up to and including `upto` any more: they may go when their time is over. Retention
    /// only; lowering it is allowed.
    async fn release(&self, upto: Position) -> Result<(), SourceError>;
}

/// A source that can be appended to, durably.
///
/// To be correct, an implementation
/// - returns from `append` only when everything in it, `upto` included, is durable (law 2);
/// - stores transactions and `upto` together: after a crash both are there or neither (law 4);
/// - ignores a relayed entry whose origin it has stored, and refuses one that contradicts what it has stored (same
///   origin log, a position not beyond the known one, another epoch);
/// - stamps local drafts with origin and Lamport time, and raises its Lamport time to that of relayed ones;
/// - after a failed write or fsync refuses appends until it has been recovered.
#[async_trait]
pub trait Log: Source {
    /// Appends transactions in order, at consecutive positions. An error means that none of them will ever be read.
    /// Dropping the future does not take the append back.
    async fn append(&self, append: Append) -> Result<Cursor, AppendError> {
        Ok(self.append_stamped(append).await?.0)
    }
    /// The same; with the Lamport time of the last transaction.
    async fn append_stamped(&self, append: Append) -> Result<(Cursor, Lamport), AppendError>;
    /// How far that source had been read, as of the durable tail.
    fn source_cursor(&self, from: LinkId) -> Option<SourceCursor>;
    /// Whether a cursor is valid here: its log is this one, its epoch is listed, and its position is not beyond that
    /// epoch's end.
    fn check(&self, cursor: Cursor) -> Result<(), CursorRefused>;
    /// The cursor of a position (with the epoch that it was appended in). Positions beyond the tail give the tail's.
    fn cursor_at(&self, position: Position) -> Cursor;
    /// Figures for people and metrics.
    fn info(&self) -> LogInfo;
}

/// Appended together: durable together or not at all, unless one of them is large.
pub struct Append {
    /// The link by which these arrived.
    pub from: LinkId,
    /// Definitions of all tables that the drafts name (known ones may be left out).
    pub tables: Vec<Arc<TableDef>>,
    /// Transactions, in order.
    pub drafts: Vec<Draft>,
    /// How far `from` has been read once these are durable.
    pub upto: Option<SourceCursor>,
}

/// A transaction that is to be appended.
pub enum Draft {
    /// First logged here: gets origin and Lamport time.
    Local {
        /// `origin`, `lamport`, `part` and `more` are filled in by the log.
        header: EntryHeader,
        /// See [`crate::model::encode_changes`].
        changes: Bytes,
    },
    /// Arrived over a link, whole: stored byte by byte as it is.
    Relayed(Entry),
    /// Of a mirror only: an entry of the original, whole, at the place that it has there.
    Mirrored {
        /// Must be the next one.
        position: Position,
        /// In which it was appended at the original.
        epoch: Epoch,
        /// Stored byte by byte as it is.
        entry: Entry,
    },
    /// No transaction, but a condition on what follows in the same append: this must be the tail.
    Expect(Position),
    /// Too large for memory: written part by part while no other transaction is appended.
    Large {
        /// As in `Local`; for a relayed one, with its origin and Lamport time.
        header: EntryHeader,
        /// The encoded changes of the parts, at least one.
        parts: Box<dyn Parts>,
    },
}

/// With what a mirror of a log begins: the same log, from some position on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MirrorStart {
    /// The original's id, which is the mirror's.
    pub id: LogId,
    /// Those of the original's that begin at or before `oldest`.
    pub epochs: Vec<(Epoch, Position)>,
    /// The first position that the mirror will have.
    pub oldest: Position,
    /// The original's.
    pub lamport: Lamport,
}

/// The parts of a large transaction, read one after the other from where they were spooled.
pub trait Parts: Send {
    /// The encoded changes of the next part, of about [`limits::PART_BYTES_TARGET`] bytes; `None` after the last.
    fn next(&mut self) -> io::Result<Option<Bytes>>;
}

/// Figures of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogInfo {
    /// Drawn once.
    pub id: LogId,
    /// Epochs and the first position of each, oldest first.
    pub epochs: Vec<(Epoch, Position)>,
    /// The first position that can still be read (tail + 1 when there is none).
    pub oldest: Position,
    /// The durable tail.
    pub tail: Position,
    /// Bytes on disk (in memory, for a memory log), without what is preallocated.
    pub bytes: u64,
    /// What recovery cut at the last open, in bytes; 0 after a clean close.
    pub torn_bytes: u64,
    /// The highest Lamport time that the log has seen.
    pub lamport: Lamport,
}

/// A cursor is not valid in a log. An operator decides.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum CursorRefused {
    /// The cursor counts in another log.
    #[error("the cursor is of log {expected}, this is log {actual}")]
    OtherLog {
        /// What the cursor says.
        expected: LogId,
        /// The log at hand.
        actual: LogId,
    },
    /// The log never had that epoch: it was restored from a backup, or is a copy.
    #[error("the cursor's epoch {0} is not listed in this log: the log was restored or copied")]
    UnknownEpoch(Epoch),
    /// That epoch ended before the cursor's position.
    #[error("the cursor's position {position} is beyond the end of its epoch, {end}")]
    BeyondEpoch {
        /// What the cursor says.
        position: Position,
        /// The last position of that epoch.
        end: Position,
    },
}

/// Reading failed.
#[derive(Debug, Error)]
pub enum SourceError {
    /// The entries asked for have been removed by retention.
    #[error("position {asked} has been trimmed; the oldest that can be read is {oldest}")]
    Trimmed {
        /// The first position asked for.
        asked: Position,
        /// The first position that is there.
        oldest: Position,
    },
    /// The position asked for is not there yet.
    #[error("position {asked} is beyond the tail {tail}")]
    Beyond {
        /// The position to read after.
        asked: Position,
        /// The durable tail.
        tail: Position,
    },
    /// Stored bytes are not what was written.
    #[error("damage in {place} at offset {offset}: {why}")]
    Damaged {
        /// The file.
        place: String,
        /// Bytes from its start.
        offset: u64,
        /// What is wrong.
        why: String,
    },
    /// The store failed.
    #[error("reading failed: {0}")]
    Io(#[from] io::Error),
    /// The log has been closed.
    #[error("the log is closed")]
    Closed,
}

/// Appending failed; nothing of the append will be read.
#[derive(Debug, Error)]
pub enum AppendError {
    /// No room for another segment. What is stored is safe; appends go on once there is room.
    #[error("the disk is full: no room for another segment of {needed} bytes in {place}")]
    DiskFull {
        /// The folder.
        place: String,
        /// Bytes.
        needed: u64,
    },
    /// A write or fsync failed: appends are refused until the log has been recovered, which is tried at the next append.
    #[error("the log could not be written and is being recovered: {0}")]
    Failed(String),
    /// An entry is larger than a log takes.
    #[error("an entry of {bytes} bytes is larger than {max}")]
    TooLarge {
        /// Bytes.
        bytes: usize,
        /// Bytes.
        max: usize,
    },
    /// An origin log tells another story than it told before: it was restored from a backup.
    #[error("origin log {log} was restored or copied: it had reached {known}, and now sends {sent} of another epoch")]
    Diverged {
        /// The origin.
        log: LogId,
        /// What is stored of it.
        known: Cursor,
        /// What came.
        sent: Cursor,
    },
    /// The tail is not where the append expects it.
    #[error("the tail is {actual}, not {expected}")]
    Moved {
        /// What was expected.
        expected: Position,
        /// The tail.
        actual: Position,
    },
    /// A draft names a table whose definition is neither given nor known, or its parts cannot be read.
    #[error("the append is not consistent: {0}")]
    Invalid(String),
    /// The log has been closed.
    #[error("the log is closed")]
    Closed,
}

impl AppendError {
    /// Whether the same append may succeed later.
    pub fn is_retryable(&self) -> bool {
        matches!(self, AppendError::DiskFull { .. } | AppendError::Failed(_))
    }
}
