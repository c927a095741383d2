//! What a store keeps to be published: every change of a row, however it comes about, with the transaction that caused it.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::json;
use watershed::model::{Change, Kind, Op, Value, decode_changes};
use watershed::sqlite::{SqlitePlace, SqliteViewOptions, SqliteViews};
use watershed::view::{Outgoing, ViewBuilds, ViewOutbox};

use super::bed::*;

fn views(place: SqlitePlace, sql: &str) -> SqliteViews {
    let options = SqliteViewOptions::new("totals", sqlite(sql), place);
    SqliteViews::new(SqliteViewOptions { publish: true, ..options })
}

fn at(path: &Path, sql: &str) -> SqliteViews {
    views(SqlitePlace::File(path.to_path_buf()), sql)
}

fn text(value: &Value) -> String {
    match value.kind {
        Kind::Null => "-".into(),
        kind => format!("{}{}", kind as u8 as char, String::from_utf8_lossy(&value.text)),
    }
}

fn shown(part: &Outgoing) -> Vec<String> {
    let row = |row: &Option<Vec<Value>>| {
        row.as_ref().map_or_else(|| "none".into(), |row| row.iter().map(text).collect::<Vec<_>>().join(","))
    };
    let change = |change: &Change| {
        format!("{} {}: {} -> {}", part.tables[change.table].name, change.op.name(), row(&change.old), row(&change.row))
    };
    decode_changes(&part.changes).expect("changes").iter().map(change).collect()
}

async fn kept_by(outbox: &dyn ViewOutbox) -> Vec<Outgoing> {
    outbox.after(0, usize::MAX).await.expect("read").parts
}

#[tokio::test(flavor = "multi_thread")]
async fn every_change_of_a_row_is_kept_whoever_makes_it() {
    let sql = "-- setup
create table customers (id text primary key, n integer) without rowid;
create table items (id integer primary key, customer text references customers on delete cascade, twice integer as (id * 2));
create table \"odd 'name\" (a, \"b\"\"c\" blob);
create table untouched (a);
create table noted (what text);
create trigger noting after update on customers begin insert into noted values (new.id || new.n); end;
-- on insert orders
insert into customers values (:row.customer, 1) on conflict (id) do update set n = n + 1;
insert or replace into items values (:row.id, :row.customer);
insert into \"odd 'name\" values (:row.id * 0.5, x'00ff');
update untouched set a = a;
update customers set n = n;
-- on insert gone
delete from customers where id = :row.customer;
";
    let dir = tempfile::tempdir().expect("a folder");
    let store = at(&dir.path().join("v.db"), sql).live().await.expect("opens");
    let feed = Feed::new();
    let one = feed.append("orders", &[(None, "{\"customer\":\"ada\",\"id\":1}")]).await;
    feed.append("orders", &[(None, "{\"customer\":\"ada\",\"id\":1}")]).await;
    feed.append("nothing", &[(None, "{}")]).await;
    feed.append("gone", &[(None, "{\"customer\":\"ada\"}")]).await;
    feed.append("gone", &[(None, "{\"customer\":\"ada\"}")]).await;
    feed.follow(&*store).await.expect("follows");
    let outbox = store.outbox().expect("it is kept");
    let kept = kept_by(&*outbox).await;
    assert_eq!(kept.iter().map(|part| part.cause.cursor.position.0).collect::<Vec<_>>(), [1, 2, 4]);
    assert_eq!((kept[0].cause.cursor, kept[0].cause.correlation.as_deref()), (one, Some("c-1")));
    let first = [
        "customers insert: none -> sada,i1",
        "items insert: none -> i1,sada",
        "odd 'name insert: none -> r0.5,b\0\u{fffd}",
        "noted insert: none -> sada1",
    ];
    assert_eq!(shown(&kept[0]), first);
    let second = [
        "customers update: sada,i1 -> sada,i2",
        "noted insert: none -> sada2",
        "items delete: i1,sada -> none",
        "items insert: none -> i1,sada",
        "odd 'name insert: none -> r0.5,b\0\u{fffd}",
        "noted insert: none -> sada2",
    ];
    assert_eq!(shown(&kept[1]), second);
    let mut third = shown(&kept[2]);
    third.sort();
    assert_eq!(third, ["customers delete: sada,i2 -> none", "items delete: i1,sada -> none"]);
    assert!(kept.iter().all(|part| !part.more && part.tables.iter().all(|table| table.name.as_str() != "untouched")));
    outbox.forget(kept[1].number);
    feed.append("orders", &[(None, "{\"customer\":\"bob\",\"id\":2}")]).await;
    feed.follow(&*store).await.expect("follows");
    assert_eq!(kept_by(&*outbox).await.len(), 2, "what is forgotten goes with the next commit");
    assert_eq!(rows(&*store, "select count(*) from customers").await, json!([[1]]));
}

#[tokio::test(flavor = "multi_thread")]
async fn much_of_one_transaction_is_kept_in_parts_and_all_rows_are_one_snapshot() {
    let sql = "-- setup
create table copies (n integer primary key, text text not null);
create table other (a);
-- on insert orders
with recursive n(i) as (select 1 union all select i + 1 from n where i < 3000) insert into copies select i, :row.text from n;
-- on insert more
update copies set text = text || 'x' where n <= 2;
";
    let dir = tempfile::tempdir().expect("a folder");
    let store = at(&dir.path().join("v.db"), sql).live().await.expect("opens");
    let feed = Feed::new();
    feed.append("orders", &[(None, &json!({ "text": "a".repeat(5_000) }).to_string())]).await;
    feed.append("more", &[(None, "{}")]).await;
    feed.follow(&*store).await.expect("follows");
    let outbox = store.outbox().expect("it is kept");
    let (mut after, mut parts) = (0, Vec::new());
    loop {
        let page = outbox.after(after, 1).await.expect("read");
        let Some(part) = page.parts.into_iter().next() else { break };
        after = part.number;
        parts.push(part);
    }
    assert!(parts.len() > 10, "{}", parts.len());
    assert_eq!(parts.iter().filter(|part| !part.more).count(), 2);
    let changes: usize = parts.iter().map(|part| decode_changes(&part.changes).expect("changes").len()).sum();
    assert_eq!(changes, 3_002);
    let mut whole = outbox.whole().await.expect("read");
    assert_eq!((whole.at.last, whole.at.cursors[0].position.0, whole.tables.len()), (after, 2, 2));
    let (mut found, mut ended) = (0, false);
    while let Some(rows) = whole.rows.recv().await {
        match rows.expect("read") {
            Some(rows) => {
                let changes = decode_changes(&rows).expect("changes");
                assert!(changes.iter().all(|change| change.op == Op::Insert && change.old.is_none()));
                found += changes.len();
            }
            None => ended = true,
        }
    }
    assert_eq!((found, ended), (3_000, true));
}

/// A state in memory that goes back keeps the same again, under the same numbers.
#[tokio::test(flavor = "multi_thread")]
async fn a_state_that_goes_back_keeps_the_same_again() {
    let dir = tempfile::tempdir().expect("a folder");
    let memory = || views(SqlitePlace::Memory(dir.path().join("saved.db")), TOTALS);
    let feed = Feed::new();
    for n in 0..20 {
        feed.order(["ada", "bob"][n % 2], n as i64).await;
    }
    let store = memory().live().await.expect("opens");
    let mut part = store.part(feed.id()).await.expect("opens");
    part.cursor().await.expect("read");
    part.apply(&feed.batch(0, 10).await).await.expect("takes it");
    store.persist().await.expect("saved");
    part.apply(&feed.batch(10, 10).await).await.expect("takes it");
    let before = store.outbox().expect("it is kept").after(0, usize::MAX).await.expect("read");
    drop((part, store));
    let store = memory().live().await.expect("opens");
    assert_eq!(store.cursors().await.expect("read")[0].position.0, 10, "it went back");
    feed.follow(&*store).await.expect("follows");
    let after = store.outbox().expect("it is kept").after(0, usize::MAX).await.expect("read");
    assert_eq!(before, after);
    let keys: BTreeMap<u64, u64> = after.parts.iter().map(|part| (part.number, part.cause.cursor.position.0)).collect();
    assert_eq!(keys, (1..=20).map(|n| (n, n)).collect());
}

/// A state in memory that is lost may begin with tables as they are at another time: what was told of it says nothing of that.
#[tokio::test(flavor = "multi_thread")]
async fn a_state_that_begins_again_has_another_lineage_and_what_is_forgotten_is_told() {
    let dir = tempfile::tempdir().expect("a folder");
    let memory = || views(SqlitePlace::Memory(dir.path().join("saved.db")), TOTALS);
    let feed = Feed::new();
    feed.order("ada", 1).await;
    feed.order("ada", 1).await;
    let mut lineages = Vec::new();
    // Of a log from its beginning; from elsewhere, as tables are given; and then of what was saved.
    for (after, persists) in [(0, false), (0, false), (1, false), (1, true), (1, true)] {
        let store = memory().live().await.expect("opens");
        let mut part = store.part(feed.id()).await.expect("opens");
        part.cursor().await.expect("read");
        part.apply(&feed.batch(after, 10).await).await.expect("takes it");
        let waiting = store.outbox().expect("it is kept").after(0, 1).await.expect("read");
        assert_eq!((waiting.last, waiting.forgotten), (2 - after, 0));
        lineages.push(waiting.lineage);
        if persists {
            store.persist().await.expect("saved");
        }
    }
    let [first, again, elsewhere, elsewhere_again, saved] = lineages[..] else { panic!("{lineages:?}") };
    assert!(first == again && elsewhere != first && elsewhere_again != elsewhere && saved == elsewhere_again);
    let store = memory().live().await.expect("opens");
    let outbox = store.outbox().expect("it is kept");
    outbox.forget(1);
    feed.order("ada", 2).await;
    feed.follow(&*store).await.expect("follows");
    let waiting = outbox.after(0, usize::MAX).await.expect("read");
    assert_eq!((waiting.last, waiting.forgotten, waiting.parts.len()), (2, 1, 1));
}

/// In memory the connection that notes changes answers questions, too.
#[tokio::test(flavor = "multi_thread")]
async fn nobody_who_asks_can_have_something_noted() {
    let dir = tempfile::tempdir().expect("a folder");
    let store = views(SqlitePlace::Memory(dir.path().join("saved.db")), TOTALS).live().await.expect("opens");
    let feed = Feed::new();
    feed.order("ada", 1).await;
    feed.follow(&*store).await.expect("follows");
    for question in [
        "select watershed_new('eve', 7, 1000000)",
        "select watershed_old('eve', 7, 1000000)",
        "select WATERSHED_CHANGED(0, 1)",
        "select watershed_changed(99, 1)",
    ] {
        let refused = ask(&*store, question).await.expect_err(question).to_string();
        assert!(refused.contains("cannot be used"), "{question}: {refused}");
    }
    feed.order("ada", 2).await;
    feed.follow(&*store).await.expect("follows");
    let kept = kept_by(&*store.outbox().expect("it is kept")).await;
    assert_eq!(kept.iter().flat_map(shown).collect::<Vec<_>>().len(), 2, "only what was appended");
}

/// Of several partitions nobody knows in which order they were taken: what is published is another lineage's then.
#[tokio::test(flavor = "multi_thread")]
async fn a_state_of_several_partitions_that_may_have_gone_back_has_another_lineage() {
    let dir = tempfile::tempdir().expect("a folder");
    let memory = || views(SqlitePlace::Memory(dir.path().join("saved.db")), TOTALS);
    let lineage = async |store: &dyn watershed::view::ViewStore| {
        store.outbox().expect("it is kept").after(0, 1).await.expect("read").lineage
    };
    let mut lineages = Vec::new();
    let feeds = [Feed::new(), Feed::new()];
    for round in 0..3 {
        let store = memory().live().await.expect("opens");
        for feed in &feeds[..round.min(2)] {
            feed.order("ada", 1).await;
            feed.follow(&*store).await.expect("follows");
        }
        store.persist().await.expect("saved");
        lineages.push(lineage(&*store).await);
    }
    let store = memory().live().await.expect("opens");
    let last = lineage(&*store).await;
    assert_eq!(lineages[1], lineages[2], "of one partition it is the same");
    assert!(last != lineages[2], "of two it is another");
}

/// Whoever publishes finds out that something was not kept: another lineage.
#[tokio::test(flavor = "multi_thread")]
async fn a_gap_and_another_build_have_another_lineage() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("v.db");
    let feed = Feed::new();
    feed.order("ada", 1).await;
    let lineage = async |views: SqliteViews| {
        let store = views.live().await.expect("opens");
        feed.follow(&*store).await.expect("follows");
        match store.outbox() {
            Some(outbox) => Some(outbox.after(0, 1).await.expect("read").lineage),
            None => None,
        }
    };
    let first = lineage(at(&path, TOTALS)).await;
    assert_eq!(lineage(at(&path, TOTALS)).await, first, "the same store");
    assert_eq!(lineage(views_at(&path, TOTALS)).await, None);
    let second = lineage(at(&path, TOTALS)).await;
    assert!(second.is_some() && second != first, "there is a gap");
    let other = format!("{TOTALS}\n-- on delete orders\ndelete from totals;");
    let builds = at(&path, &other);
    let build = builds.build(false).await.expect("opens");
    assert!(build.outbox().is_none(), "a build publishes nothing");
    feed.follow(&*build).await.expect("follows");
    drop(build);
    let store = builds.switch().await.expect("switches");
    let third = store.outbox().expect("it is kept").after(0, 1).await.expect("read").lineage;
    assert!(Some(third) != second && Some(third) != first);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_definition_that_changes_tables_is_not_published() {
    let sql = "-- setup
create table totals (a);
-- on insert orders
insert into totals values (1);
  drop table totals;
";
    let dir = tempfile::tempdir().expect("a folder");
    let refused = at(&dir.path().join("v.db"), sql).live().await.err().expect("refused").to_string();
    assert!(refused.starts_with("view.sql:5:3: DROP: "), "{refused}");
    let calls = sql.replace("drop table totals", "insert into totals values (watershed_changed(0, 1))");
    let refused = at(&dir.path().join("v.db"), &calls).live().await.err().expect("refused").to_string();
    assert!(refused.contains("watershed_changed"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_published_does_not_take_the_place_of_what_answers() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("v.db");
    let feed = Feed::new();
    feed.order("ada", 1).await;
    let store = at(&path, TOTALS).live().await.expect("opens");
    feed.follow(&*store).await.expect("follows");
    let odd = "-- setup\ncreate table \"main.x\" (a);\n-- on insert orders\ninsert into \"main.x\" values (1);";
    let refused = at(&path, odd).build(false).await.err().expect("refused").to_string();
    assert!(refused.contains("cannot be published"), "{refused}");
    let looked = at(&path, odd).look(&[]).await.expect_err("refused").to_string();
    assert!(looked.contains("cannot be published"), "{looked}");
    assert_eq!(rows(&*store, "select count(*) from totals").await, json!([[1]]));
}
