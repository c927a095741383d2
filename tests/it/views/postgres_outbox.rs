//! What a view in PostgreSQL tells of its rows: what each transaction of the log has come to, whoever changed them.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value as Json, json};
use watershed::model::{Change, Value, decode_changes};
use watershed::postgres::{Endpoint, PgViewOptions, PgViews};
use watershed::view::sql::{Definition, Dialect};
use watershed::view::{Outgoing, ViewBuilds, ViewOutbox};

use super::bed::*;
use super::postgres::CLUSTER;

fn told(url: &str, sql: &str, told: bool) -> PgViews {
    let definition = Arc::new(Definition::parse("view.sql", sql, Dialect::Postgres).expect("a definition"));
    let endpoint = Endpoint::from_url(url).expect("a URL");
    let (name, spool_dir) = ("totals".into(), std::env::temp_dir());
    let options = PgViewOptions { name, definition, endpoint, spool_dir, changes: told, publish: told };
    PgViews::new(options).expect("a name")
}

fn text(row: &Option<Vec<Value>>) -> String {
    let value = |value: &Value| String::from_utf8_lossy(&value.text).into_owned();
    row.as_ref().map_or_else(|| "-".into(), |row| row.iter().map(value).collect::<Vec<_>>().join(","))
}

fn shown(part: &Outgoing) -> Vec<String> {
    let change = |change: &Change| {
        let name = &part.tables[change.table].name;
        format!("{name} {}: {} > {}", change.op.name(), text(&change.old), text(&change.row))
    };
    decode_changes(&part.changes).expect("changes").iter().map(change).collect()
}

/// Tables as whoever folds the changes has them: rows by table and text, how often each is there.
fn fold(tables: &mut BTreeMap<String, i64>, part: &Outgoing) {
    for change in decode_changes(&part.changes).expect("changes") {
        let name = &part.tables[change.table].name;
        for (row, n) in [(&change.old, -1), (&change.row, 1)] {
            if row.is_some() {
                *tables.entry(format!("{name}: {}", text(row))).or_default() += n;
            }
        }
        assert!(tables.values().all(|n| (0..=9).contains(n)), "{tables:?} after {change:?}");
    }
    tables.retain(|_, n| *n != 0);
}

async fn kept_by(outbox: &dyn ViewOutbox) -> Vec<Outgoing> {
    outbox.after(0, usize::MAX).await.expect("read").parts
}

const ALL: &str = "-- setup
create table customers (id text primary key, n integer not null, boss text references customers on update cascade on delete set null);
create table items (id integer primary key, customer text references customers on delete cascade on update cascade);
create table loose (a numeric(10,2), b text, c integer generated always as (1) stored);
create function also() returns trigger language plpgsql as $$
begin update customers set n = n + 10 where n < 10; insert into loose values (1.5, new.id::text); return null; end $$;
create trigger also after update of boss on customers for each row execute function also();
-- on insert orders
insert into customers values (:row.customer, 1, :row.boss) on conflict (id) do update set n = customers.n + 1;
insert into items values (:row.id, :row.customer) on conflict do nothing;
-- on insert renamed
update customers set id = id || '2';
-- on insert same
update customers set n = n;
update customers set n = n + 1; update customers set n = n - 1;
-- on insert bosses
update customers set boss = 'ada', n = n + 1;
-- on insert gone
delete from customers where id = :row.customer;
-- on insert emptied
truncate loose, items;
";

#[tokio::test(flavor = "multi_thread")]
async fn what_a_transaction_comes_to_is_told_whoever_changes_rows() {
    let url = CLUSTER.database();
    let store = told(&url, ALL, true).live().await.unwrap_or_else(|error| panic!("{error}"));
    let feed = Feed::new();
    let order =
        |id: i64, customer: &str, boss: Json| json!({ "id": id, "customer": customer, "boss": boss }).to_string();
    let one = feed.append("orders", &[(None, &order(1, "ada", Json::Null))]).await;
    feed.append("orders", &[(None, &order(1, "ada", Json::Null))]).await;
    feed.append("orders", &[(None, &order(2, "bob", "ada".into())), (None, &order(3, "cyd", "bob".into()))]).await;
    for table in ["same", "bosses", "renamed", "other", "emptied"] {
        feed.append(table, &[(None, "{}")]).await;
    }
    feed.append("gone", &[(None, "{\"customer\":\"ada2\"}")]).await;
    feed.follow(&*store).await.expect("follows");
    let outbox = store.outbox().expect("it is kept");
    let kept = kept_by(&*outbox).await;
    assert_eq!(kept.iter().map(|part| part.cause.cursor.position.0).collect::<Vec<_>>(), [1, 2, 3, 5, 6, 8, 9]);
    assert_eq!((kept[0].cause.cursor, kept[0].cause.correlation.as_deref()), (one, Some("c-1")));
    assert_eq!(shown(&kept[0]), ["customers insert: - > ada,1,", "items insert: - > 1,ada"]);
    assert_eq!(shown(&kept[1]), ["customers update: ada,1, > ada,2,"]);
    assert_eq!(kept[0].tables[0].columns[0].type_name.as_ref(), "text");
    let mut tables = BTreeMap::new();
    kept.iter().for_each(|part| fold(&mut tables, part));
    let sql = "select 'customers: ' || concat_ws(',', id, n, coalesce(boss, '')) from customers
      union all select 'items: ' || concat_ws(',', id, customer) from items
      union all select 'loose: ' || concat_ws(',', a, b) from loose";
    let mut expected = BTreeMap::new();
    for row in ask(&*store, sql).await.expect("answered").rows {
        *expected.entry(row[0].as_str().expect("text").to_owned()).or_insert(0) += 1;
    }
    assert_eq!(tables, expected);
    outbox.forget(kept[5].number);
    feed.append("renamed", &[(None, "{}")]).await;
    feed.follow(&*store).await.expect("follows");
    assert_eq!(kept_by(&*outbox).await.len(), 2, "what is forgotten goes with the next commit");
    let changes = store.changes().expect("they are kept").after(0, 1_000).await.expect("read");
    let first = changes.changes.first().expect("a change");
    assert_eq!((first.number, &*first.op, &first.before), (1, "insert", &None));
    assert_eq!(first.after, Some(json!({ "id": "ada", "n": 1, "boss": null })));
    assert_eq!(changes.changes.last().map(|last| last.number), Some(changes.last), "numbers have no gaps");
    assert_eq!(changes.changes.len() as u64, changes.last);
}

#[tokio::test(flavor = "multi_thread")]
async fn much_of_one_transaction_is_kept_in_parts_and_nothing_where_nobody_is_told() {
    let sql = "-- setup
create table copies (n integer primary key, text text not null);
-- on insert orders
insert into copies select i, :row.text from generate_series(1, 3000) as s(i);
-- on insert more
truncate copies;
insert into copies values (1, 'x');
";
    let url = CLUSTER.database();
    let feed = Feed::new();
    feed.append("orders", &[(None, &json!({ "text": "a".repeat(2_000) }).to_string())]).await;
    let store = told(&url, sql, true).live().await.unwrap_or_else(|error| panic!("{error}"));
    feed.follow(&*store).await.expect("follows");
    let outbox = store.outbox().expect("it is kept");
    let parts = kept_by(&*outbox).await;
    assert!(parts.len() > 3, "{}", parts.len());
    assert!(parts.iter().rev().enumerate().all(|(index, part)| part.more == (index > 0)));
    let count = |parts: &[Outgoing]| -> usize {
        parts.iter().map(|part| decode_changes(&part.changes).expect("changes").len()).sum()
    };
    assert_eq!(count(&parts), 3_000);
    let mut whole = outbox.whole().await.expect("read");
    let (mut found, mut ended) = (0, false);
    while let Some(rows) = whole.rows.recv().await {
        match rows.expect("read") {
            Some(rows) => found += decode_changes(&rows).expect("changes").len(),
            None => ended = true,
        }
    }
    assert_eq!((found, ended, whole.at.last), (3_000, true, parts.len() as u64));
    let lineage = whole.at.lineage;
    drop(store);
    let store = told(&url, sql, false).live().await.expect("opens");
    assert!(store.outbox().is_none() && store.changes().is_none());
    feed.append("more", &[(None, "{}")]).await;
    feed.follow(&*store).await.expect("follows");
    drop(store);
    let store = told(&url, sql, true).live().await.expect("opens");
    let waiting = store.outbox().expect("it is kept").after(0, 1).await.expect("read");
    assert!(waiting.lineage != lineage && waiting.parts.is_empty(), "there is a gap");
    feed.append("more", &[(None, "{}")]).await;
    feed.append("orders", &[(None, "{\"text\":\"y\"}")]).await;
    let stopped = feed.follow(&*store).await.expect_err("a key is there twice");
    assert!(stopped.stops_at().is_some(), "{stopped}");
    let parts = kept_by(&*store.outbox().expect("it is kept")).await;
    assert_eq!(parts, [], "what is there again as it was is no change, and what has failed is none");
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_that_cannot_be_told_of_are_refused() {
    let url = CLUSTER.database();
    let sql = "-- setup
create table parts (n integer) partition by list (n);
-- on insert orders
insert into parts values (1);
";
    let refused = told(&url, sql, true).live().await.err().expect("refused").to_string();
    assert!(refused.contains("has partitions"), "{refused}");
    let sql = "-- setup\ncreate table t (n integer);\n-- on insert orders\ninsert into t values (1);\nalter table t add m text;\n";
    let refused = told(&CLUSTER.database(), sql, true).live().await.err().expect("refused").to_string();
    assert!(refused.starts_with("view.sql:5:1: ALTER: "), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn definitions_stay_in_their_schema_and_do_the_same_again() {
    let url = CLUSTER.database();
    let handler =
        |sql: &str| format!("-- setup\ncreate table totals (n integer, t text);\n-- on insert orders\n  {sql};\n");
    for (sql, expected) in [
        ("insert into public.x values (1)", "view.sql:4:15: public is a schema"),
        ("insert into totals select n from public.x", "view.sql:4:36: public is a schema"),
        ("insert into totals.totals values (1)", "view.sql:4:15: totals is a schema"),
        ("delete from totals.totals", "view.sql:4:15: totals is a schema"),
        ("insert into totals select count(*) from pg_catalog.pg_class", "pg_catalog is a schema"),
        ("insert into totals values (nextval('x'))", "view.sql:4:30: nextval()"),
        ("insert into totals select 1 from (select pg_advisory_lock(1)) x", "pg_advisory_lock()"),
        ("insert into totals values (1, 'now'::timestamptz)", "view.sql:4:33: it asks what time it is"),
    ] {
        let sql = handler(sql);
        let definition = match Definition::parse("view.sql", &sql, Dialect::Postgres) {
            Ok(_) => told(&url, &sql, false).live().await.err().expect("refused").to_string(),
            Err(error) => error.to_string(),
        };
        assert!(definition.contains(expected), "{sql}: {definition}");
    }
    let fine = handler("insert into totals select p.n, 'now' from totals p where p.n is distinct from totals.n");
    let refused = told(&url, &fine, false).live().await.err().map(|error| error.to_string());
    assert!(refused.as_ref().is_none_or(|why| !why.contains("is a schema")), "{refused:?}");
}
