//! `insert_events`, its notifications, and ids from a sequence.

use std::time::{Duration, Instant};

use watershed::postgres::{Endpoint, Session};
use watershed::view::{EventIds, InitDone};

use super::init::{by_sequence, source, try_init};
use super::tables::cluster;

async fn connect(url: &str) -> Session {
    Endpoint::from_url(url).expect("a URL").connect(Duration::from_secs(10)).await.expect("connected")
}

/// Appends through `insert_events`; the server's words where it refuses.
async fn insert(session: &Session, values: &str) -> Result<i32, String> {
    let row = session.client.query_one("select insert_events($1)", &[&values]).await;
    row.map(|row| row.get(0))
        .map_err(|error| error.as_db_error().map_or(error.to_string(), |e| e.message().to_string()))
}

async fn text(session: &Session, sql: &str) -> String {
    session.client.query_one(sql, &[]).await.expect("one row").get(0)
}

#[tokio::test]
async fn insert_events_gives_consecutive_ids_and_one_time_to_a_transaction() {
    let cluster = cluster();
    for sequence in [false, true] {
        let url = cluster.database();
        match sequence {
            true => drop(try_init(&url, by_sequence()).await.expect("made")),
            false => drop(source(&url).await),
        }
        let session = connect(&url).await;
        session.client.batch_execute("begin").await.expect("begun");
        assert_eq!(insert(&session, "($1[1], $2, '1'),($1[2], $2, '2')").await, Ok(2));
        assert_eq!(insert(&session, "( $1[1], $2, '3')").await, Ok(1));
        session.client.batch_execute("commit").await.expect("committed");
        let stored = "select string_agg(id || '=' || event, ' ' order by id) || ' ' || count(distinct ts) from events";
        assert_eq!(text(&session, stored).await, "1=1 2=2 3=3 1", "sequence: {sequence}");
    }
}

#[tokio::test]
async fn insert_events_refuses_what_it_always_refused() {
    let cluster = cluster();
    let url = cluster.database();
    source(&url).await;
    let session = connect(&url).await;
    for (values, words) in [
        (
            "($1[1], $2, '1'),($1[3], $2, '2')",
            "Parameter index is not consecutive at ------> 3,  previous index ------> 1",
        ),
        (
            "($1[2], $2, '1'),($1[1], $2, '2')",
            "Parameter index is not consecutive at ------> 1,  previous index ------> 2",
        ),
        (
            "($1[2], $2, '1'),($1[3], $2, '2')",
            "Number of rows to be inserted (2) does not match the highest row index (3)",
        ),
        (
            "($1[1], $2, '1'),($1[2], now(), '2')",
            "Number of rows to be inserted (2) does not match number of rows with a ts substitution parameter (1)",
        ),
        ("(1, $2, '1')", "No inserted rows found with id substitution parameters"),
        ("", "No inserted rows found with id substitution parameters"),
        ("($1[1], $2, '{')", "invalid input syntax for type json"),
        ("($1[1], $2, '\"\\u0000\"')", "unsupported Unicode escape sequence"),
    ] {
        assert_eq!(insert(&session, values).await, Err(words.to_string()), "{values}");
    }
    // Nothing of these took an id, and words in an event mean nothing.
    for event in ["$1[7]", "$2, $2,", "''$1[1], $2, ''", "$1["] {
        assert_eq!(insert(&session, &format!("($1[1], $2, '\"{event}\"')")).await, Ok(1), "{event}");
    }
    assert_eq!(
        text(&session, "select string_agg(id || event::text, ' ' order by id) from events").await,
        "1\"$1[7]\" 2\"$2, $2,\" 3\"'$1[1], $2, '\" 4\"$1[\""
    );
}

#[tokio::test]
async fn there_is_one_notification_a_statement_with_the_last_id() {
    let cluster = cluster();
    let url = cluster.database();
    source(&url).await;
    let (mut listener, session) = (connect(&url).await, connect(&url).await);
    listener.client.batch_execute("listen eventsinsert").await.expect("listening");
    let large = format!("($1[1], $2, '\"{}\"'),($1[2], $2, '2')", "x".repeat(1 << 20));
    assert_eq!(insert(&session, &large).await, Ok(2));
    session.client.batch_execute("insert into events select 3, now(), '1' where false").await.expect("nothing");
    assert_eq!(insert(&session, "($1[1], $2, '3')").await, Ok(1));
    for expected in [r#"{"table" : "events", "id" : 2}"#, r#"{"table" : "events", "id" : 3}"#] {
        let notified = tokio::time::timeout(Duration::from_secs(20), listener.notifications.recv()).await;
        assert_eq!(notified.expect("in time").expect("connected").payload(), expected);
    }
}

#[tokio::test]
async fn events_are_only_ever_appended() {
    let cluster = cluster();
    let url = cluster.database();
    source(&url).await;
    for (sql, operation) in
        [("update events set id = 2", "UPDATE"), ("delete from events", "DELETE"), ("truncate events", "TRUNCATE")]
    {
        let refused = cluster.try_sql(&url, sql).expect_err("refused");
        assert!(refused.contains(&format!("cannot perform SQL command on events table:  {operation}")), "{refused}");
    }
}

/// Events below the horizon in the order of a reader: those of transactions that had ended when it looked.
const BELOW: &str = "select coalesce(string_agg(event::text, ' ' order by transaction, id), '')
    from event_transactions join events using (id)
    where transaction < pg_snapshot_xmin(pg_current_snapshot())";

/// Waits until that is what is below the horizon: other tests have transactions open on the same server.
async fn expect_below(session: &Session, expected: &str) {
    let deadline = Instant::now() + Duration::from_secs(180);
    loop {
        let found = text(session, BELOW).await;
        assert!(found == expected || Instant::now() < deadline, "{found} instead of {expected}");
        if found == expected {
            return;
        }
    }
}

#[tokio::test]
async fn ids_of_a_sequence_that_commit_late_come_late_below_the_horizon() {
    let cluster = cluster();
    let url = cluster.database();
    assert_eq!(try_init(&url, by_sequence()).await.expect("made").ids, Some(EventIds::Sequence));
    let (early, late, reader) = (connect(&url).await, connect(&url).await, connect(&url).await);
    for session in [&early, &late] {
        session.client.batch_execute("begin").await.expect("begun");
    }
    // The holder of the first id commits last, and nobody waits for it.
    assert_eq!(insert(&late, "($1[1], $2, '\"late 1\"'),($1[2], $2, '\"late 2\"')").await, Ok(2));
    assert_eq!(insert(&early, "($1[1], $2, '\"early\"')").await, Ok(1));
    early.client.batch_execute("commit").await.expect("committed");
    assert_eq!(text(&reader, "select string_agg(event::text, ' ') from events").await, "\"early\"");
    assert_eq!(text(&reader, BELOW).await, "", "a transaction with an earlier number is open");
    late.client.batch_execute("commit").await.expect("committed");
    expect_below(&reader, "\"late 1\" \"late 2\" \"early\"").await;
    assert_eq!(insert(&early, "($1[1], $2, '\"next\"')").await, Ok(1));
    expect_below(&reader, "\"late 1\" \"late 2\" \"early\" \"next\"").await;
}

#[tokio::test]
async fn a_store_with_consecutive_ids_becomes_one_with_a_sequence() {
    let cluster = cluster();
    let url = cluster.database();
    source(&url).await;
    let session = connect(&url).await;
    assert_eq!(insert(&session, "($1[1], $2, '1'),($1[2], $2, '2')").await, Ok(2));
    let report = try_init(&url, by_sequence()).await.expect("made");
    let id = report.objects.iter().find(|object| &*object.name == "id").expect("it was there");
    assert_eq!(id.done, InitDone::Removed);
    assert_eq!(insert(&session, "($1[1], $2, '3')").await, Ok(1));
    session.client.batch_execute("insert into events (ts, event) values (now(), '4')").await.expect("by the default");
    expect_below(&session, "1 2 3 4").await;
    assert_eq!(text(&session, "select string_agg(id::text, ' ' order by id) from events").await, "1 2 3 4");
    assert!(!try_init(&url, by_sequence()).await.expect("found").changed());
    // As it is, without being told.
    assert_eq!(source(&url).await.ids, Some(EventIds::Sequence));
    let back = watershed::view::InitOptions { ids: Some(EventIds::Table), ..by_sequence() };
    assert_eq!(try_init(&url, back).await.expect_err("ids may have gaps").code, "WS-PG-024");
}

#[tokio::test]
async fn a_store_of_somebody_elses_sequence_is_entered_and_appended_to_without_further_grants() {
    let cluster = cluster();
    for id in ["bigserial primary key", "bigint generated always as identity primary key"] {
        let url = cluster.database();
        cluster.sql(
            &url,
            &format!(
                "create table events (id {id}, ts timestamptz not null, event jsonb not null);
            insert into events (ts, event) select now(), to_jsonb(n) from generate_series(1, 3) n;
            drop role if exists only_inserts; create role only_inserts login; grant insert on events to only_inserts;
            grant usage on sequence events_id_seq to only_inserts"
            ),
        );
        assert_eq!(source(&url).await.ids, Some(EventIds::Sequence), "{id}");
        cluster.sql(
            &url.replace("postgres@", "only_inserts@"),
            "insert into events (ts, event) values (now(), '4'); select insert_events($$($1[1], $2, '5')$$)",
        );
        let session = connect(&url).await;
        expect_below(&session, "1 2 3 4 5").await;
        // As after a restore into another cluster, whose transactions have smaller numbers.
        session
            .client
            .batch_execute("update event_transactions set transaction = '999999999999'")
            .await
            .expect("updated");
        source(&url).await;
        expect_below(&session, "1 2 3 4 5").await;
        cluster.sql(&url, "drop owned by only_inserts; drop role only_inserts");
    }
}
