//! Clients that ask for nothing, for half of something, or for everything and then do not read it.

use std::io::{ErrorKind, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::Instant;

use super::*;
use crate::tree::site::wait;

const PATIENCE: Duration = Duration::from_secs(60);

fn connect(site: &Site) -> TcpStream {
    let stream = TcpStream::connect(("127.0.0.1", site.port)).expect("connects");
    stream.set_read_timeout(Some(PATIENCE)).expect("set");
    stream
}

/// What comes until the connection is closed, or broken.
fn rest(stream: &mut TcpStream) -> (String, Option<ErrorKind>) {
    let mut bytes = Vec::new();
    let broken = stream.read_to_end(&mut bytes).err().map(|error| error.kind());
    (String::from_utf8_lossy(&bytes).into_owned(), broken)
}

/// Sends bytes and reads to the end of the connection.
fn raw(site: &Site, bytes: &[u8]) -> String {
    let mut stream = connect(site);
    stream.write_all(bytes).expect("sent");
    rest(&mut stream).0
}

/// A figure of `/proc/PID/status`, in KiB.
pub fn memory_kib(site: &Site) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", site.pid())).expect("it runs");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("a figure");
    line.split_whitespace().nth(1).and_then(|number| number.parse().ok()).expect("a number")
}

fn metric(site: &Site, name: &str) -> u64 {
    let (_, text) = site.get("/metrics").expect("metrics");
    let line = text.lines().find(|line| line.starts_with(&format!("watershed_{name} ")));
    line.and_then(|line| line.split(' ').nth(1)).and_then(|number| number.parse::<f64>().ok()).expect("a metric") as u64
}

#[test]
fn half_a_request_is_answered_when_its_time_is_over_and_a_pause_is_no_half() {
    let ground = Ground::new();
    let site = node(&ground, ORDERS);
    let begun = Instant::now();
    let halves = [
        "G",
        "GET /healthz HTTP/1.1\r\nHost: local",
        "POST /v1/logs/orders/entries HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n",
    ];
    let mut heads: Vec<TcpStream> = halves
        .iter()
        .map(|half| {
            let mut stream = connect(&site);
            stream.write_all(half.as_bytes()).expect("sent");
            stream
        })
        .collect();
    let mut bodies: Vec<TcpStream> = ["{\"row\":", "5\r\n{\"row\r\n"]
        .iter()
        .enumerate()
        .map(|(n, half)| {
            let mut stream = connect(&site);
            let length = if n == 0 { "Content-Length: 100" } else { "Transfer-Encoding: chunked" };
            let head = format!("POST /v1/logs/orders/entries HTTP/1.1\r\nHost: localhost\r\n{length}\r\n\r\n{half}");
            stream.write_all(head.as_bytes()).expect("sent");
            stream
        })
        .collect();
    // One that asks, pauses for longer than half a request may take, and asks again.
    let mut pausing = connect(&site);
    let ask = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let hear = |stream: &mut TcpStream| {
        stream.write_all(ask).expect("sent");
        let mut answer = [0; 512];
        let length = stream.read(&mut answer).expect("answered");
        String::from_utf8_lossy(&answer[..length]).into_owned()
    };
    assert!(hear(&mut pausing).starts_with("HTTP/1.1 200"));
    for stream in &mut heads {
        let (told, _) = rest(stream);
        assert!(told.starts_with("HTTP/1.1 408") && told.contains("WS-HTTP-023"), "{told:?}");
    }
    assert!(begun.elapsed() >= Duration::from_secs(9));
    assert!(hear(&mut pausing).starts_with("HTTP/1.1 200"));
    for stream in &mut bodies {
        let (told, _) = rest(stream);
        assert!(told.starts_with("HTTP/1.1 408") && told.contains("WS-FEED-013"), "{told:?}");
    }
    assert_eq!(metric(&site, "http_late_total"), 3);
    assert!(entries(&site, "orders/entries").is_empty());
}

#[test]
fn what_is_no_http_is_answered_or_closed() {
    let ground = Ground::new();
    let site = node(&ground, ORDERS);
    let large = format!("GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: {}\r\n\r\n", "x".repeat(100_000));
    let many = format!("GET /healthz HTTP/1.1\r\nHost: localhost\r\n{}\r\n", "a: b\r\n".repeat(5_000));
    let long = format!("GET /{} HTTP/1.1\r\nHost: localhost\r\n\r\n", "x".repeat(100_000));
    let post = "POST /v1/logs/orders/entries HTTP/1.1\r\nHost: localhost\r\n";
    for (bytes, status) in [
        (large.into_bytes(), "431"),
        (many.into_bytes(), "431"),
        (long.into_bytes(), "431"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(), "400"),
        (b"GET /\x00 HTTP/1.1\r\n\r\n".to_vec(), "400"),
        (b"HELO there\r\n\r\n".to_vec(), "400"),
        (format!("{post}Content-Length: -1\r\n\r\n").into_bytes(), "400"),
        (format!("{post}Content-Length: 1\r\nContent-Length: 2\r\n\r\n1").into_bytes(), "400"),
        (format!("{post}Transfer-Encoding: chunked\r\nConnection: close\r\n\r\nzz\r\n").into_bytes(), "400"),
        (format!("{post}Expect: 100-continue\r\nContent-Length: 99999999999999999999\r\n\r\n").into_bytes(), "400"),
    ] {
        let told = raw(&site, &bytes);
        let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(80)]).into_owned();
        assert!(told.starts_with(&format!("HTTP/1.1 {status}")), "{shown:?}: {told:?}");
    }
    assert!(site.get("/healthz").is_some_and(|(code, _)| code == 200));
    assert!(!site.log().contains("panicked"), "{}", site.log());
}

#[test]
fn bodies_that_are_packed_or_too_large_are_refused_everywhere() {
    let ground = Ground::new();
    let site = node(&ground, ORDERS);
    let (url, token) =
        (format!("http://127.0.0.1:{}/v1/logs", site.port), std::fs::read_to_string(site.data().join("admin.token")));
    let bearer = format!("Bearer {}", token.expect("a token").trim());
    // Ten megabytes of zeros in ten kilobytes.
    let bomb = Command::new("sh").args(["-c", "head -c 10000000 /dev/zero | gzip -9"]).output().expect("gzip").stdout;
    for encoding in ["gzip", "deflate", "br", "zstd", "gzip, identity", "x"] {
        let put = agent().put(format!("{url}/orders/consumers/a")).header("Content-Encoding", encoding);
        let (status, told) = answer(put.header("Content-Type", "application/json").send(&bomb[..]));
        assert_eq!((status, &told["code"]), (415, &"WS-FEED-012".into()), "{encoding}: {told}");
        let post = agent().post(&url).header("Content-Encoding", encoding).header("Authorization", &bearer);
        assert_eq!(answer(post.send(&bomb[..])).0, 415, "{encoding}");
    }
    let large = format!("{{\"name\":\"{}\"}}", "x".repeat(70_000));
    for path in ["", "/orders/trim", "/orders/retain"] {
        let post = agent().post(format!("{url}{path}")).header("Authorization", &bearer);
        let (status, told) = answer(post.header("Content-Type", "application/json").send(&large));
        assert!(status == 413 && told["message"].to_string().contains("65536"), "{path}: {status} {told}");
    }
    let put = agent().put(format!("{url}/orders/consumers/a")).header("Content-Type", "application/json");
    assert_eq!(answer(put.send(&large)).0, 413);
}

#[test]
fn more_connections_than_there_is_room_for_are_told_so() {
    let ground = Ground::new();
    let mut site = ground.log_site("hub");
    site.configure(None, ORDERS);
    let mut process = Command::new("sh")
        .args(["-c", "ulimit -n 200; exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_watershed"), "run", "-c"])
        .arg(site.config())
        .stdin(Stdio::null())
        .stderr(std::fs::File::create(site.dir.join("node.log")).expect("a log"))
        .spawn()
        .expect("starts");
    site.wait_healthy();
    let mut streams: Vec<TcpStream> = (0..250).map(|_| connect(&site)).collect();
    let mut told = 0;
    // Those that were accepted wait for a request: 75 of a hundred files are for them.
    for stream in &mut streams[150..] {
        let (text, _) = rest(stream);
        told += usize::from(
            text.starts_with("HTTP/1.1 503") && text.contains("WS-HTTP-024") && text.contains("retry-after"),
        );
    }
    assert!(told > 0, "nobody was told");
    drop(streams);
    wait("there is room again", || site.get("/healthz").is_some_and(|(code, _)| code == 200));
    assert!(metric(&site, "http_turned_away_total") >= 100);
    append(&site, "orders", "{\"row\":1}");
    process.kill().expect("killed");
    process.wait().expect("ended");
}

#[test]
fn ten_thousand_idle_connections_cost_little_and_hold_up_nobody() {
    const IDLE: usize = 10_000;
    let allowed = watershed::node::raise_open_files();
    assert!(
        allowed.is_none_or(|files| files > (IDLE + IDLE / 4) as u64),
        "{allowed:?} files may be open: too few for this test"
    );
    let ground = Ground::new();
    let site = node(&ground, ORDERS);
    append(&site, "orders", "{\"row\":1}");
    let before = memory_kib(&site);
    let mut idle: Vec<TcpStream> = Vec::with_capacity(IDLE);
    while idle.len() < IDLE {
        idle.push(connect(&site));
    }
    wait("they are accepted", || metric(&site, "http_connections") > IDLE as u64 - 1);
    let each = (memory_kib(&site).saturating_sub(before) * 1024) / IDLE as u64;
    println!("memory per idle connection: {each} bytes");
    assert!(each < 16 << 10, "{each} bytes per idle connection");
    let begun = Instant::now();
    append(&site, "orders", "{\"row\":2}");
    assert_eq!(entries(&site, "orders/entries").len(), 2);
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    // They are all alive: any of them may ask.
    for stream in idle.iter_mut().step_by(1_000) {
        stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").expect("sent");
        assert!(rest(stream).0.starts_with("HTTP/1.1 200"));
    }
    drop(idle);
    wait("they are gone", || metric(&site, "http_connections") < 10);
}

/// A log with so many entries of about a megabyte.
fn filled(site: &Site, count: usize) {
    let row = format!("{{\"row\":\"{}\"}}", "x".repeat((1 << 20) - 100));
    for _ in 0..count {
        append(site, "orders", &row);
    }
}

/// Reads everything, and counts it.
fn counted(site: &Site) -> usize {
    let ask = b"GET /v1/logs/orders/entries?after=0 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    raw(site, ask).matches("{\"position\":").count()
}

#[test]
fn who_stops_reading_is_cut_off_costs_little_and_harms_no_other_reader() {
    let ground = Ground::new();
    let site = node(&ground, ORDERS);
    filled(&site, 40);
    assert_eq!(counted(&site), 40);
    let before = memory_kib(&site);
    let mut slow = Vec::new();
    for n in 0..60 {
        let asks = [
            "Accept: text/event-stream",
            "Accept: application/x-ndjson",
            "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        ];
        let ask = asks[n % 3];
        let mut stream = connect(&site);
        let head = format!("GET /v1/logs/orders/entries?after=0 HTTP/1.1\r\nHost: localhost\r\n{ask}\r\n\r\n");
        stream.write_all(head.as_bytes()).expect("sent");
        slow.push(stream);
    }
    // Everything goes on beside them.
    for n in 0..5 {
        append(&site, "orders", &format!("{{\"row\":{n}}}"));
        assert_eq!(entries(&site, "orders/entries?tail=1").len(), 1);
    }
    assert_eq!(counted(&site), 45);
    let each = memory_kib(&site).saturating_sub(before) / 60;
    println!("memory per stalled reader: {each} KiB");
    assert!(each < 6 << 10, "{each} KiB per stalled reader, whose entries are of 1 MiB");
    wait("they are cut off", || metric(&site, "http_cut_off_total") == 60);
    for stream in &mut slow {
        let (text, broken) = rest(stream);
        assert!(
            broken == Some(ErrorKind::ConnectionReset),
            "it looks like an end: {broken:?} after {} bytes",
            text.len()
        );
    }
    assert!(site.log().contains("has taken nothing of its answer for 30 s, and is cut off"));
}

#[test]
fn a_long_answer_that_is_quiet_is_no_silence() {
    let ground = Ground::new();
    let site = node(&ground, ORDERS);
    // Longer than half a request may take: the connection is used, and can be used again.
    let mut stream = connect(&site);
    stream
        .write_all(b"GET /v1/logs/orders/entries?after=0&wait=12s HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .expect("sent");
    let mut until = |text: &str, ask: &[u8]| {
        stream.write_all(ask).expect("sent");
        let mut heard = String::new();
        while !heard.contains(text) {
            let mut bytes = [0; 1024];
            let length = stream.read(&mut bytes).expect("read");
            assert!(length > 0, "it was closed after {heard:?}");
            heard.push_str(&String::from_utf8_lossy(&bytes[..length]));
        }
    };
    until("0\r\n\r\n", b"");
    until("ok\n", b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n");
}
