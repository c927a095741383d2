//! What the tasks of a node share.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::book::Book;
use super::database::Database;
use super::feed_links::FeedRoom;
use super::feeds::{Feeds, Mirrors, PeerFeeds};
use super::policy::Policy;
use super::views::Views;
use crate::log::Log;
use crate::model::{Cursor, Epoch, LinkId, LogId, Position, TableDef, TableName, Timestamp, limits};
use crate::peer::{Below, CopyMessage, DialState, Head, LinkHandle, NodeRef, Offer, Role};
use crate::stream::{Refused, Sieve};
use crate::view::Waiters;

/// A link that stands.
pub struct Link {
    /// Which end we are.
    pub role: Role,
    /// Who is at the other end.
    pub node: NodeRef,
    /// The run of the peer: another process on a copy of its log has another one.
    pub epoch: Epoch,
    /// Tells this connection from an earlier one with the same peer.
    pub connection: u64,
    /// Sends control messages.
    pub handle: LinkHandle,
    /// What the peer sends us.
    pub offers: Vec<Offer>,
    /// What is below it (a child).
    pub below: Vec<Below>,
    /// What we send it.
    pub sieve: Arc<Sieve>,
    /// Since when.
    pub since: Timestamp,
    /// What it has durably received of our log.
    pub acknowledged: Option<Cursor>,
    /// Our last heartbeat took this long to be durable there, everything before it included.
    pub lag: Option<Duration>,
    /// When that was, or when the link was made.
    pub delivered: Instant,
    /// Earlier connections with the same peer that have been told to end and have not yet.
    pub replaced: u32,
    /// What we had received of its log, at the time it was last asked.
    pub received: Option<Cursor>,
    /// The tail of its log when it was first heard of on this connection.
    pub target: Option<Position>,
    /// The tail of our log when everything up to `target` had been received.
    pub target_tail: Option<Position>,
    /// It understands messages about feeds.
    pub mirrors: bool,
    /// Its requests for stretches of feeds that are being answered.
    pub feed_room: Arc<FeedRoom>,
}

impl Link {
    /// How long ago everything that is durable there by now was sent, as far as is known: while nothing is delivered, it
    /// grows.
    pub fn lag_now(&self) -> Option<Duration> {
        // A heartbeat was sent within this time of the last answer, and has not been answered.
        let unanswered = self.delivered.elapsed().saturating_sub(limits::HEARTBEAT_INTERVAL);
        match self.lag {
            None if unanswered.is_zero() => None,
            lag => Some(lag.unwrap_or_default().max(unanswered)),
        }
    }

    /// The names of the tables that the peer sends us.
    pub fn offered(&self) -> impl Iterator<Item = TableName> {
        self.offers.iter().map(|offer| offer.table.name.clone())
    }
}

/// A figure that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// The sum so far.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What has happened since the node started.
#[derive(Debug, Default)]
pub struct Counters {
    /// Local transactions logged.
    pub captured: Counter,
    /// Changes in them.
    pub captured_changes: Counter,
    /// Transactions received over links.
    pub received: Counter,
    /// Writes left out because the writer does not own the row (law 6).
    pub refused: Counter,
    /// Links that have stood.
    pub links: Counter,
    /// Chunks of first copies written.
    pub copied_chunks: Counter,
    /// Rows of first copies written.
    pub copied_rows: Counter,
    /// Links that began anew, because the sender's log no longer reached back to what the receiver had.
    pub fell_out: Counter,
}

/// How capture is doing.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct CaptureState {
    /// Polls that have been completed; one that started after a commit has seen it.
    pub polls: u64,
    /// Paused by an operator.
    pub paused: bool,
    /// What keeps it from going on.
    pub error: Option<String>,
    /// The error needs an operator.
    pub stopped: bool,
    /// The database file is not the one that the node opened: nothing may be applied to that either.
    pub replaced: bool,
}

/// Why a table's copy does not go on.
#[derive(Clone, Debug)]
pub struct CopyWait {
    /// It is tried again then.
    pub until: std::time::Instant,
    /// Why.
    pub why: String,
}

/// How quickly a table is being copied.
#[derive(Clone, Copy, Debug)]
pub struct CopyRate {
    /// Rows a second, since the copy began or went on.
    pub rows_per_second: f64,
    /// Rows that are still to come, estimated by the sender.
    pub rows_left: Option<u64>,
}

impl CopyRate {
    /// So many rows since then.
    pub fn of(rows: u64, rows_left: Option<u64>, since: tokio::time::Instant) -> CopyRate {
        CopyRate { rows_per_second: rows as f64 / since.elapsed().as_secs_f64().max(0.001), rows_left }
    }

    /// About how long the rest takes.
    pub fn seconds_left(&self) -> Option<f64> {
        self.rows_left.map(|left| left as f64 / self.rows_per_second.max(1.0))
    }
}

/// A message of a first copy, with the peer it came from.
pub type PeerCopy = (LinkId, CopyMessage);

/// The node's shared state.
pub struct Shared {
    /// Its label.
    pub name: Box<str>,
    /// Its data folder.
    pub data_dir: PathBuf,
    /// Its `main` log.
    pub log: Arc<dyn Log>,
    /// Its logs by name, `main` among them.
    pub feeds: Arc<Feeds>,
    /// The epoch of this run.
    pub epoch: Epoch,
    /// Who gets what.
    pub policy: Policy,
    /// Peers met.
    pub book: Book,
    /// Links that stand, by the peer's log.
    links: Mutex<BTreeMap<LinkId, Link>>,
    /// Why links do not stand, by the peer's name.
    refusals: Mutex<BTreeMap<String, (Timestamp, String)>>,
    /// From us up to the root.
    pub path: watch::Sender<Vec<NodeRef>>,
    /// Everything below us.
    pub below: watch::Sender<Vec<Below>>,
    /// Nodes that were below us and are away, with how often news of them have come from above.
    pub elsewhere: Mutex<HashMap<LogId, u8>>,
    /// Tables with owners are to be copied from the parent again, because fewer nodes are below us.
    pub fewer_below: AtomicBool,
    /// How far other nodes' logs have travelled here.
    pub heads: Mutex<HashMap<LogId, Head>>,
    /// The same, for those who wait until something of another node's log, or of the database's, is in this one.
    pub arrived: Waiters,
    /// Views of the logs.
    pub views: Views,
    /// The node's database.
    pub database: Option<Arc<Database>>,
    /// Copies of it that follow the same log, by name.
    pub copies_of: BTreeMap<String, Arc<Database>>,
    /// The current definitions of the database's selected tables.
    pub tables: watch::Sender<Vec<Arc<TableDef>>>,
    /// How capture is doing.
    pub capture: watch::Sender<CaptureState>,
    /// Where the parent is dialled.
    pub parent: Option<String>,
    /// How dialling the parent is doing.
    pub dial: watch::Sender<DialState>,
    /// Copies of feeds elsewhere.
    pub mirrors: Mirrors,
    /// What linked peers let be mirrored.
    pub peer_feeds: Arc<PeerFeeds>,
    /// Messages of first copies, to whom it concerns.
    pub copies: mpsc::Sender<PeerCopy>,
    /// Woken when links, offers or lanes changed, so that copies are looked at again.
    pub copy_wake: tokio::sync::Notify,
    /// Copies that do not go on now, and why.
    copy_waits: Mutex<HashMap<TableName, CopyWait>>,
    /// Copies that go on, and how quickly.
    copy_rates: Mutex<HashMap<TableName, CopyRate>>,
    /// Figures.
    pub counters: Counters,
    /// When the node started.
    pub started: Timestamp,
    /// Asks every task to stop.
    pub stop: CancellationToken,
    /// Every task.
    pub tasks: TaskTracker,
}

impl Shared {
    /// The links.
    pub fn links(&self) -> MutexGuard<'_, BTreeMap<LinkId, Link>> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why links do not stand.
    pub fn refusals(&self) -> MutexGuard<'_, BTreeMap<String, (Timestamp, String)>> {
        self.refusals.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why copies do not go on.
    pub fn copy_waits(&self) -> MutexGuard<'_, HashMap<TableName, CopyWait>> {
        self.copy_waits.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How quickly copies go on.
    pub fn copy_rates(&self) -> MutexGuard<'_, HashMap<TableName, CopyRate>> {
        self.copy_rates.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The tables that are received here: offered by a peer that is linked, or following one that is away.
    pub fn received_tables(&self) -> BTreeSet<TableName> {
        let mut tables: BTreeSet<TableName> = self.links().values().flat_map(Link::offered).collect();
        if let Some(database) = &self.database {
            tables.extend(database.state.borrow().follows.values().flatten().map(|(table, _)| table.clone()));
        }
        tables
    }

    /// Tables that a linked peer offers and that do not follow it yet, nor have a lane: their copies have not begun.
    pub fn uncopied(&self) -> Vec<(TableName, Box<str>)> {
        let Some(database) = &self.database else { return Vec::new() };
        let links = self.links();
        let state = database.state.borrow();
        let mut uncopied = Vec::new();
        for (id, link) in links.iter() {
            let follows = state.follows.get(id).map(Vec::as_slice).unwrap_or_default();
            for offer in &link.offers {
                let table = &offer.table.name;
                let follows = follows.iter().any(|(name, under)| name == table && *under == offer.under);
                if !follows
                    && !super::wanted::only_ours(self, link.role, offer)
                    && state.lanes.iter().all(|lane| lane.table != *table)
                {
                    uncopied.push((table.clone(), link.node.name.clone()));
                }
            }
        }
        uncopied
    }

    /// This node, as others see it.
    pub fn me(&self) -> NodeRef {
        NodeRef { name: self.name.clone(), log: self.log.id() }
    }

    /// What we have durably received of that peer's log.
    pub fn received(&self, link: LinkId) -> Option<Cursor> {
        self.log.source_cursor(link).and_then(|cursor| Cursor::try_from(&cursor).ok())
    }

    /// Sets the path to the root from the parent's path (empty: we are the root, or cut off from it).
    pub fn update_path(&self, parent: &[NodeRef]) {
        let path: Vec<NodeRef> = [self.me()].into_iter().chain(parent.iter().cloned()).collect();
        self.path.send_if_modified(|known| {
            let changed = *known != path;
            *known = path;
            changed
        });
    }

    /// Notes and reports writes that are left out.
    pub fn refused(&self, refused: &Refused) {
        self.counters.refused.add(1);
        tracing::warn!(table = %refused.table, "error[WS-OWN-001]: {refused} / why: a row has one writing node / do: write it there, or change its owner");
    }
}

/// Builds the shared state; the fields that nobody sets from outside start empty.
pub struct SharedParts {
    /// See [`Shared`].
    pub name: Box<str>,
    /// See [`Shared`].
    pub data_dir: PathBuf,
    /// See [`Shared`].
    pub log: Arc<dyn Log>,
    /// See [`Shared`].
    pub feeds: Arc<Feeds>,
    /// See [`Shared`].
    pub policy: Policy,
    /// See [`Shared`].
    pub book: Book,
    /// See [`Shared`].
    pub database: Option<Arc<Database>>,
    /// See [`Shared`].
    pub copies_of: BTreeMap<String, Arc<Database>>,
    /// See [`Shared`].
    pub tables: Vec<Arc<TableDef>>,
    /// See [`Shared`].
    pub views: Views,
    /// See [`Shared`].
    pub parent: Option<String>,
    /// See [`Shared`].
    pub stop: CancellationToken,
}

impl SharedParts {
    /// The shared state, and where messages of first copies come out.
    pub fn build(self) -> (Arc<Shared>, mpsc::Receiver<PeerCopy>) {
        let epoch = self.log.info().epochs.last().map(|(epoch, _)| *epoch).unwrap_or_default();
        let me = NodeRef { name: self.name.clone(), log: self.log.id() };
        let (copies, receiver) = mpsc::channel(crate::model::limits::COPY_MESSAGES_MAX);
        let shared = Shared {
            name: self.name,
            data_dir: self.data_dir,
            log: self.log,
            feeds: self.feeds,
            epoch,
            policy: self.policy,
            book: self.book,
            links: Mutex::default(),
            refusals: Mutex::default(),
            path: watch::Sender::new(vec![me]),
            below: watch::Sender::new(Vec::new()),
            elsewhere: Mutex::default(),
            fewer_below: AtomicBool::new(false),
            heads: Mutex::default(),
            arrived: Waiters::default(),
            views: self.views,
            database: self.database,
            copies_of: self.copies_of,
            tables: watch::Sender::new(self.tables),
            capture: watch::Sender::new(CaptureState::default()),
            parent: self.parent,
            dial: watch::Sender::new(DialState::default()),
            mirrors: Mirrors::default(),
            peer_feeds: Arc::default(),
            copies,
            copy_wake: tokio::sync::Notify::new(),
            copy_waits: Mutex::default(),
            copy_rates: Mutex::default(),
            counters: Counters::default(),
            started: Timestamp::now(),
            stop: self.stop,
            tasks: TaskTracker::new(),
        };
        shared.update_below();
        (Arc::new(shared), receiver)
    }
}
