//! The node's database as a view of its log: one task owns it, applies the log, replays lanes, and takes commands.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};

use super::lanes::LaneReaders;
use super::shared::Shared;
use super::store::Store;
use super::wanted::only_ours;
use crate::log::{Log, SourceError};
use crate::model::{Cursor, Fingerprint, LinkId, LogId, Position, Row, TableDef, TableName, limits};
use crate::stream::{FollowError, Follower, Step};
use crate::view::{CopyChunk, CopyScope, Lane, LaneState, LaneView, ViewError};

/// Between looks at a lane that waits for something that is not in the log.
const LANE_POLL: Duration = Duration::from_millis(50);
/// Between attempts when the database is busy.
const BUSY_RETRY: Duration = Duration::from_millis(100);
/// A database that stays busy is reported this often.
const BUSY_REPORT: Duration = Duration::from_secs(5);

/// Whether a copy may write or remove a row: `true` for rows that are not the sender's.
pub type Guard = Box<dyn Fn(&TableDef, &Row) -> bool + Send + Sync>;

type Reply<T> = oneshot::Sender<Result<T, ViewError>>;

/// What others ask of the database's task.
pub enum Command {
    /// See [`LaneView::set_lane`].
    SetLane(TableName, Option<Lane>, Reply<()>),
    /// Puts the table in a copying lane at the main cursor; or, where it had a lane, where that stands. Only a copy that
    /// removes what the sender does not have may begin behind what a parked lane has missed.
    BeginCopy(TableName, LinkId, CopyScope, Reply<()>),
    /// See [`LaneView::copy_chunk`].
    CopyChunk(Box<CopyChunk>, CopyScope, Guard, Reply<()>),
    /// See [`LaneView::followed`].
    Followed(LinkId, Reply<Vec<(TableName, Fingerprint)>>),
    /// See [`LaneView::set_followed`].
    SetFollowed(LinkId, TableName, Option<Fingerprint>, Reply<()>),
    /// How often the peer has announced the table since the node started, for [`Command::FinishCopy`].
    Announcements(LinkId, TableName, Reply<u64>),
    /// All chunks of a copy are here: the table is replayed and follows the peer, unless the peer has announced it anew
    /// meanwhile.
    FinishCopy(Box<Finished>, Reply<()>),
    /// The peer says that the table was replaced there: it is copied afresh, and a copy that is under way begins again.
    Announced(LinkId, TableName, Reply<()>),
    /// Moves a parked lane past the failing entry and has it replayed.
    Skip(TableName, Reply<()>),
    /// A copy from that peer is given up, or nothing more of the peer is waited for after one. With `true` only as long as
    /// nothing of the copy has been written.
    Release(TableName, LinkId, bool, Reply<()>),
}

/// A copy whose chunks are all here.
pub struct Finished {
    /// The table.
    pub table: TableName,
    /// The peer.
    pub from: LinkId,
    /// Under which selection and filter it was copied.
    pub under: Fingerprint,
    /// What the chunks may contain, as a position in the peer's log.
    pub settled: Option<Position>,
    /// [`Command::Announcements`] before the first chunk was asked for.
    pub announcements: u64,
    /// Everything of the table up to this position of the node's log is in the chunks, and nothing behind it; `None` where
    /// that is not known, and chunks may contain more than what the lane stands at.
    pub cut: Option<Position>,
}

/// How applying is doing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ApplyState {
    /// The main cursor.
    pub applied: Option<Cursor>,
    /// Tables that do not move with it.
    pub lanes: Vec<Lane>,
    /// Tables that follow a peer, by the peer's log.
    pub follows: BTreeMap<LinkId, Vec<(TableName, Fingerprint)>>,
    /// Transactions applied without the part of a parked table, since the start.
    pub torn: u64,
    /// What keeps it from going on.
    pub error: Option<String>,
    /// The error needs an operator.
    pub stopped: bool,
}

/// A handle to the database's task.
pub struct Database {
    /// Where it is, for people: without secrets.
    pub url: String,
    /// The same, to be opened.
    pub store: Store,
    /// What stands before its tables' names in orders: nothing, or the copy's name and a slash.
    pub prefix: String,
    /// Commands, bounded.
    pub commands: mpsc::Sender<Command>,
    /// How applying is doing.
    pub state: watch::Sender<ApplyState>,
}

/// The database's task has gone.
fn gone() -> ViewError {
    ViewError::Failed("the database is not followed any more".into())
}

impl Database {
    /// Asks and waits.
    pub async fn ask<T>(&self, command: impl FnOnce(Reply<T>) -> Command) -> Result<T, ViewError> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(command(reply)).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }

    /// The table's lane.
    pub fn lane(&self, table: &TableName) -> Option<Lane> {
        self.state.borrow().lanes.iter().find(|lane| lane.table == *table).cloned()
    }
}

/// Tables of which the log says that they were replaced.
pub type Replaced = Arc<Mutex<Vec<TableName>>>;

/// Whose database it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whose {
    /// The node's own, captured and served from.
    Nodes,
    /// A copy of it, which follows the same log, and copies tables from it.
    Copys,
}

/// Applies the log until the node stops.
pub struct Applying {
    /// The node.
    pub shared: Arc<Shared>,
    /// What is shown of it.
    pub database: Arc<Database>,
    /// Whose it is.
    pub whose: Whose,
    /// The database.
    pub view: Box<dyn LaneView>,
    /// Commands.
    pub commands: mpsc::Receiver<Command>,
    /// Tables that the log said were replaced, to be copied afresh.
    pub replaced: Replaced,
    /// How often peers have announced tables.
    pub announcements: HashMap<(LinkId, TableName), u64>,
    /// The database has lost what it had: reading goes on where it stands.
    pub lost: bool,
    /// What keeps it from going on at the moment.
    pub busy: Option<String>,
    /// Tables that follow a peer, as last seen.
    pub follows: BTreeMap<LinkId, Vec<(TableName, Fingerprint)>>,
    /// Tables whose copies have begun and have written nothing yet.
    pub untouched: HashSet<TableName>,
    /// Lanes that have been released: they are read from their start again.
    pub released: Vec<TableName>,
}

impl Applying {
    /// A view that stands where it stands.
    pub fn new(
        shared: Arc<Shared>,
        database: Arc<Database>,
        whose: Whose,
        view: Box<dyn LaneView>,
        commands: mpsc::Receiver<Command>,
        replaced: Replaced,
    ) -> Applying {
        let (announcements, follows) = Default::default();
        let (untouched, released, lost, busy) = Default::default();
        Applying {
            shared,
            database,
            whose,
            view,
            commands,
            replaced,
            announcements,
            lost,
            busy,
            follows,
            untouched,
            released,
        }
    }

    /// Runs until the node stops or the view cannot go on.
    pub async fn run(mut self) {
        if let Err(error) = self.apply().await {
            tracing::error!(
                "error[WS-APPLY-001]: {} does not follow the log any more: {error} / do: mend the cause and start the node again",
                self.database.url
            );
            self.database.state.send_modify(|state| {
                state.error = Some(error.to_string());
                state.stopped = true;
            });
        }
    }

    async fn apply(&mut self) -> Result<(), FollowError> {
        let log = self.shared.log.clone();
        let mut tail = log.tail();
        let mut follower: Option<Follower> = None;
        let mut lanes = LaneReaders::default();
        let mut busy_since: Option<tokio::time::Instant> = None;
        for link in self.senders() {
            if let Err(error) = self.look_at_followed(link).await {
                tracing::debug!("the tables that follow a peer are looked at later: {error}");
            }
        }
        self.publish().await?;
        let mut capture = self.shared.capture.subscribe();
        while !self.shared.stop.is_cancelled() {
            if capture.borrow_and_update().replaced && self.whose == Whose::Nodes {
                // Our connection may hold a file that is not at its path any more: what is written there would be lost.
                return Err(ViewError::Failed("the database file was restored or replaced".into()).into());
            }
            while let Ok(command) = self.commands.try_recv() {
                self.command(command).await?;
            }
            if std::mem::take(&mut self.lost) {
                follower = None;
            }
            tail.mark_unchanged();
            let wait = match self.go_on(&*log, &mut follower, &mut lanes, &mut busy_since).await {
                Ok(None) => continue,
                Ok(Some(wait)) => wait,
                Err(FollowError::Source(SourceError::Trimmed { oldest, .. })) => {
                    follower = None;
                    match self.fall_out(oldest).await {
                        Ok(()) => continue,
                        Err(error) if error.is_retryable() => Some(self.report_busy(&error, &mut busy_since)),
                        Err(error) => return Err(error.into()),
                    }
                }
                Err(FollowError::View(error)) if error.is_retryable() => {
                    Some(self.report_busy(&error, &mut busy_since))
                }
                Err(FollowError::View(error @ ViewError::Lost(_))) => {
                    // What was given may not be there: reading goes on where the database stands.
                    follower = None;
                    Some(self.report_busy(&error, &mut busy_since))
                }
                Err(error) => return Err(error),
            };
            let stop = self.shared.stop.clone();
            tokio::select! {
                _ = stop.cancelled() => {}
                // Also when there is nothing to do: a database that has lost what it had says so only when it is asked.
                _ = tokio::time::sleep(wait.unwrap_or(limits::DATABASE_LOOK_INTERVAL)) => {}
                _ = tail.changed(), if wait.is_none() => {}
                _ = async { capture.wait_for(|state| state.replaced).await.is_ok() }, if self.whose == Whose::Nodes => {}
                command = self.commands.recv() => match command {
                    Some(command) => self.command(command).await?,
                    None => return Ok(()),
                },
            }
        }
        Ok(())
    }

    /// Applies once and replays lanes; gives what to wait for when nothing has moved: the log, or a time.
    async fn go_on(
        &mut self,
        log: &dyn Log,
        follower: &mut Option<Follower>,
        lanes: &mut LaneReaders,
        busy_since: &mut Option<tokio::time::Instant>,
    ) -> Result<Option<Option<Duration>>, FollowError> {
        let follower = match follower {
            Some(follower) => follower,
            None => follower.insert(Follower::start(log, &mut *self.view).await?),
        };
        let step = follower.step(log, None, &mut *self.view).await;
        let replaced = std::mem::take(&mut *self.replaced.lock().unwrap_or_else(PoisonError::into_inner));
        for table in replaced {
            self.announced(LinkId(log.id()), &table).await?;
        }
        let step = step?;
        self.busy = None;
        if busy_since.take().is_some() {
            tracing::info!("the database is free again, applying goes on");
        }
        if step == Step::CaughtUp {
            self.view.caught_up().await?;
        }
        self.publish().await?;
        let replayed = self.replay(log, lanes).await?;
        if step == Step::Moved || replayed || self.lost {
            return Ok(None);
        }
        let waiting = self.view.lanes().iter().any(|lane| matches!(lane.state, LaneState::Replaying { .. }));
        Ok(Some(waiting.then_some(LANE_POLL)))
    }

    /// Gives the time to wait.
    fn report_busy(&mut self, error: &ViewError, since: &mut Option<tokio::time::Instant>) -> Duration {
        let now = tokio::time::Instant::now();
        let said = format!(
            "error[WS-APPLY-002]: {error} / do: see that the database can be reached and written, and who locks it; nothing is lost, \
             applying goes on by itself"
        );
        if since.is_none_or(|since| now - since >= BUSY_REPORT) {
            tracing::warn!("{said}");
            *since = Some(now);
        }
        // Shown until it has gone on, whatever is asked of it meanwhile.
        self.busy = Some(said);
        self.database.state.send_modify(|state| state.error = self.busy.clone());
        BUSY_RETRY
    }

    /// Notes which tables follow that peer; gives them with their fingerprints.
    pub(super) async fn look_at_followed(&mut self, link: LinkId) -> Result<Vec<(TableName, Fingerprint)>, ViewError> {
        let followed = self.view.followed(link).await;
        self.lost |= matches!(followed, Err(ViewError::Lost(_)));
        let followed = followed?;
        self.follows.insert(link, followed.clone());
        Ok(followed)
    }

    /// Shows the cursor and the lanes; says when a table has been parked.
    pub(super) async fn publish(&mut self) -> Result<(), FollowError> {
        let applied = self.view.cursor().await;
        let applied = match applied {
            Err(ViewError::Lost(_)) => {
                self.lost = true;
                return Ok(());
            }
            Err(error) if error.is_retryable() => return Ok(()),
            other => other?,
        };
        let lanes = self.view.lanes();
        // Before the state is held: whoever holds the links may look at it.
        let first: Vec<&TableName> = lanes
            .iter()
            .filter(|lane| matches!(lane.state, LaneState::Parked { before: None, .. }))
            .map(|lane| &lane.table)
            .filter(|table| self.is_to_be_copied(table))
            .collect();
        let mut lanes_changed = false;
        self.database.state.send_if_modified(|state| {
            let (follows, torn) = (self.follows.clone(), self.view.torn());
            let new = ApplyState { applied, lanes: lanes.clone(), follows, torn, error: self.busy.clone(), stopped: false };
            lanes_changed = state.lanes != new.lanes;
            for lane in &new.lanes {
                let LaneState::Parked { position, error, .. } = &lane.state else { continue };
                if state.lanes.iter().any(|known| known == lane) {
                    continue;
                }
                if first.contains(&&lane.table) {
                    tracing::info!(table = %lane.table, "table {} waits for its first copy, which has what came before it", lane.table);
                } else {
                    tracing::error!(
                        table = %lane.table,
                        "error[WS-APPLY-003]: table {} is parked at position {position}: {error} / why: one table's trouble is that \
                         table's; the others go on / do: mend it, then `watershed source retry {}{}`, or skip, or resync",
                        lane.table, self.database.prefix, lane.table
                    );
                }
            }
            let moved = *state != new;
            *state = new;
            moved
        });
        if lanes_changed {
            self.shared.copy_wake.notify_one();
        }
        Ok(())
    }

    /// Whether the table is about to be copied: then what came of it before has met a table without its rows.
    fn is_to_be_copied(&self, table: &TableName) -> bool {
        let follows = |link: &LinkId| {
            self.follows.get(link).is_some_and(|followed| followed.iter().any(|(name, _)| name == table))
        };
        match self.whose {
            Whose::Copys => !follows(&LinkId(self.shared.log.id())),
            Whose::Nodes => self.shared.links().iter().any(|(id, link)| {
                let offer = link.offers.iter().find(|offer| offer.table.name == *table);
                offer.is_some_and(|offer| !follows(id) && !only_ours(&self.shared, link.role, offer))
            }),
        }
    }

    /// Whoever asked is answered once the new state is shown, so that it acts on no older one.
    async fn command(&mut self, command: Command) -> Result<(), FollowError> {
        let answer = match command {
            Command::SetLane(table, lane, reply) => {
                let done = self.view.set_lane(&table, lane).await;
                self.later(reply, done)
            }
            Command::BeginCopy(table, from, scope, reply) => {
                let done = self.begin_copy(table, from, scope).await;
                self.later(reply, done)
            }
            Command::CopyChunk(chunk, scope, guard, reply) => {
                self.untouched.remove(&chunk.table.name);
                let done = self.view.copy_chunk(&chunk, &scope, &*guard).await;
                self.later(reply, done)
            }
            Command::Followed(link, reply) => {
                let done = self.look_at_followed(link).await;
                self.later(reply, done)
            }
            Command::SetFollowed(link, table, under, reply) => {
                let set = self.view.set_followed(link, &table, under).await;
                // What follows is shown only; the answer is whether it was set.
                let _ = self.look_at_followed(link).await;
                self.later(reply, set)
            }
            Command::Announcements(link, table, reply) => {
                self.later(reply, Ok(self.announcements.get(&(link, table)).copied().unwrap_or_default()))
            }
            Command::FinishCopy(finished, reply) => {
                let done = self.finish_copy(*finished).await;
                self.later(reply, done)
            }
            Command::Announced(link, table, reply) => {
                let done = self.announced(link, &table).await;
                self.later(reply, done)
            }
            Command::Skip(table, reply) => {
                let done = self.pass_over(&table).await;
                self.later(reply, done)
            }
            Command::Release(table, from, untouched, reply) => {
                let done = self.release(&table, from, untouched).await;
                self.later(reply, done)
            }
        };
        self.publish().await?;
        answer();
        Ok(())
    }

    /// An answer that is given later. Who does not wait for it any more is not told.
    fn later<T: Send + 'static>(&mut self, reply: Reply<T>, result: Result<T, ViewError>) -> Box<dyn FnOnce() + Send> {
        self.lost |= matches!(result, Err(ViewError::Lost(_)));
        Box::new(move || drop(reply.send(result)))
    }
}

/// The database belongs to another log.
pub fn other_log(found: Cursor, log: LogId) -> String {
    format!(
        "the database follows log {}, this node's log is {log} / why: the data folder was re-created, or the database file \
         belongs to another node / do: put the matching data folder back; or run `watershed source drop database --yes` to \
         have the database join this log afresh",
        found.log
    )
}
