//! `kill -9` at any instant: the database and its cursor agree.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use watershed::model::Position;
use watershed::view::View;

use super::*;

const DEADLINE: Duration = Duration::from_secs(180);
const PATH: &str = "WATERSHED_TEST_CRASH_DATABASE";
/// A batch of three transactions after that position, each of five rows that name its position.
fn batch(after: u64) -> watershed::model::Batch {
    let t = table("t", &[("id", 1), ("position", 0)]);
    let mut log = Script { last: after, ..Script::default() };
    for position in (after as i64 + 1)..=(after as i64 + 3) {
        let rows: Vec<Change> = (0..5).map(|i| insert(vec![int(position * 5 + i), int(position)])).collect();
        log.one(&t, &rows);
    }
    log.all()
}

/// Not a law by itself: the process that the next test kills. Without the variable it applies nothing.
#[test]
fn crash_child() {
    let Some(path) = std::env::var_os(PATH) else { return };
    let mut view = Applier::open(ApplierOptions::new(path, LOG)).expect("opens");
    let mut at = run(view.cursor()).expect("reads").map_or(0, |cursor| cursor.position.0);
    let orphaned = Instant::now() + DEADLINE;
    while Instant::now() < orphaned {
        match run(view.apply(&batch(at))) {
            Ok(()) => at += 3,
            Err(error) => assert!(error.is_retryable(), "{error}"),
        }
    }
}

fn position(db: &Database) -> u64 {
    let stored = run(db.applier().cursor()).expect("reads after the crash");
    stored.map_or(Position::ZERO, |cursor| cursor.position).0
}

#[test]
fn a_killed_process_leaves_rows_and_cursor_of_one_position() {
    for journal in ["DELETE", "WAL"] {
        let db =
            Database::new(&format!("PRAGMA journal_mode={journal}; CREATE TABLE t(id INTEGER PRIMARY KEY, position)"));
        let mut last = 0;
        for _ in 0..4 {
            let mut child = Command::new(std::env::current_exe().expect("the test binary"))
                .args(["--exact", "sqlite_apply::crash::crash_child", "--nocapture"])
                .env(PATH, &db.path)
                .stdout(Stdio::null())
                .spawn()
                .expect("starts");
            let reader = db.conn();
            reader.busy_timeout(Duration::from_secs(5)).expect("sets");
            let deadline = Instant::now() + DEADLINE;
            let written =
                || reader.query_row("SELECT coalesce(max(position), 0) FROM t", [], |row| row.get::<_, u32>(0));
            while written().is_ok_and(|position| u64::from(position) <= last) {
                assert!(Instant::now() < deadline, "the child applies nothing");
            }
            child.kill().expect("kill -9");
            child.wait().expect("ends");
            drop(reader);
            let now = position(&db);
            assert!(now > last, "went on from {last}, and stands at {now}");
            let expected = format!("{} {now}", now * 5);
            assert_eq!(db.rows("SELECT count(*), max(position) FROM t"), [expected]);
            last = now;
        }
    }
}
