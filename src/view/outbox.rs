//! What a build publishes: what changes in its rows, kept beside them until it stands in a log.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::mpsc;

use super::ViewError;
use crate::model::{Cursor, TableDef, Timestamp};

/// The transaction of the view's log by which its rows have changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cause {
    /// Its place.
    pub cursor: Cursor,
    /// When it was committed.
    pub time: Timestamp,
    /// Of what belongs together.
    pub correlation: Option<Box<str>>,
}

/// What one transaction has changed in the view; of much of it, one part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outgoing {
    /// Goes up from each to the next.
    pub number: u64,
    /// By what.
    pub cause: Cause,
    /// Further parts follow.
    pub more: bool,
    /// The tables that the changes name by index; of all parts the same.
    pub tables: Vec<Arc<TableDef>>,
    /// See [`crate::model::encode_changes`].
    pub changes: Bytes,
}

/// Some of what waits, from one snapshot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Waiting {
    /// Drawn when the store began to keep what changes, without a gap since: what another one published says nothing of this.
    pub lineage: u64,
    /// The greatest number that was ever given.
    pub last: u64,
    /// Up to which number they are kept no longer, whatever became of them.
    pub forgotten: u64,
    /// How far each partition has come, by log id.
    pub cursors: Vec<Cursor>,
    /// In the order of their numbers.
    pub parts: Vec<Outgoing>,
}

/// Everything that stands in the tables.
#[derive(Debug)]
pub struct Whole {
    /// As of where it is; its parts are contained in the rows.
    pub at: Waiting,
    /// The view's tables, all of them.
    pub tables: Vec<Arc<TableDef>>,
    /// Their rows as inserts, encoded, some at a time. It has ended well only where `None` comes last.
    pub rows: mpsc::Receiver<Result<Option<Bytes>, ViewError>>,
}

/// What changes in the rows of the build that answers, kept in the commit that changes them, until it is not needed any more.
///
/// To be correct, an implementation
/// - keeps, for every transaction that changes a row, every change of a row, under one number or some that follow each other;
/// - keeps the same again when the same state takes the same transactions again;
/// - draws another lineage where a state may begin with something else, and where some changes have not been kept.
#[async_trait]
pub trait ViewOutbox: Send + Sync {
    /// What waits behind a number, oldest first: about so many bytes, one part at least.
    async fn after(&self, number: u64, bytes_max: usize) -> Result<Waiting, ViewError>;
    /// What waits up to and including that number is not needed any more; it goes with one of the next commits.
    fn forget(&self, upto: u64);
    /// Every row, in one snapshot.
    async fn whole(&self) -> Result<Whole, ViewError>;
}
