//! Replicas of a machine on three nodes: what they say in heartbeats, and what becomes of one that is wrong.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value as Json, json};
use watershed::http;
use watershed::model::{Cursor, Position, limits};
use watershed::node::feeds::{FeedSpec, MirrorFrom, MirrorSettings};
use watershed::node::views::{Asked, Place, Unanswered, ViewSettings};
use watershed::node::{Exit, LogSettings, Node, NodeError, Parent, Policy, SendPolicy, Settings};
use watershed::testing::view_conformance::BOUNDS;
use watershed::view::machine::{Machine, MachineBuilds, Rows, Select, Transaction};
use watershed::view::{AskError, Bounds, Question, Token, Unmet, ViewError};

use super::{append, feed, rows};

const EVERY: u64 = limits::MACHINE_DIGEST_EVERY;

/// Counts commands; where `wrong` is set it counts one of them twice.
struct Counter {
    count: u64,
    wrong: Arc<AtomicBool>,
}

/// Any port that is free.
const LISTEN: ([u8; 4], u16) = ([127, 0, 0, 1], 0);
/// The command that is counted twice.
const TWICE: u64 = EVERY + 7;

impl Machine for Counter {
    fn definition(&self) -> String {
        "counter 1".into()
    }

    fn apply(&mut self, transaction: &Transaction<'_>) -> Result<(), ViewError> {
        self.count += 1;
        if transaction.position().0 == TWICE && self.wrong.load(Ordering::Acquire) {
            self.count += 1;
        }
        Ok(())
    }

    fn save(&self, out: &mut dyn Write) -> io::Result<()> {
        out.write_all(&self.count.to_le_bytes())
    }

    fn load(&mut self, state: &mut dyn Read) -> io::Result<()> {
        let mut bytes = [0; 8];
        state.read_exact(&mut bytes)?;
        self.count = u64::from_le_bytes(bytes);
        Ok(())
    }

    fn ask(&self, question: &Question, bounds: &Bounds) -> Result<Rows, AskError> {
        let select = Select::of(question)?;
        let mut rows = Rows::new(&["count"], bounds);
        rows.push(vec![json!(self.count)])?;
        select.found(rows)
    }

    fn rows(&self) -> u64 {
        1
    }
}

fn counter(data_dir: &Path, wrong: &Arc<AtomicBool>) -> ViewSettings {
    let (folder, wrong) = (data_dir.join("views"), wrong.clone());
    let make = move || {
        let wrong = wrong.clone();
        let new = move || Counter { count: 0, wrong: wrong.clone() };
        let builds = MachineBuilds::open(&folder, "count", Vec::new(), true, new);
        let failed = |error| NodeError::new("WS-TEST", Exit::Failure, error, "a test", "look");
        builds.map(|builds| Arc::new(builds) as _).map_err(failed)
    };
    ViewSettings {
        log: "commands".into(),
        kind: "counter".into(),
        store: "memory".into(),
        tables: None,
        publish: None,
        make: Arc::new(make),
        persist_every: Some(Duration::from_secs(1)),
    }
}

fn settings(dir: &Path, name: &str, parent: Option<(&str, SocketAddr)>, wrong: &Arc<AtomicBool>) -> Settings {
    let data_dir = dir.join(name);
    let mirror = |parent: &str| MirrorSettings {
        from: MirrorFrom::Peer { node: parent.into(), log: "commands".into() },
        spec: FeedSpec { append: false, mirror: Some(format!("peer:{parent}/commands")), ..FeedSpec::default() },
    };
    let named = |spec| BTreeMap::from([("commands".to_string(), spec)]);
    let children = SendPolicy { logs: vec!["commands".into()], ..SendPolicy::default() };
    Settings {
        name: name.into(),
        listen: LISTEN.into(),
        parent: parent.map(|(_, address)| Parent {
            retry_first: Duration::from_millis(100),
            retry_max: Duration::from_secs(1),
            ..Parent::at(&address.to_string())
        }),
        database: None,
        copies: Vec::new(),
        policy: Policy { children, ..Policy::default() },
        log: LogSettings { segment_bytes: 1 << 20, ..LogSettings::default() },
        append_main: false,
        feeds: parent
            .map_or_else(|| BTreeMap::from([("commands".to_string(), FeedSpec::default())]), |_| BTreeMap::new()),
        mirrors: parent.map(|(parent, _)| named(mirror(parent))).unwrap_or_default(),
        views: BTreeMap::from([("count".to_string(), counter(&data_dir, wrong))]),
        data_dir,
        tokens: Vec::new(),
        tls: None,
        cors: Vec::new(),
    }
}

async fn node(
    dir: &Path,
    name: &str,
    parent: Option<(&str, SocketAddr)>,
    wrong: &Arc<AtomicBool>,
) -> (Arc<Node>, SocketAddr) {
    let mut started = Err(None);
    // One that was stopped a moment ago may still have the folder.
    until("the folder is free", async || {
        started = Node::start(settings(dir, name, parent, wrong)).await.map_err(Some);
        !matches!(&started, Err(Some(error)) if error.exit == Exit::Locked)
    })
    .await;
    let node = Arc::new(started.expect("started"));
    let address = http::serve(node.clone(), LISTEN.into()).await.expect("served");
    (node, address)
}

async fn ask(node: &Node, token: Option<Cursor>) -> Result<u64, Unanswered> {
    let tokens = token.map(|cursor| Token::Cursors(vec![cursor])).into_iter().collect();
    let asked = Asked { tokens, timeout: Duration::from_secs(60), stale: false };
    let question = Question::Sql { sql: "select * from counts".into(), params: Json::Null };
    let view = node.shared.views.get("count").expect("the view");
    let told = view.ask(&node.shared, &asked, &question, &BOUNDS).await?;
    Ok(told.what.rows[0][0].as_u64().expect("a number"))
}

async fn until(what: &str, mut done: impl AsyncFnMut() -> bool) {
    let begun = Instant::now();
    while !done().await {
        assert!(begun.elapsed() < Duration::from_secs(90), "{what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn commands(node: &Node, count: u64) -> Cursor {
    let feed_of = node.shared.feeds.get("commands").expect("the feed");
    let (log, table) = (feed_of.partitions[0].log.clone(), feed("commands"));
    for number in 0..count {
        append(&*log, &table, rows(&[(None, &number.to_string())])).await;
    }
    let tail = *log.tail().borrow();
    log.cursor_at(tail)
}

fn quarantined(answer: &Result<u64, Unanswered>) -> bool {
    matches!(answer, Err(Unanswered::Unmet(Unmet::Failed(why))) if why.contains("replica at hq"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_parts_is_quarantined_and_named_with_where_it_parted() {
    let folder = tempfile::tempdir().expect("a folder");
    let (right, wrong) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(true)));
    let (hq, address) = node(folder.path(), "hq", None, &right).await;
    let (north, above_leaf) = node(folder.path(), "north", Some(("hq", address)), &wrong).await;
    let (leaf, _) = node(folder.path(), "leaf", Some(("north", above_leaf)), &right).await;
    let last = commands(&hq, 2 * EVERY + 5).await;
    until("north is quarantined", async || quarantined(&ask(&north, None).await)).await;
    let Err(Unanswered::Unmet(Unmet::Failed(why))) = ask(&north, Some(last)).await else {
        panic!("no answer is given")
    };
    let (alike, differ) = (EVERY, 2 * EVERY);
    assert!(why.contains(&format!("alike up to position {alike}, different at position {differ}")), "{why}");
    until("hq names it", async || !hq.shared.views.replicas.parted("count").is_empty()).await;
    let named = hq.shared.views.replicas.parted("count");
    assert_eq!((&*named[0].0, named[0].1.differ), ("north", Position(2 * EVERY)));
    // What is right goes on, also behind the one that is not.
    for node in [&hq, &leaf] {
        assert_eq!(ask(node, Some(last)).await.expect("an answer"), 2 * EVERY + 5, "at {}", node.shared.name);
    }
    // A digest of a place that a machine has gone past is given where it was kept.
    let digest = async |node: &Node, position| {
        let view = node.shared.views.get("count").expect("the view").clone();
        view.digest_at(&node.shared, &Place::Position(Position(position)), Duration::from_secs(10)).await
    };
    let kept = digest(&hq, EVERY).await.expect("it was kept").what;
    assert_eq!((kept, kept.rows), (digest(&leaf, EVERY).await.expect("it was kept").what, None));
    assert!(matches!(digest(&hq, EVERY + 1).await, Err(Unanswered::Passed(_))), "this one was not");
    let now = digest(&hq, 2 * EVERY + 5).await.expect("it stands there").what;
    assert_eq!((now.rows, now.digest == kept.digest), (Some(1), false));

    // A restart does not make it right; building it afresh does, once the rules are right.
    north.stop().await;
    drop(north);
    let (north, _) = node(folder.path(), "north", Some(("hq", address)), &wrong).await;
    assert!(quarantined(&ask(&north, None).await));
    wrong.store(false, Ordering::Release);
    north.shared.views.get("count").expect("the view").rebuild(false).await.expect("it is built");
    until("it answers again", async || ask(&north, Some(last)).await.is_ok_and(|count| count == 2 * EVERY + 5)).await;
    let more = commands(&hq, EVERY).await;
    assert_eq!(ask(&north, Some(more)).await.expect("an answer"), 3 * EVERY + 5);
    for node in [leaf, north, hq] {
        node.stop().await;
    }
}
