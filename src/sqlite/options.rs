//! What capture is told, and what it gives.

use std::path::PathBuf;
use std::sync::Arc;

use crate::log::{CapturesTable, Draft};
use crate::model::{LogId, SourceCursor, TableDef, TableName};

/// What to capture, and for whom.
pub struct CaptureOptions {
    /// The database file; it must exist.
    pub path: PathBuf,
    /// The log that the changes go to; a database is captured by one log only.
    pub log: LogId,
    /// Which tables are captured, asked again whenever the schema changes.
    pub captured: CapturesTable,
    /// Where large transactions wait: a folder on the log's disk.
    pub spool_dir: PathBuf,
    /// The label of the node.
    pub node: Box<str>,
    /// How far the log has read this database; `None` if never.
    pub resume: Option<SourceCursor>,
}

/// A transaction for the log.
pub struct Captured {
    /// The changes; a [`Draft::Local`] without changes when only `dropped` has something to say.
    pub draft: Draft,
    /// The definitions that it names.
    pub tables: Vec<Arc<TableDef>>,
    /// To be stored with it.
    pub upto: SourceCursor,
    /// How many changes.
    pub changes: u64,
    /// Tables whose rows may have changed unseen, so that the draft has a `copied` for them.
    pub recreated: Vec<TableName>,
    /// Captured tables that are gone, or cannot be captured any more.
    pub dropped: Vec<TableName>,
}
