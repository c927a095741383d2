//! `kill -9` at any instant: what a view shows and where it stands agree, and a switch has happened or not.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::json;
use watershed::model::Position;
use watershed::view::ViewBuilds;

use super::bed::*;

const DEADLINE: Duration = Duration::from_secs(180);
const PATH: &str = "WATERSHED_TEST_VIEW_PATH";
const SQL: &str = "-- setup
create table sums (id integer primary key, n integer not null, last integer not null);
-- on insert orders
insert into sums values (:row.amount % 5, 1, :position)
  on conflict (id) do update set n = n + 1, last = max(last, excluded.last);
";

fn later(n: usize) -> String {
    format!("{SQL}\n-- on insert other{n}\ndelete from sums;")
}

/// Not a law by itself: the process that the next tests kill. Without the variable it does nothing.
#[tokio::test(flavor = "multi_thread")]
async fn crash_child() {
    let Some(path) = std::env::var_os(PATH) else { return };
    let path = Path::new(&path);
    let feed = Feed::fixed();
    let orphaned = Instant::now() + DEADLINE;
    let mut n = 0;
    while Instant::now() < orphaned {
        n += 1;
        let views = views_at(path, &later(std::process::id() as usize * 1_000 + n));
        let live = views.live().await.expect("opens");
        let mut part = live.part(feed.id()).await.expect("opens");
        let mut after = part.cursor().await.expect("read").map_or(0, |cursor| cursor.position.0);
        for _ in 0..5 {
            part.apply(&feed.numbers(after, 20)).await.expect("takes it");
            after += 20;
        }
        let build = views.build(n % 2 == 0).await.expect("opens");
        let mut part = build.part(feed.id()).await.expect("opens");
        let mut at = part.cursor().await.expect("read").map_or(0, |cursor| cursor.position.0);
        while at < after {
            let step = (after - at).min(2_000);
            part.apply(&feed.numbers(at, step)).await.expect("takes it");
            at += step;
        }
        part.flush().await.expect("applied");
        drop((part, build, live));
        views.switch().await.expect("switches");
    }
}

fn start(path: &Path) -> Child {
    Command::new(std::env::current_exe().expect("the test binary"))
        .args(["--exact", "views::sqlite_crash::crash_child", "--nocapture"])
        .env(PATH, path)
        .stdout(Stdio::null())
        .spawn()
        .expect("starts")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_process_leaves_effects_and_cursor_of_one_position() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("views.db");
    let (mut last, mut definitions) = (0, std::collections::HashSet::new());
    let began = Instant::now();
    // Where the machine is busy, a process comes to its first switch later.
    let mut round = 0u32;
    while round < 12 || definitions.len() < 2 {
        round += 1;
        let mut child = start(&path);
        let moved = |last: u64| {
            let conn = rusqlite::Connection::open_with_flags(&path, rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY).ok()?;
            let sql = "select coalesce(max(last), 0) from sums";
            conn.query_row(sql, [], |row| row.get::<_, u32>(0)).ok().filter(|now| u64::from(*now) > last)
        };
        while moved(last).is_none() {
            assert!(began.elapsed() < DEADLINE, "the child does nothing");
            assert!(child.try_wait().expect("asked").is_none(), "the child ended by itself");
        }
        std::thread::sleep(Duration::from_millis(u64::from(round * 7)));
        child.kill().expect("kill -9");
        child.wait().expect("ends");
        let live = views_at(&path, SQL).live().await.expect("opens after the crash");
        let answer = ask(&*live, "select sum(n), max(last), count(*) from sums").await.expect("answered");
        let at = answer.cursors[0].position.0;
        assert_eq!(json!(answer.rows), json!([[at, at, 5]]), "each entry once");
        assert!(at >= last, "it stood at {last}, and stands at {at}");
        last = at;
        definitions.insert(answer.definition);
    }
    assert!(definitions.len() > 1, "switches happened");
    let scratch = kept(SQL).await;
    let feed = Feed::fixed();
    let mut part = scratch.store.part(feed.id()).await.expect("opens");
    part.cursor().await.expect("read");
    part.apply(&feed.numbers(0, last)).await.expect("takes it");
    part.flush().await.expect("applied");
    let live = views_at(&path, SQL).live().await.expect("opens");
    assert_eq!(live.digest().await.expect("digest"), scratch.store.digest().await.expect("digest"));
    assert_eq!(scratch.store.cursors().await.expect("read")[0].position, Position(last));
}
