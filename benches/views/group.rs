//! A grouping view in SQLite against a loop over `rusqlite` that somebody wrote by hand: the same statement, the same batches,
//! the same durability. The loop is given the rows' JSON at once, in memory; the view reads them from a log.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rusqlite::{Connection, params};
use serde::Deserialize;
use tokio::runtime::Runtime;
use watershed::log::segments::SegmentLog;
use watershed::log::{Limit, Source};
use watershed::model::{FeedRows, Position};
use watershed::sqlite::{SqlitePlace, SqliteViewOptions, SqliteViews};
use watershed::view::ViewBuilds;
use watershed::view::sql::{Definition, Dialect};

use crate::entries::{CUSTOMERS, catch_up, fill, median};

const ROUNDS: usize = 3;
const GOAL: f64 = 0.9;

const SETUP: &str =
    "create table totals (customer text primary key, orders integer not null, amount numeric not null);";
const BY_HAND: &str = "insert into totals values (?1, 1, ?2)
  on conflict (customer) do update set orders = orders + 1, amount = amount + excluded.amount";

pub fn definition() -> Arc<Definition> {
    let text = format!(
        "-- setup\n{SETUP}\n-- on insert orders\ninsert into totals values (:row.customer, 1, :row.amount)
  on conflict (customer) do update set orders = orders + 1, amount = amount + excluded.amount;\n"
    );
    Arc::new(Definition::parse("totals.sql", &text, Dialect::Sqlite).expect("a good definition"))
}

/// What the loop takes of a row.
#[derive(Deserialize)]
struct Order<'a> {
    customer: &'a str,
    amount: f64,
}

/// The rows of the log, cut where reads of it end.
fn batches(runtime: &Runtime, log: &SegmentLog) -> Vec<Vec<String>> {
    let (mut batches, mut from) = (Vec::new(), Position::ZERO.into());
    loop {
        let batch = runtime.block_on(log.read(from, Limit::default())).expect("readable");
        if batch.entries.is_empty() {
            return batches;
        }
        let rows = batch.entries.iter().flat_map(|logged| FeedRows::new(logged.entry.changes_bytes()).flatten());
        batches.push(rows.map(|row| row.row.to_string()).collect());
        from = batch.next;
    }
}

fn by_hand(path: &Path, batches: &[Vec<String>]) -> Duration {
    let mut conn = Connection::open(path).expect("opened");
    conn.execute_batch("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA cache_size = -16384;")
        .expect("configured");
    conn.execute_batch(SETUP).expect("set up");
    conn.execute_batch("create table position (upto integer); insert into position values (0)").expect("set up");
    let begun = Instant::now();
    let mut upto: i64 = 0;
    for batch in batches {
        let tx = conn.transaction().expect("begun");
        {
            let mut upsert = tx.prepare_cached(BY_HAND).expect("prepared");
            for row in batch {
                let order: Order<'_> = serde_json::from_str(row).expect("an order");
                upsert.execute(params![order.customer, order.amount]).expect("executed");
            }
            upto += batch.len() as i64;
            tx.execute("update position set upto = ?1", [upto]).expect("executed");
        }
        tx.commit().expect("committed");
    }
    begun.elapsed()
}

fn totals(path: &Path) -> (i64, i64, f64) {
    let conn = Connection::open(path).expect("opened");
    conn.query_row("select count(*), sum(orders), sum(amount) from totals", [], |row| {
        Ok((row.get(0)?, row.get(1)?, row.get(2)?))
    })
    .expect("totals")
}

pub fn run(dir: &Path, runtime: &Runtime, entries: u64) {
    let log = fill(&dir.join("group"), runtime, entries, CUSTOMERS);
    let batches = batches(runtime, &log);
    let (mut ours, mut theirs, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let (view, hand) = (dir.join(format!("view-{round}.db")), dir.join(format!("hand-{round}.db")));
        let views = SqliteViews::new(SqliteViewOptions::new("totals", definition(), SqlitePlace::File(view.clone())));
        let store = runtime.block_on(views.live()).expect("opened");
        let mut spent = [Duration::ZERO; 2];
        // Each goes first in turn.
        for side in [round % 2, 1 - round % 2] {
            spent[side] = if side == 0 { catch_up(runtime, &*store, &log) } else { by_hand(&hand, &batches) };
        }
        drop((store, views));
        let (one, other) = (totals(&view), totals(&hand));
        assert_eq!((one.0, one.1), (other.0, other.1), "both have the same");
        assert!((one.2 - other.2).abs() < 1.0, "both have the same sum: {one:?} {other:?}");
        ours.push(entries as f64 / spent[0].as_secs_f64());
        theirs.push(entries as f64 / spent[1].as_secs_f64());
        ratios.push(spent[1].as_secs_f64() / spent[0].as_secs_f64());
    }
    let (ours, theirs, ratio) = (median(ours), median(theirs), median(ratios));
    println!("count and sum of {entries} entries for {CUSTOMERS} customers, in SQLite (median of {ROUNDS} rounds):");
    println!("  the view        {:>9.0} entries/s ({:.0}..{:.0})", ours.0, ours.1, ours.2);
    println!("  a loop by hand  {:>9.0} entries/s ({:.0}..{:.0})", theirs.0, theirs.1, theirs.2);
    println!("  ratio {:.2} ({:.2}..{:.2}), goal {GOAL}", ratio.0, ratio.1, ratio.2);
}
