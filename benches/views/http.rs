//! Over HTTP, with nodes in this process: append and read what was appended, at idle; and many readers who wait for one append.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use watershed::http;
use watershed::model::{Cursor, Position};
use watershed::node::feeds::{FeedSpec, MirrorFrom, MirrorSettings};
use watershed::node::views::ViewSettings;
use watershed::node::{LogSettings, Node, Parent, Policy, SendPolicy, Settings, raise_open_files};
use watershed::sqlite::{SqlitePlace, SqliteViewOptions, SqliteViews};
use watershed::view::plain::{LatestSettings, Plain, PlainSettings};

use crate::group::definition;

const READS: usize = 1_000;
const WAITERS: usize = 10_000;

/// A connection that is kept.
struct Client {
    stream: TcpStream,
    host: SocketAddr,
    buffer: Vec<u8>,
}

impl Client {
    async fn connect(host: SocketAddr) -> Client {
        let stream = TcpStream::connect(host).await.expect("connected");
        stream.set_nodelay(true).expect("set");
        Client { stream, host, buffer: Vec::new() }
    }

    async fn send(&mut self, method: &str, path: &str, body: &str) {
        let length = body.len();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}",
            self.host
        );
        self.stream.write_all(request.as_bytes()).await.expect("sent");
    }

    /// The status and the body of one answer.
    async fn answer(&mut self) -> (u16, String) {
        self.buffer.clear();
        loop {
            if let Some(status) = whole(&self.buffer) {
                let end = memchr::memmem::find(&self.buffer, b"\r\n\r\n").expect("it has a head");
                let body = self.buffer.split_off(end + 4);
                return (status, String::from_utf8(body).expect("text"));
            }
            let read = self.stream.read_buf(&mut self.buffer).await.expect("an answer");
            assert!(read > 0, "the connection has ended");
        }
    }

    async fn ask(&mut self, method: &str, path: &str, body: &str) -> String {
        self.send(method, path, body).await;
        let (status, text) = self.answer().await;
        assert!(status < 300, "{status}: {text}");
        text
    }

    /// Appends an order; its cursor.
    async fn append(&mut self, number: usize) -> Cursor {
        let body =
            format!(r#"{{"key":"k{}","row":{{"customer":"c{}","amount":{number}}}}}"#, number % 100, number % 10);
        let text = self.ask("POST", "/v1/logs/orders/entries", &body).await;
        let answer: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        answer["cursor"].as_str().expect("a cursor").parse().expect("a cursor")
    }
}

fn view(data_dir: &Path, sql: bool) -> ViewSettings {
    let (folder, path) = (data_dir.join("views"), data_dir.join("totals.db"));
    let make = move || {
        let settings = PlainSettings::Latest(LatestSettings::default());
        Ok(match sql {
            true => Arc::new(SqliteViews::new(SqliteViewOptions::new(
                "totals",
                definition(),
                SqlitePlace::File(path.clone()),
            ))) as _,
            false => Arc::new(Plain::builds(&folder, "newest", settings).expect("a folder")) as _,
        })
    };
    let persist_every = (!sql).then_some(Duration::from_secs(10));
    let kind = if sql { "sql" } else { "latest" };
    ViewSettings {
        log: "orders".into(),
        kind: kind.into(),
        store: "".into(),
        tables: None,
        publish: None,
        make: Arc::new(make),
        persist_every,
    }
}

async fn node(dir: &Path, name: &str, parent: Option<SocketAddr>) -> (Arc<Node>, SocketAddr) {
    let data_dir = dir.join(name);
    let from = MirrorFrom::Peer { node: "hq".into(), log: "orders".into() };
    let mirror = MirrorSettings {
        from,
        spec: FeedSpec { append: false, mirror: Some("peer:hq/orders".into()), ..FeedSpec::default() },
    };
    let listen: SocketAddr = ([127, 0, 0, 1], 0).into();
    let children = SendPolicy { logs: vec!["orders".into()], ..SendPolicy::default() };
    let views = [("newest".to_string(), view(&data_dir, false)), ("totals".to_string(), view(&data_dir, true))];
    let named = |here: bool| here.then(|| "orders".to_string());
    let settings = Settings {
        name: name.into(),
        listen,
        parent: parent.map(|address| Parent::at(&address.to_string())),
        database: None,
        copies: Vec::new(),
        policy: Policy { children, ..Policy::default() },
        log: LogSettings { segment_bytes: 8 << 20, ..LogSettings::default() },
        append_main: false,
        feeds: named(parent.is_none()).map(|name| (name, FeedSpec::default())).into_iter().collect(),
        mirrors: named(parent.is_some()).map(|name| (name, mirror)).into_iter().collect(),
        views: BTreeMap::from(views),
        data_dir,
        tokens: Vec::new(),
        tls: None,
        cors: Vec::new(),
    };
    let node = Arc::new(Node::start(settings).await.expect("started"));
    let address = http::serve(node.clone(), listen).await.expect("served");
    (node, address)
}

fn percentile(times: &mut [Duration], part: f64) -> f64 {
    times.sort_unstable();
    times[((times.len() - 1) as f64 * part) as usize].as_secs_f64() * 1e3
}

/// Appends, and asks at once for what was appended.
async fn read_own_writes(address: SocketAddr, path: &str, method: &str, body: &str) {
    let mut client = Client::connect(address).await;
    let mut times = Vec::new();
    for number in 1..=READS {
        let begun = Instant::now();
        let cursor = client.append(number).await;
        client.ask(method, &format!("{path}?after={cursor}"), body).await;
        times.push(begun.elapsed());
    }
    let (half, most) = (percentile(&mut times, 0.5), percentile(&mut times, 0.99));
    println!("  {path:<32} p50 {half:>7.2} ms (goal 2)   p99 {most:>7.2} ms (goal 10)");
}

/// Whether an answer has come as a whole, and its status.
fn whole(bytes: &[u8]) -> Option<u16> {
    let end = memchr::memmem::find(bytes, b"\r\n\r\n")?;
    let head = std::str::from_utf8(&bytes[..end]).expect("text");
    // hyper writes names in small letters.
    let length = head.split("content-length: ").nth(1).and_then(|rest| rest.lines().next());
    let length: usize = length.and_then(|length| length.parse().ok()).expect("answers say how long they are");
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    (bytes.len() >= end + 4 + length).then_some(status)
}

/// When each of them had its answer. They are read one after the other, in the order in which they came, so that those who read
/// take little of the processor from those who answer; what is told is never too early.
fn answered(waiting: &mut [std::net::TcpStream]) -> Vec<Instant> {
    let mut buffer = vec![0; 64 << 10];
    let read = |stream: &mut std::net::TcpStream| {
        let mut filled = 0;
        loop {
            filled += stream.read(&mut buffer[filled..]).expect("an answer");
            if let Some(status) = whole(&buffer[..filled]) {
                assert_eq!(status, 200, "{}", String::from_utf8_lossy(&buffer[..filled]));
                return Instant::now();
            }
        }
    };
    waiting.iter_mut().map(read).collect()
}

/// Readers at a mirror who show a cursor that the original is about to give.
async fn release(original: SocketAddr, mirror: SocketAddr, waiters: usize) {
    let mut writer = Client::connect(original).await;
    let last = writer.append(0).await;
    Client::connect(mirror).await.ask("GET", &format!("/v1/views/newest/orders/k0?after={last}"), "").await;
    let next = Cursor { position: Position(last.position.0 + 1), ..last };
    let ask = move |_| {
        let mut stream = std::net::TcpStream::connect(mirror).expect("connected");
        let path = format!("/v1/views/newest/orders/k0?after={next}&timeout=120s");
        write!(stream, "GET {path} HTTP/1.1\r\nHost: {mirror}\r\n\r\n").expect("sent");
        stream
    };
    let waiting = tokio::task::spawn_blocking(move || (0..waiters).map(ask).collect::<Vec<_>>()).await;
    let mut waiting = waiting.expect("all have asked");
    // All of them are parked when the node says so.
    loop {
        let status = Client::connect(mirror).await.ask("GET", "/v1/views/newest", "").await;
        let status: serde_json::Value = serde_json::from_str(&status).expect("JSON");
        let parked = status["waiting"].as_u64().or(status["view"]["waiting"].as_u64());
        if parked == Some(waiters as u64) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let reading = std::thread::spawn(move || {
        let times = answered(&mut waiting);
        (times, waiting)
    });
    writer.append(100).await;
    let appended = Instant::now();
    let read = tokio::task::spawn_blocking(move || reading.join().expect("all have their answers")).await;
    // Connections stay as they are until all have their answers.
    let (times, _waiting) = read.expect("all have their answers");
    let mut times: Vec<Duration> = times.into_iter().map(|time| time.saturating_duration_since(appended)).collect();
    let (half, most) = (percentile(&mut times, 0.5), percentile(&mut times, 0.99));
    println!(
        "  {waiters} waiters at a mirror, after the append returned: p50 {half:.1} ms, p99 {most:.1} ms (goal 100)"
    );
}

pub fn run(dir: &Path, runtime: &Runtime) {
    let files = raise_open_files().unwrap_or(u64::MAX);
    runtime.block_on(async {
        let (hq, address) = node(dir, "hq", None).await;
        println!("append, then read with the token, over HTTP at idle ({READS} times, both fsyncs included):");
        read_own_writes(address, "/v1/views/newest/orders/k1", "GET", "").await;
        let body = r#"{"sql":"select * from totals where customer = ?","params":["c1"]}"#;
        read_own_writes(address, "/v1/views/totals/query", "POST", body).await;
        let (branch, mirror) = node(dir, "branch", Some(address)).await;
        println!("readers who wait for one append:");
        release(address, mirror, 1_000.min(WAITERS)).await;
        // Both ends of every connection are in this process.
        let room = usize::try_from(files.saturating_sub(600) / 2).unwrap_or(usize::MAX);
        release(address, mirror, WAITERS.min(room)).await;
        branch.stop().await;
        hq.stop().await;
    });
}
