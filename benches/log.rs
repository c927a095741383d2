//! How fast a log on disk is, fsync on, against a hand-written file and against SQLite, in one process.
//!
//! `cargo bench --bench log`; the folder is `WATERSHED_BENCH_DIR`, or one under `target/` (it should be on a real disk).
//! The sides take turns in rounds and the medians are compared. Preallocation is done before anything is timed, and
//! records are built before they are timed.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use watershed::log::segments::{SegmentLog, SegmentOptions};
use watershed::log::{Append, Draft, Limit, Log, Source};
use watershed::model::{
    Change, Column, EntryHeader, Kind, LinkId, Op, Position, TableDef, Timestamp, Value, encode_changes,
};

const RECORD_BYTES: usize = 200;
const SEGMENT_BYTES: u64 = 128 << 20;
const ROUNDS: usize = 9;

fn table() -> Arc<TableDef> {
    let column = |name: &str, type_name: &str, key| Column { name: name.into(), type_name: type_name.into(), key };
    let columns = vec![column("id", "integer", 1), column("body", "text", 0)];
    Arc::new(TableDef::new("events".parse().expect("a name"), columns))
}

/// One change with about 200 bytes of payload.
fn changes(i: usize) -> Bytes {
    let body = format!("{i:0190}");
    let row = vec![Value::new(Kind::Integer, i.to_string()), Value::new(Kind::Typed, body)];
    let bytes = encode_changes(&[Change { table: 0, op: Op::Insert, row: Some(row), old: None }]);
    assert!(bytes.len() >= RECORD_BYTES, "{}", bytes.len());
    bytes
}

fn drafts(table: &TableDef, n: usize) -> Vec<Draft> {
    let header = || EntryHeader {
        time: Timestamp::now(),
        node: "bench".into(),
        tables: vec![table.fingerprint],
        ..EntryHeader::default()
    };
    (0..n).map(|i| Draft::Local { header: header(), changes: changes(i) }).collect()
}

fn append(table: &Arc<TableDef>, n: usize) -> Append {
    Append { from: LinkId::LOCAL, tables: vec![table.clone()], drafts: drafts(table, n), upto: None }
}

fn open(dir: PathBuf) -> SegmentLog {
    let options = SegmentOptions { segment_bytes: SEGMENT_BYTES, ..SegmentOptions::new(&dir) };
    let log = SegmentLog::open(options).expect("the bench folder is writable");
    let reserve = dir.join("reserve.new");
    let ready = || std::fs::metadata(&reserve).is_ok_and(|file| file.len() >= SEGMENT_BYTES);
    while !ready() {
        std::thread::sleep(Duration::from_millis(50));
    }
    // Nothing that was preallocated may be written back while something else is timed.
    for name in std::fs::read_dir(&dir).expect("listed") {
        let _ = File::open(name.expect("an entry").path()).and_then(|file| file.sync_all());
    }
    log
}

/// The floor: a preallocated file, one write and one fdatasync per batch.
struct Floor {
    file: File,
    offset: u64,
    buffer: Vec<u8>,
}

impl Floor {
    fn new(path: &Path) -> Floor {
        let file = OpenOptions::new().create_new(true).write(true).open(path).expect("a file");
        let zeroes = vec![0; 1 << 20];
        for i in 0..SEGMENT_BYTES >> 20 {
            file.write_all_at(&zeroes, i << 20).expect("room");
        }
        file.sync_all().expect("synced");
        Floor { file, offset: 0, buffer: Vec::new() }
    }

    fn append(&mut self, records: &[Bytes]) {
        self.buffer.clear();
        for record in records {
            self.buffer.extend_from_slice(&(record.len() as u32).to_le_bytes());
            self.buffer.extend_from_slice(record);
        }
        self.file.write_all_at(&self.buffer, self.offset).expect("written");
        self.file.sync_data().expect("synced");
        self.offset += self.buffer.len() as u64;
    }
}

fn sqlite(path: &Path) -> rusqlite::Connection {
    let db = rusqlite::Connection::open(path).expect("opened");
    db.execute_batch(
        "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; CREATE TABLE log(position INTEGER PRIMARY KEY, record BLOB)",
    )
    .expect("set up");
    db
}

fn sqlite_append(db: &mut rusqlite::Connection, records: &[Bytes]) {
    let tx = db.transaction().expect("begun");
    {
        let mut insert = tx.prepare_cached("INSERT INTO log(record) VALUES (?1)").expect("prepared");
        for record in records {
            insert.execute([&record[..]]).expect("inserted");
        }
    }
    tx.commit().expect("committed");
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Records per second of `batches` timed calls.
fn rate<T>(records: usize, batches: usize, mut make: impl FnMut() -> T, mut run: impl FnMut(T)) -> f64 {
    let mut spent = Duration::ZERO;
    for _ in 0..batches {
        let input = make();
        let start = Instant::now();
        run(input);
        spent += start.elapsed();
    }
    (records * batches) as f64 / spent.as_secs_f64()
}

fn one_appender(dir: &Path, runtime: &tokio::runtime::Runtime, records: usize, batches: usize, targets: [f64; 2]) {
    let table = table();
    let log = open(dir.join(format!("log-{records}")));
    let mut floor = Floor::new(&dir.join(format!("floor-{records}")));
    let mut db = sqlite(&dir.join(format!("{records}.db")));
    let raw = || (0..records).map(changes).collect::<Vec<_>>();
    let mut rates: [Vec<f64>; 3] = Default::default();
    for round in 0..ROUNDS {
        // Each side goes first, second and last in turn.
        for side in (0..3).map(|i| (i + round) % 3) {
            let write = |append| {
                runtime.block_on(log.append(append)).expect("appended");
            };
            rates[side].push(match side {
                0 => rate(records, batches, || append(&table, records), write),
                1 => rate(records, batches, raw, |batch| floor.append(&batch)),
                _ => rate(records, batches, raw, |batch| sqlite_append(&mut db, &batch)),
            });
        }
    }
    let [ours, floor, sqlite] = rates.each_ref().map(|rates| median(rates.clone()));
    println!("one appender, {records} records to a batch (median of {ROUNDS} rounds, lowest..highest; records/s):");
    println!("  segment log {}", spread(&rates[0]));
    println!("  plain file  {}   ratio {:.2} (target {})", spread(&rates[1]), ours / floor, targets[0]);
    println!("  SQLite      {}   ratio {:.2} (target {})", spread(&rates[2]), ours / sqlite, targets[1]);
}

fn spread(rates: &[f64]) -> String {
    let (low, high) = rates.iter().fold((f64::MAX, 0f64), |(low, high), &rate| (low.min(rate), high.max(rate)));
    format!("{:>9.0} ({low:.0}..{high:.0})", median(rates.to_vec()))
}

fn concurrent(dir: &Path, runtime: &tokio::runtime::Runtime) {
    let table = table();
    let log = Arc::new(open(dir.join("log-concurrent")));
    let run = |appenders: usize, each: usize| {
        let start = Instant::now();
        runtime.block_on(async {
            let mut tasks = tokio::task::JoinSet::new();
            for _ in 0..appenders {
                let (log, table) = (log.clone(), table.clone());
                tasks.spawn(async move {
                    for _ in 0..each {
                        log.append(append(&table, 1)).await.expect("appended");
                    }
                });
            }
            tasks.join_all().await;
        });
        (appenders * each) as f64 / start.elapsed().as_secs_f64()
    };
    let (mut alone, mut together) = (vec![], vec![]);
    for _ in 0..ROUNDS {
        alone.push(run(1, 300));
        together.push(run(64, 300));
    }
    let (alone, together) = (median(alone), median(together));
    println!("single records (records/s):");
    println!("  1 appender   {alone:>12.0}");
    println!("  64 appenders {together:>12.0}   ratio {:.1} (target 20)", together / alone);
}

/// Time that this thread has had a processor, in ns.
fn cpu_ns() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    text.split(' ').next().and_then(|number| number.parse().ok()).unwrap_or_default()
}

fn sequential_read(dir: &Path, runtime: &tokio::runtime::Runtime, headers: bool) {
    let table = table();
    let log = open(dir.join(format!("log-read-{headers}")));
    for _ in 0..400 {
        runtime.block_on(log.append(append(&table, 1000))).expect("appended");
    }

    let limit = Limit::default();
    let (mut rates, mut cpu_rates) = (vec![], vec![]);
    for _ in 0..ROUNDS {
        let (start, cpu) = (Instant::now(), cpu_ns());
        let mut from = Position::ZERO.into();
        let mut records = 0;
        loop {
            let batch = runtime.block_on(log.read(from, limit)).expect("readable");
            if batch.entries.is_empty() {
                break;
            }
            records += batch.entries.len();
            if headers {
                records -= batch.entries.iter().filter(|logged| logged.entry.header().part > 0).count();
            }
            from = batch.next;
        }
        assert_eq!(records, 400_000);
        rates.push(records as f64 / start.elapsed().as_secs_f64());
        cpu_rates.push(records as f64 * 1e9 / (cpu_ns() - cpu) as f64);
    }
    let how = if headers { "with every header decoded" } else { "headers checked, not decoded" };
    println!("sequential read, {how} (median of {ROUNDS} rounds, lowest..highest; records/s, target 5000000):");
    println!("  by the clock       {}", spread(&rates));
    println!("  by this thread's CPU time, which other processes disturb less {}", spread(&cpu_rates));
}

fn main() {
    let base = std::env::var_os("WATERSHED_BENCH_DIR").unwrap_or_else(|| env!("CARGO_TARGET_TMPDIR").into());
    let dir = tempfile::tempdir_in(base).expect("the bench folder is writable");
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    let only = std::env::var("WATERSHED_BENCH_ONLY").unwrap_or_default();
    let wanted = |name: &str| only.is_empty() || only == name;
    if wanted("append") {
        one_appender(dir.path(), &runtime, 100, 100, [0.8, 1.3]);
        one_appender(dir.path(), &runtime, 1_000, 30, [0.6, 2.0]);
    }
    if wanted("concurrent") {
        concurrent(dir.path(), &runtime);
    }
    if wanted("read") {
        sequential_read(dir.path(), &runtime, false);
        sequential_read(dir.path(), &runtime, true);
    }
}
