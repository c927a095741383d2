//! Events tables of SQLite as source and as view.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rusqlite::Connection;
use tempfile::TempDir;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use watershed::log::{Limit, Source, SourceError};
use watershed::model::{CodecError, Cursor, Position, ReadFrom, scan_events};
use watershed::postgres::Endpoint;
use watershed::postgres::events::{PgEventsOptions, PgEventsSource, PgEventsView};
use watershed::sqlite::events::{SqliteEventsOptions, SqliteEventsSource, SqliteEventsView, init};
use watershed::stream::{FollowError, follow};
use watershed::view::{EventIds, EventsRole, InitOptions, View, ViewError};

use super::init::{by_sequence, source as pg_source, try_init};
use super::tables::cluster;

const LIMIT: Duration = Duration::from_secs(180);

struct Bed {
    _dir: TempDir,
    from: PathBuf,
    to: PathBuf,
}

fn bed() -> Bed {
    let dir = tempfile::tempdir().expect("a folder");
    let made = |name: &str, role| {
        let path = dir.path().join(name);
        init(&path, InitOptions { create_database: true, ..InitOptions::new(role) }).expect("made");
        path
    };
    Bed { from: made("from.db", EventsRole::Source), to: made("to.db", EventsRole::Destination), _dir: dir }
}

/// `count` transactions of `size` events each.
fn append(path: &Path, count: i64, size: i64) {
    let mut conn = Connection::open(path).expect("opened");
    let transaction = conn.transaction().expect("begun");
    transaction
        .execute(
            "WITH RECURSIVE t(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM t WHERE n + 1 < ?1 * ?2),
                last(id) AS (SELECT coalesce(max(id), 0) FROM events)
             INSERT INTO events (ts, event) SELECT
                printf('2024-01-01 00:%02d:%02d.%06d+00', (id + n / ?2) / 60000 % 60, (id + n / ?2) / 1000 % 60, (id + n / ?2) % 1000 * 10 + 1),
                printf('{\"n\": %d, \"entityName\": \"Person\"}', n) FROM t, last ORDER BY n",
            [count, size],
        )
        .expect("appended");
    transaction.commit().expect("committed");
}

fn digest(path: &Path) -> (i64, i64, Vec<(i64, String, String)>) {
    let conn = Connection::open(path).expect("opened");
    let mut query = conn.prepare("SELECT id, ts, event FROM events ORDER BY id").expect("prepared");
    let rows = query.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?))).expect("rows");
    let rows: Vec<_> = rows.map(|row| row.expect("an event")).collect();
    (rows.len() as i64, rows.last().map_or(0, |(id, ..)| *id), rows)
}

fn indexes(path: &Path) -> Vec<String> {
    let conn = Connection::open(path).expect("opened");
    let mut query = conn
        .prepare("SELECT sql FROM sqlite_schema WHERE type = 'index' AND sql IS NOT NULL ORDER BY 1")
        .expect("prepared");
    query.query_map([], |row| row.get(0)).expect("rows").map(|sql| sql.expect("a text")).collect()
}

fn options() -> SqliteEventsOptions {
    SqliteEventsOptions { ids: EventIds::Table, events_per_write_max: 1_000 }
}

async fn source(path: &Path) -> SqliteEventsSource {
    SqliteEventsSource::open(path).await.expect("a source")
}

async fn view(path: &Path, source: &dyn Source) -> SqliteEventsView {
    SqliteEventsView::open(path, source.id(), options()).await.expect("a view")
}

/// Follows until `is_done`.
async fn follow_until(source: &dyn Source, view: &mut dyn View, mut is_done: impl FnMut() -> bool) {
    let (progress, _) = watch::channel(Cursor::default());
    let stop = CancellationToken::new();
    let until = async {
        let deadline = Instant::now() + LIMIT;
        while !is_done() {
            assert!(Instant::now() < deadline, "not within {LIMIT:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        stop.cancel();
    };
    let (followed, ()) = tokio::join!(follow(source, None, view, Limit::default(), &progress, &stop), until);
    followed.expect("it follows");
}

async fn equal(from: &Path, to: &Path) {
    let source = source(from).await;
    let mut view = view(to, &source).await;
    let wanted = digest(from);
    let mut done = || digest(to) == wanted && indexes(to) == indexes(from);
    follow_until(&source, &mut view, &mut done).await;
}

/// Ids of every entry or part: (position, more, ids).
async fn read(source: &SqliteEventsSource, mut at: ReadFrom, limit: Limit) -> Vec<(u64, bool, Vec<i64>)> {
    let mut found = Vec::new();
    loop {
        let batch = source.read(at, limit).await.expect("a batch");
        if batch.next == at {
            return found;
        }
        at = batch.next;
        for logged in batch.entries {
            let (mut ids, mut times) = (Vec::new(), Vec::new());
            scan_events(logged.entry.changes_bytes(), |event| -> Result<(), CodecError> {
                ids.push(event.id);
                times.push(event.time);
                Ok(())
            })
            .expect("events");
            times.dedup();
            assert_eq!(times.len(), 1, "one transaction has one time");
            found.push((logged.position.0, logged.entry.header().more, ids));
        }
    }
}

#[tokio::test]
async fn a_read_never_splits_a_transaction_and_gives_a_large_one_in_parts() {
    let bed = bed();
    append(&bed.from, 40, 50);
    let conn = Connection::open(&bed.from).expect("opened");
    conn.execute_batch(
        "WITH RECURSIVE t(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM t WHERE n < 700)
         INSERT INTO events (ts, event) SELECT '2024-05-05 00:00:00+00', '\"' || hex(zeroblob(5000)) || '\"' FROM t;
         INSERT INTO events (ts, event) VALUES ('2024-05-06 00:00:00+00', '1')",
    )
    .expect("appended");
    let source = source(&bed.from).await;
    let few = Limit { bytes: 20_000, entries: 3 };
    for limit in [few, Limit::default(), Limit { bytes: usize::MAX, entries: usize::MAX }] {
        let found = read(&source, Position::ZERO.into(), limit).await;
        let ends: Vec<u64> = found.iter().filter(|(_, more, _)| !more).map(|(position, ..)| *position).collect();
        assert_eq!(ends, (1..=40).map(|t| t * 50).chain([2700, 2701]).collect::<Vec<u64>>());
        let ids: Vec<i64> = found.iter().flat_map(|(_, _, ids)| ids.clone()).collect();
        assert_eq!(ids, (1..=2701).collect::<Vec<i64>>());
        assert!((3..=9).contains(&found.iter().filter(|(_, more, _)| *more).count()));
    }
    // A reader that begins in the middle of a large transaction finds its place.
    let all = read(&source, Position(2000).into(), few).await;
    let other = SqliteEventsSource::open(&bed.from).await.expect("opened");
    assert_eq!(other.id(), source.id());
    let rest = read(&other, ReadFrom { after: Position(2000), part: 2 }, few).await;
    assert_eq!(rest[..], all[2..]);
    assert_eq!(read(&source, Position(100).into(), few).await[0].0, 150);
}

#[tokio::test]
async fn the_tail_follows_other_writers_and_says_when_the_file_is_gone() {
    let bed = bed();
    let source = source(&bed.from).await;
    let mut tail = source.tail();
    for expected in [7, 14] {
        append(&bed.from, 1, 7);
        tokio::time::timeout(LIMIT, tail.wait_for(|tail| tail.0 == expected))
            .await
            .expect("in time")
            .expect("it lives");
    }
    std::fs::rename(&bed.from, bed.from.with_extension("away")).expect("moved");
    std::fs::copy(&bed.to, &bed.from).expect("replaced");
    tail.mark_unchanged();
    tokio::time::timeout(LIMIT, tail.changed()).await.expect("in time").expect("it wakes who waits");
    let broken = source.read(Position(14).into(), Limit::default()).await.expect_err("another file");
    assert!(matches!(broken, SourceError::Io(_)) && broken.to_string().contains("replaced"), "{broken}");
}

#[tokio::test]
async fn events_of_every_size_and_form_arrive_as_they_are() {
    let bed = bed();
    let conn = Connection::open(&bed.from).expect("opened");
    let put = |ts: &str, event: &str| {
        conn.execute("INSERT INTO events (ts, event) VALUES (?1, ?2)", [ts, event])
            .unwrap_or_else(|error| panic!("{error}"));
    };
    let number = format!("{{\"n\": {}.{}}}", "9".repeat(100), "1".repeat(100));
    let deep = format!("{}1{}", "[".repeat(6000), "]".repeat(6000));
    for event in ["1", "null", "\"ü\u{1F600} \\u00e9 \\\\\"", " { \"a\" : 1.10 } ", &number, &deep] {
        put("2024-01-02 03:04:05.000006+00", event);
    }
    for ts in ["infinity", "-infinity", "4714-11-24 00:00:00+00 BC", "294276-12-31 23:59:59.999999+00"] {
        put(ts, "{}");
    }
    for power in 0..=23 {
        put("2024-01-03 00:00:00+00", &format!("\"{}\"", "x".repeat((1 << power) - 1)));
    }
    equal(&bed.from, &bed.to).await;
    append(&bed.from, 1000, 1);
    equal(&bed.from, &bed.to).await;
}

#[tokio::test]
async fn a_view_that_dies_in_mid_transaction_leaves_nothing_of_it_and_indexes_are_built_later() {
    let bed = bed();
    append(&bed.from, 5, 1);
    append(&bed.from, 1, 30_000);
    let complete = indexes(&bed.to);
    let source = source(&bed.from).await;
    let mut first = view(&bed.to, &source).await;
    let batch = source.read(Position::ZERO.into(), Limit::default()).await.expect("a batch");
    assert!(batch.next.part > 0, "{:?}", batch.next);
    first.apply(&batch).await.expect("applied");
    assert_eq!(first.cursor().await.expect("a cursor").expect("one").position, batch.next.after);
    assert_eq!(digest(&bed.to).0 as u64, batch.next.after.0);
    assert!(indexes(&bed.to).is_empty(), "they wait for the events");
    drop(first);
    assert_eq!(digest(&bed.to).0 as u64, batch.next.after.0);
    // The next one knows of the indexes, also when it is killed between two of them.
    let mut second = view(&bed.to, &source).await;
    second.caught_up().await.expect("built");
    assert_eq!(indexes(&bed.to), complete);
    drop(second);
    equal(&bed.from, &bed.to).await;
}

#[tokio::test]
async fn at_most_so_many_events_are_written_at_once_in_whole_transactions() {
    let bed = bed();
    append(&bed.from, 3, 400);
    append(&bed.from, 1, 2500);
    append(&bed.from, 5, 1);
    let source = source(&bed.from).await;
    let batch = source.read(Position::ZERO.into(), Limit::default()).await.expect("a batch");
    assert_eq!(batch.next, Position(3705).into());
    let mut view = view(&bed.to, &source).await;
    let (path, stop) = (bed.to.clone(), CancellationToken::new());
    let stopped = stop.clone();
    let sampler = std::thread::spawn(move || {
        let conn = Connection::open(path).expect("opened");
        let mut seen = std::collections::BTreeSet::new();
        loop {
            let last = stopped.is_cancelled();
            seen.insert(
                conn.query_row("SELECT count(*) FROM events", [], |row| row.get::<_, i64>(0)).expect("a count"),
            );
            if last {
                return seen;
            }
        }
    });
    view.apply(&batch).await.expect("applied");
    stop.cancel();
    let seen = sampler.join().expect("it sampled");
    assert!(seen.iter().all(|count| [0, 800, 1200, 3700, 3705].contains(count)), "{seen:?}");
    assert!(seen.contains(&3705));
}

#[tokio::test]
async fn a_zombie_cannot_write_and_a_locked_file_is_waited_for() {
    let bed = bed();
    append(&bed.from, 10, 3);
    let source = source(&bed.from).await;
    let (mut zombie, mut other) = (view(&bed.to, &source).await, view(&bed.to, &source).await);
    let batch = source.read(Position::ZERO.into(), Limit::default()).await.expect("a batch");
    other.apply(&batch).await.expect("applied");
    other.apply(&batch).await.expect("what is there already is left out");
    let refused = zombie.apply(&batch).await.expect_err("the other was quicker");
    assert!(matches!(refused, ViewError::Fenced { .. }) && FollowError::from(refused).is_retryable());
    assert_eq!(digest(&bed.to), digest(&bed.from));
    append(&bed.from, 1, 3);
    let batch = source.read(Position(30).into(), Limit::default()).await.expect("a batch");
    let locker = Connection::open(&bed.to).expect("opened");
    locker.execute_batch("BEGIN IMMEDIATE").expect("locked");
    let busy = other.apply(&batch).await.expect_err("locked");
    assert!(matches!(busy, ViewError::Retry(_)), "{busy}");
    locker.execute_batch("COMMIT").expect("unlocked");
    other.apply(&batch).await.expect("applied");
    assert_eq!(digest(&bed.to), digest(&bed.from));
}

#[tokio::test]
async fn an_event_without_a_place_stops_the_view_and_leaves_its_transaction_out() {
    let bed = bed();
    append(&bed.from, 10, 3);
    let conn = Connection::open(&bed.to).expect("opened");
    conn.execute_batch(
        "CREATE TRIGGER refuse BEFORE INSERT ON events WHEN new.id = 5 BEGIN SELECT RAISE(ABORT, 'no'); END",
    )
    .expect("made");
    let source = source(&bed.from).await;
    let mut view = view(&bed.to, &source).await;
    let batch = source.read(Position::ZERO.into(), Limit::default()).await.expect("a batch");
    let refused = view.apply(&batch).await.expect_err("refused");
    assert!(matches!(refused, ViewError::Table { .. }), "{refused}");
    assert_eq!(digest(&bed.to).0, 0);
    conn.execute_batch("DROP TRIGGER refuse").expect("mended");
    view.apply(&batch).await.expect("applied");
    assert_eq!(digest(&bed.to), digest(&bed.from));
}

#[tokio::test]
async fn sqlite_and_postgresql_follow_each_other() {
    let bed = bed();
    let cluster = cluster();
    let (middle, back) = (cluster.database(), bed.to.clone());
    try_init(&middle, InitOptions::new(EventsRole::Destination)).await.expect("made");
    append(&bed.from, 300, 7);
    Connection::open(&bed.from)
        .expect("opened")
        .execute(
            "INSERT INTO events (ts, event) VALUES ('2030-01-02 03:04:05.000006+00', ?1)",
            [format!("{{\"n\": {}.10}}", "7".repeat(100))],
        )
        .expect("appended");
    let endpoint = Endpoint::from_url(&middle).expect("a URL");
    let file = source(&bed.from).await;
    let into = PgEventsOptions { ids: EventIds::Table, events_per_write_max: 10_000, connect_limit: LIMIT };
    let mut server = PgEventsView::open(&endpoint, file.id(), into).await.expect("a view");
    let counted = || cluster.sql(&middle, "select count(*) from events");
    follow_until(&file, &mut server, || counted() == "2101\n").await;
    let server = PgEventsSource::open(&endpoint, EventIds::Table, LIMIT).await.expect("a source");
    let mut file = view(&back, &server).await;
    follow_until(&server, &mut file, || digest(&back).0 == 2101).await;
    assert_eq!(digest(&back), digest(&bed.from));
}

#[tokio::test]
async fn a_file_follows_a_server_whose_ids_commit_out_of_order() {
    let bed = bed();
    let cluster = cluster();
    let (url, table) = (cluster.database(), cluster.database());
    pg_source(&table).await;
    try_init(&url, by_sequence()).await.expect("made");
    let endpoint = Endpoint::from_url(&url).expect("a URL");
    let late = endpoint.connect(LIMIT).await.expect("connected");
    let one = "insert into events (ts, event) values (now(), '1')";
    late.client.batch_execute(&format!("begin; {one}")).await.expect("held");
    cluster.sql(&url, one);
    let server = PgEventsSource::open(&endpoint, EventIds::Sequence, LIMIT).await.expect("a source");
    let options = SqliteEventsOptions { ids: EventIds::Sequence, ..options() };
    let mut file = SqliteEventsView::open(&bed.to, server.id(), options).await.expect("a view");
    late.client.batch_execute("commit").await.expect("committed");
    follow_until(&server, &mut file, || digest(&bed.to).0 == 2).await;
    drop(file);
    cluster.sql(&url, one);
    let mut file = SqliteEventsView::open(&bed.to, server.id(), options).await.expect("a view");
    follow_until(&server, &mut file, || digest(&bed.to).0 == 3).await;
}
