//! Many clients that write, and at once read what they have written, at two nodes, while processes are killed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

use serde_json::{Value as Json, json};

use super::sql::{TOTALS, write};
use crate::tree::site::{Ground, Site, wait};

const CLIENTS: usize = 32;
const VIEWS: [&str; 3] = ["totals", "again", "memory"];
/// What a reader waits for a view, and how much later an answer may come on a machine that does much else.
const PATIENCE: Duration = Duration::from_secs(20);
const SLACK: Duration = Duration::from_secs(60);

/// How long it goes on; minutes where somebody asks for them.
fn seconds() -> u64 {
    std::env::var("WATERSHED_VIEWS_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(6)
}

fn views(site: &Site) -> String {
    VIEWS
        .map(|name| {
            write(site, &format!("{name}.sql"), TOTALS);
            let store = if name == "memory" { "memory".to_owned() } else { format!("sqlite:{name}.db") };
            format!("[view.{name}]\nlog = \"orders\"\nstore = \"{store}\"\nsql = \"{name}.sql\"\n")
        })
        .concat()
}

/// The original with its views, and a mirror of its log with views of its own.
fn nodes(ground: &Ground) -> [Site; 2] {
    let (mut hub, mut branch) = (ground.log_site("hub"), ground.log_site("branch"));
    let sections = views(&hub);
    hub.configure(None, &format!("[log.orders]\nappend = true\n{sections}"));
    let sections = views(&branch);
    let mirror = format!("[log.orders]\nmirror = \"http://127.0.0.1:{}/v1/logs/orders\"\n", hub.port);
    branch.configure(None, &format!("{mirror}{sections}"));
    hub.up();
    branch.up();
    [hub, branch]
}

/// What all clients together have found.
#[derive(Default)]
struct Found {
    written: AtomicU64,
    read: AtomicU64,
    reasons: std::sync::Mutex<BTreeMap<String, u64>>,
    stale: AtomicU64,
    back: AtomicU64,
    longest_ms: AtomicU64,
}

struct Client {
    name: String,
    ports: [u16; 2],
    agent: ureq::Agent,
    with_tokens: bool,
    found: Arc<Found>,
    stop: Arc<AtomicBool>,
    /// What it has last been shown.
    cursor: String,
    written: u64,
    /// The highest sum of everything that it has seen.
    seen: u64,
}

impl Client {
    /// `None`: there was nobody to answer.
    fn post(&self, port: u16, path: &str, headers: &[(&str, &str)], body: &str) -> Option<(u16, Json)> {
        let mut request = self.agent.post(format!("http://127.0.0.1:{port}{path}"));
        request = request.header("Content-Type", "application/json");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut answer = request.send(body).ok()?;
        let text = answer.body_mut().read_to_string().ok()?;
        Some((answer.status().as_u16(), serde_json::from_str(&text).ok()?))
    }

    /// Appends one, however often the node is killed meanwhile; false: it is time to stop.
    fn write(&mut self) -> bool {
        let body = json!({ "key": self.name, "row": { "customer": self.name, "amount": 1 } }).to_string();
        let id = format!("{}-{}", self.name, self.written);
        loop {
            let headers = [("Idempotency-Key", id.as_str())];
            if let Some((201, answer)) = self.post(self.ports[0], "/v1/logs/orders/entries", &headers, &body) {
                self.written += 1;
                let token = answer["cursor"].as_str().expect("a cursor");
                // What has been seen elsewhere stays seen.
                let parts: Vec<&str> = [token, &self.cursor].into_iter().filter(|part| !part.is_empty()).collect();
                self.cursor = parts.join(",");
                self.found.written.fetch_add(1, SeqCst);
                return true;
            }
            if self.stop.load(SeqCst) {
                return false;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn read(&mut self, turn: u64) {
        let port = self.ports[(turn % 2) as usize];
        let view = VIEWS[(turn / 2 % 3) as usize];
        let path = format!("/v1/views/{view}/query?timeout={}s", PATIENCE.as_secs());
        let sql =
            "select coalesce(sum(orders) filter (where customer = :who), 0), coalesce(sum(orders), 0) from totals";
        let body = json!({ "sql": sql, "params": { "who": self.name } }).to_string();
        let cursor = if self.with_tokens { self.cursor.clone() } else { String::new() };
        let headers = [("Watershed-Cursor", cursor.as_str())];
        let headers = if cursor.is_empty() { &headers[..0] } else { &headers[..] };
        let began = Instant::now();
        let Some((status, answer)) = self.post(port, &path, headers, &body) else { return };
        self.found.longest_ms.fetch_max(began.elapsed().as_millis() as u64, SeqCst);
        if status != 200 {
            let reason = answer["reason"].as_str().or(answer["code"].as_str()).unwrap_or("none").to_owned();
            *self.found.reasons.lock().expect("nobody panics").entry(reason).or_default() += 1;
            return;
        }
        let number = |at: usize| answer["rows"][0][at].as_u64().unwrap_or_else(|| panic!("no number: {answer}"));
        let (own, all) = (number(0), number(1));
        self.found.read.fetch_add(1, SeqCst);
        assert!(own <= self.written, "a row counts twice: {own} of {} at {view}", self.written);
        if own < self.written {
            self.found.stale.fetch_add(1, SeqCst);
            assert!(!self.with_tokens, "{} read {own} of {} at {port} {view}: {answer}", self.name, self.written);
        }
        if all < self.seen {
            self.found.back.fetch_add(1, SeqCst);
            assert!(!self.with_tokens, "{} read {all} after {} at {port} {view}: {answer}", self.name, self.seen);
        }
        self.seen = all.max(self.seen);
        self.cursor = answer["cursor"].as_str().expect("a cursor").to_owned();
    }

    fn run(mut self) {
        let mut turn = 0;
        while !self.stop.load(SeqCst) && self.write() {
            for _ in 0..3 {
                self.read(turn);
                turn += 1;
            }
        }
    }
}

/// Has the clients work for a while; `disturb` does what it does meanwhile.
fn work(nodes: &mut [Site; 2], with_tokens: bool, mut disturb: impl FnMut(&mut [Site; 2], u32)) -> Arc<Found> {
    let (found, stop) = (Arc::new(Found::default()), Arc::new(AtomicBool::new(false)));
    let ports = [nodes[0].port, nodes[1].port];
    let clients: Vec<_> = (0..CLIENTS)
        .map(|number| {
            let config = ureq::Agent::config_builder().http_status_as_error(false);
            let client = Client {
                name: format!("{}{number}", if with_tokens { "t" } else { "n" }),
                ports,
                agent: config.timeout_global(Some(PATIENCE + SLACK)).build().into(),
                with_tokens,
                found: found.clone(),
                stop: stop.clone(),
                cursor: String::new(),
                written: 0,
                seen: 0,
            };
            std::thread::spawn(move || client.run())
        })
        .collect();
    let until = Instant::now() + Duration::from_secs(seconds());
    let mut round = 0;
    while Instant::now() < until {
        std::thread::sleep(Duration::from_millis(1_000));
        disturb(nodes, round);
        round += 1;
    }
    stop.store(true, SeqCst);
    for client in clients {
        client.join().expect("no client has found anything wrong");
    }
    found
}

#[test]
fn nobody_reads_less_than_it_has_written_or_seen_while_nodes_are_killed() {
    let ground = Ground::new();
    let mut nodes = nodes(&ground);
    let found = work(&mut nodes, true, |nodes, round| {
        let node = &mut nodes[(round % 2) as usize];
        node.kill();
        node.up();
    });
    let (written, read) = (found.written.load(SeqCst), found.read.load(SeqCst));
    let (longest, reasons) = (found.longest_ms.load(SeqCst), found.reasons.lock().expect("nobody panics").clone());
    eprintln!("{written} written, {read} read, longest {longest} ms, not answered: {reasons:?}");
    assert!(written >= CLIENTS as u64 && read >= CLIENTS as u64, "{written} written, {read} read: that says nothing");
    assert!(Duration::from_millis(longest) < PATIENCE + SLACK, "a waiter was lost");
    let stated = |reason: &str| matches!(reason, "not_yet" | "rebuilding") || reason.starts_with("WS-HTTP-");
    assert!(reasons.keys().all(|reason| stated(reason)), "{reasons:?}");
    assert_eq!((found.stale.load(SeqCst), found.back.load(SeqCst)), (0, 0));
    digests_are_equal(&nodes);
}

/// At one place of the log every replica, and every view by the same definition, has the same state.
fn digests_are_equal(nodes: &[Site; 2]) {
    let tail = nodes[0].get("/v1/logs/orders").expect("an answer").1;
    let tail: Json = serde_json::from_str(&tail).expect("JSON");
    let cursor = tail["cursor"].as_str().expect("a cursor");
    let mut digests = Vec::new();
    for node in nodes {
        for view in VIEWS {
            let mut answer = Json::Null;
            // A view in memory begins anew where it was killed before it was saved, and says so.
            wait("the digest of what is in the log", || {
                let path = format!("/v1/views/{view}/digest?after={cursor}&timeout=10s");
                let (status, text) = node.get(&path).expect("an answer");
                answer = serde_json::from_str(&text).expect("JSON");
                assert!(status == 200 || status == 503 && answer["reason"].is_string(), "{answer}");
                status == 200
            });
            assert_eq!(answer["cursor"].as_str(), Some(cursor), "{answer}");
            digests.push(answer["digest"].clone());
        }
    }
    assert!(digests.iter().all(|digest| digest.is_string() && *digest == digests[0]), "{digests:?}");
}

#[test]
fn without_tokens_readers_do_see_less_than_they_have_written() {
    let ground = Ground::new();
    let mut nodes = nodes(&ground);
    let found = work(&mut nodes, false, |_, _| {});
    let (stale, read) = (found.stale.load(SeqCst), found.read.load(SeqCst));
    eprintln!("without tokens {stale} of {read} reads lacked what had been written");
    assert!(stale > 0, "the check that finds stale reads has found none in {read}");
}
