//! Originals that are not what they should be: whatever comes, nothing wrong is stored and the mirror's node lives.

use std::io::Write;
use std::net::TcpListener;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use watershed::model::{
    Cursor, Entry, EntryHeader, Epoch, FeedRow, Lamport, LogId, Position, Timestamp, feed_table, put_feed_row,
};
use watershed::peer::protocol::frame;
use watershed::peer::{FeedEntries, FeedFacts, FeedMessage, FeedPart};

use super::*;

/// Answers every request with the same bytes.
struct Fake {
    port: u16,
    answer: Arc<Mutex<Vec<u8>>>,
}

impl Fake {
    fn new() -> Fake {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let answer: Arc<Mutex<Vec<u8>>> = Arc::default();
        let given = answer.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { return };
                let answer = given.lock().expect("not poisoned").clone();
                std::thread::spawn(move || {
                    let mut request = [0; 4096];
                    let _ = stream.read(&mut request);
                    let _ = stream.write_all(&answer);
                    // What has nothing to say stays silent; otherwise the answer ends here.
                    if answer.is_empty() {
                        std::thread::sleep(Duration::from_secs(30));
                    }
                });
            }
        });
        Fake { port, answer }
    }

    fn answers(&self, head: &str, body: &[u8]) {
        let mut answer = format!("HTTP/1.1 {head}\r\nconnection: close\r\n\r\n").into_bytes();
        answer.extend_from_slice(body);
        *self.answer.lock().expect("not poisoned") = answer;
    }

    fn streams(&self, messages: &[Bytes]) {
        self.answers("200 OK\r\ncontent-type: application/vnd.watershed.entries", &messages.concat());
    }
}

fn facts(parts: u32) -> Bytes {
    let part = |number: u32| FeedPart {
        id: LogId(70 + u128::from(number)),
        epochs: vec![(Epoch(5), Position(1))],
        oldest: Position(1),
        tail: Position(9),
        lamport: Lamport(9),
    };
    frame(FeedMessage::Feeds(vec![FeedFacts { log: "orders".into(), parts: (0..parts).map(part).collect() }]))
}

fn entry(position: u64, says: u64) -> Entry {
    let table = feed_table("orders".parse().expect("a name"));
    let mut changes = Vec::new();
    put_feed_row(&mut changes, &FeedRow { table: 0, key: None, row: &position.to_string() });
    let origin = Cursor { log: LogId(70), epoch: Epoch(5), position: Position(says) };
    let header = EntryHeader {
        origin: Some(origin),
        lamport: Lamport(says),
        time: Timestamp(1),
        tables: vec![table.fingerprint],
        ..EntryHeader::default()
    };
    Entry::new(header, changes.into())
}

fn stretch(first: u64, entries: Vec<Entry>) -> FeedEntries {
    FeedEntries {
        log: "orders".into(),
        partition: 0,
        first: Position(first),
        epochs: vec![(Epoch(5), Position(1))],
        tables: vec![Arc::new(feed_table("orders".parse().expect("a name")))],
        entries,
        tail: Position(9),
        time: Timestamp(1),
    }
}

fn sent(entries: FeedEntries) -> Bytes {
    frame(FeedMessage::Entries(entries))
}

fn whole(position: u64) -> Bytes {
    sent(stretch(position, vec![entry(position, position)]))
}

/// A frame that is valid but for one byte.
fn damaged(frame: Bytes) -> Bytes {
    let mut bytes = frame.to_vec();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    bytes.into()
}

/// What is streamed, which trouble is told, and how many entries are stored.
fn streams() -> Vec<(&'static str, Vec<Bytes>, &'static str, u64)> {
    let part = Entry::new(EntryHeader { more: true, ..entry(2, 2).header().clone() }, Bytes::new());
    let none = Entry::new(EntryHeader { origin: None, ..entry(2, 2).header().clone() }, Bytes::new());
    let refused = FeedMessage::Refused { log: "orders".into(), partition: 0, code: "X".into(), why: "no".into() };
    vec![
        ("nothing", vec![], "WS-MIRROR-001", 0),
        ("no messages", vec![Bytes::from_static(b"\x05\0\0\0<html>not found</html>")], "WS-MIRROR-002", 0),
        ("a length beyond all bounds", vec![Bytes::from_static(b"\xff\xff\xff\xff")], "WS-MIRROR-002", 0),
        ("a wrong checksum", vec![damaged(facts(1))], "WS-MIRROR-002", 0),
        ("entries before facts", vec![whole(1)], "WS-MIRROR-002", 0),
        ("too many partitions", vec![facts(65)], "WS-MIRROR-002", 0),
        ("no partition", vec![facts(0)], "WS-MIRROR-002", 0),
        ("a truncated message", vec![facts(1), whole(1), whole(2).slice(..20)], "WS-MIRROR-001", 1),
        ("a gap", vec![facts(1), whole(1), whole(3)], "WS-MIRROR-002", 1),
        ("the same again", vec![facts(1), whole(1), whole(1)], "WS-MIRROR-002", 1),
        ("another position", vec![facts(1), whole(1), sent(stretch(2, vec![entry(2, 7)]))], "WS-MIRROR-002", 1),
        ("a part", vec![facts(1), whole(1), sent(stretch(2, vec![part]))], "WS-MIRROR-002", 1),
        ("no origin", vec![facts(1), whole(1), sent(stretch(2, vec![none]))], "WS-MIRROR-002", 1),
        (
            "an unknown table",
            vec![facts(1), sent(FeedEntries { tables: vec![], ..stretch(1, vec![entry(1, 1)]) })],
            "WS-MIRROR-002",
            0,
        ),
        (
            "another epoch",
            vec![
                facts(1),
                whole(1),
                sent(FeedEntries { epochs: vec![(Epoch(6), Position(1))], ..stretch(2, vec![entry(2, 2)]) }),
            ],
            "WS-MIRROR-002",
            1,
        ),
        (
            "another partition",
            vec![facts(1), sent(FeedEntries { partition: 1, ..stretch(1, vec![entry(1, 1)]) })],
            "WS-MIRROR-002",
            0,
        ),
        ("a refusal in the stream", vec![facts(1), whole(1), frame(refused)], "WS-MIRROR-002", 1),
    ]
}

fn lives(copy: &mut Site, what: &str, code: &str, stored: u64) {
    crate::tree::site::wait(&format!("{what}: {code}"), || copy.log().contains(code));
    assert!(copy.status()["problems"].to_string().contains("WS-MIRROR-"), "{what}");
    let tail = get(copy, "orders").1["tail"].as_u64().unwrap_or_default();
    assert_eq!(tail, stored, "{what}");
    copy.kill();
    // Where there was never anything there is no folder.
    let _ = std::fs::remove_dir_all(copy.data().join("feeds"));
    std::fs::remove_file(copy.dir.join("node.log")).expect("removed");
}

#[test]
fn nothing_wrong_is_stored_and_the_node_lives() {
    let ground = Ground::new();
    let fake = Fake::new();
    let mut copy = ground.log_site("copy");
    copy.configure(None, &format!("[log.orders]\nmirror = \"http://127.0.0.1:{}/v1/logs/orders\"\n", fake.port));
    for (what, messages, code, stored) in streams() {
        fake.streams(&messages);
        copy.up();
        lives(&mut copy, what, code, stored);
    }
    for (head, code) in [
        ("200 OK\r\ncontent-type: text/html", "WS-MIRROR-002"),
        ("302 Found\r\nlocation: http://127.0.0.1:1/", "WS-MIRROR-002"),
        ("404 Not Found", "WS-MIRROR-004"),
        ("401 Unauthorized", "WS-MIRROR-003"),
        ("410 Gone", "WS-MIRROR-005"),
        ("409 Conflict", "WS-MIRROR-006"),
        ("503 Service Unavailable", "WS-MIRROR-001"),
    ] {
        fake.answers(head, b"{\"message\":\"\x1b[31m\\u0007 no\"}");
        copy.up();
        lives(&mut copy, head, code, 0);
    }
    fake.answer.lock().expect("not poisoned").clear();
    copy.up();
    lives(&mut copy, "silence", "WS-MIRROR-001", 0);
}

/// A small disk, or `None` where this user may not mount one.
struct SmallDisk(std::path::PathBuf);

impl SmallDisk {
    fn mount(at: &std::path::Path) -> Option<SmallDisk> {
        std::fs::create_dir_all(at).expect("a folder");
        let mut mount = std::process::Command::new("mount");
        let mounted = mount.args(["-t", "tmpfs", "-o", "size=24m", "small"]).arg(at).output().ok()?;
        mounted.status.success().then(|| SmallDisk(at.into()))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn a_full_disk_at_the_mirror_is_waited_out() {
    let ground = Ground::new();
    let hub = node(&ground, ORDERS);
    let mut copy = ground.log_site("copy");
    let Some(disk) = SmallDisk::mount(&copy.data()) else {
        eprintln!("this user may not mount a small disk: not tested");
        return;
    };
    let small = "retain = { bytes = \"8MiB\" }\n";
    copy.configure(None, &format!("[log.main]\n{small}{}{small}", super::mirror::mirror_of(&hub, "orders")));
    copy.up();
    append(&hub, "orders", r#"{"row":1}"#);
    super::mirror::caught_up(&hub, &copy, "orders");
    let ballast = disk.0.join("ballast");
    let mut file = std::fs::File::create(&ballast).expect("a file");
    while file.write_all(&[1; 4096]).is_ok() {}
    drop(file);
    let row = format!("{{\"row\":\"{}\"}}", "x".repeat(500_000));
    for _ in 0..8 {
        append(&hub, "orders", &row);
    }
    copy.wait_problem("WS-MIRROR-007");
    std::fs::remove_file(&ballast).expect("removed");
    super::mirror::caught_up(&hub, &copy, "orders");
    assert_eq!(super::mirror::lines(&copy, "orders"), super::mirror::lines(&hub, "orders"));
    copy.kill();
}
