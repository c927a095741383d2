//! Logs, databases and filters from the command line.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use watershed::log::segments::{SegmentLog, SegmentOptions};
use watershed::log::{Append, Draft, Log};
use watershed::model::{Change, Column, EntryHeader, Kind, LinkId, Op, TableDef, Value, encode_changes};

use super::{expect_exit, folder, run, stderr, stdout};

/// Writes a configuration, and a log of three entries in its data folder.
fn stopped_node() -> TempDir {
    let folder = folder();
    expect_exit(&run(folder.path(), &["init", "sqlite:shop.db"]), 0);
    let column = |name: &str, key| Column { name: name.into(), type_name: "".into(), key };
    let table = Arc::new(TableDef::new("orders".parse().expect("a name"), vec![column("id", 1), column("note", 0)]));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let options = SegmentOptions::new(folder.path().join("shop.data/main"));
        let log =
            SegmentLog::open(SegmentOptions { segment_bytes: 1 << 16, ..options }).expect("a log in an empty folder");
        for id in ["1", "2", "3"] {
            let row = Some(vec![Value::new(Kind::Integer, id), Value::new(Kind::Text, "x")]);
            let change = Change { table: 0, op: Op::Insert, row, old: None };
            let header = EntryHeader { node: "shop".into(), tables: vec![table.fingerprint], ..EntryHeader::default() };
            let drafts = vec![Draft::Local { header, changes: encode_changes(&[change]) }];
            let append = Append { from: LinkId::LOCAL, tables: vec![table.clone()], drafts, upto: None };
            log.append(append).await.expect("the append is durable");
        }
        log.close().expect("the log closes");
    });
    unlocked(folder.path());
    folder
}

/// Waits until the log is free: other tests start processes, and those have copies of this one's open files for a moment.
fn unlocked(folder: &Path) {
    let deadline = Instant::now() + Duration::from_secs(180);
    while run(folder, &["log", "verify"]).status.code() == Some(7) {
        assert!(Instant::now() < deadline, "the log stays locked");
    }
}

#[test]
fn the_log_of_a_stopped_node_is_read_without_changing_it() {
    let folder = stopped_node();
    let lines = stdout(&run(folder.path(), &["log", "export"]));
    let entries: Vec<serde_json::Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let ids: Vec<i64> = entries.iter().map(|entry| entry["changes"][0]["key"]["id"].as_i64().unwrap()).collect();
    assert_eq!(ids, [1, 2, 3]);
    let last = stdout(&run(folder.path(), &["log", "read", "--tail", "1"]));
    assert!(last.contains("insert   orders  {\"id\":3,\"note\":\"x\"}"), "{last}");
    let cursor = entries[0]["cursor"].as_str().unwrap();
    for (after, count) in [(cursor, 2), ("2", 1), ("0", 3)] {
        let shown = stdout(&run(folder.path(), &["log", "read", "--json", "--after", after]));
        assert_eq!(shown.lines().count(), count, "after {after}: {shown}");
    }
    let none = run(folder.path(), &["log", "read", "--tables", "others"]);
    expect_exit(&none, 0);
    assert!(none.stdout.is_empty());
    let shown = run(folder.path(), &["log", "ls"]);
    assert!(stdout(&shown).contains("stopped"), "{}{}", stdout(&shown), stderr(&shown));
}

#[test]
fn a_cursor_of_another_log_is_for_an_operator() {
    let folder = stopped_node();
    let cursor = format!("{:032x}-{:016x}-1", 5, 7);
    expect_exit(&run(folder.path(), &["log", "read", "--after", &cursor]), 5);
    expect_exit(&run(folder.path(), &["log", "read", "--after", "nonsense"]), 2);
}

#[test]
fn verify_counts_what_is_whole_and_stops_at_damage() {
    let folder = stopped_node();
    let output = run(folder.path(), &["log", "verify", "--json"]);
    expect_exit(&output, 0);
    let found: serde_json::Value = serde_json::from_str(&stdout(&output)).unwrap();
    assert_eq!((&found["entries"], &found["tail"]), (&serde_json::json!(3), &serde_json::json!(3)));
    let logs = folder.path().join("shop.data/main");
    let files = fs::read_dir(&logs).unwrap().map(|entry| entry.unwrap().path());
    let in_file = |path: &PathBuf| fs::read(path).unwrap().windows(4).position(|four| four == b"shop");
    let (file, at) = files.filter_map(|path| Some((path.clone(), in_file(&path)?))).next().expect("an entry on disk");
    let mut bytes = fs::read(&file).unwrap();
    bytes[at] ^= 1;
    fs::write(&file, bytes).unwrap();
    let output = run(folder.path(), &["log", "verify"]);
    expect_exit(&output, 5);
    assert!(stderr(&output).starts_with("error[WS-CLI-020]: the log is damaged\nwhy: segment "), "{}", stderr(&output));
}

#[test]
fn a_log_that_is_in_use_is_locked() {
    let folder = stopped_node();
    let log = SegmentLog::open(SegmentOptions::new(folder.path().join("shop.data/main"))).unwrap();
    expect_exit(&run(folder.path(), &["log", "verify"]), 7);
    drop(log);
    unlocked(folder.path());
    expect_exit(&run(folder.path(), &["log", "verify"]), 0);
}

/// Two databases that differ in three rows, and a table that only one has.
fn two_databases() -> TempDir {
    let folder = folder();
    let write = |name: &str, sql: &str| {
        let database = rusqlite::Connection::open(folder.path().join(name)).expect("a database");
        database.execute_batch(sql).expect("its rows");
    };
    let table = "CREATE TABLE orders (id INTEGER PRIMARY KEY, note TEXT); CREATE TABLE same (id INTEGER PRIMARY KEY);";
    write(
        "a.db",
        &format!("{table} INSERT INTO orders VALUES (1, 'x'), (2, 'y'), (3, 'z'); INSERT INTO same VALUES (1);"),
    );
    write(
        "b.db",
        &format!("{table} INSERT INTO orders VALUES (1, 'x'), (2, 'Y'), (4, 'w'); INSERT INTO same VALUES (1);"),
    );
    folder
}

#[test]
fn diff_finds_what_differs_and_repair_makes_it_equal() {
    let folder = two_databases();
    let call = ["diff", "sqlite:a.db", "sqlite:b.db", "--json"];
    let output = run(folder.path(), &call);
    expect_exit(&output, 6);
    let found: serde_json::Value = serde_json::from_str(&stdout(&output)).unwrap();
    assert_eq!((&found["equal"], &found["tables"][0]["differ"]), (&serde_json::json!(false), &serde_json::json!(3)));
    expect_exit(&run(folder.path(), &["diff", "sqlite:a.db", "sqlite:b.db", "--tables", "same"]), 0);
    expect_exit(&run(folder.path(), &["diff", "sqlite:a.db", "sqlite:b.db", "--repair"]), 2);
    expect_exit(&run(folder.path(), &call), 6);
    let repaired = run(folder.path(), &["diff", "sqlite:a.db", "sqlite:b.db", "--repair", "--yes"]);
    expect_exit(&repaired, 0);
    expect_exit(&run(folder.path(), &call), 0);
    expect_exit(&run(folder.path(), &["diff", "sqlite:a.db", "sqlite:none.db"]), 4);
    expect_exit(&run(folder.path(), &["diff", "sqlite:a.db", "mysql://h/x"]), 2);
}

#[test]
fn a_table_that_only_one_side_has_is_a_difference() {
    let folder = two_databases();
    let database = rusqlite::Connection::open(folder.path().join("b.db")).unwrap();
    database.execute_batch("DROP TABLE same; DELETE FROM orders").unwrap();
    drop(database);
    let output = run(folder.path(), &["diff", "sqlite:a.db", "sqlite:b.db"]);
    expect_exit(&output, 6);
    assert!(stdout(&output).contains("missing in b"), "{}", stdout(&output));
}

#[test]
fn filters_are_tried_on_rows() {
    let folder = folder();
    let call = ["filter", "test", "row.total > 100 && row.site == destination", "--destination", "b7"];
    let rows = ["--row", r#"{"total": 101, "site": "b7"}"#, "--row", r#"{"total": 100.5, "site": "b8"}"#];
    let output = run(folder.path(), &[&call[..], &rows].concat());
    expect_exit(&output, 0);
    let expected = "pass  {\"total\": 101, \"site\": \"b7\"}\ndrop  {\"total\": 100.5, \"site\": \"b8\"}\n";
    assert_eq!(stdout(&output), expected);
    for (expression, row) in
        [("row.", "{}"), ("rwo.x == 1", "{}"), ("row.x == 1", r#"{"y": 1}"#), ("row.x", r#"{"x": 1}"#)]
    {
        let output = run(folder.path(), &["filter", "test", expression, "--row", row]);
        expect_exit(&output, 1);
        assert!(stderr(&output).starts_with("error[WS-CLI-021]: "), "{}", stderr(&output));
    }
    expect_exit(&run(folder.path(), &["filter", "test", "true", "--row", "[1]"]), 2);
}
