//! A node on a memory log: as much of `Host` as links need.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use axum::Router;
use axum::extract::ws::WebSocketUpgrade;
use axum::routing::get;
use bytes::Bytes;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use watershed::log::memory::MemoryLog;
use watershed::log::{Append, Draft, Limit, Log, Source, Spool};
use watershed::model::*;
use watershed::peer::*;

/// What a link told the node.
#[derive(Debug, Default)]
pub struct Told {
    pub acknowledged: Option<Cursor>,
    pub delivered: Vec<Duration>,
    pub reached: Vec<Head>,
    pub copies: Vec<CopyMessage>,
    pub changes: Vec<PeerChange>,
    pub closed: Vec<Refusal>,
    /// Drafts of each append.
    pub appends: Vec<usize>,
    pub links: Vec<LinkHandle>,
}

pub struct TestNode {
    pub name: &'static str,
    pub log: Arc<MemoryLog>,
    pub path: watch::Sender<Vec<NodeRef>>,
    pub below: watch::Sender<Vec<Below>>,
    /// Appends wait while it is closed (false).
    pub gate: watch::Sender<bool>,
    pub told: watch::Sender<Told>,
    parent: Mutex<Option<LogId>>,
    pub table: Arc<TableDef>,
}

pub fn timing() -> Timing {
    Timing {
        heartbeat: Duration::from_millis(50),
        silence: Duration::from_millis(1500),
        handshake: Duration::from_millis(1500),
        connect: Duration::from_secs(2),
    }
}

pub fn retry() -> Retry {
    Retry { first: Duration::from_millis(2), max: Duration::from_millis(20) }
}

/// Waits until it holds; a test never waits for a time.
pub async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(180);
    while !holds() {
        assert!(tokio::time::Instant::now() < deadline, "did not happen in time: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

impl TestNode {
    pub fn new(name: &'static str) -> Arc<TestNode> {
        let log = Arc::new(MemoryLog::new());
        let me = NodeRef { name: name.into(), log: log.id() };
        let column = |name: &str, key| Column { name: name.into(), type_name: "text".into(), key };
        let columns = vec![column("id", 1), column("made_at", 0)];
        let table = Arc::new(TableDef::new(name.parse().expect("a name"), columns));
        Arc::new(TestNode {
            name,
            log,
            path: watch::Sender::new(vec![me]),
            below: watch::Sender::new(Vec::new()),
            gate: watch::Sender::new(true),
            told: watch::Sender::new(Told::default()),
            parent: Mutex::new(None),
            table,
        })
    }

    pub fn me(&self) -> NodeRef {
        NodeRef { name: self.name.into(), log: self.log.id() }
    }

    fn header(&self) -> EntryHeader {
        EntryHeader { node: self.name.into(), tables: vec![self.table.fingerprint], ..EntryHeader::default() }
    }

    pub async fn commit(&self, changes: Bytes) {
        let drafts = vec![Draft::Local { header: self.header(), changes }];
        self.append(drafts).await;
    }

    async fn append(&self, drafts: Vec<Draft>) {
        let append = Append { from: LinkId::LOCAL, tables: vec![self.table.clone()], drafts, upto: None };
        self.log.append(append).await.expect("appended");
    }

    pub async fn commit_large(&self, parts: usize, seed: u8) {
        let mut spool = Spool::new(&std::env::temp_dir()).expect("a spool");
        for i in 0..parts {
            let row = vec![Value::new(Kind::Blob, vec![seed.wrapping_add(i as u8); limits::PART_BYTES_TARGET - 100])];
            spool.push(&encode_changes(&[insert(row)])).expect("pushed");
        }
        let parts = spool.into_parts().expect("parts");
        self.append(vec![Draft::Large { header: self.header(), parts }]).await;
    }

    /// Every part in the log: who made it, at which position there, which part, and its changes.
    pub async fn contents(&self) -> Vec<(String, u64, u32, Bytes)> {
        let mut from = ReadFrom::default();
        let mut all = Vec::new();
        loop {
            let batch = self.log.read(from, Limit::default()).await.expect("readable");
            if batch.entries.is_empty() {
                return all;
            }
            from = batch.next;
            for logged in batch.entries {
                let header = logged.entry.header();
                let origin = header.origin.expect("stamped");
                let changes = logged.entry.changes_bytes().clone();
                all.push((header.node.to_string(), origin.position.0, header.part, changes));
            }
        }
    }

    pub async fn made_by(&self, name: &str) -> Vec<(u64, u32, Bytes)> {
        let all = self.contents().await.into_iter();
        all.filter(|(node, ..)| node == name).map(|(_, position, part, changes)| (position, part, changes)).collect()
    }

    pub fn tail(&self) -> u64 {
        self.log.tail().borrow().0
    }

    pub fn tell(&self, told: impl FnOnce(&mut Told)) {
        self.told.send_modify(told);
    }
}

pub fn insert(row: Row) -> Change {
    Change { table: 0, op: Op::Insert, row: Some(row), old: None }
}

pub fn change(text: &str) -> Bytes {
    encode_changes(&[insert(vec![Value::new(Kind::Text, text.to_owned()), Value::NULL])])
}

#[async_trait]
impl Host for TestNode {
    async fn hello(&self, _role: Role, peer: Option<&Hello>) -> Result<Hello, Refusal> {
        let from = peer.map(|peer| peer.node.log).or(*self.parent.lock().expect("lock"));
        let received = from.and_then(|log| self.log.source_cursor(LinkId(log)));
        let (path, below) = (self.path.borrow().clone(), self.below.borrow().clone());
        let received = received.map(|cursor| Cursor::try_from(&cursor).expect("a cursor"));
        let epoch = self.log.cursor_at(Position(u64::MAX)).epoch;
        Ok(Hello { node: self.me(), epoch, probe: false, path, below, offers: Vec::new(), received, mirrors: false })
    }

    async fn admit(&self, _role: Role, peer: &Hello) -> Result<(), Refusal> {
        match peer.received.map(|cursor| self.log.check(cursor)) {
            Some(Err(why)) => Err(Refusal { code: "WS-TEST-001".into(), message: why.to_string(), retryable: false }),
            _ => Ok(()),
        }
    }

    async fn established(&self, role: Role, peer: &Hello, handle: LinkHandle) -> Result<Box<dyn Outgoing>, Refusal> {
        if role == Role::Child {
            *self.parent.lock().expect("lock") = Some(peer.node.log);
            self.path.send_replace([vec![self.me()], peer.path.clone()].concat());
        }
        self.tell(|told| told.links.push(handle));
        let from = peer.received.map_or(Position::ZERO, |cursor| cursor.position).into();
        let (log, tail, peer) = (self.log.clone(), self.log.tail(), LinkId(peer.node.log));
        Ok(Box::new(LogOutgoing { log, tail, from, peer, ready: VecDeque::new() }))
    }

    async fn receive(&self, append: Append) -> Result<(), Refusal> {
        self.gate.subscribe().wait_for(|open| *open).await.expect("the node lives");
        self.tell(|told| told.appends.push(append.drafts.len()));
        let why = |e: watershed::log::AppendError| Refusal {
            code: "WS-TEST-002".into(),
            message: e.to_string(),
            retryable: e.is_retryable(),
        };
        self.log.append(append).await.map(|_| ()).map_err(why)
    }

    async fn copy(&self, _peer: LinkId, message: CopyMessage) {
        self.tell(|told| told.copies.push(message));
    }

    async fn changed(&self, _peer: LinkId, change: PeerChange) {
        if let PeerChange::Path(path) = &change {
            self.path.send_replace([vec![self.me()], path.clone()].concat());
        }
        self.tell(|told| told.changes.push(change));
    }

    fn heads(&self) -> Vec<Head> {
        // Not in one expression: the tail's lock must not be held while the log's is taken.
        let tail = Position(self.tail());
        let cursor = self.log.cursor_at(tail);
        vec![Head { node: self.me(), cursor, time: Timestamp::now(), captured: None }]
    }

    fn reached(&self, _peer: LinkId, heads: Vec<Head>) {
        self.tell(|told| told.reached = heads);
    }

    fn acknowledged(&self, _peer: LinkId, received: Cursor) {
        self.tell(|told| told.acknowledged = Some(received));
    }

    fn delivered(&self, _peer: LinkId, lag: Duration) {
        self.tell(|told| told.delivered.push(lag));
    }

    fn closed(&self, peer: LinkId, why: &Refusal) {
        if *self.parent.lock().expect("lock") == Some(peer.0) {
            self.path.send_replace(vec![self.me()]);
        }
        self.tell(|told| told.closed.push(why.clone()));
    }

    fn path(&self) -> watch::Receiver<Vec<NodeRef>> {
        self.path.subscribe()
    }

    fn below(&self) -> watch::Receiver<Vec<Below>> {
        self.below.subscribe()
    }
}

struct LogOutgoing {
    log: Arc<MemoryLog>,
    tail: watch::Receiver<Position>,
    from: ReadFrom,
    peer: LinkId,
    ready: VecDeque<Outbound>,
}

impl LogOutgoing {
    fn take(&mut self, batch: Batch) {
        let outbound = |entries, upto| Outbound { entries, tables: batch.catalog.all(), upto };
        let mut whole = Vec::new();
        for logged in batch.entries {
            if logged.from == self.peer {
                continue;
            }
            let header = logged.entry.header();
            if header.part == 0 && !header.more {
                whole.push(logged.entry);
                continue;
            }
            let before = self.log.cursor_at(Position(logged.position.0 - 1));
            if !whole.is_empty() {
                self.ready.push_back(outbound(std::mem::take(&mut whole), before));
            }
            let upto = if header.more { before } else { self.log.cursor_at(logged.position) };
            self.ready.push_back(outbound(vec![logged.entry], upto));
        }
        self.ready.push_back(outbound(whole, batch.upto));
    }
}

#[async_trait]
impl Outgoing for LogOutgoing {
    async fn next(&mut self) -> Result<Outbound, Refusal> {
        loop {
            if let Some(outbound) = self.ready.pop_front() {
                return Ok(outbound);
            }
            self.tail.borrow_and_update();
            let batch = self.log.read(self.from, Limit::default()).await.expect("readable");
            if batch.next != self.from {
                self.from = batch.next;
                self.take(batch);
            } else {
                self.tail.changed().await.expect("the log lives");
            }
        }
    }
}

/// A node's HTTP server with links only.
pub struct Server {
    pub address: SocketAddr,
    pub serving: Serving,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.serving.stop.cancel();
    }
}

pub async fn serve(node: &Arc<TestNode>, timing: Timing) -> Server {
    let serving = Serving { timing, ..Serving::default() };
    let (host, for_links): (Arc<dyn Host>, _) = (node.clone(), serving.clone());
    let route = get(async move |upgrade: WebSocketUpgrade| serve_peer(upgrade, host.clone(), for_links.clone()));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let router = Router::new().route("/v1/peer", route);
    let stop = serving.stop.clone();
    tokio::spawn(async move {
        use axum::serve::ListenerExt;
        let listener = listener.tap_io(|tcp| tcp.set_nodelay(true).expect("an option of every TCP socket"));
        axum::serve(listener, router).with_graceful_shutdown(stop.cancelled_owned()).await.expect("served");
    });
    Server { address, serving }
}

/// A child that dials for ever, until it is dropped.
pub struct Dialler {
    pub state: watch::Receiver<DialState>,
    pub stop: CancellationToken,
    pub task: tokio::task::JoinHandle<()>,
}

impl Drop for Dialler {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

pub fn dial(node: &Arc<TestNode>, to: SocketAddr, timing: Timing) -> Dialler {
    let url = ParentUrl::parse(&to.to_string()).expect("a loopback address");
    let (state, states) = watch::channel(DialState::default());
    let stop = CancellationToken::new();
    let task = tokio::spawn(run_child_timed(url, node.clone(), retry(), timing, stop.clone(), state));
    Dialler { state: states, stop, task }
}
