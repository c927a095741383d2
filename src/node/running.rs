//! Starting and stopping a node: its log, its database, its links, in that order.

use std::collections::BTreeMap;
use std::sync::{Arc, mpsc as std_mpsc};

use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::book::Book;
use super::capture::{CaptureCommand, Capturing};
use super::certificate::ServerTls;
use super::copies;
use super::database::{ApplyState, Applying, Command, Database, Replaced, Whose, other_log};
use super::feeds::{Feeds, MirrorSettings};
use super::folder::Folder;
use super::host::NodeHost;
use super::policy::Policy;
use super::preflight::{Preflight, preflight};
use super::retention;
use super::rights::Token;
use super::settings::{DatabaseSettings, Exit, NodeError, Parent, Settings};
use super::shared::{Shared, SharedParts};
use super::standby;
use super::store::{CaptureFor, Store};
use super::traffic::Traffic;
use super::uncaptured::Uncaptured;
use super::views::Views;
use crate::log::segments::{Retention, SegmentLog, SegmentOptions};
use crate::log::{Append, Capture, Log};
use crate::model::{LinkId, TableDef, limits};
use crate::peer::{Retry, run_child};
use crate::view::LaneView;

/// A running node.
pub struct Node {
    /// What its tasks share.
    pub shared: Arc<Shared>,
    /// The data folder, locked.
    pub folder: Folder,
    pub(super) capture_commands: Option<std_mpsc::Sender<CaptureCommand>>,
    capture_thread: std::sync::Mutex<Option<std::thread::JoinHandle<()>>>,
    segments: Arc<SegmentLog>,
    /// Who may do what over HTTP.
    pub tokens: Vec<Token>,
    /// The certificate with which it speaks TLS.
    pub tls: Option<Arc<ServerTls>>,
    /// Origins whose pages may use it from a browser.
    pub cors: Vec<Box<str>>,
    /// What is counted of its connections.
    pub traffic: Arc<Traffic>,
}

/// A database that is about to be followed.
struct Opened {
    view: Box<dyn LaneView>,
    capture: Box<dyn Capture>,
    tables: Vec<Arc<TableDef>>,
}

impl Node {
    /// Starts everything but the HTTP server; must be called on a multi-thread runtime. On an error nothing is left
    /// running.
    pub async fn start(settings: Settings) -> Result<Node, NodeError> {
        Node::start_or(settings, |_| false).await
    }

    /// As [`Node::start`]; with a database that is locked it is tried again as long as `waits`, which is told why, says so.
    /// Cancel-safe.
    pub async fn start_or(settings: Settings, mut waits: impl FnMut(&NodeError) -> bool) -> Result<Node, NodeError> {
        let folder = Folder::open(&settings.data_dir)?;
        let segments = Arc::new(open_log(&settings)?);
        let log: Arc<dyn Log> = segments.clone();
        let torn = log.info().torn_bytes;
        if torn > 0 {
            tracing::warn!(
                "the log's torn tail of {torn} bytes was cut: the last run was killed; nothing that was durable is lost"
            );
        }
        let book = Book::open(&settings.data_dir).map_err(|error| unreadable_book(&folder, &error))?;
        let feeds = open_feeds(&settings, &log).await?;
        let stop = CancellationToken::new();
        let opened = match &settings.database {
            Some(database) => loop {
                match open_database(&settings, database, &log, &folder).await {
                    Err(error) if error.locked && waits(&error) => tokio::time::sleep(limits::DATABASE_WAIT).await,
                    opened => break Some(opened?),
                }
            },
            None => without_database(&settings).await?,
        };
        let (commands, receiver) = mpsc::channel(limits::DATABASE_COMMANDS_MAX);
        let database =
            settings.database.as_ref().map(|database| Arc::new(handle(&database.store, commands, String::new())));
        let (copies_of, standbys) = standby::handles(&settings);
        let tables = opened.as_ref().map(|opened| opened.tables.clone()).unwrap_or_default();
        let views = Views::open(&settings.data_dir, settings.views)?;
        let parts = SharedParts {
            name: settings.name.clone().into(),
            data_dir: settings.data_dir.clone(),
            log,
            feeds,
            policy: settings.policy,
            book,
            database,
            copies_of,
            tables,
            views,
            parent: settings.parent.as_ref().map(|parent| parent.url.clone()),
            stop,
        };
        let (shared, copy_messages) = parts.build();
        shared.capture.send_modify(|state| state.paused = folder.capture_is_paused());
        let mut node = Node {
            shared,
            folder,
            capture_commands: None,
            capture_thread: std::sync::Mutex::default(),
            segments,
            tokens: settings.tokens,
            tls: settings.tls,
            cors: settings.cors,
            traffic: Arc::default(),
        };
        node.show_certificate().map_err(|error| node.folder.unusable(&error))?;
        if let (Some(opened), Some(database)) = (opened, &settings.database) {
            node.start_database(opened, database, receiver)?;
        }
        for standby in standbys {
            node.shared.tasks.spawn(standby.run(node.shared.clone()));
        }
        node.shared.tasks.spawn(copies::run(node.shared.clone(), copy_messages));
        node.shared.tasks.spawn(retention::run(node.shared.clone()));
        node.shared.tasks.spawn(node.shared.feeds.clone().retain(node.shared.stop.clone()));
        node.start_feeds(settings.mirrors);
        node.dial(settings.parent.as_ref())?;
        Ok(node)
    }

    /// Starts mirrors and views, and tells peers of feeds that they may mirror.
    fn start_feeds(&self, mirrors: BTreeMap<String, MirrorSettings>) {
        let (shared, feeds) = (&self.shared, &self.shared.feeds);
        shared.mirrors.start(mirrors, feeds, &shared.peer_feeds, &shared.tasks, &shared.stop);
        shared.tasks.spawn(shared.clone().watch_feeds(feeds.clone()));
        shared.recall_arrived();
        shared.views.start(shared);
    }

    /// Has the parent dialled, for as long as the node runs.
    fn dial(&self, parent: Option<&Parent>) -> Result<(), NodeError> {
        let Some(parent) = parent else { return Ok(()) };
        let retry = Retry { first: parent.retry_first, max: parent.retry_max };
        let host = Arc::new(NodeHost(self.shared.clone(), None));
        let url = parent.dial().map_err(|refusal| {
            let why = "the parent cannot be dialled at that address";
            NodeError::new("WS-CFG-020", Exit::Configuration, refusal, why, "correct [parent] url")
        })?;
        let (stop, state) = (self.shared.stop.clone(), self.shared.dial.clone());
        self.shared.tasks.spawn(async move { run_child(url, host, retry, stop, state).await });
        Ok(())
    }

    fn start_database(
        &mut self,
        opened: Opened,
        database: &DatabaseSettings,
        commands: mpsc::Receiver<Command>,
    ) -> Result<(), NodeError> {
        let shared = self.shared.clone();
        let Some(own) = shared.database.clone() else { return Ok(()) };
        let applying = Applying::new(shared.clone(), own, Whose::Nodes, opened.view, commands, Replaced::default());
        shared.tasks.spawn(applying.run());
        let (to_capture, orders) = std_mpsc::channel();
        let (store, runtime, changed) = (database.store.clone(), Handle::current(), shared.clone());
        let tables_changed = Box::new(move || refresh_tables(&changed, &store, &runtime));
        let capturing =
            Capturing { shared, capture: opened.capture, commands: orders, runtime: Handle::current(), tables_changed };
        let thread = capturing.start().map_err(|error| self.folder.unusable(&error))?;
        self.capture_commands = Some(to_capture);
        *self.capture_thread.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(thread);
        Ok(())
    }

    /// Leaves the certificate that is shown now for commands on this machine.
    ///
    /// # Errors
    /// The data folder cannot be written.
    pub fn show_certificate(&self) -> std::io::Result<()> {
        self.tls.as_ref().map_or(Ok(()), |tls| self.folder.write_certificate(&tls.certificate()))
    }

    /// The node as links see it, of whoever showed that token (`None`: none was asked for).
    pub fn host(&self, token: Option<Token>) -> Arc<NodeHost> {
        Arc::new(NodeHost(self.shared.clone(), token))
    }

    /// Stops every task, in order: what has been logged stays logged, what has not stays where it was.
    pub async fn stop(&self) {
        self.shared.stop.cancel();
        let thread = self.capture_thread.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        if let Some(thread) = thread {
            let joined = tokio::task::spawn_blocking(move || thread.join()).await;
            if !matches!(joined, Ok(Ok(()))) {
                tracing::error!(
                    "error[WS-NODE-010]: the capturing thread ended badly; nothing is lost, it goes on at the next start"
                );
            }
        }
        self.shared.tasks.close();
        self.shared.tasks.wait().await;
        self.shared.feeds.close();
        if let Err(error) = self.segments.close() {
            tracing::error!("error[WS-LOG-004]: closing the log: {error}; it is recovered at the next start");
        }
    }
}

/// A database that is about to be followed.
pub(super) fn handle(store: &Store, commands: mpsc::Sender<Command>, prefix: String) -> Database {
    Database {
        url: store.to_string(),
        store: store.clone(),
        commands,
        prefix,
        state: watch::Sender::new(ApplyState::default()),
    }
}

fn unreadable_book(folder: &Folder, error: &std::io::Error) -> NodeError {
    if error.kind() != std::io::ErrorKind::InvalidData {
        return folder.unusable(error);
    }
    NodeError::new(
        "WS-NODE-021",
        Exit::Operator,
        format!("what this node knows of its peers cannot be read: {error}"),
        "by it a peer that was re-created under its old name is told from the one before",
        "put the file back from a backup; or remove it: the peers that link are then taken as they are",
    )
}

fn open_log(settings: &Settings) -> Result<SegmentLog, NodeError> {
    let options = SegmentOptions {
        segment_bytes: settings.log.segment_bytes,
        retain: Retention { time: settings.log.retain_time, bytes: settings.log.retain_bytes },
        fsync: settings.log.fsync,
        ..SegmentOptions::new(settings.data_dir.join("main"))
    };
    SegmentLog::open(options).map_err(|error| {
        NodeError::new(
            "WS-LOG-005",
            Exit::Operator,
            format!("the log cannot be opened: {error}"),
            "a log is never served past damage, and nothing of it is deleted",
            "run `watershed log verify` for the whole picture; put the data folder back from a backup of *both* it and the \
             database, or move it away and run `watershed source drop database --yes` to begin a new log",
        )
    })
}

async fn open_feeds(settings: &Settings, main: &Arc<dyn Log>) -> Result<Arc<Feeds>, NodeError> {
    let main = (main.clone(), settings.append_main && settings.database.is_none());
    Ok(Arc::new(Feeds::open(&settings.data_dir, &settings.name, main, &settings.feeds, &settings.mirrors).await?))
}

/// There is none; what that means to others is said.
async fn without_database(settings: &Settings) -> Result<Option<Opened>, NodeError> {
    let found = preflight(settings).await?;
    found.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
    Ok(None)
}

async fn open_database(
    settings: &Settings,
    database: &DatabaseSettings,
    log: &Arc<dyn Log>,
    folder: &Folder,
) -> Result<Opened, NodeError> {
    let policy = &settings.policy;
    let found = preflight(settings).await?;
    for warning in &found.warnings {
        tracing::warn!("{warning}");
    }
    let capture = open_capture(settings, database, log, folder, &found).await?;
    let mut view = database.store.applier(database, log.id(), settings.data_dir.clone(), None).await?;
    join_log(&mut *view, log).await?;
    let tables = selected_tables(policy, &database.store).await?;
    Ok(Opened { view, capture, tables })
}

async fn open_capture(
    settings: &Settings,
    database: &DatabaseSettings,
    log: &Arc<dyn Log>,
    folder: &Folder,
    found: &Preflight,
) -> Result<Box<dyn Capture>, NodeError> {
    let known = log.source_cursor(LinkId::LOCAL).filter(|place| !Uncaptured::is_place(place));
    let dropped = known.as_ref().is_some_and(|cursor| folder.is_dropped(cursor));
    let first = known.is_none();
    let resume = known.filter(|_| !dropped);
    let wanted = CaptureFor {
        log: log.id(),
        captured: settings.policy.captures_table(),
        needed: settings.policy.needed_values(),
        spool_dir: settings.data_dir.clone(),
        node: settings.name.clone().into(),
        resume,
    };
    // SQLite's triggers cost nothing while they are not there; a slot holds the server's transaction log.
    let nothing = first && settings.policy.captures_nothing();
    let mut capture: Box<dyn Capture> = match nothing && matches!(database.store, Store::Postgres(_)) {
        true => Box::new(Uncaptured),
        false => database.store.capture(database, wanted).await?,
    };
    if first {
        // From here on, what is written while the node is down is read, too, instead of copied.
        let append =
            Append { from: LinkId::LOCAL, tables: Vec::new(), drafts: Vec::new(), upto: Some(capture.place()) };
        log.append(append).await.map_err(|error| {
            let why = "the place at which reading the database starts could not be logged";
            NodeError::new("WS-LOG-006", Exit::Failure, error, why, "make room or mend the disk, and start again")
        })?;
    }
    if dropped {
        // What changed while nothing was captured is not known: whoever follows these tables copies them afresh.
        found.tables.iter().for_each(|table| capture.request_rescan(&table.name));
    }
    Ok(capture)
}

/// The database goes on in this log where it was, if it is this log that it follows.
pub(super) async fn join_log(view: &mut dyn LaneView, log: &Arc<dyn Log>) -> Result<(), NodeError> {
    let failed = |error: crate::view::ViewError| {
        let (locked, why) = (error.is_retryable(), "the database's cursor cannot be read");
        NodeError::new("WS-SQLITE-002", Exit::Failure, error, why, "mend it and start again").locked(locked)
    };
    match view.cursor().await.map_err(failed)? {
        // A database that has never followed this log begins at its tail; what it lacks, it copies.
        None => view.reset(Some(log.cursor_at(log.info().tail)), Vec::new()).await.map_err(failed)?,
        Some(cursor) => {
            if let Err(error) = log.check(cursor) {
                let what = if cursor.log == log.id() {
                    format!("the database is ahead of the log: it has applied {cursor}; {error}")
                } else {
                    other_log(cursor, log.id())
                };
                return Err(NodeError::new(
                    "WS-NODE-011",
                    Exit::Operator,
                    what,
                    "the data folder was restored from a backup, or does not belong to this database",
                    "put the newer data folder back; or, to begin a new log, move the data folder away, run `watershed source drop \
                     database --yes`, and start again: the tables are copied afresh",
                ));
            }
        }
    }
    Ok(())
}

/// The definitions of the selected tables.
async fn selected_tables(policy: &Policy, store: &Store) -> Result<Vec<Arc<TableDef>>, NodeError> {
    let inspection = store.inspect(policy).await?;
    let selected = inspection.tables.into_iter().filter(|table| policy.captures(&table.def.name) && table.capturable);
    Ok(selected.map(|table| table.def).collect())
}

/// After tables changed: peers are told what they will be sent from now on.
fn refresh_tables(shared: &Arc<Shared>, store: &Store, runtime: &Handle) {
    let tables = loop {
        match runtime.block_on(selected_tables(&shared.policy, store)) {
            // It would not be looked at again before tables change again.
            Err(error) if error.locked && !shared.stop.is_cancelled() => {
                tracing::warn!("{error}; it is tried again");
                // A server that refuses does so at once.
                std::thread::sleep(limits::DATABASE_WAIT);
            }
            tables => break tables,
        }
    };
    match tables {
        Ok(tables) => {
            let changed = shared.tables.send_if_modified(|known| {
                let changed = *known != tables;
                *known = tables;
                changed
            });
            if changed {
                let host = NodeHost(shared.clone(), None);
                runtime.block_on(host.announce_offers());
            }
        }
        Err(error) => tracing::warn!("{error}"),
    }
}
