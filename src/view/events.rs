//! What is asked of an events table, besides reading it as a source and writing it as a view: whether two of them agree.

use async_trait::async_trait;
use thiserror::Error;

use crate::model::{Event, EventTime};

/// An event that owns its text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredEvent {
    /// The primary key.
    pub id: i64,
    /// When its transaction began.
    pub time: EventTime,
    /// JSON text, as the database gives it.
    pub json: Box<[u8]>,
}

impl StoredEvent {
    /// It, borrowed.
    pub fn event(&self) -> Event<'_> {
        Event { id: self.id, time: self.time, json: &self.json }
    }
}

/// How an events table's ids are given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EventIds {
    /// From the one-row table `id`: consecutive from 1, and committed in their order.
    #[default]
    Table,
    /// From a sequence: with gaps, and committed out of order.
    Sequence,
}

/// What an events table is, and how far it has come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EventsFacts {
    /// The same for every way to reach the same database, while its server runs: for PostgreSQL the server's system
    /// identifier, the instant of its start and the database's number and name; for SQLite the file's device and inode.
    pub identity: String,
    /// Objects of a source that are there, by name: `insert_events`, `notify_insert`, `check_sql_command`, `id`, ….
    pub source_objects: Vec<String>,
    /// Objects that a source needs and that are not there.
    pub missing_objects: Vec<String>,
    /// Whether ids are kept unique by the database.
    pub has_key: bool,
    /// Why inserting would be refused; `None` where it is allowed.
    pub insert_refused: Option<String>,
    /// How ids are given at a source; `None` where the objects of neither kind are there.
    pub ids: Option<EventIds>,
    /// Rows.
    pub count: i64,
    /// The greatest id; 0 for an empty table.
    pub max_id: i64,
    /// The event with the least id.
    pub first: Option<StoredEvent>,
}

/// A digest of the events with ids in one range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkDigest {
    /// The least id that may be in it (inclusive).
    pub first: i64,
    /// The greatest id that may be in it (inclusive).
    pub last: i64,
    /// Rows in it.
    pub count: u64,
    /// Over id, time and text of each row, whatever their order. Comparable between tables of the same kind of database.
    pub digest: i64,
}

/// Reads facts, digests and rows of an events table. It never writes, and an answer is of one snapshot.
#[async_trait]
pub trait EventsTable: Send {
    /// What people call it: its URL without a password.
    fn name(&self) -> &str;
    /// Whether digests of this table and `other` can be compared: the same kind of database, with the same encoding.
    fn digest_kind(&self) -> &str;
    /// Its facts.
    ///
    /// # Errors
    /// It is not there, has other columns, may not be read, or cannot be reached.
    async fn facts(&mut self) -> Result<EventsFacts, EventsError>;
    /// The events with those ids that are there, ids ascending.
    async fn events(&mut self, ids: &[i64]) -> Result<Vec<StoredEvent>, EventsError>;
    /// Events with `first ≤ id ≤ last`, ids ascending: at most `limit` of them, fewer when they are large, none only
    /// when there is none.
    async fn range(&mut self, first: i64, last: i64, limit: u32) -> Result<Vec<StoredEvent>, EventsError>;
    /// Digests of the chunks of `width` ids that begin at `first` (`first..first+width`, …), up to `last` (inclusive);
    /// chunks without rows may be left out.
    async fn digests(&mut self, first: i64, last: i64, width: i64) -> Result<Vec<ChunkDigest>, EventsError>;
    /// Of the events with `first ≤ id ≤ last`, at most `limit` ids of those whose time is another than that of the event
    /// before, though both bear the stamp of one transaction (`testingStats.dbOperationId`, see `events load`).
    async fn torn(&mut self, first: i64, last: i64, limit: u32) -> Result<Vec<i64>, EventsError>;
}

/// What kind of trouble it is; commands end by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// The endpoint cannot be reached (now): may succeed later.
    Unreachable,
    /// The endpoint is not what the configuration says: no such database, table or permission, other columns.
    Invalid,
    /// Two tables contradict each other: an operator must decide.
    Operator,
    /// Anything else.
    Failure,
}

/// An events table could not be read, written or made. Printed in three parts: what, why, what to do.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("error[{code}]: {what}\nwhy: {why}\ndo: {fix}")]
pub struct EventsError {
    /// Greppable: `WS-PG-…`, `WS-SQLITE-…`, `WS-EVENTS-…`.
    pub code: &'static str,
    /// What kind.
    pub trouble: Trouble,
    /// What happened, with the endpoint's name.
    pub what: String,
    /// Why.
    pub why: String,
    /// What to do.
    pub fix: String,
}

impl EventsError {
    /// Whether the same may succeed later without anybody doing anything.
    pub fn is_retryable(&self) -> bool {
        self.trouble == Trouble::Unreachable
    }
}

/// Appends events to a source. Each call is one transaction: its events get the next ids, one time, and are there
/// together or not at all.
#[async_trait]
pub trait EventsInsert: Send {
    /// Appends JSON texts in their order and returns how many. After an error the transaction was rolled back, unless
    /// the connection broke while it committed.
    ///
    /// # Errors
    /// The database cannot be reached or refuses, or a text is not JSON that it takes.
    async fn insert(&mut self, events: &[String]) -> Result<u64, EventsError>;
}

/// Fills a source with the events of a copy, in one transaction, and then lets it go on after them. Dropped before
/// [`EventsRestore::commit`] it leaves the source as it was.
#[async_trait]
pub trait EventsRestore: Send {
    /// Locks out whoever appends. The last event of the source must be `after` (0 for none), also now, under the lock;
    /// events up to `last` will come.
    async fn begin(&mut self, after: i64, last: i64) -> Result<(), EventsError>;
    /// Writes events, ids ascending over all calls.
    async fn put(&mut self, events: Vec<StoredEvent>) -> Result<(), EventsError>;
    /// Makes what was written durable and visible. The source gives no id up to the last one, also before
    /// [`EventsRestore::open_after`].
    async fn commit(&mut self) -> Result<(), EventsError>;
    /// Sets the next id to the one after `last`, which must be the source's last, and returns it. May be called again.
    async fn open_after(&mut self, last: i64) -> Result<i64, EventsError>;
}
