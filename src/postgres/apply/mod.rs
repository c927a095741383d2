//! Applies a node's log to a PostgreSQL database: effects, cursor and lanes in one commit.
//!
//! One session writes. It bears our replication origin, by which capture knows what it wrote, and which no second session
//! can bear at the same time; one beside it, with an origin of its own, copies rows ahead of their turn (`flight`). Commits are asynchronous: what a crash of the server loses is lost with its cursor.

mod array;
mod bulk;
mod chunk;
mod copying;
mod create;
mod flight;
mod lanes;
mod link;
mod live;
mod merge;
mod ops;
mod parts;
mod pass;
mod pinned;
mod plan;
mod raw;
mod registry;
mod rivals;
mod session;
mod shape;
mod store;
mod target;

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::path::PathBuf;
use std::time::Instant;

use async_trait::async_trait;

use super::Endpoint;
use crate::model::{Batch, Cursor, LogId, Position, TableName};
use crate::view::{Lane, Spools, View, ViewError};
use flight::{Flight, Second};
use link::{Fail, Link};
use registry::Targets;
pub(in crate::postgres) use session::SECOND_ORIGIN;

/// What a [`PgApplier`] is opened with.
#[derive(Clone, Debug)]
pub struct PgApplierOptions {
    /// The database.
    pub endpoint: Endpoint,
    /// The node's log, which the cursor counts in.
    pub log: LogId,
    /// Triggers and foreign keys of the database work for received transactions as for anybody's; else only those do that
    /// are enabled for replicas.
    pub fire_triggers: bool,
    /// Every change is applied singly and in its order, also when there are many: nothing is merged to its net effect.
    pub exact: bool,
    /// Where the parts of large transactions wait for the last one.
    pub spool_dir: PathBuf,
    /// The name of the copy, where it is not the node's own database: origins are the whole server's, and there may be several
    /// databases on one that follow the same log.
    pub copy: Option<Box<str>>,
}

/// A PostgreSQL database as a view of a node's log.
///
/// Every commit compares the stored cursor, under a lock of its row, with the one last seen here. Rows are written by
/// key: inserts overwrite (an update that enters a filter arrives as an insert), deletes of missing rows are ignored, and an
/// update of a missing row inserts it if it is whole. What does not fit parks its table.
///
/// A connection that breaks is [`ViewError::Retry`]: the next call connects again.
pub struct PgApplier {
    options: PgApplierOptions,
    link: Option<Link>,
    /// What the database's cursor was when last seen.
    held: Option<Cursor>,
    /// How far it may have come when the connection broke.
    attempted: Option<Cursor>,
    /// Where a commit over the second session would have brought it, of which nothing was heard.
    in_doubt: Option<Cursor>,
    /// What is being carried out while the next batch is prepared.
    flight: Option<Flight>,
    /// What is being carried out beside it, to be committed after it.
    wing: Option<Flight>,
    second: Second,
    /// What was given meanwhile, to be carried out together.
    gathered: Vec<Batch>,
    /// What was given and has not come about: it is done in order, before anything else.
    owed: VecDeque<Batch>,
    /// Since when a lock holds up everything.
    locked: Option<Instant>,
    /// How often what was under way has failed.
    failures: u64,
    lanes: BTreeMap<TableName, Lane>,
    targets: Targets,
    spools: Spools,
    lane_spools: HashMap<TableName, Spools>,
    /// Tables that were empty when their copy began.
    fresh: HashSet<TableName>,
    torn: u64,
}

impl std::fmt::Debug for PgApplier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PgApplier").field("options", &self.options).field("held", &self.held).finish_non_exhaustive()
    }
}

impl PgApplier {
    /// Connects and creates our tables if they are missing.
    ///
    /// # Errors
    /// [`ViewError::Retry`] when the server cannot be reached or another session applies this log; [`ViewError::Failed`]
    /// when a privilege is missing, with the statements that grant it.
    pub async fn open(options: PgApplierOptions) -> Result<PgApplier, ViewError> {
        let link = Link::open(&options).await?;
        let mut applier = PgApplier {
            options,
            link: None,
            held: None,
            attempted: None,
            in_doubt: None,
            flight: None,
            wing: None,
            second: Second::Untried,
            gathered: Vec::new(),
            owed: VecDeque::new(),
            locked: None,
            failures: 0,
            lanes: BTreeMap::new(),
            targets: Targets::default(),
            spools: Spools::default(),
            lane_spools: HashMap::new(),
            fresh: HashSet::new(),
            torn: 0,
        };
        applier.held = applier.look(&link).await?;
        applier.link = Some(link);
        Ok(applier)
    }

    /// Reads lanes and cursor.
    async fn look(&mut self, link: &Link) -> Result<Option<Cursor>, ViewError> {
        let doing = "reading the cursor";
        let text = store::cursor(link.client()).await.map_err(|e| link.view_error(doing, e))?;
        let found = text.map(|text| text.parse::<Cursor>()).transpose();
        let found = found.map_err(|e| ViewError::Failed(format!("watershed.cursor: {e}")))?;
        let lanes = store::lanes(link.client()).await.map_err(|e| link.view_error(doing, e))?;
        self.lanes = lanes.map_err(ViewError::Failed)?;
        Ok(found)
    }

    /// The session, opened again if it broke.
    async fn link(&mut self) -> Result<&mut Link, ViewError> {
        if self.link.as_ref().is_none_or(Link::is_closed) {
            (self.link, self.second) = (None, Second::Untried);
            let link = Link::open(&self.options).await?;
            let found = self.look(&link).await?;
            self.targets = Targets::default();
            self.link = Some(link);
            self.regained(found)?;
        }
        Ok(self.link.as_mut().expect("opened above"))
    }

    /// Gives up a session that has made many functions, which last as long as it does; nothing is under way on it.
    async fn renew(&mut self) {
        let idle = self.flight.is_none() && self.gathered.is_empty() && self.owed.is_empty();
        if let Some(link) = self.link.take_if(|link| idle && link.is_worn()) {
            link.end().await;
        }
    }

    /// After a break the cursor is where it was, or where what was under way has brought it.
    fn regained(&mut self, found: Option<Cursor>) -> Result<(), ViewError> {
        let attempted = self.attempted;
        let position = |cursor: Option<Cursor>| cursor.map_or(Position::ZERO, |cursor| cursor.position);
        let expected = self.held;
        if found == expected {
            return Ok(());
        }
        if self.is_between(found, attempted) {
            self.held = found;
            return Ok(());
        }
        if position(found) < position(expected) {
            self.held = found;
            // What was to come after what is lost comes again.
            self.give_up();
            return Err(ViewError::Lost(format!(
                "{}: the server has lost what it had committed, back to position {}; it is read again from there",
                self.options.endpoint.name(),
                position(found)
            )));
        }
        Err(ViewError::Fenced { expected, found })
    }

    /// Whether the cursor is where what was attempted would have brought it.
    fn is_between(&self, found: Option<Cursor>, attempted: Option<Cursor>) -> bool {
        let (Some(found), Some(attempted)) = (found, attempted) else { return false };
        let between = self.main_position() <= found.position && found.position <= attempted.position;
        found.log == attempted.log && found.epoch == attempted.epoch && between
    }

    /// Whether it is where a commit of which nothing was heard would have brought it.
    fn may_be_ours(&self, found: Option<Cursor>) -> bool {
        found.is_some_and(|found| self.in_doubt == Some(found) && self.main_position() < found.position)
    }

    /// Forgets everything that was given and is not there.
    fn give_up(&mut self) {
        (self.flight, self.wing, self.second) = (None, None, Second::Untried);
        self.gathered.clear();
        self.owed.clear();
        self.spools = Spools::default();
        self.lane_spools.clear();
    }

    /// What a failure means to the caller; the connection is forgotten if it broke.
    fn view_fail(&mut self, fail: Fail) -> ViewError {
        // Where either has broken it is not known what has been committed: it is looked at with the next connection.
        let second = matches!(&self.second, Second::Open(link) if link.is_closed());
        if second || self.link.as_ref().is_some_and(Link::is_closed) {
            (self.link, self.second) = (None, Second::Untried);
        }
        match fail {
            Fail::View(ViewError::Fenced { found, .. }) if self.may_be_ours(found) => {
                // A commit whose answer was lost came through after the cursor had been looked at again.
                (self.link, self.second) = (None, Second::Untried);
                ViewError::Retry("what was under way has been committed after all: it is looked at again".to_owned())
            }
            Fail::View(ViewError::Fenced { found, .. }) => ViewError::Fenced { expected: self.held, found },
            Fail::View(error) => error,
            Fail::Table(error) => {
                ViewError::Failed(self.options.endpoint.failed("writing Watershed's tables", *error).words())
            }
        }
    }

    fn main_position(&self) -> Position {
        self.held.map_or(Position::ZERO, |cursor| cursor.position)
    }
}

#[async_trait]
impl View for PgApplier {
    async fn cursor(&mut self) -> Result<Option<Cursor>, ViewError> {
        match &self.flight {
            Some(flight) if flight.is_finished() => {
                self.arrive().await?;
                self.launch().await?;
            }
            Some(_) => {}
            None => {
                self.link().await?;
                self.launch().await?;
            }
        }
        Ok(self.held)
    }

    /// A batch of many transactions may still be under way on return.
    async fn apply(&mut self, batch: &Batch) -> Result<(), ViewError> {
        self.renew().await;
        self.apply_main(batch).await
    }

    async fn flush(&mut self) -> Result<(), ViewError> {
        self.settle().await
    }

    async fn caught_up(&mut self) -> Result<(), ViewError> {
        self.settle().await
    }
}
