//! What is read while the log takes what was given before.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use watershed::log::segments::{SegmentLog, SegmentOptions};
use watershed::log::{Append, Capture, Captured, Log, Polled};
use watershed::model::{LinkId, Position, SourceCursor};
use watershed::testing::log_conformance::read_all;
use watershed::testing::log_storage::{Fault, FaultyStorage};

use super::CLUSTER;
use super::bed::{Bed, DEADLINE, RUNTIME};

fn given(bed: &mut Bed) -> Captured {
    loop {
        match bed.capture().poll().expect("it goes on") {
            Polled::Captured(captured) if !captured.drafts.is_empty() => return captured,
            _ => bed.capture().wait(false),
        }
    }
}

/// While the log takes the first transaction, three more are committed and sent.
fn ahead() -> (Bed, Captured) {
    let mut bed = Bed::new("create table t (id int primary key)");
    bed.sql("insert into t values (1)");
    let first = given(&mut bed);
    let (url, slot) = (bed.url.clone(), bed.name());
    let logged = async move {
        let more = tokio::task::spawn_blocking(move || {
            for id in 2..5 {
                CLUSTER.sql(&url, &format!("insert into t values ({id})"));
            }
            let end = CLUSTER.sql(&url, "select pg_current_wal_insert_lsn()");
            let has_come = format!(
                "select r.write_lsn >= '{}' from pg_stat_replication r join pg_replication_slots s on r.pid = s.active_pid
                 where s.slot_name = '{slot}'",
                end.trim()
            );
            let deadline = Instant::now() + DEADLINE;
            while CLUSTER.sql(&url, &has_come).trim() != "t" {
                assert!(Instant::now() < deadline, "nothing is read ahead");
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        more.await.expect("no panic");
    };
    let mut logged: Pin<Box<dyn Future<Output = ()> + Send>> = Box::pin(async {
        RUNTIME.spawn(logged).await.expect("no panic");
    });
    bed.capture().read_ahead(logged.as_mut());
    (bed, first)
}

#[test]
fn what_was_read_ahead_is_given_at_once() {
    let (mut bed, first) = ahead();
    let mut logged = Vec::new();
    bed.log(first, &mut logged);
    // Nothing is waited for: only that everything was given before is said first.
    let next = (0..2).find_map(|_| match bed.capture().poll() {
        Ok(Polled::Captured(next)) => Some(next),
        _ => None,
    });
    bed.log(next.expect("it has been read"), &mut logged);
    let lines: Vec<String> = logged.iter().map(|logged| bed.line(logged)).collect();
    assert_eq!(lines, ["insert t (1)", "insert t (2)", "insert t (3)", "insert t (4)"]);
    assert!(bed.lines().is_empty(), "nothing comes twice");
}

#[test]
fn what_was_read_ahead_of_something_that_could_not_be_logged_comes_again_behind_it() {
    let (mut bed, first) = ahead();
    drop(first);
    bed.capture().retry();
    let lines: Vec<String> = bed.wait_for(4).iter().map(|logged| bed.line(logged)).collect();
    assert_eq!(lines, ["insert t (1)", "insert t (2)", "insert t (3)", "insert t (4)"]);
    assert!(bed.lines().is_empty(), "nothing comes twice");
}

/// A log that fails, and what has it: as a node has them.
struct Pair {
    bed: Bed,
    storage: FaultyStorage,
    log: Arc<SegmentLog>,
    /// Appends that failed.
    failed: usize,
}

fn opened(storage: &FaultyStorage) -> Arc<SegmentLog> {
    let options = SegmentOptions {
        segment_bytes: 16 << 10,
        storage: Some(Arc::new(storage.clone())),
        ..SegmentOptions::new("log")
    };
    Arc::new(SegmentLog::open(options).expect("opened"))
}

impl Pair {
    /// Logs what is given, as the node does it: what follows is read meanwhile.
    fn log(&mut self, captured: Captured) {
        let upto = captured.upto.clone();
        let append =
            Append { from: LinkId::LOCAL, tables: captured.tables, drafts: captured.drafts, upto: Some(upto.clone()) };
        let log = Arc::clone(&self.log);
        let (tell, told) = tokio::sync::oneshot::channel();
        let appending = RUNTIME.spawn(async move {
            tokio::time::sleep(Duration::from_millis(4)).await;
            let appended = log.append(append).await;
            let _ = tell.send(());
            appended
        });
        let mut logged: Pin<Box<dyn Future<Output = ()> + Send>> = Box::pin(async { drop(told.await) });
        self.bed.capture().read_ahead(logged.as_mut());
        match RUNTIME.block_on(appending).expect("no panic") {
            Ok(_) => self.bed.capture().release(&upto).expect("it was given"),
            Err(_) => {
                self.failed += 1;
                self.bed.capture().retry();
            }
        }
    }

    fn cursor(&self) -> Option<SourceCursor> {
        self.log.source_cursor(LinkId::LOCAL)
    }

    /// The power fails; what is there afterwards goes on.
    fn crash(&mut self, seed: u64) {
        self.bed.capture = None;
        self.storage = self.storage.crash(seed);
        self.log = opened(&self.storage);
        self.bed.cursor = self.cursor();
        self.bed.reopen();
    }

    /// The ids of all rows that the log has, in its order.
    fn ids(&self) -> Vec<u64> {
        let all = RUNTIME.block_on(read_all(&*self.log, Position::ZERO.into())).expect("readable");
        let changes = all.iter().flat_map(|logged| logged.entry.changes().expect("own changes"));
        let id = |text: &[u8]| std::str::from_utf8(text).expect("digits").parse().expect("an id");
        changes.map(|change| id(&change.row.expect("an insert")[0].text)).collect()
    }
}

#[test]
fn a_log_that_fails_while_more_is_read_loses_nothing_and_has_nothing_twice() {
    const EACH: u64 = 1_200;
    let mut bed = Bed::new("create table t (id int primary key, v text)");
    let storage = FaultyStorage::new();
    let log = opened(&storage);
    let begun = Append { from: LinkId::LOCAL, tables: vec![], drafts: vec![], upto: Some(bed.capture().place()) };
    RUNTIME.block_on(log.append(begun)).expect("appended");
    let writers = [0u64, 1_000_000].map(|base| {
        let url = bed.url.clone();
        let statement = format!(
            "do $$ begin for i in 1..{EACH} loop insert into t values ({base} + i, repeat('x', 200)); commit; perform pg_sleep(0.001);
             end loop; end $$"
        );
        std::thread::spawn(move || CLUSTER.sql(&url, &statement))
    });
    let mut pair = Pair { bed, storage, log, failed: 0 };
    let deadline = Instant::now() + DEADLINE;
    // The second one speaks of what had been committed when the first one was seen.
    let mut currents = 0;
    let mut turn = 0;
    while currents < 2 {
        assert!(Instant::now() < deadline, "not everything is logged");
        let is_written = writers.iter().all(|writer| writer.is_finished());
        match pair.bed.capture().poll() {
            Ok(Polled::Captured(captured)) => {
                turn += 1;
                match turn % 30 {
                    7 => pair.storage.inject(Fault::Sync, turn),
                    17 => pair.storage.inject(Fault::ShortWrite, turn),
                    // No room for another segment, once the one in reserve is full.
                    20 if !is_written => pair.storage.set_room(Some(0)),
                    27 => pair.storage.set_room(None),
                    _ if is_written => pair.storage.set_room(None),
                    _ => {}
                }
                pair.log(captured);
                if turn % 100 == 50 {
                    pair.crash(turn);
                }
            }
            Ok(Polled::Current) if is_written => currents += 1,
            Ok(_) => pair.bed.capture().wait(false),
            Err(_) => std::thread::sleep(Duration::from_millis(10)),
        }
    }
    writers.into_iter().for_each(|writer| drop(writer.join().expect("written")));
    assert!(pair.failed > 5, "{} of {turn} appends failed", pair.failed);
    let (low, high): (Vec<u64>, Vec<u64>) = pair.ids().into_iter().partition(|id| *id < 1_000_000);
    assert_eq!(low, (1..=EACH).collect::<Vec<u64>>());
    assert_eq!(high, (1_000_001..=1_000_000 + EACH).collect::<Vec<u64>>());
}
