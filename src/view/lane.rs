//! Lanes of single tables at a database: copies, parked tables, and the state that makes both resumable.

use async_trait::async_trait;

use super::{CopyLines, View, ViewError};
use crate::model::{Batch, Cursor, Fingerprint, LinkId, Position, Row, TableDef, TableName, Timestamp, limits};

/// A table that does not move with the main cursor, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lane {
    /// Whose lane.
    pub table: TableName,
    /// The lane's cursor in the node's log: the table's changes up to and including this position are applied.
    pub after: Position,
    /// What it is waiting for.
    pub state: LaneState,
}

/// How the error of a table begins that is parked because somebody holds a lock on it: it is retried by itself.
pub const LOCKED: &str = "another session holds a lock here";

impl Lane {
    /// Whether it is parked for a lock only, and has been for so long that it is tried again.
    pub fn may_be_free(&self) -> bool {
        let LaneState::Parked { error, since, .. } = &self.state else { return false };
        let retry = i64::try_from(limits::APPLY_LOCKED_RETRY.as_micros()).unwrap_or(i64::MAX);
        error.starts_with(LOCKED) && Timestamp::now().0.saturating_sub(since.0) >= retry
    }

    /// This lane parked at `position`; what it was doing is remembered.
    pub fn parked(self, position: Position, error: String) -> Lane {
        let before = match self.state {
            LaneState::Parked { before, .. } => before,
            LaneState::Copying { .. } | LaneState::Replaying { settled: Some(_) } => Some(Box::new(self.state)),
            LaneState::Replaying { settled: None } | LaneState::Paused => None,
        };
        let since = Timestamp::now();
        Lane { state: LaneState::Parked { position, error, since, before }, ..self }
    }

    /// This lane going on: a parked one with what it was doing when it failed, any other with the log.
    pub fn resumed(self) -> Lane {
        let state = match self.state {
            LaneState::Parked { before: Some(before), .. } => *before,
            state @ LaneState::Copying { .. } => state,
            _ => LaneState::Replaying { settled: None },
        };
        Lane { state, ..self }
    }
}

/// Why a table has a lane of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LaneState {
    /// A first copy arrives from that peer, chunk by chunk. Its changes wait in the log.
    Copying {
        /// The peer's log.
        from: LinkId,
        /// Key of the last row that has arrived (inclusive); `None` before the first chunk.
        done: Option<Row>,
        /// Rows that have arrived.
        rows: u64,
        /// What had been received of the peer's log when the lane began: what is applied up to `after` contains no more of
        /// it, so no chunk may contain less.
        received: Position,
    },
    /// All chunks are here; the log is replayed into the table, and the lane joins main when it reaches the main cursor
    /// and everything that the chunks may contain has been received, that is when the position received from `from`
    /// is at or beyond [`Settled::upto`] (a position in the peer's log). `None`: nothing to wait for.
    Replaying {
        /// What the chunks may contain.
        settled: Option<Settled>,
    },
    /// It failed at the entry after `after` that touches it; nothing of that entry's part for this table is applied.
    Parked {
        /// The failing entry.
        position: Position,
        /// The store's error, with the row and the statement.
        error: String,
        /// When.
        since: Timestamp,
        /// What it was doing when it failed, gone back to when it is retried; `None`: it moved with the main cursor.
        before: Option<Box<LaneState>>,
    },
    /// An operator paused it.
    Paused,
}

/// How far a copy reaches whose chunks are all here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settled {
    /// The copy's peer.
    pub from: LinkId,
    /// The position in *its* log which the copy may contain.
    pub upto: Position,
    /// The position in our log up to which the copy contains everything that came from the peer, and nothing of it beyond:
    /// known of tables without a key, whose rows must not be written twice; 0 of others. What came from others is replayed.
    pub cut: Position,
}

impl Settled {
    /// Of a table with a key.
    pub fn keyed(from: LinkId, upto: Position) -> Settled {
        Settled { from, upto, cut: Position::ZERO }
    }
}

/// A part of a first copy: rows in key order.
#[derive(Clone, Debug)]
pub struct CopyChunk {
    /// The sender's definition.
    pub table: std::sync::Arc<TableDef>,
    /// Rows of this chunk start after this key (exclusive); `None` at the table's start.
    pub after: Option<Row>,
    /// The last key covered (inclusive); `None` when the chunk reaches the table's end.
    pub upto: Option<Row>,
    /// Rows with `after < key ≤ upto` that the sender's snapshot has and that pass its filter; values in the
    /// definition's order.
    pub rows: Vec<Row>,
    /// The rows as PostgreSQL wrote them, where nobody had to look into them; then `rows` is empty, and none is the
    /// receiver's own.
    pub lines: Option<CopyLines>,
}

impl CopyChunk {
    /// How many rows it has.
    pub fn count(&self) -> usize {
        self.lines.as_ref().map_or(self.rows.len(), |lines| lines.rows)
    }

    /// Takes the rows apart, if they are not.
    ///
    /// # Errors
    /// They are no rows of the table.
    pub fn decode(&mut self) -> Result<(), String> {
        if let Some(lines) = &self.lines {
            self.rows = lines.decode(self.table.columns.len())?;
            self.lines = None;
        }
        Ok(())
    }
}

/// Which rows a copy may remove at the receiver: those inside the chunk's key range that the chunk does not have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CopyScope {
    /// Every row of the table belongs to the sender's side.
    All,
    /// None: nothing is known of ownership, so nothing is removed.
    UpsertOnly,
}

/// Decides per row whether a copy may write or remove it (the receiver's own rows are never touched).
pub type RowGuard<'a> = &'a (dyn Fn(&TableDef, &Row) -> bool + Send + Sync);

/// A view of a database, with lanes per table.
///
/// In addition to the laws of [`View`]: the main cursor passes over tables that have a lane; a table that fails gets
/// a [`LaneState::Parked`] lane in the commit that applies the rest; every method commits before it returns.
#[async_trait]
pub trait LaneView: View {
    /// All lanes, by table name.
    fn lanes(&self) -> Vec<Lane>;
    /// Adds or replaces a table's lane; `None` removes it.
    async fn set_lane(&mut self, table: &TableName, lane: Option<Lane>) -> Result<(), ViewError>;
    /// Applies this one table's changes from the batch and moves its lane's cursor to `batch.upto`, but never beyond
    /// the main cursor. Inserts and updates overwrite, missing rows are ignored: the copy may be ahead of the log here.
    async fn apply_lane(&mut self, table: &TableName, batch: &Batch) -> Result<(), ViewError>;
    /// Writes one chunk and the lane's progress in one commit. Rows in the chunk's key range that it does not have are
    /// removed if `scope` says so; rows that `mine` holds for are neither written nor removed.
    async fn copy_chunk(&mut self, chunk: &CopyChunk, scope: &CopyScope, mine: RowGuard<'_>) -> Result<(), ViewError>;
    /// The tables that follow that peer, with the fingerprint of the sender's selection and filter under which they
    /// were copied.
    async fn followed(&mut self, from: LinkId) -> Result<Vec<(TableName, Fingerprint)>, ViewError>;
    /// Records (`Some`) or forgets (`None`) that a table follows that peer.
    async fn set_followed(
        &mut self,
        from: LinkId,
        table: &TableName,
        under: Option<Fingerprint>,
    ) -> Result<(), ViewError>;
    /// Transactions applied without the part of a parked table, since this was opened.
    fn torn(&self) -> u64;
    /// Replaces the cursor and all lanes, in one commit: the database takes this log's position as its own. Tables that
    /// are to be copied follow nobody any more.
    async fn reset(&mut self, cursor: Option<Cursor>, lanes: Vec<Lane>) -> Result<(), ViewError>;
}
