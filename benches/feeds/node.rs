//! A node that is only a log, as a process, and programs that append to it and read it over HTTP/1.1.

use std::fs;
use std::io;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use rustix::process::{Resource, getrlimit, setrlimit};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use watershed::log::segments::{SegmentLog, SegmentOptions};
use watershed::log::{Append, Draft, Log};
use watershed::model::{EntryHeader, FeedRow, LinkId, Timestamp, feed_table, put_feed_row};

use super::EVENT_BYTES;
use super::load::{Load, event};

const DEADLINE: Duration = Duration::from_secs(60);
/// What is read at once.
const READ_BYTES: usize = 256 << 10;

/// A node; killed when dropped.
pub struct Node {
    dir: PathBuf,
    pub port: u16,
    process: Option<Child>,
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

/// As many as this process, and those that it starts, may open.
pub fn open_many_files() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // With fewer, fewer readers can be had, and connecting says so.
    let _ = setrlimit(Resource::Nofile, limit);
}

/// A port that nobody has at the moment.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a port").port()
}

impl Node {
    /// With an empty feed `orders`, in a new folder.
    pub fn start(ground: &Path) -> Node {
        let (dir, port) = (ground.join("node"), free_port());
        fs::create_dir_all(&dir).expect("a folder");
        let text = format!(
            "[node]\nname = \"bench\"\ndata_dir = \"data\"\nlisten = \"127.0.0.1:{port}\"\n[log.orders]\nappend = true\n"
        );
        fs::write(dir.join("watershed.toml"), text).expect("a configuration");
        let mut node = Node { dir, port, process: None };
        node.run();
        node
    }

    fn run(&mut self) {
        let log = fs::File::options().create(true).append(true).open(self.dir.join("node.log")).expect("a log");
        let mut command = Command::new(env!("CARGO_BIN_EXE_watershed"));
        command.arg("run").arg("-c").arg(self.dir.join("watershed.toml"));
        let process = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn();
        self.process = Some(process.expect("the binary starts"));
        let began = Instant::now();
        while std::net::TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            assert!(began.elapsed() < DEADLINE, "the node does not start: see {}", self.dir.join("node.log").display());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn stop(&mut self) {
        let Some(mut process) = self.process.take() else { return };
        Command::new("kill").args(["-TERM", &process.id().to_string()]).status().expect("kill");
        process.wait().expect("it ends");
    }

    /// With so many entries of one event each in its feed, which were appended to its folder.
    pub fn filled(ground: &Path, entries: u64) -> Node {
        let mut node = Node::start(ground);
        node.stop();
        let dir = node.dir.join("data/feeds/orders/0");
        // The runtime that measures is another one.
        let filling = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().expect("a runtime");
            runtime.block_on(fill(&dir, entries));
        });
        filling.join().expect("it is filled");
        node.run();
        node
    }

    /// Memory that the process has resident, in KiB.
    pub fn resident_kib(&self) -> u64 {
        let id = self.process.as_ref().expect("it runs").id();
        let status = fs::read_to_string(format!("/proc/{id}/status")).expect("a process");
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("a figure");
        line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).expect("KiB")
    }

    /// Appends as the load says, so many events in each call; events per second. All that was acknowledged is there then.
    pub async fn append(&self, load: &Load, batch: usize) -> f64 {
        let before = self.tail().await;
        let (rate, events) = load.rate(|number, count| appending(self.port, number, batch, count)).await;
        assert_eq!(self.tail().await - before, events / batch as u64, "what was acknowledged is there");
        rate
    }

    /// Where the feed ends.
    pub async fn tail(&self) -> u64 {
        let mut caller = Caller::new(self.port).await;
        let answer = caller.call(b"GET /v1/logs/orders HTTP/1.1\r\nhost: localhost\r\n\r\n").await;
        let (status, body) = answer.expect("an answer");
        assert_eq!(status, 200);
        let facts: serde_json::Value = serde_json::from_slice(body).expect("JSON");
        facts["tail"].as_u64().expect("a tail")
    }

    /// Reads everything as lines, once; entries per second.
    pub async fn catch_up(&self, entries: u64) -> f64 {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).await.expect("connects");
        let request = format!(
            "GET /v1/logs/orders/entries?after=0&limit={entries} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"
        );
        let began = Instant::now();
        stream.write_all(request.as_bytes()).await.expect("asked");
        let mut buffer = vec![0; READ_BYTES];
        let mut lines: i64 = 0;
        loop {
            let read = stream.read(&mut buffer).await.expect("it is read");
            if read == 0 {
                break;
            }
            // Rows have no line ends; those of HTTP are CR LF.
            let count = |wanted: u8| buffer[..read].iter().filter(|byte| **byte == wanted).count() as i64;
            lines += count(b'\n') - count(b'\r');
        }
        assert_eq!(lines, entries as i64, "every entry is a line");
        entries as f64 / began.elapsed().as_secs_f64()
    }
}

async fn fill(dir: &Path, entries: u64) {
    let log = SegmentLog::open(SegmentOptions::new(dir)).expect("a log");
    let table = Arc::new(feed_table("orders".parse().expect("a name")));
    let mut number = 0;
    while number < entries {
        let many = 1_000.min(entries - number);
        let drafts = (number..number + many).map(|number| {
            let (mut changes, row) = (Vec::new(), event(number, EVENT_BYTES));
            put_feed_row(&mut changes, &FeedRow { table: 0, key: None, row: &row });
            let header = EntryHeader {
                node: "bench".into(),
                time: Timestamp::now(),
                tables: vec![table.fingerprint],
                ..EntryHeader::default()
            };
            Draft::Local { header, changes: Bytes::from(changes) }
        });
        let drafts = drafts.collect();
        let append = Append { from: LinkId::LOCAL, tables: vec![table.clone()], drafts, upto: None };
        log.append(append).await.expect("appended");
        number += many;
    }
    log.close().expect("closed");
}

/// The body of a call, and the head before it.
fn request(first: u64, batch: usize) -> Vec<u8> {
    let mut body = String::with_capacity(batch * (EVENT_BYTES + 16));
    for number in first..first + batch as u64 {
        body.push_str("{\"row\":");
        body.push_str(&event(number, EVENT_BYTES));
        body.push_str("}\n");
    }
    let kind = if batch > 1 { "application/x-ndjson" } else { "application/json" };
    let head = format!(
        "POST /v1/logs/orders/entries HTTP/1.1\r\nhost: localhost\r\ncontent-type: {kind}\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    (head + &body).into_bytes()
}

/// One connection that appends until it is over. A few requests are made beforehand, and sent again and again.
pub async fn appending(port: u16, number: usize, batch: usize, count: super::load::Count) {
    let mut caller = Caller::new(port).await;
    let first = number as u64 * 1_000_000;
    let requests: Rc<[Vec<u8>]> = (0..4).map(|one| request(first + one * batch as u64, batch)).collect();
    for request in requests.iter().cycle() {
        if count.is_over() {
            return;
        }
        let (status, _) = caller.call(request).await.expect("an answer");
        assert_eq!(status, 201, "it is appended");
        count.add(batch as u64);
    }
}

/// A connection that is kept alive.
struct Caller {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Caller {
    async fn new(port: u16) -> Caller {
        let stream = TcpStream::connect(("127.0.0.1", port)).await.expect("connects");
        stream.set_nodelay(true).expect("a socket");
        Caller { stream, buffer: vec![0; 16 << 10] }
    }

    /// Sends a request and reads its answer: the status and the body.
    async fn call(&mut self, request: &[u8]) -> io::Result<(u16, &[u8])> {
        self.stream.write_all(request).await?;
        let mut filled = 0;
        loop {
            let read = self.stream.read(&mut self.buffer[filled..]).await?;
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            filled += read;
            let Some(head) = self.buffer[..filled].windows(4).position(|four| four == b"\r\n\r\n") else { continue };
            let text = std::str::from_utf8(&self.buffer[..head]).map_err(io::Error::other)?;
            let status = text.get(9..12).and_then(|status| status.parse().ok()).unwrap_or(0);
            let length = text.lines().find_map(|line| line.strip_prefix("content-length: "));
            let length: usize = length.and_then(|length| length.parse().ok()).unwrap_or(0);
            let end = head + 4 + length;
            if filled >= end {
                return Ok((status, &self.buffer[head + 4..end]));
            }
        }
    }
}
