//! NATS JetStream as a process, and programs that publish to it in its own protocol.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::load::{Count, Load, event};
use super::node::free_port;
use super::{BATCH, EVENT_BYTES};

const DEADLINE: Duration = Duration::from_secs(30);

/// When what was published reaches the disk.
#[derive(Clone, Copy, PartialEq)]
pub enum FileSync {
    /// Before it is answered.
    Always,
    /// Every two minutes.
    Default,
}

/// The server's version, as it tells it.
pub fn version(program: &Path) -> String {
    let output = Command::new(program).arg("--version").output();
    output.map_or(String::new(), |output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// A server; killed when dropped.
pub struct Nats {
    port: u16,
    process: Child,
}

impl Drop for Nats {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Nats {
    /// With JetStream's files in a new folder.
    pub fn start(program: &Path, ground: &Path, sync: FileSync) -> Nats {
        let (dir, port) = (ground.join("nats"), free_port());
        fs::create_dir_all(&dir).expect("a folder");
        let interval = if sync == FileSync::Always { "  sync_interval: always\n" } else { "" };
        let store = dir.join("store");
        let text = format!("listen: 127.0.0.1:{port}\njetstream {{\n  store_dir: {store:?}\n{interval}}}\n");
        fs::write(dir.join("nats.conf"), text).expect("a configuration");
        let log = fs::File::create(dir.join("nats.log")).expect("a log");
        let mut command = Command::new(program);
        command.arg("-c").arg(dir.join("nats.conf")).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let process = command.spawn().unwrap_or_else(|error| {
            panic!("{} does not start: {error}; install nats-server, or name it with --nats-server", program.display())
        });
        let mut nats = Nats { port, process };
        let began = Instant::now();
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            let ended = nats.process.try_wait().expect("a process").is_some();
            let log = || fs::read_to_string(dir.join("nats.log")).unwrap_or_default();
            assert!(!ended, "it ends (sync_interval needs nats-server 2.10 or later): {}", log());
            assert!(began.elapsed() < DEADLINE, "it does not start: {}", log());
            std::thread::sleep(Duration::from_millis(5));
        }
        nats
    }

    async fn stream(&self) {
        let mut client = Client::new(self.port, "setup").await;
        let made = r#"{"name":"BENCH","subjects":["bench.*"],"storage":"file","retention":"limits","num_replicas":1}"#;
        client.ask("$JS.API.STREAM.CREATE.BENCH", made).await;
    }

    /// How many messages are stored.
    async fn stored(&self) -> u64 {
        let mut client = Client::new(self.port, "count").await;
        let answer = client.ask("$JS.API.STREAM.INFO.BENCH", "").await;
        answer["state"]["messages"].as_u64().expect("a count")
    }

    /// Every connection waits for the answer to each message; messages per second.
    pub async fn publish_and_wait(&self, load: &Load) -> f64 {
        self.publish(load, 1, 1).await
    }

    /// Every connection goes on until so many answers are outstanding; messages per second.
    pub async fn publish_on(&self, load: &Load, window: usize) -> f64 {
        self.publish(load, window, BATCH.min(window)).await
    }

    async fn publish(&self, load: &Load, window: usize, piece: usize) -> f64 {
        self.stream().await;
        let port = self.port;
        let (rate, events) = load.rate(|number, count| publishing(port, number, window, piece, count)).await;
        assert_eq!(self.stored().await, events, "what was acknowledged is there");
        rate
    }
}

/// One connection that publishes until it is over, `piece` messages at once.
async fn publishing(port: u16, number: usize, window: usize, piece: usize, count: Count) {
    let mut client = Client::new(port, &format!("c{number}")).await;
    let inbox = client.inbox.clone();
    let messages: Vec<Vec<u8>> = (0..4)
        .map(|one| {
            let first = number as u64 * 1_000_000 + one * piece as u64;
            let message = |n: u64| format!("PUB bench.{number} {inbox} {EVENT_BYTES}\r\n{}\r\n", event(n, EVENT_BYTES));
            (first..first + piece as u64).map(message).collect::<String>().into_bytes()
        })
        .collect();
    let mut outstanding = 0;
    for message in messages.iter().cycle() {
        if count.is_over() {
            break;
        }
        client.stream.write_all(message).await.expect("it is sent");
        outstanding += piece;
        while outstanding + piece > window {
            let answered = client.answers().await;
            count.add(answered as u64);
            outstanding -= answered;
        }
    }
    while outstanding > 0 {
        let answered = client.answers().await;
        count.add(answered as u64);
        outstanding -= answered;
    }
}

/// A connection that hears what comes to its inbox.
struct Client {
    stream: TcpStream,
    inbox: String,
    buffer: Vec<u8>,
    filled: usize,
    /// What is left of the last message.
    last: serde_json::Value,
}

impl Client {
    async fn new(port: u16, name: &str) -> Client {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await.expect("connects");
        stream.set_nodelay(true).expect("a socket");
        let inbox = format!("_INBOX.{name}");
        let hello = format!(
            "CONNECT {{\"verbose\":false,\"pedantic\":false,\"lang\":\"rust\",\"version\":\"1\",\"protocol\":1}}\r\nSUB {inbox} 1\r\n"
        );
        stream.write_all(hello.as_bytes()).await.expect("it is sent");
        Client { stream, inbox, buffer: vec![0; 256 << 10], filled: 0, last: serde_json::Value::Null }
    }

    /// Asks JetStream's own interface.
    async fn ask(&mut self, subject: &str, body: &str) -> serde_json::Value {
        let request = format!("PUB {subject} {} {}\r\n{body}\r\n", self.inbox, body.len());
        self.stream.write_all(request.as_bytes()).await.expect("it is sent");
        while self.answers().await == 0 {}
        let answer = std::mem::take(&mut self.last);
        assert!(answer.get("error").is_none(), "{answer}");
        answer
    }

    /// Reads, and counts the messages that have come.
    async fn answers(&mut self) -> usize {
        let read = self.stream.read(&mut self.buffer[self.filled..]).await.expect("it is read");
        assert!(read > 0, "the server has ended the connection");
        self.filled += read;
        let (mut at, mut answers) = (0, 0);
        while let Some(end) = line_end(&self.buffer[at..self.filled]) {
            let line = &self.buffer[at..at + end];
            let after = at + end + 2;
            if line.starts_with(b"MSG ") {
                let length = line.rsplit(|byte| *byte == b' ').next().and_then(|text| std::str::from_utf8(text).ok());
                let length: usize = length.and_then(|text| text.parse().ok()).expect("a length");
                if after + length + 2 > self.filled {
                    break;
                }
                let body = &self.buffer[after..after + length];
                if body.starts_with(b"{\"stream\"") {
                    answers += 1;
                } else {
                    self.last = serde_json::from_slice(body).expect("JSON");
                    assert!(self.last.get("error").is_none(), "{}", self.last);
                    answers += 1;
                }
                at = after + length + 2;
                continue;
            }
            match line.first() {
                Some(b'P') if line == b"PING" => self.stream.write_all(b"PONG\r\n").await.expect("it is sent"),
                Some(b'-') => panic!("{}", String::from_utf8_lossy(line)),
                _ => {}
            }
            at = after;
        }
        self.buffer.copy_within(at..self.filled, 0);
        self.filled -= at;
        answers
    }
}

fn line_end(bytes: &[u8]) -> Option<usize> {
    let end = bytes.iter().position(|byte| *byte == b'\r')?;
    (bytes.get(end + 1) == Some(&b'\n')).then_some(end)
}
