//! A changed definition builds beside what answers, and takes its place in one step.

use std::path::Path;
use std::sync::Arc;

use rusqlite::Connection;
use serde_json::json;
use watershed::log::Log;
use watershed::model::Position;
use watershed::sqlite::{SqlitePlace, SqliteViewOptions, SqliteViews};
use watershed::view::{ViewBuilds, ViewError, ViewStore};

use super::bed::*;

const COUNTS: &str = "-- setup
create table counts (customer text primary key, n integer not null);
-- on insert orders
insert into counts values (:row.customer, 1) on conflict (customer) do update set n = n + 1;
";

fn in_memory(path: &Path, sql: &str) -> SqliteViews {
    SqliteViews::new(SqliteViewOptions::new("totals", sqlite(sql), SqlitePlace::Memory(path.to_path_buf())))
}

fn files(dir: &Path) -> Vec<String> {
    let names = std::fs::read_dir(dir).expect("a folder").map(|entry| entry.expect("an entry").file_name());
    let mut names: Vec<String> = names.map(|name| name.to_string_lossy().into_owned()).collect();
    names.retain(|name| !name.ends_with("-wal") && !name.ends_with("-shm"));
    names.sort();
    names
}

#[tokio::test]
async fn what_was_kept_is_gone_on_with() {
    let dir = tempfile::tempdir().expect("a folder");
    let (feed, path) = (Feed::new(), dir.path().join("views.db"));
    feed.order("ada", 1).await;
    for n in 1..4 {
        let store = views_at(&path, TOTALS).live().await.expect("opens");
        feed.order("ada", 1).await;
        feed.follow(&*store).await.expect("follows");
        assert_eq!(rows(&*store, "select orders from totals").await, json!([[n + 1]]));
    }
    let spaced = TOTALS.replace("create table", "-- a comment\ncreate   table");
    let store = views_at(&path, &spaced).live().await.expect("opens");
    assert_eq!(store.definition(), views_at(&path, TOTALS).wanted());
    assert_eq!(files(dir.path()), ["views.db"]);
}

#[tokio::test]
async fn views_do_not_share_a_file_and_leave_others_alone() {
    let dir = tempfile::tempdir().expect("a folder");
    let (feed, path) = (Feed::new(), dir.path().join("views.db"));
    feed.order("ada", 1).await;
    let store = views_at(&path, TOTALS).live().await.expect("opens");
    feed.follow(&*store).await.expect("follows");
    let place = SqlitePlace::File(path.clone());
    let other = SqliteViews::new(SqliteViewOptions::new("counts", sqlite(COUNTS), place));
    assert_eq!(other.path().expect("looks"), dir.path().join("views-counts.db"));
    let counts = other.live().await.expect("opens");
    feed.follow(&*counts).await.expect("follows");
    assert_eq!(rows(&*counts, "select * from counts").await, json!([["ada", 1]]));
    assert_eq!(files(dir.path()), ["views-counts.db", "views.db"]);

    let shop = dir.path().join("shop.db");
    Connection::open(&shop).expect("opens").execute_batch("create table orders (id integer)").expect("made");
    let before = std::fs::read(&shop).expect("read");
    let error = views_at(&shop, TOTALS).live().await.map(drop).expect_err("a database of the user's");
    assert!(error.to_string().contains("a database of something else"), "{error}");
    std::fs::write(
        dir.path().join("text.db"),
        "no database, but a text of some length, at least a hundred bytes of it; that is what SQLite looks at",
    )
    .expect("written");
    let error = views_at(&dir.path().join("text.db"), TOTALS).live().await.map(drop).expect_err("no database");
    assert!(matches!(error, ViewError::Failed(_)), "{error}");
    assert_eq!(std::fs::read(&shop).expect("read"), before, "it was not touched");
}

async fn rebuild(feed: &Feed, first: SqliteViews, second: SqliteViews, dir: &Path) {
    let old = first.live().await.expect("opens");
    feed.order("ada", 1).await;
    feed.order("bob", 2).await;
    feed.follow(&*old).await.expect("follows");
    old.persist().await.expect("written");
    assert!(second.switch().await.is_err(), "there is no build");

    // The old one answers, and goes on, while the new one is built.
    let live = second.live().await.expect("opens");
    assert_eq!(live.definition(), first.wanted());
    let build = second.build(false).await.expect("opens");
    assert_eq!(build.definition(), second.wanted());
    let mut part = build.part(feed.id()).await.expect("opens");
    part.cursor().await.expect("read");
    part.apply(&feed.batch(0, 1).await).await.expect("takes it");
    let error = second.switch().await.map(drop).expect_err("it has not come as far");
    assert!(error.to_string().contains("has come to 1"), "{error}");
    let build = second.build(false).await.expect("opens again, as far as it had come");
    feed.order("ada", 3).await;
    feed.follow(&*live).await.expect("follows");
    assert_eq!(rows(&*live, "select * from totals order by 1").await, json!([["ada", 2, 4], ["bob", 1, 2]]));
    feed.follow(&*build).await.expect("follows");

    let now = second.switch().await.expect("switches");
    assert_eq!(now.definition(), second.wanted());
    assert_eq!(rows(&*now, "select * from counts order by 1").await, json!([["ada", 2], ["bob", 1]]));
    assert!(ask(&*now, "select * from totals").await.is_err(), "the old one's tables are gone");
    assert_eq!(files(dir), ["views.db"]);
    // The same as one that was built from nothing.
    let scratch = kept(COUNTS).await;
    feed.follow(&*scratch.store).await.expect("follows");
    let digest = now.digest().await.expect("digest");
    assert_eq!(digest, scratch.store.digest().await.expect("digest"));
    assert_eq!(digest.rows, 2);
    feed.order("cid", 3).await;
    feed.follow(&*now).await.expect("follows");
    assert_ne!(now.digest().await.expect("digest").digest, digest.digest);
    drop((now, live, old, build, part));
    let again = second.live().await.expect("opens");
    assert_eq!(again.definition(), second.wanted());
}

#[tokio::test]
async fn a_changed_definition_takes_the_place_of_the_old_one() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("views.db");
    let feed = Feed::new();
    rebuild(&feed, views_at(&path, TOTALS), views_at(&path, COUNTS), dir.path()).await;
    let reader = Connection::open(&path).expect("opens");
    let n: i64 = reader.query_row("select n from counts where customer = 'ada'", [], |row| row.get(0)).expect("read");
    assert_eq!(n, 2, "also for those who read the file without us");
}

#[tokio::test]
async fn the_same_in_memory() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("views.db");
    rebuild(&Feed::new(), in_memory(&path, TOTALS), in_memory(&path, COUNTS), dir.path()).await;
}

#[tokio::test]
async fn memory_resumes_from_what_was_written() {
    let dir = tempfile::tempdir().expect("a folder");
    let (feed, path) = (Feed::new(), dir.path().join("deep/totals.db"));
    let store = in_memory(&path, TOTALS).live().await.expect("opens");
    feed.order("ada", 1).await;
    feed.follow(&*store).await.expect("follows");
    store.persist().await.expect("written");
    feed.order("ada", 1).await;
    feed.follow(&*store).await.expect("follows");
    drop(store);
    let store = in_memory(&path, TOTALS).live().await.expect("opens");
    assert_eq!(rows(&*store, "select orders from totals").await, json!([[1]]));
    assert_eq!(store.cursors().await.expect("read")[0].position, Position(1));
    feed.follow(&*store).await.expect("follows");
    assert_eq!(rows(&*store, "select orders from totals").await, json!([[2]]));
    feed.order("ada", 1).await;
    store.pass_over(feed.log.cursor_at(Position(3))).await.expect("passed over");
    drop(store);
    let store = in_memory(&path, TOTALS).live().await.expect("opens");
    assert_eq!(store.cursors().await.expect("read")[0].position, Position(3), "durable at once");
}

#[tokio::test]
async fn memory_is_written_down_only_where_something_has_changed() {
    use std::os::unix::fs::MetadataExt;
    let dir = tempfile::tempdir().expect("a folder");
    let (feed, path) = (Feed::new(), dir.path().join("totals.db"));
    let store = in_memory(&path, TOTALS).live().await.expect("opens");
    feed.order("ada", 1).await;
    feed.follow(&*store).await.expect("follows");
    let written = async || {
        store.persist().await.expect("written");
        std::fs::metadata(&path).expect("a file").ino()
    };
    let first = written().await;
    assert_eq!(written().await, first, "the same file");
    feed.order("bob", 1).await;
    feed.follow(&*store).await.expect("follows");
    let second = written().await;
    assert_ne!(second, first, "another one is put in its place");
    std::fs::remove_file(&path).expect("removed");
    written().await;
    drop(store);
    let store = in_memory(&path, TOTALS).live().await.expect("opens");
    assert_eq!(rows(&*store, "select sum(orders) from totals").await, json!([[2]]));
}

#[tokio::test]
async fn who_has_an_older_build_open_finds_out_and_what_was_passed_over_stays_known() {
    let dir = tempfile::tempdir().expect("a folder");
    let (feed, path) = (Feed::new(), dir.path().join("views.db"));
    feed.order("ada", 1).await;
    feed.order("ada", 1).await;
    let views = views_at(&path, TOTALS);
    let old = views.live().await.expect("opens");
    old.pass_over(feed.log.cursor_at(Position(1))).await.expect("passed over");
    feed.follow(&*old).await.expect("follows");
    let mut zombie = old.part(feed.id()).await.expect("opens");
    zombie.cursor().await.expect("read");
    let build = views.build(true).await.expect("built afresh, of the same definition");
    feed.follow(&*build).await.expect("follows");
    let now = views.switch().await.expect("switches");
    assert_eq!(rows(&*now, "select orders from totals").await, json!([[2]]));
    assert_eq!(now.passed().await.expect("read")[0].0.position, Position(1));
    feed.order("ada", 1).await;
    let batch = feed.batch(2, 1).await;
    assert!(matches!(zombie.apply(&batch).await, Err(ViewError::Lost(_))), "its build is gone");
    assert!(matches!(zombie.cursor().await, Err(ViewError::Lost(_))));
    let answer = ask(&*old, "select orders from totals").await.expect("the old one's readers see the new one");
    assert_eq!(json!(answer.rows), json!([[2]]));
}

#[tokio::test]
async fn two_who_follow_the_same_apply_once() {
    let dir = tempfile::tempdir().expect("a folder");
    let (feed, path) = (Feed::new(), dir.path().join("views.db"));
    feed.order("ada", 1).await;
    let stores: Vec<Arc<dyn ViewStore>> = vec![
        views_at(&path, TOTALS).live().await.expect("opens"),
        views_at(&path, TOTALS).live().await.expect("opens"),
    ];
    let mut parts = Vec::new();
    for store in &stores {
        let mut part = store.part(feed.id()).await.expect("opens");
        part.cursor().await.expect("read");
        parts.push(part);
    }
    let batch = feed.batch(0, 1).await;
    parts[0].apply(&batch).await.expect("takes it");
    assert!(matches!(parts[1].apply(&batch).await, Err(ViewError::Fenced { .. })), "a zombie");
    assert_eq!(rows(&*stores[1], "select orders from totals").await, json!([[1]]));
    parts[0].apply(&batch).await.expect("the same again is nothing");
    assert_eq!(rows(&*stores[1], "select orders from totals").await, json!([[1]]));
}
