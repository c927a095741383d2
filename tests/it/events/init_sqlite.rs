//! `events init` in SQLite.

use std::path::{Path, PathBuf};

use rusqlite::Connection;
use tempfile::TempDir;
use watershed::sqlite::events::init;
use watershed::view::{EventIds, EventsRole, InitDone, InitOptions, InitReport};

fn new(role: EventsRole) -> InitOptions {
    InitOptions { create_database: true, ..InitOptions::new(role) }
}

fn file() -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("events.db");
    (dir, path)
}

fn made(path: &Path, role: EventsRole) -> Connection {
    init(path, new(role)).expect("made");
    Connection::open(path).expect("opened")
}

fn done(report: &InitReport, name: &str) -> InitDone {
    report.objects.iter().find(|object| &*object.name == name).unwrap_or_else(|| panic!("{name} in {report:#?}")).done
}

fn schema(conn: &Connection) -> Vec<String> {
    let mut query =
        conn.prepare("SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL ORDER BY name").expect("prepared");
    query.query_map([], |row| row.get(0)).expect("rows").map(|sql| sql.expect("a text")).collect()
}

const ONE: &str =
    "INSERT INTO events (ts, event) VALUES ('2024-01-02 03:04:05.000006+00', '{\"entityName\":\"Person\"}')";

#[test]
fn a_file_becomes_a_source_once() {
    let (_dir, path) = file();
    assert_eq!(init(&path, InitOptions::new(EventsRole::Source)).expect_err("not there").code, "WS-SQLITE-022");
    let planned = init(&path, InitOptions { dry_run: true, ..new(EventsRole::Source) }).expect("a plan");
    assert!(!path.exists());
    let conn = made(&path, EventsRole::Source);
    let by_hand = Connection::open_in_memory().expect("opened");
    let script: String = planned.objects.iter().map(|object| object.sql.as_str()).collect();
    by_hand.execute_batch(&script).expect("the plan is SQL");
    assert_eq!(schema(&by_hand), schema(&conn));
    assert!(!init(&path, new(EventsRole::Source)).expect("found").changed());
    let mode: String = conn.query_row("PRAGMA journal_mode", [], |row| row.get(0)).expect("a mode");
    assert_eq!(mode, "wal");
    let sequence = InitOptions { ids: Some(EventIds::Sequence), ..new(EventsRole::Source) };
    assert_eq!(init(&path, sequence).expect_err("there are none").code, "WS-SQLITE-021");
    assert_eq!(init(&path, new(EventsRole::Destination)).expect_err("a source").code, "WS-SQLITE-023");
}

#[test]
fn a_source_is_only_appended_to_and_counts_its_ids() {
    let (_dir, path) = file();
    let conn = made(&path, EventsRole::Source);
    for _ in 0..3 {
        conn.execute_batch(ONE).expect("appended");
    }
    let next: i64 = conn.query_row("SELECT id FROM id", [], |row| row.get(0)).expect("one row");
    assert_eq!(next, 4);
    for (sql, operation) in [
        ("UPDATE events SET ts = ts", "UPDATE"),
        ("DELETE FROM events", "DELETE"),
        ("INSERT OR REPLACE INTO events SELECT 2, ts, '1' FROM events LIMIT 1", "INSERT of an id before the last one"),
        ("INSERT INTO events SELECT -7, ts, '1' FROM events LIMIT 1", "INSERT of an id below 1"),
    ] {
        let refused = conn.execute_batch(sql).expect_err("refused").to_string();
        assert!(refused.contains(&format!("cannot perform SQL command on events table:  {operation}")), "{refused}");
    }
    conn.execute_batch("UPDATE id SET id = 1; DROP TRIGGER next_id; DROP INDEX events_ts").expect("broken");
    let report = init(&path, new(EventsRole::Source)).expect("mended");
    assert_eq!(done(&report, "id"), InitDone::Replaced);
    assert_eq!(done(&report, "next_id"), InitDone::Created);
    conn.execute_batch(ONE).expect("appended");
    let next: i64 = conn.query_row("SELECT id FROM id", [], |row| row.get(0)).expect("one row");
    assert_eq!(next, 5);
}

#[test]
fn every_event_of_postgresql_has_a_place_and_what_is_no_event_has_none() {
    let (_dir, path) = file();
    let conn = made(&path, EventsRole::Destination);
    let insert = |ts: &str, event: &str| conn.execute("INSERT INTO events (ts, event) VALUES (?1, ?2)", [ts, event]);
    let deep = format!("{}1{}", "[".repeat(6000), "]".repeat(6000));
    let number = format!("{{\"metadata\": {{\"command\": {}.5}}}}", "9".repeat(100));
    for event in ["1", "null", "\"\\u00e9é\"", &deep, &number] {
        insert("2024-01-02 03:04:05.000006+00", event).unwrap_or_else(|error| panic!("{event}: {error}"));
    }
    for ts in ["infinity", "-infinity", "4714-11-24 00:00:00+00 BC", "294276-12-31 23:59:59.999999+00"] {
        insert(ts, "1").unwrap_or_else(|error| panic!("{ts}: {error}"));
    }
    for (ts, event) in
        [("2024-01-02T03:04:05Z", "1"), ("now", "1"), ("infinity", ""), ("infinity", "{"), ("infinity", "{a:1}")]
    {
        assert!(insert(ts, event).is_err(), "{ts} {event}");
    }
    conn.execute("INSERT INTO events (ts, event) VALUES ('infinity', x'31')", []).expect_err("a blob");
    let indexed = "EXPLAIN QUERY PLAN SELECT id FROM events
        WHERE CASE WHEN json_valid(event) THEN json_extract(event, '$.metadata.command') END = 'x'";
    let plan: String = conn.query_row(indexed, [], |row| row.get(3)).expect("a plan");
    assert!(plan.contains("events_event_metadata_command"), "{plan}");
}

#[test]
fn what_is_something_else_is_refused_and_left_alone() {
    for (sql, code) in [
        ("CREATE VIEW events AS SELECT 1 AS id", "WS-SQLITE-017"),
        ("CREATE TABLE events (id INTEGER PRIMARY KEY, ts TEXT, event BLOB)", "WS-SQLITE-017"),
        ("CREATE TABLE events (id TEXT PRIMARY KEY, ts TEXT, event TEXT)", "WS-SQLITE-017"),
    ] {
        let (_dir, path) = file();
        let conn = Connection::open(&path).expect("opened");
        conn.execute_batch(sql).expect("made");
        let before = schema(&conn);
        assert_eq!(init(&path, new(EventsRole::Source)).expect_err(sql).code, code);
        assert_eq!(schema(&conn), before);
    }
    let (_dir, path) = file();
    std::fs::write(&path, "this is no database, but a text that is longer than the head of one").expect("written");
    assert_eq!(init(&path, new(EventsRole::Source)).expect_err("a text").code, "WS-SQLITE-014");
}
