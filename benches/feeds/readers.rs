//! Many readers of one feed's events, while programs append to it.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::load::{Count, Load};
use super::node::{Node, appending};

/// The end of the last read that is looked at again with the next one: no longer than the place of a position.
const CARRY: usize = 64;
const READ_BYTES: usize = 256 << 10;
const DEADLINE: Duration = Duration::from_secs(120);

/// What was found.
pub struct Found {
    /// Entries that all readers together got per second.
    pub delivered: f64,
    /// Entries appended per second meanwhile.
    pub appended: f64,
    /// The most memory that the node took for each of them.
    pub kib_per_reader: f64,
    /// The same while nothing was appended.
    pub idle_kib_per_reader: f64,
    /// So long after the last append the last reader had everything.
    pub behind: Duration,
}

/// Where a reader is; `None` until it has been told that it has everything.
type Place = Rc<Cell<Option<u64>>>;

thread_local! {
    /// One thread reads for all of them.
    static BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; CARRY + READ_BYTES]);
}

/// The position of the last entry in these bytes that is told whole.
fn last_position(bytes: &[u8]) -> Option<u64> {
    const NAME: &[u8] = b"\"position\":";
    let mut end = bytes.len();
    loop {
        let at = bytes[..end].windows(NAME.len()).rposition(|window| window == NAME)?;
        let digits = &bytes[at + NAME.len()..];
        let length = digits.iter().take_while(|byte| byte.is_ascii_digit()).count();
        if digits.get(length) == Some(&b',') {
            return std::str::from_utf8(&digits[..length]).ok()?.parse().ok();
        }
        end = at + NAME.len() - 1;
    }
}

async fn reading(port: u16, place: Place) {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.expect("connects");
    let request = "GET /v1/logs/orders/entries HTTP/1.1\r\nhost: localhost\r\naccept: text/event-stream\r\n\r\n";
    stream.write_all(request.as_bytes()).await.expect("asked");
    let mut head = vec![0; 4096];
    let mut filled = 0;
    while !head[..filled].windows(14).any(|window| window == b"event: current") {
        let read = stream.read(&mut head[filled..]).await.expect("it is read");
        assert!(read > 0, "the answer ends: {}", String::from_utf8_lossy(&head[..filled]));
        filled += read;
    }
    place.set(Some(0));
    let mut carry = Vec::with_capacity(CARRY);
    loop {
        stream.readable().await.expect("a socket");
        let read = BUFFER.with_borrow_mut(|buffer| {
            let start = CARRY - carry.len();
            buffer[start..CARRY].copy_from_slice(&carry);
            let read = match stream.try_read(&mut buffer[CARRY..]) {
                Ok(read) => read,
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return None,
                Err(error) => panic!("{error}"),
            };
            let seen = &buffer[start..CARRY + read];
            if let Some(position) = last_position(seen) {
                place.set(Some(position));
            }
            carry.clear();
            carry.extend_from_slice(&seen[seen.len() - seen.len().min(CARRY)..]);
            Some(read)
        });
        if read == Some(0) {
            return;
        }
    }
}

/// Waits until a condition holds for every reader.
async fn wait(what: &str, places: &[Place], condition: impl Fn(Option<u64>) -> bool) {
    let began = Instant::now();
    while !places.iter().all(|place| condition(place.get())) {
        assert!(began.elapsed() < DEADLINE, "it does not come about: {what}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Has so many readers follow a feed that is appended to.
pub async fn run(node: &Node, readers: usize, load: &Load) -> Found {
    // What appending alone needs is not the readers'.
    let warming = Load { time: Duration::from_secs(1), ..*load };
    node.append(&warming, 1).await;
    let alone = node.resident_kib();
    let places: Vec<Place> = (0..readers).map(|_| Place::default()).collect();
    let port = node.port;
    let tasks: Vec<_> = places.iter().map(|place| tokio::task::spawn_local(reading(port, place.clone()))).collect();
    wait("all readers have everything", &places, |place| place.is_some()).await;
    let idle = node.resident_kib();
    let (first, count, began) = (node.tail().await, Count::default(), Instant::now());
    let appenders: Vec<_> = (0..load.connections)
        .map(|number| tokio::task::spawn_local(appending(port, number, 1, count.clone())))
        .collect();
    let mut most = idle;
    while began.elapsed() < load.time {
        tokio::time::sleep(Duration::from_millis(20)).await;
        most = most.max(node.resident_kib());
    }
    count.end();
    for appender in appenders {
        appender.await.expect("it appends");
    }
    let (stopped, last) = (began.elapsed(), node.tail().await);
    wait("all readers have all that was appended", &places, |place| place == Some(last)).await;
    let took = began.elapsed();
    most = most.max(node.resident_kib());
    tasks.iter().for_each(|task| task.abort());
    let each = |kib: u64| kib.saturating_sub(alone) as f64 / readers as f64;
    Found {
        delivered: (last - first) as f64 * readers as f64 / took.as_secs_f64(),
        appended: (last - first) as f64 / stopped.as_secs_f64(),
        kib_per_reader: each(most),
        idle_kib_per_reader: each(idle),
        behind: took - stopped,
    }
}
