//! What an events table says about itself.

use std::time::Duration;

use watershed::postgres::Endpoint;
use watershed::postgres::events::PgEventsTable;
use watershed::sqlite::events::SqliteEventsTable;
use watershed::view::{EventIds, EventsError, EventsTable, Trouble};

use super::tables::{append, cluster, destination, source, sqlite};

async fn open(url: &str) -> PgEventsTable {
    let endpoint = Endpoint::new(url, url).expect("a URL");
    PgEventsTable::open(&endpoint, Duration::from_secs(10)).await.expect("connected")
}

async fn refusal(url: &str) -> EventsError {
    open(url).await.facts().await.expect_err("refused")
}

#[tokio::test]
async fn a_source_tells_its_counts_objects_and_first_event() {
    let cluster = cluster();
    let url = source(&cluster);
    let facts = open(&url).await.facts().await.expect("facts");
    assert_eq!((facts.count, facts.max_id, facts.first), (0, 0, None));
    append(&cluster, &url, 1..=1000);
    let mut table = open(&url).await;
    let facts = table.facts().await.expect("facts");
    assert_eq!((facts.count, facts.max_id, facts.ids), (1000, 1000, Some(EventIds::Table)));
    assert!(facts.has_key && facts.missing_objects.is_empty() && facts.insert_refused.is_none(), "{facts:?}");
    let first = facts.first.expect("an event");
    assert_eq!(first.time.to_string(), "2024-01-01 00:00:01.000001+00");
    assert_eq!(std::str::from_utf8(&first.json), Ok(r#"{"n": 1, "entityName": "Person"}"#));
    assert_eq!(table.digest_kind(), "postgres/UTF8");
    let read = |events: Vec<watershed::view::StoredEvent>| events.iter().map(|event| event.id).collect::<Vec<_>>();
    assert_eq!(read(table.events(&[999, 7, 5000]).await.expect("events")), [7, 999]);
    assert_eq!(read(table.range(990, 5000, 3).await.expect("events")), [990, 991, 992]);
}

#[tokio::test]
async fn two_urls_of_one_database_are_found_out_also_for_ordinary_users() {
    let cluster = cluster();
    let (one, other) = (destination(&cluster), destination(&cluster));
    let name = one.rsplit('/').next().expect("a name");
    cluster.sql(&one, "create role reader_of_inspect login; grant select on events to reader_of_inspect");
    let as_reader = one.replace("postgres@127.0.0.1", "reader_of_inspect@localhost");
    let identity = async |url: &str| open(url).await.facts().await.expect("facts").identity;
    let first = identity(&one).await;
    assert_eq!(first, identity(&as_reader).await);
    assert_eq!(first, identity(&cluster.socket_url(name)).await);
    assert_ne!(first, identity(&other).await);
    // The same when the server keeps its identifier to itself.
    cluster.sql(&one, "revoke execute on function pg_control_system() from public");
    let kept = identity(&one).await;
    assert_eq!(kept, identity(&as_reader).await);
    assert_ne!(kept, identity(&other).await);
    let facts = open(&as_reader).await.facts().await.expect("facts");
    let refused = facts.insert_refused.expect("only reading is granted");
    assert!(refused.contains("reader_of_inspect may not INSERT"), "{refused}");
}

#[tokio::test]
async fn other_tables_are_refused() {
    let cluster = cluster();
    let url = cluster.database();
    let missing = refusal(&url).await;
    assert_eq!((missing.code, missing.trouble), ("WS-PG-006", Trouble::Invalid));
    for other in [
        "id bigint primary key, ts timestamp not null, event jsonb not null",
        "id bigint primary key, ts timestamptz not null, event json not null",
        "id int primary key, ts timestamptz not null, event jsonb not null",
        "id bigint primary key, event jsonb not null",
        "id bigint primary key, ts timestamptz not null, event jsonb not null, more text",
        "id bigint primary key, ts timestamptz, event jsonb not null",
    ] {
        let url = cluster.database();
        cluster.sql(&url, &format!("create table events ({other})"));
        let refused = refusal(&url).await;
        assert_eq!((refused.code, refused.trouble), ("WS-PG-011", Trouble::Invalid), "{other}: {refused}");
    }
    let hidden = destination(&cluster);
    cluster.sql(&hidden, "create role blind_of_inspect login; grant select on events to blind_of_inspect; alter table events enable row level security");
    let refused = refusal(&hidden.replace("postgres@", "blind_of_inspect@")).await;
    assert_eq!((refused.code, refused.trouble), ("WS-PG-012", Trouble::Invalid));
    let keyless = cluster.database();
    cluster.sql(&keyless, "create table events (id bigint not null, ts timestamptz not null, event jsonb not null)");
    assert!(!open(&keyless).await.facts().await.expect("facts").has_key);
}

#[tokio::test]
async fn a_sqlite_table_tells_the_same() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("source.db");
    let conn = sqlite(&path, true);
    let insert = "insert into events values (1, '2024-01-02 03:04:05.25+00', '{\"n\": 1}'), (2, 'infinity', '1.50')";
    conn.execute_batch(insert).expect("inserted");
    let mut table = SqliteEventsTable::open(&path).await.expect("opened");
    let facts = table.facts().await.expect("facts");
    assert_eq!((facts.count, facts.max_id, facts.ids, facts.has_key), (2, 2, Some(EventIds::Table), true));
    assert_eq!(facts.first.expect("an event").time.0, 757_479_845_250_000);
    let second = table.events(&[2, 9]).await.expect("events");
    assert_eq!(second.len(), 1);
    assert_eq!(&*second[0].json, b"1.50", "every digit is kept");
    let through_link = dir.path().join("link.db");
    std::os::unix::fs::symlink(&path, &through_link).expect("linked");
    let linked = SqliteEventsTable::open(&through_link).await.expect("opened").facts().await.expect("facts");
    assert_eq!(linked.identity, facts.identity);
    conn.execute_batch("drop table events; create table events (id integer primary key, ts text, event jsonb)")
        .expect("made");
    let refused = table.facts().await.expect_err("refused");
    assert_eq!((refused.code, refused.trouble), ("WS-SQLITE-017", Trouble::Invalid));
    conn.execute_batch("drop table events").expect("dropped");
    assert_eq!(table.facts().await.expect_err("refused").code, "WS-SQLITE-015");
    let nowhere = SqliteEventsTable::open(&dir.path().join("no.db")).await.err().expect("refused");
    assert_eq!((nowhere.code, nowhere.trouble), ("WS-SQLITE-012", Trouble::Invalid));
}
