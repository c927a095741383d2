//! Views: state derived from a source, stored together with its cursor.

mod cel;
mod compare;
mod copy_text;
mod diff;
mod events;
mod events_init;
mod ids;
mod lane;
pub mod machine;
mod member;
mod mend;
pub mod plain;
mod snapshot;
mod spool;
mod store;
mod stored;
mod waiting;

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
pub use lane::{CopyChunk, CopyScope, LOCKED, Lane, LaneState, LaneView, RowGuard};
pub use snapshot::Snapshot;
#[cfg(any(feature = "sqlite", feature = "postgres"))]
pub(crate) use snapshot::SnapshotWriter;
#[cfg(any(feature = "sqlite", feature = "postgres"))]
pub(crate) use spool::{Spools, Work};
pub use store::{Chunk, InspectedTable, Inspection, TableReader};
pub use stored::{Answer, AskError, Bounds, Question, StateDigest, ViewBuilds, ViewStore};
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
    /// The store failed in a way that waiting does not mend.
    #[error("{0}")]
    Failed(String),
}

impl ViewError {
    /// Whether the same call may succeed later.
    pub fn is_retryable(&self) -> bool {
        matches!(self, ViewError::Retry(_))
    }
}
