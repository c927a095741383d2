//! The entries that all sides are given: a feed of orders in a real log.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use watershed::log::segments::{SegmentLog, SegmentOptions};
use watershed::log::{Append, Draft, Limit, Log, Source};
use watershed::model::{Cursor, EntryHeader, FeedRow, LinkId, Position, Timestamp, feed_table, put_feed_row};
use watershed::stream::follow;
use watershed::view::{View, ViewStore};

/// Rows have about so many bytes.
const ROW_BYTES: usize = 200;
pub const CUSTOMERS: u64 = 10_000;
/// Entries of one append while the log is filled.
const APPEND: usize = 1_000;

/// The JSON of one order.
pub fn row(number: u64) -> String {
    // Every customer comes again and again, in no order.
    let customer = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    let mut row = format!(
        r#"{{"order":{number},"customer":"customer-{:05}","amount":{}.{:02},"note":""#,
        customer % CUSTOMERS,
        number % 500,
        number % 100
    );
    while row.len() < ROW_BYTES - 2 {
        row.push_str("some words ");
    }
    row.truncate(ROW_BYTES - 2);
    row.push_str("\"}");
    row
}

/// A log with that many entries, of one order each, under one of `keys` keys.
pub fn fill(dir: &Path, runtime: &Runtime, entries: u64, keys: u64) -> SegmentLog {
    let options = SegmentOptions { fsync: false, segment_bytes: 128 << 20, ..SegmentOptions::new(dir) };
    let log = SegmentLog::open(options).expect("the bench folder is writable");
    let table = Arc::new(feed_table("orders".parse().expect("a name")));
    let mut number = 0;
    while number < entries {
        let one = |number: u64| {
            let mut changes = Vec::new();
            let key = format!("key-{:07}", number * 7 % keys);
            put_feed_row(&mut changes, &FeedRow { table: 0, key: Some(&key), row: &row(number) });
            let header =
                EntryHeader { tables: vec![table.fingerprint], time: Timestamp::now(), ..EntryHeader::default() };
            Draft::Local { header, changes: Bytes::from(changes) }
        };
        let drafts = (number..entries.min(number + APPEND as u64)).map(one).collect();
        let append = Append { from: LinkId::LOCAL, tables: vec![table.clone()], drafts, upto: None };
        runtime.block_on(log.append(append)).expect("appended");
        number += APPEND as u64;
    }
    log
}

/// How long the view takes for the whole log, through the loop that nodes use.
pub fn catch_up(runtime: &Runtime, store: &dyn ViewStore, log: &SegmentLog) -> Duration {
    runtime.block_on(async {
        let tail = *log.tail().borrow();
        let mut view = store.part(log.id()).await.expect("a part");
        let (progress, mut reached) = watch::channel(Cursor::default());
        let stop = CancellationToken::new();
        let begun = Instant::now();
        let follow = follow(log, None, &mut *view, Limit::default(), &progress, &stop);
        let wait = async {
            let _ = reached.wait_for(|cursor| cursor.position >= tail).await;
            stop.cancel();
        };
        let (followed, ()) = tokio::join!(follow, wait);
        followed.expect("followed");
        let spent = begun.elapsed();
        assert_eq!(store.cursors().await.expect("cursors")[0].position, tail);
        assert_ne!(tail, Position::ZERO);
        let _: &dyn View = &*view;
        spent
    })
}

/// The middle one, and all of them from the lowest to the highest.
pub fn median(mut values: Vec<f64>) -> (f64, f64, f64) {
    values.sort_by(f64::total_cmp);
    (values[values.len() / 2], values[0], values[values.len() - 1])
}

/// Processor time that this process has used, in seconds; other processes disturb it less than the clock.
pub fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = stat.rsplit(") ").next().unwrap_or_default();
    // User and system time, in hundredths of a second (proc(5)).
    let fields: Vec<&str> = fields.split(' ').collect();
    let ticks = |at: usize| fields.get(at).and_then(|text| text.parse::<f64>().ok()).unwrap_or_default();
    (ticks(11) + ticks(12)) / 100.0
}
