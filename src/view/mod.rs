//! Views: state derived from a source, stored together with its cursor.

mod blocking;
mod cel;
mod compare;
mod copy_text;
mod diff;
mod events;
mod events_init;
mod ids;
mod keys;
mod lane;
pub mod machine;
mod member;
mod mend;
mod outbox;
pub mod plain;
#[cfg(any(feature = "sqlite", feature = "postgres"))]
mod program;
#[cfg(feature = "sqlite")]
mod ready;
#[cfg(any(feature = "sqlite", feature = "postgres"))]
mod rows;
mod snapshot;
mod spool;
pub mod sql;
mod store;
mod stored;
#[cfg(any(feature = "sqlite", feature = "postgres"))]
mod sums;
mod waiting;

pub(crate) use blocking::blocking;
pub(crate) use cel::cel_json;
pub use compare::{Common, Compare};
pub use copy_text::CopyLines;
#[cfg(feature = "postgres")]
pub(crate) use copy_text::{Lines, fields};
pub use diff::{
    BucketSum, Compared, DiffError, DiffOptions, Engine, Mend, Repaired, RowDiff, RowDiffKind, Side, TableDiff,
};
pub use events::{
    ChunkDigest, EventIds, EventsError, EventsFacts, EventsInsert, EventsRestore, EventsTable, StoredEvent, Trouble,
};
pub use events_init::{EventsRole, InitDone, InitObject, InitOptions, InitReport};
pub use ids::{Ids, StrayIds};
#[cfg(any(feature = "sqlite", feature = "postgres"))]
pub(crate) use keys::key_asked;
pub(crate) use keys::put_key_value;
pub use lane::{CopyChunk, CopyScope, LOCKED, Lane, LaneState, LaneView, RowGuard, Settled};
pub use outbox::{Cause, Outgoing, ViewOutbox, Waiting, Whole};
#[cfg(any(feature = "sqlite", feature = "postgres"))]
pub(crate) use program::{Effects, Program, Script, stands_before};
#[cfg(feature = "sqlite")]
pub(crate) use ready::{Ready, number_of};
#[cfg(any(feature = "sqlite", feature = "postgres"))]
pub(crate) use rows::{Cell, Seen, Slot};
pub use snapshot::Snapshot;
#[cfg(any(feature = "sqlite", feature = "postgres"))]
pub(crate) use snapshot::SnapshotWriter;
#[cfg(any(feature = "sqlite", feature = "postgres"))]
pub(crate) use spool::{Spools, Work};
pub use store::{Chunk, InspectedTable, Inspection, TableReader};
pub use stored::{
    Answer, AskError, Bounds, ChangesFrom, Hold, Look, Question, RowChange, StateDigest, ViewBuilds, ViewChanges,
    ViewStore,
};
#[cfg(any(feature = "sqlite", feature = "postgres"))]
pub(crate) use sums::RowSums;
pub use waiting::{Needed, Token, TokenError, Unmet, Waiters, covers};

use async_trait::async_trait;
use thiserror::Error;

use crate::model::{Batch, Cursor, Position, TableName};

/// State derived from a log, with the cursor of what it contains.
///
/// To be correct, an implementation
/// - reads its cursor from the store that holds the effects, under the store's exclusive lease (law 3);
/// - applies effects and cursor in one commit, by compare-and-set on the cursor, so that a zombie cannot apply twice;
/// - ignores entries at or below its cursor;
/// - commits only at transaction boundaries: parts of an entry whose last part is not in the batch are applied but
///   not committed before it has come (or spooled, or applied again after a restart);
/// - advances its cursor to `batch.upto` also when the batch has no entry for it.
#[async_trait]
pub trait View: Send {
    /// How far the state has come; `None` for a new view.
    async fn cursor(&mut self) -> Result<Option<Cursor>, ViewError>;
    /// Effects and `batch.upto` together, or neither. They may still be under way on return: [`View::cursor`] tells what is
    /// there, and [`View::flush`] waits for all of it.
    async fn apply(&mut self, batch: &Batch) -> Result<(), ViewError>;
    /// Waits until everything that was given to [`View::apply`] is there.
    async fn flush(&mut self) -> Result<(), ViewError> {
        Ok(())
    }
    /// Whether [`View::apply`] does all of its work on the caller's thread: then the source is read on another one meanwhile.
    fn works_here(&self) -> bool {
        false
    }
    /// The source has nothing more for now: everything given is flushed, and what was put off while there was much to apply
    /// may be done.
    async fn caught_up(&mut self) -> Result<(), ViewError> {
        Ok(())
    }
}

/// A view could not go on. Nothing of the batch has been applied.
#[derive(Debug, Error)]
pub enum ViewError {
    /// The store is busy or cannot be reached; the same call may succeed later.
    #[error("{0}; will be tried again")]
    Retry(String),
    /// The connection to the store broke, or it cannot be reached. This view is of no more use; one that is opened anew
    /// may be.
    #[error("{0}")]
    Lost(String),
    /// Another process has moved this view's cursor: this one is a zombie and must stop.
    #[error("the view's cursor was moved by somebody else: expected {expected:?}, found {found:?}")]
    Fenced {
        /// What this process had stored.
        expected: Option<Cursor>,
        /// What is there.
        found: Option<Cursor>,
    },
    /// One table's trouble, where the view cannot park it.
    #[error("table {table} at position {position}: {why}")]
    Table {
        /// Whose trouble.
        table: TableName,
        /// Of the failing entry.
        position: Position,
        /// The store's words.
        why: String,
    },
    /// A statement of the view's definition failed. What stands before the entry is applied and committed.
    #[error("{file}:{line}: at position {position}: {why}; statement: {statement}")]
    Statement {
        /// Of the entry.
        position: Position,
        /// The definition's file.
        file: String,
        /// Where the statement begins in it, counted from 1.
        line: u32,
        /// As it is written there.
        statement: String,
        /// The store's words.
        why: String,
    },
    /// An entry cannot be read as changes of the tables that the view looks at. What stands before it is applied and
    /// committed.
    #[error("the entry at position {position}: {why}")]
    Entry {
        /// Of the entry.
        position: Position,
        /// What is wrong with it.
        why: String,
    },
    /// The content of a table that the view looks at was replaced outside of the log: the view is built anew from a copy.
    #[error(
        "the content of {table} was replaced outside of the log at position {position}: the view must be built anew"
    )]
    Replaced {
        /// Which.
        table: TableName,
        /// Of the entry that says so.
        position: Position,
    },
    /// The view's definition is wrong, or does not fit the store.
    #[error(transparent)]
    Definition(#[from] sql::DefinitionError),
    /// The store failed in a way that waiting does not mend.
    #[error("{0}")]
    Failed(String),
}

impl ViewError {
    /// Whether the same call may succeed later.
    pub fn is_retryable(&self) -> bool {
        matches!(self, ViewError::Retry(_))
    }

    /// The entry at which the view stands still, if it is one that does it: an operator may have it passed over.
    pub fn stops_at(&self) -> Option<Position> {
        match self {
            ViewError::Table { position, .. }
            | ViewError::Statement { position, .. }
            | ViewError::Entry { position, .. } => Some(*position),
            _ => None,
        }
    }
}
