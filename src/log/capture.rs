//! What is committed at a database outside of Watershed, on its way into the log.

use thiserror::Error;

use std::pin::Pin;
use std::sync::Arc;

use super::Draft;
use crate::model::{SourceCursor, TableDef, TableName};

/// Says which tables are captured.
pub type CapturesTable = Arc<dyn Fn(&TableName) -> bool + Send + Sync>;

/// Says at which columns of a table somebody looks when a row is written, also where they do not change; `None`: at none.
pub type NeedsValues = Arc<dyn Fn(&TableDef) -> Option<Vec<bool>> + Send + Sync>;

/// Transactions for the log.
pub struct Captured {
    /// The transactions, in commit order; [`Draft::Local`] without changes where only `dropped` has something to say.
    pub drafts: Vec<Draft>,
    /// The definitions that they name.
    pub tables: Vec<Arc<TableDef>>,
    /// To be stored with them.
    pub upto: SourceCursor,
    /// How many changes.
    pub changes: u64,
    /// Tables whose rows may have changed unseen, so that a draft has a `copied` for them.
    pub recreated: Vec<TableName>,
    /// Captured tables that are gone, or cannot be captured any more.
    pub dropped: Vec<TableName>,
    /// With it, everything that was committed before the call has been given.
    pub current: bool,
}

/// What a look at the database brought.
pub enum Polled {
    /// Something that the log does not have.
    Captured(Captured),
    /// Everything that was committed before the call has been given.
    Current,
    /// Nothing for now; whether there is more cannot be said.
    Waiting,
}

/// Reads one database's local commits, in their order. All calls block; it belongs on a thread of its own.
///
/// To be correct, an implementation
/// - never splits a transaction, and gives none that was applied by us;
/// - gives again what was given and not released, after [`Capture::retry`] and after a restart from the stored cursor;
/// - keeps the database from forgetting what was not released, within the bounds that its options give.
pub trait Capture: Send {
    /// Up to where the database has been read; before the first poll, where reading starts.
    fn place(&self) -> SourceCursor;
    /// What has been committed since the last call.
    fn poll(&mut self) -> Result<Polled, CaptureFailure>;
    /// Waits a little for something to be committed; longer where it has been quiet.
    fn wait(&mut self, quiet: bool);
    /// Call it while the log takes what was given: reads on until that future is ready, and gathers what the next poll gives,
    /// within bounds. It may return before, where nothing can be read ahead.
    fn read_ahead(&mut self, _logged: Pin<&mut (dyn Future<Output = ()> + Send)>) {}
    /// The log has everything up to and including `upto`, durably.
    fn release(&mut self, upto: &SourceCursor) -> Result<(), CaptureFailure>;
    /// Reads again what was not released: the log could not take it.
    fn retry(&mut self);
    /// Logs the table as replaced soon, so that whoever follows it copies it afresh.
    fn request_rescan(&mut self, table: &TableName);
}

/// Capture could not go on; nothing is lost.
#[derive(Debug, Error)]
#[error("{what}")]
pub struct CaptureFailure {
    /// What happened, and why.
    pub what: String,
    /// What that means.
    pub kind: CaptureTrouble,
}

/// What a failure of capture means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CaptureTrouble {
    /// Somebody else locks the database; the same call may succeed later.
    Locked,
    /// The same call may succeed later.
    Retry,
    /// Database and log do not belong together any more, or changes are missing: an operator decides.
    Operator,
    /// It must be mended first.
    Failed,
}
