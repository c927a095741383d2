//! Views that are asked: what a store of views can do, whoever keeps it.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use thiserror::Error;
use tokio::sync::mpsc;

use super::machine::KeptDigests;
use super::{View, ViewError, ViewOutbox};
use crate::model::{Cursor, Fingerprint, LogId, TableDef};

/// Keeps a view where it stands for as long as this is there: whoever takes a snapshot of it drops this once it is taken.
pub struct Hold(Option<Box<dyn Send>>);

impl Hold {
    /// Nothing is kept.
    pub fn none() -> Hold {
        Hold(None)
    }

    /// For as long as that is not dropped.
    pub fn by(guard: impl Send + 'static) -> Hold {
        Hold(Some(Box::new(guard)))
    }
}

impl std::fmt::Debug for Hold {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Hold").field(&self.0.is_some()).finish()
    }
}

/// One build of one definition, in its store: applied to by one follower for each partition of its log, and asked by many.
///
/// To be correct, an implementation
/// - answers every question from one snapshot, and gives with it the cursors that stand in that snapshot;
/// - keeps the cursor of each partition apart, each committed with the effects that it stands for;
/// - lets a question only read, and only within its limits.
#[async_trait]
pub trait ViewStore: Send + Sync {
    /// Of the definition, and of everything that decides what the state is.
    fn definition(&self) -> Fingerprint;
    /// The view of one partition's log. Two at a time commit one after the other.
    async fn part(&self, log: LogId) -> Result<Box<dyn View>, ViewError>;
    /// How far each partition has come, by log id.
    async fn cursors(&self) -> Result<Vec<Cursor>, ViewError>;
    /// Answers a question.
    async fn ask(&self, question: &Question, bounds: &Bounds) -> Result<Answer, AskError>;
    /// What the state is, as a number, at the cursors that it stands for: two builds and two replicas that agree have the same.
    async fn digest(&self) -> Result<StateDigest, ViewError>;
    /// The same of where the view is kept, which then goes on as soon as the snapshot is taken, before it is summed up.
    async fn digest_held(&self, hold: Hold) -> Result<StateDigest, ViewError> {
        let digest = self.digest().await;
        drop(hold);
        digest
    }
    /// Has the view pass over the entry at `at`, which must be the next one of its partition; durable on return, with the
    /// cursor.
    async fn pass_over(&self, at: Cursor) -> Result<(), ViewError>;
    /// Digests of the state at positions that all replicas agree on, where the store keeps them: by them replicas of one log
    /// are compared.
    fn kept_digests(&self) -> Option<KeptDigests> {
        None
    }
    /// Every entry that this view was ever told to pass over, builds before this one included, and when.
    async fn passed(&self) -> Result<Vec<(Cursor, String)>, ViewError> {
        Ok(Vec::new())
    }
    /// Whether its state is of no more use: it has to be opened anew, from what was saved.
    fn is_broken(&self) -> bool {
        false
    }
    /// What changes in its tables, where that is kept.
    fn changes(&self) -> Option<Arc<dyn ViewChanges>> {
        None
    }
    /// What waits to be published, where that is kept.
    fn outbox(&self) -> Option<Arc<dyn ViewOutbox>> {
        None
    }
    /// Makes what was applied so far durable, where the store puts that off.
    async fn persist(&self) -> Result<(), ViewError> {
        Ok(())
    }
}

/// The builds of one view in their place: the one that answers, and the one that is to take its place.
///
/// To be correct, an implementation
/// - finds again after a crash, at whatever instant, what it had;
/// - has a build take the place of what answers also where that is of a log of which the build has never heard;
/// - changes in one step what answers, also for those who read the store without us.
#[async_trait]
pub trait ViewBuilds: Send + Sync {
    /// The definition that is wanted, as of [`ViewStore::definition`].
    fn wanted(&self) -> Fingerprint;
    /// What answers: of the wanted definition, or of an earlier one, which can be followed on. Where there is nothing it is
    /// made, empty and of the wanted one.
    async fn live(&self) -> Result<Arc<dyn ViewStore>, ViewError>;
    /// What is built of the wanted definition beside what answers: as far as it had come, or `afresh`. Builds of other
    /// definitions are removed.
    async fn build(&self, afresh: bool) -> Result<Arc<dyn ViewStore>, ViewError>;
    /// Looks at the store, and at how the wanted definition fits it and these tables of the log; changes nothing.
    async fn look(&self, known: &[Arc<TableDef>]) -> Result<Look, ViewError> {
        let _ = known;
        Ok(Look::default())
    }
    /// The build becomes what answers, while nobody follows either; durable on return.
    async fn switch(&self) -> Result<Arc<dyn ViewStore>, ViewError>;
    /// Removes what is left of a build that is not wanted any more, while nobody follows it.
    async fn drop_build(&self) -> Result<(), ViewError> {
        Ok(())
    }
}

/// What a look at a view's store has found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Look {
    /// What answers there, where there is something.
    pub live: Option<Fingerprint>,
    /// For people: why it would be built anew, where it really is, what is kept with it.
    pub notes: Vec<String>,
    /// For people: what is not as it was meant, probably.
    pub warnings: Vec<String>,
}

/// What changes in the tables of the build that answers: numbered 1, 2, 3…, the latest ones, for as long as it answers.
#[async_trait]
pub trait ViewChanges: Send + Sync {
    /// The changes after a number, oldest first, at most so many.
    async fn after(&self, number: u64, most: usize) -> Result<ChangesFrom, AskError>;
    /// Every row of every table, in one snapshot, as changes from nothing. Begins with one of the operation `begin`, which has the
    /// number of the last change that the snapshot contains, and in place of a table the build.
    async fn rows(&self) -> mpsc::Receiver<Result<RowChange, AskError>>;
}

/// Some changes.
#[derive(Clone, Debug, PartialEq)]
pub struct ChangesFrom {
    /// Whose numbers they are: another build has others.
    pub build: String,
    /// Some of those asked for are not kept any more.
    pub gone: bool,
    /// In the order of their numbers.
    pub changes: Vec<RowChange>,
    /// The number of the last one that there is; 0 where there is none.
    pub last: u64,
}

/// A row of a view that has changed.
#[derive(Clone, Debug, PartialEq)]
pub struct RowChange {
    /// Its number.
    pub number: u64,
    /// As of where the view is with it: that of the commit.
    pub cursor: String,
    /// One of the view's tables.
    pub table: String,
    /// `insert`, `update`, `delete`; `row` or `begin` in a snapshot.
    pub op: String,
    /// The row before.
    pub before: Option<serde_json::Value>,
    /// The row after.
    pub after: Option<serde_json::Value>,
}

/// What a reader wants to know.
#[derive(Clone, Debug, PartialEq)]
pub enum Question {
    /// A statement that reads.
    Sql {
        /// One statement of the store's language.
        sql: String,
        /// Its parameters: an array for `?` or `$1`, an object for `:name`.
        params: serde_json::Value,
    },
    /// The row of a table with that key; keys of several columns with `,` between them, and a `\` before each `,` and `\` in them.
    Row {
        /// One of the view's tables.
        table: String,
        /// Its key, as text.
        key: String,
    },
}

/// How much an answer may cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// It is broken off then.
    pub time: Duration,
    /// More rows are an error.
    pub rows: usize,
    /// Of the answer's values, in bytes; more are an error.
    pub bytes: usize,
}

/// Rows of one snapshot.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// Names of the columns.
    pub columns: Vec<String>,
    /// Values in the columns' order.
    pub rows: Vec<Vec<serde_json::Value>>,
    /// How far each partition had come in the snapshot, by log id.
    pub cursors: Vec<Cursor>,
    /// What the snapshot was built by.
    pub definition: Fingerprint,
}

/// What a state is at some cursors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateDigest {
    /// SHA-256, of a form that does not depend on the order in which rows are stored.
    pub digest: [u8; 32],
    /// How many rows it stands for.
    pub rows: u64,
    /// By log id.
    pub cursors: Vec<Cursor>,
}

/// A question was not answered.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum AskError {
    /// The store does not understand it.
    #[error("{0}")]
    Invalid(String),
    /// It would write, attach, load or reach what is not the view's.
    #[error("{0}")]
    Forbidden(String),
    /// It took too long.
    #[error("the answer took longer than {0:?}")]
    Slow(Duration),
    /// It has too many rows or too many bytes.
    #[error("the answer has more than {most} {what}")]
    Large {
        /// `rows` or `bytes`.
        what: &'static str,
        /// As many are allowed.
        most: usize,
    },
    /// There is no such table, or no row with that key.
    #[error("{0}")]
    Absent(String),
    /// The store cannot be reached, or failed.
    #[error("{0}")]
    Failed(String),
}
