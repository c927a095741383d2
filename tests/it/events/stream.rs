//! Events tables of PostgreSQL as source and as view.

use std::sync::LazyLock;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use watershed::log::{Limit, Source};
use watershed::model::{CodecError, Cursor, Position, scan_events};
use watershed::postgres::Endpoint;
use watershed::postgres::events::{PgEventsOptions, PgEventsSource, PgEventsView};
use watershed::stream::{FollowError, follow};
use watershed::testing::postgres::Cluster;
use watershed::view::{EventIds, View, ViewError};

pub(super) static CLUSTER: LazyLock<Cluster> = LazyLock::new(Cluster::start);

const LIMIT: Duration = Duration::from_secs(60);
const TABLE: &str = "create table events (id bigint primary key, ts timestamptz not null, event jsonb not null);";
const INDEXES: &str = "create index events_ts on events (ts); \
     create index \"Events op\" on events ((event #>> '{operation}'));";
const SEQUENCE: &str = "create sequence ids; alter table events alter id set default nextval('ids'); \
     create table event_transactions (transaction xid8, id bigint, primary key (transaction, id)); \
     create function enter() returns trigger as $$ begin \
         insert into event_transactions select pg_current_xact_id(), id from fresh; return null; end $$ language plpgsql; \
     create trigger enter after insert on events referencing new table as fresh for each statement execute function enter();";

fn database(sql: &str) -> String {
    let url = CLUSTER.database();
    CLUSTER.sql(&url, sql);
    url
}

fn endpoint(url: &str) -> Endpoint {
    Endpoint::new(url, url).expect("a URL")
}

fn options(ids: EventIds) -> PgEventsOptions {
    PgEventsOptions { ids, events_per_write_max: 10_000, connect_limit: LIMIT }
}

async fn source(url: &str, ids: EventIds) -> PgEventsSource {
    PgEventsSource::open(&endpoint(url), ids, LIMIT).await.expect("a source")
}

async fn view(url: &str, source: &PgEventsSource, ids: EventIds) -> PgEventsView {
    PgEventsView::open(&endpoint(url), source.id(), options(ids)).await.expect("a view")
}

/// Transactions `first..=last` of `size` events each.
fn append(url: &str, first: i64, last: i64, size: i64) {
    CLUSTER.sql(
        url,
        &format!(
            "insert into events select (t - 1) * {size} + e, timestamptz '2024-01-01 00:00:00.000001+00' + t * interval '1 us', \
             jsonb_build_object('n', t, 'operation', 'op ' || e) from generate_series({first}, {last}) t, generate_series(1, {size}) e"
        ),
    );
}

const DIGEST: &str = "select count(*), sum(hashtextextended(id || ts::text || event::text, 0)::numeric) from events";

/// Follows until the destination's digest is the source's.
async fn equal(from: &str, to: &str, ids: EventIds) {
    let source = source(from, ids).await;
    let mut view = view(to, &source, ids).await;
    let (progress, _) = watch::channel(Cursor::default());
    let stop = CancellationToken::new();
    let wanted = CLUSTER.sql(from, DIGEST);
    let until = async {
        let deadline = Instant::now() + Duration::from_secs(180);
        while CLUSTER.sql(to, DIGEST) != wanted {
            assert!(Instant::now() < deadline, "{} is not {wanted}", CLUSTER.sql(to, DIGEST));
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        stop.cancel();
    };
    let (followed, ()) = tokio::join!(follow(&source, None, &mut view, Limit::default(), &progress, &stop), until);
    followed.expect("it follows");
}

fn run<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime")
        .block_on(work)
}

#[test]
fn events_are_copied_followed_and_indexes_built_afterwards() {
    let from = database(&(TABLE.to_string() + INDEXES));
    let to = database(&(TABLE.to_string() + INDEXES));
    let indexes = "select indexname, indexdef from pg_indexes where tablename = 'events' order by 1";
    let before = CLUSTER.sql(&to, indexes);
    append(&from, 1, 3_000, 7);
    CLUSTER.sql(&from, "insert into events values (21001, 'infinity', '{\"n\": 1.10, \"m\": 9007199254740993}'), \
         (21002, '-infinity', '\"ü\u{1F600} \\\\ \\\"\"'), (21003, '0044-03-15 12:00:00.5+00 BC', '[]'), (21004, '2024-01-01', '1')");
    run(equal(&from, &to, EventIds::Table));
    assert_eq!(CLUSTER.sql(&to, indexes), before);
    assert_eq!(CLUSTER.sql(&to, "select count(*) from watershed.events_index"), "0\n");
    append(&from, 21_005, 21_010, 1);
    run(equal(&from, &to, EventIds::Table));
}

#[test]
fn events_of_every_size_and_form_arrive_as_they_are() {
    let from = database(TABLE);
    let to = database(TABLE);
    let refused = CLUSTER.try_sql(&from, r#"insert into events values (1, now(), '"\u0000"')"#);
    assert!(refused.expect_err("jsonb has no such character").contains("u0000"));
    let digits = "1234567890".repeat(10);
    let forms = [
        "'1'".to_string(),
        "to_jsonb(repeat('ä', 4 * 1024 * 1024 - 8))".to_string(),
        "(repeat('[', 3000) || repeat(']', 3000))::jsonb".to_string(),
        r#"'"日本語 😀 é \" \\ \n"'"#.to_string(),
        format!("'[{digits}, -0.{digits}, {digits}.10, 1.10, 1e2, 9007199254740993]'"),
        "'{}'".to_string(),
    ];
    for round in 0..2 {
        // First all at once, as one that is behind reads them, then one by one.
        for (at, form) in forms.iter().enumerate() {
            let id = round * forms.len() + at + 1;
            CLUSTER.sql(&from, &format!("insert into events values ({id}, clock_timestamp(), {form})"));
            if round == 1 {
                run(equal(&from, &to, EventIds::Table));
            }
        }
        run(equal(&from, &to, EventIds::Table));
    }
    assert_eq!(CLUSTER.sql(&to, "select max(octet_length(event::text)) from events"), "8388594\n");
}

#[test]
fn an_index_that_a_killed_run_built_after_all_is_not_built_again() {
    let from = database(TABLE);
    let to = database(&(TABLE.to_string() + INDEXES));
    append(&from, 1, 10, 1);
    // As it is found by who has read that the index waits before the killed run's server process has committed.
    CLUSTER.sql(
        &to,
        "create schema watershed; create table watershed.events_index (name text primary key, definition text not null); \
         insert into watershed.events_index values ('public.events_ts', 'create index events_ts on events (ts)'), \
         ('public.more', 'create index more on events (ts, id)')",
    );
    run(equal(&from, &to, EventIds::Table));
    let names = "select indexname from pg_indexes where tablename = 'events' order by 1";
    assert_eq!(CLUSTER.sql(&to, names), "Events op\nevents_pkey\nevents_ts\nmore\n");
    assert_eq!(CLUSTER.sql(&to, "select count(*) from watershed.events_index"), "0\n");
}

#[test]
fn a_read_never_splits_a_transaction_and_gives_a_large_one_in_parts() {
    let from = database(TABLE);
    append(&from, 1, 40, 50);
    CLUSTER.sql(
        &from,
        "insert into events select 2000 + n, '2024-05-05', jsonb_build_object('filler', repeat('x', 10000)) from generate_series(1, 700) n",
    );
    CLUSTER.sql(&from, "insert into events values (2701, '2024-05-06', '1')");
    run(async {
        let source = source(&from, EventIds::Table).await;
        let limit = Limit { bytes: 20_000, entries: 3 };
        let mut at = Position::ZERO.into();
        let (mut events, mut ends, mut parts) = (0, Vec::new(), 0);
        loop {
            let batch = source.read(at, limit).await.expect("a batch");
            if batch.next == at {
                break;
            }
            assert!(batch.entries.len() <= 3, "{}", batch.entries.len());
            for logged in &batch.entries {
                let mut times = Vec::new();
                scan_events(logged.entry.changes_bytes(), |event| -> Result<(), CodecError> {
                    times.push(event.time);
                    events += 1;
                    assert_eq!(event.id, events);
                    Ok(())
                })
                .expect("events");
                times.dedup();
                assert_eq!(times.len(), 1);
                match logged.entry.header().more {
                    true => parts += 1,
                    false => ends.push(logged.position.0),
                }
            }
            at = batch.next;
        }
        let expected: Vec<u64> = (1..=40).map(|t| t * 50).chain([2700, 2701]).collect();
        assert_eq!(ends, expected);
        assert!((3..=9).contains(&parts), "{parts}");
        assert_eq!(at, Position(2701).into());
        // A read from elsewhere does not go on where the last one stopped.
        let again = source.read(Position(100).into(), limit).await.expect("a batch");
        assert_eq!(again.entries[0].position, Position(150));
    });
    let to = database(TABLE);
    run(equal(&from, &to, EventIds::Table));
}

#[test]
fn a_transaction_in_parts_is_seen_whole_or_not_at_all() {
    let from = database(TABLE);
    CLUSTER.sql(
        &from,
        "insert into events select n, '2024-05-05', jsonb_build_object('filler', repeat('x', 10000)) from generate_series(1, 1000) n",
    );
    let to = database(TABLE);
    run(async {
        let source = source(&from, EventIds::Table).await;
        let mut first = view(&to, &source, EventIds::Table).await;
        let limit = Limit { bytes: 1 << 20, entries: 1 };
        let batch = source.read(Position::ZERO.into(), limit).await.expect("a part");
        assert!(batch.entries[0].entry.header().more);
        first.apply(&batch).await.expect("a part is applied");
        assert_eq!(first.cursor().await.expect("a cursor").expect("one").position, Position::ZERO);
        assert_eq!(CLUSTER.sql(&to, "select count(*) from events"), "0\n");
        // Gone in the middle: nothing stays, and the next begins from the start.
        drop(first);
    });
    run(equal(&from, &to, EventIds::Table));
}

#[test]
fn a_zombie_cannot_write_and_a_duplicate_is_refused() {
    let from = database(TABLE);
    let to = database(TABLE);
    run(async {
        for last in [5, 2_000] {
            append(
                &from,
                CLUSTER.sql(&from, "select count(*) + 1 from events").trim().parse().expect("a number"),
                last,
                1,
            );
            let source = source(&from, EventIds::Table).await;
            let mut zombie = view(&to, &source, EventIds::Table).await;
            let at = zombie.cursor().await.expect("a cursor").expect("one").position;
            let batch = source.read(at.into(), Limit::default()).await.expect("a batch");
            view(&to, &source, EventIds::Table).await.apply(&batch).await.expect("applied");
            let refused = zombie.apply(&batch).await.expect_err("the other was quicker");
            assert!(matches!(refused, ViewError::Fenced { .. }), "{refused}");
            assert!(FollowError::from(refused).is_retryable());
            assert_eq!(CLUSTER.sql(&from, DIGEST), CLUSTER.sql(&to, DIGEST), "{last}");
        }
    });
}

#[test]
fn where_ids_commit_out_of_order_a_late_commit_is_never_skipped() {
    let from = database(&(TABLE.to_string() + SEQUENCE));
    let to = database(TABLE);
    run(async {
        let held = endpoint(&from).connect(LIMIT).await.expect("a connection");
        let mut ids = Vec::new();
        held.client.batch_execute("begin").await.expect("begin");
        let insert = "insert into events (ts, event) values (now(), '{\"late\": true}') returning id";
        ids.push(held.client.query_one(insert, &[]).await.expect("held").get::<_, i64>(0));
        for n in 1..=2 {
            CLUSTER.sql(&from, &format!("insert into events (ts, event) values (now(), '{n}')"));
        }
        let source = source(&from, EventIds::Sequence).await;
        let batch = source.read(Position::ZERO.into(), Limit::default()).await.expect("a batch");
        assert!(batch.entries.is_empty(), "what comes after an open transaction waits for it");
        let mut tail = source.tail();
        ids.push(held.client.query_one(insert, &[]).await.expect("held").get::<_, i64>(0));
        held.client.batch_execute("commit").await.expect("commit");
        tokio::time::timeout(LIMIT, tail.wait_for(|tail| tail.0 > 0)).await.expect("in time").expect("it lives");
        // Other tests have transactions open on the same server, which hold the horizon for a moment.
        let deadline = Instant::now() + LIMIT;
        let batch = loop {
            let batch = source.read(Position::ZERO.into(), Limit::default()).await.expect("a batch");
            if batch.entries.len() == 3 || Instant::now() > deadline {
                break batch;
            }
        };
        let mut read = Vec::new();
        for logged in &batch.entries {
            let mut own = Vec::new();
            scan_events(logged.entry.changes_bytes(), |event| -> Result<(), CodecError> {
                own.push(event.id);
                Ok(())
            })
            .expect("events");
            read.push(own);
        }
        assert_eq!(read, [ids, vec![2], vec![3]], "a transaction is whole, and stands where it began");
    });
    run(equal(&from, &to, EventIds::Sequence));
    CLUSTER.sql(&from, "insert into events (ts, event) select now(), to_jsonb(n) from generate_series(1, 3000) n");
    run(equal(&from, &to, EventIds::Sequence));
    CLUSTER.sql(&from, "insert into events (ts, event) select now(), to_jsonb(n) from generate_series(1, 3) n");
    run(equal(&from, &to, EventIds::Sequence));
    let cursor = CLUSTER.sql(
        &to,
        "select transaction = (select max(transaction) from watershed.events_cursor), id from watershed.events_cursor",
    );
    assert_eq!(cursor, "t|3007\n");
}

/// So many events that several batches are under way, of 300 bytes each.
fn append_much(url: &str, first: i64, last: i64) {
    CLUSTER.sql(
        url,
        &format!(
            "insert into events select n, timestamptz '2024-01-01' + n / 100 * interval '1 s', jsonb_build_object('n', n, 'fill', repeat('x', 300)) \
             from generate_series({first}, {last}) n"
        ),
    );
}

/// Looks all the time until stopped: what is there is always a beginning of what there will be.
fn never_a_gap(url: String, stop: CancellationToken) -> std::thread::JoinHandle<u32> {
    std::thread::spawn(move || {
        let mut seen = 0;
        while !stop.is_cancelled() {
            let found = CLUSTER.sql(&url, "select count(*) = coalesce(max(id), 0) from events");
            assert_eq!(found, "t\n", "a later batch is there without an earlier one");
            seen += 1;
        }
        seen
    })
}

#[test]
fn two_batches_at_once_are_committed_in_their_order() {
    let from = database(TABLE);
    let to = database(TABLE);
    append_much(&from, 1, 40_000);
    let stop = CancellationToken::new();
    let looking = never_a_gap(to.clone(), stop.clone());
    run(equal(&from, &to, EventIds::Table));
    stop.cancel();
    assert!(looking.join().expect("no gap") > 0);
    let copied = CLUSTER.sql(&to, "select count(distinct xmin::text) > 3 from events");
    assert_eq!(copied, "t\n", "it was not copied in several transactions");
}

#[test]
fn what_is_copied_beside_is_not_committed_when_what_comes_before_fails() {
    let from = database(TABLE);
    let to = database(&format!("{TABLE} alter table events add constraint no check (id <> 6000)"));
    append_much(&from, 1, 40_000);
    run(async {
        let source = source(&from, EventIds::Table).await;
        let mut view = view(&to, &source, EventIds::Table).await;
        let (progress, _) = watch::channel(Cursor::default());
        let failed = follow(&source, None, &mut view, Limit::default(), &progress, &CancellationToken::new()).await;
        assert!(matches!(failed, Err(FollowError::View(ViewError::Failed(_)))), "{failed:?}");
    });
    assert_eq!(CLUSTER.sql(&to, "select count(*) = coalesce(max(id), 0), max(id) < 6000 from events"), "t|t\n");
    CLUSTER.sql(&to, "alter table events drop constraint no");
    run(equal(&from, &to, EventIds::Table));
}

#[test]
fn batches_that_would_wait_for_each_other_for_ever_are_written_one_by_one() {
    let from = database(TABLE);
    let to = database(&format!("{TABLE} create table counted (n bigint); insert into counted values (0);"));
    append_much(&from, 1, 40_000);
    run(async {
        let source = source(&from, EventIds::Table).await;
        let mut view = view(&to, &source, EventIds::Table).await;
        // The second connection is opened by now, and the trigger has the earlier batch wait for the later one's lock.
        let batch = source.read(Position::ZERO.into(), Limit::default()).await.expect("a batch");
        view.apply(&batch).await.expect("taken");
        view.flush().await.expect("written");
        let after = batch.upto.position;
        CLUSTER.sql(
            &to,
            &format!(
                "create function count_it() returns trigger as $$ begin \
                     if new.id = {first} then perform pg_sleep(1); end if; \
                     update counted set n = n + 1; return new; end $$ language plpgsql; \
                 create trigger count_it before insert on events for each row when (new.id % 500 = {first} % 500) execute function count_it();",
                first = after.0 + 1
            ),
        );
        let (progress, mut seen) = watch::channel(Cursor::default());
        let stop = CancellationToken::new();
        let until = async {
            seen.wait_for(|cursor| cursor.position.0 == 40_000).await.expect("it goes on");
            stop.cancel();
        };
        // On a busy machine a lock may time out instead: that is tried again, as a stream does.
        let following = async {
            while let Err(error) = follow(&source, None, &mut view, Limit::default(), &progress, &stop).await {
                assert!(error.is_retryable(), "{error}");
            }
        };
        let both = async { tokio::join!(following, until) };
        tokio::time::timeout(std::time::Duration::from_secs(180), both).await.expect("it goes on");
    });
    assert_eq!(CLUSTER.sql(&to, DIGEST), CLUSTER.sql(&from, DIGEST));
}
