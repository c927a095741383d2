//! Figures, not laws: `cargo test --release --test it sqlite_capture::pace -- --ignored --nocapture`.

use std::time::{Duration, Instant};

use rusqlite::Connection;

use super::bed::Bed;

const ROWS: u32 = 300_000;
const TABLE: &str =
    "CREATE TABLE t(id INTEGER PRIMARY KEY, email TEXT UNIQUE, name TEXT, score REAL, n INTEGER, note TEXT);";

fn timed(mut work: impl FnMut()) -> Duration {
    let begun = Instant::now();
    work();
    begun.elapsed()
}

fn write(conn: &Connection) -> [Duration; 2] {
    let insert = format!(
        "WITH RECURSIVE i(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM i WHERE i < {ROWS})
         INSERT INTO t SELECT i, 'user' || i || '@example.com', 'Name ' || i, i * 0.5, i, 'a note of some length, as notes are' FROM i"
    );
    let update = "UPDATE t SET n = n + 1, score = score + 0.5";
    [timed(|| conn.execute_batch(&insert).unwrap()), timed(|| conn.execute_batch(update).unwrap())]
}

// Not a test: it prints what triggers cost a writer, which depends on the machine.
#[test]
#[ignore = "measures; asserts nothing about speed"]
fn figures() {
    let plain = Bed::new("wal", TABLE);
    let bare = write(&Connection::open(&plain.path).unwrap());
    let bed = Bed::new("wal", TABLE);
    let (mut capture, _) = bed.begin();
    let triggered = write(&Connection::open(&bed.path).unwrap());
    let mut changes = 0;
    let reading = timed(|| changes = capture.poll().unwrap().unwrap().changes);
    assert_eq!(changes, 2 * u64::from(ROWS));
    let per = |time: Duration| time.as_nanos() / u128::from(ROWS);
    for (what, index) in [("insert", 0), ("update", 1)] {
        println!("{what}: {} ns a row bare, {} ns captured", per(bare[index]), per(triggered[index]));
    }
    println!("reading: {:.0} rows/s ({} rows in {reading:?})", changes as f64 / reading.as_secs_f64(), changes);
    let idle = timed(|| assert!((0..10_000).all(|_| capture.poll().unwrap().is_none())));
    println!("idle poll: {:?}", idle / 10_000);
}
