//! Rows that are only added are copied over two sessions at once, and committed in their order.

use std::time::{Duration, Instant};

use watershed::postgres::Session;
use watershed::view::{LaneView, View};

use super::*;

const SCHEMA: &str = "CREATE TABLE t(id bigint PRIMARY KEY, position bigint CHECK (position <> -1), v text)";
/// Entries of a batch that is large enough to be copied beside another.
const MANY: u64 = 300;

/// So many batches, of which each is so large; each entry adds a row.
fn script(db: &Database, batches: u64) -> Script {
    let t = table("t", &[("id", 1), ("position", 0), ("v", 0)]);
    let (mut log, long) = (db.script(), "x".repeat(4 << 10));
    for n in 1..=(batches * MANY) as i64 {
        log.one(&t, &[insert(vec![int(n * 10), int(n), text(&long)])]);
    }
    log
}

fn given(view: &mut PgApplier, log: &Script, batches: std::ops::Range<u64>) {
    for n in batches {
        run(view.apply(&log.batch(n * MANY, (n + 1) * MANY))).expect("is taken");
    }
}

/// Another session that keeps the cursor from being moved, until it is told to end its transaction.
fn held(db: &Database) -> Session {
    run(async {
        let endpoint = Endpoint::from_url(&db.url).expect("a URL");
        let session = endpoint.connect(Duration::from_secs(10)).await.expect("connects");
        session.client.batch_execute("BEGIN; SELECT 1 FROM watershed.cursor FOR UPDATE").await.expect("locks");
        session
    })
}

fn wait(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(180);
    while !condition() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn flushed(view: &mut PgApplier) {
    let deadline = Instant::now() + Duration::from_secs(180);
    while let Err(error) = run(view.flush()) {
        assert!(error.is_retryable() && Instant::now() < deadline, "{error}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A session of ours has copied its rows, and waits.
const WAITS: &str = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'watershed' \
                     AND state = 'idle in transaction' AND query LIKE 'COPY%'";
const WHOLE: &str = "SELECT count(*) = max(position), max(position) = (SELECT split_part(cursor, '-', 3)::int8 FROM watershed.cursor) FROM t";

/// A database in which the first entry has been applied, so that there is a cursor; the session that locks it; and the applier.
fn begun(db: &Database, log: &Script) -> (PgApplier, Session) {
    let mut view = db.applier();
    given(&mut view, log, 0..1);
    run(view.flush()).expect("is there");
    let lock = held(db);
    given(&mut view, log, 1..3);
    (view, lock)
}

#[test]
fn the_later_one_is_copied_meanwhile_and_committed_after_the_earlier_one() {
    let db = Database::new(SCHEMA);
    let log = script(&db, 8);
    let (mut view, lock) = begun(&db, &log);
    wait("the later one is copied", || db.rows(WAITS) == ["1"]);
    assert_eq!(db.rows("SELECT count(*) FROM t"), [MANY.to_string()], "nothing of either is there");
    run(lock.client.batch_execute("COMMIT")).expect("ends");
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let sampling = scope.spawn(|| {
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                assert_eq!(db.rows(WHOLE), ["t|t"], "never a gap, and the cursor is that of the rows");
            }
        });
        given(&mut view, &log, 3..8);
        run(view.flush()).expect("is there");
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        sampling.join().expect("whole at every time");
    });
    assert_eq!(run(view.cursor()).expect("reads"), Some(db.cursor(8 * MANY)));
    assert_eq!(db.rows(WHOLE), ["t|t"]);
}

#[test]
fn both_are_done_in_order_where_the_earlier_one_fails() {
    let db = Database::new(SCHEMA);
    let t = table("t", &[("id", 1), ("position", 0), ("v", 0)]);
    let mut log = script(&db, 1);
    for n in MANY as i64 + 1..=3 * MANY as i64 {
        let position = if n == MANY as i64 + 100 { -1 } else { n };
        log.one(&t, &[insert(vec![int(n * 10), int(position), text(&"y".repeat(4 << 10))])]);
    }
    let (mut view, lock) = begun(&db, &log);
    wait("the later one is copied", || db.rows(WAITS) == ["1"]);
    run(lock.client.batch_execute("COMMIT")).expect("ends");
    flushed(&mut view);
    let lanes = view.lanes();
    assert_eq!((lanes.len(), lanes[0].after), (1, Position(MANY + 99)), "parked before what is refused");
    assert_eq!(db.rows("SELECT count(*), max(position) FROM t"), [format!("{0}|{0}", MANY + 99)]);
    assert_eq!(run(view.cursor()).expect("reads"), Some(db.cursor(3 * MANY)));
}

#[test]
fn rows_in_the_way_of_the_later_one_are_overwritten_as_ever() {
    let db = Database::new(SCHEMA);
    let log = script(&db, 4);
    db.sql(&format!("INSERT INTO t VALUES ({}, 0, 'in the way')", (2 * MANY + 5) * 10));
    let (mut view, lock) = begun(&db, &log);
    run(lock.client.batch_execute("COMMIT")).expect("ends");
    given(&mut view, &log, 3..4);
    flushed(&mut view);
    assert_eq!(db.rows(WHOLE), ["t|t"]);
    assert_eq!(run(view.cursor()).expect("reads"), Some(db.cursor(4 * MANY)));
    assert!(view.lanes().is_empty());
}

#[test]
fn either_connection_may_break() {
    for which in ["query LIKE 'COPY%'", "query NOT LIKE 'COPY%'", "true"] {
        let db = Database::new(SCHEMA);
        let log = script(&db, 4);
        let (mut view, lock) = begun(&db, &log);
        wait("the later one is copied", || db.rows(WAITS) == ["1"]);
        db.sql(&format!(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'watershed' \
             AND (state = 'active' OR state LIKE 'idle in%') AND query NOT LIKE '%FOR UPDATE' AND pid <> pg_backend_pid() AND {which}"
        ));
        let _ = run(lock.client.batch_execute("COMMIT"));
        flushed(&mut view);
        let deadline = Instant::now() + Duration::from_secs(180);
        while let Err(error) = run(view.apply(&log.batch(3 * MANY, 4 * MANY))) {
            assert!(error.is_retryable() && Instant::now() < deadline, "{error}");
        }
        flushed(&mut view);
        assert_eq!(run(view.cursor()).expect("reads"), Some(db.cursor(4 * MANY)), "{which}");
        assert_eq!(db.rows(WHOLE), ["t|t"], "{which}");
    }
}

#[test]
fn one_session_does_where_a_second_cannot_be_had() {
    let db = Database::new(SCHEMA);
    let log = script(&db, 5);
    let mut view = db.applier();
    let name = format!("watershed_{}/2", &db.log.to_string()[..16]);
    let taken = run(async {
        let endpoint = Endpoint::from_url(&db.url).expect("a URL");
        let session = endpoint.connect(Duration::from_secs(10)).await.expect("connects");
        let take =
            format!("SELECT pg_replication_origin_create('{name}'), pg_replication_origin_session_setup('{name}')");
        session.client.batch_execute(&take).await.expect("takes it");
        session
    });
    given(&mut view, &log, 0..5);
    run(view.flush()).expect("is there");
    assert_eq!(db.rows(WHOLE), ["t|t"]);
    drop(taken);
}

#[test]
fn a_killed_server_leaves_no_gap() {
    let mut cluster = Cluster::with(&[("shared_buffers", "16MB"), ("wal_level", "logical")]);
    let url = cluster.database();
    cluster.sql(&url, SCHEMA);
    let db = Database::at(url);
    let log = script(&db, 24);
    let mut view = db.applier();
    let (mut at, mut kills) = (0, 0u64);
    let deadline = Instant::now() + Duration::from_secs(180);
    while at < 24 {
        assert!(Instant::now() < deadline, "stands at {at}");
        let upto = (at + 4).min(24);
        let applied = std::thread::scope(|scope| {
            let applying = scope.spawn(|| {
                (at..upto).try_for_each(|n| run(view.apply(&log.batch(n * MANY, (n + 1) * MANY))))?;
                run(view.flush())
            });
            if at >= 6 * kills {
                kills += 1;
                std::thread::sleep(Duration::from_millis(7 * kills));
                cluster.kill();
                cluster.restart();
            }
            applying.join().expect("does not panic")
        });
        let retryable = |error: &ViewError| error.is_retryable() || matches!(error, ViewError::Lost(_));
        assert!(applied.as_ref().err().is_none_or(retryable), "{applied:?}");
        drop(view);
        view = db.applier();
        let position = run(view.cursor()).expect("reads").map_or(0, |cursor| cursor.position.0);
        let whole = cluster.sql(&db.url, "SELECT count(*), coalesce(max(position), 0) FROM t");
        assert_eq!(whole.trim(), format!("{position}|{position}"));
        at = position / MANY;
    }
    assert!(kills >= 3);
}

#[test]
fn the_last_places_for_origins_are_left_to_who_cannot_do_without() {
    let cluster = Cluster::with(&[("fsync", "off"), ("wal_level", "logical"), ("max_replication_slots", "4")]);
    for (others, origins) in [(0, "2"), (1, "2")] {
        let url = cluster.database();
        cluster.sql(&url, SCHEMA);
        for n in 0..others {
            cluster.sql(&url, &format!("SELECT pg_replication_origin_create('other {n}')"));
        }
        let db = Database::at(url);
        let log = script(&db, 8);
        let mut view = db.applier();
        given(&mut view, &log, 0..8);
        run(view.flush()).expect("is there");
        assert_eq!(cluster.sql(&db.url, "SELECT count(*) FROM pg_replication_origin").trim(), origins, "{others}");
        assert_eq!(cluster.sql(&db.url, "SELECT count(*) FROM t").trim(), (8 * MANY).to_string());
        drop(view);
        let end = "SELECT pg_replication_origin_drop(roname) FROM pg_replication_origin";
        wait("the sessions have ended", || cluster.try_sql(&db.url, end).is_ok());
    }
}
