//! The main cursor: exactly once, fenced, whole transactions, kinds of tables and values.

use watershed::model::{Kind, LinkId, Op, Value};
use watershed::view::{LaneView, View, ViewError};

use super::*;

const SCHEMA: &str = "CREATE TABLE orders(id INTEGER PRIMARY KEY, note TEXT, total);";

fn orders() -> Arc<TableDef> {
    table("orders", &[("id", 1), ("note", 0), ("total", 0)])
}

fn order(id: i64, note: &str) -> Row {
    vec![int(id), text(note), Value::new(Kind::Real, "1.5")]
}

#[test]
fn redelivered_transactions_are_applied_once() {
    let db = Database::new("CREATE TABLE seen(what TEXT)");
    let seen = table("seen", &[("what", 0)]);
    let mut log = Script::default();
    log.one(&seen, &[insert(vec![text("a")])]);
    log.one(&seen, &[insert(vec![text("b")])]);
    let mut view = db.applier();
    run(view.apply(&log.batch(0, 1))).expect("applies");
    run(view.apply(&log.all())).expect("ignores what it has");
    run(view.apply(&log.batch(0, 1))).expect("ignores what is behind");
    drop(view);
    let mut view = db.applier();
    assert_eq!(run(view.cursor()).expect("reads"), Some(cursor(2)));
    run(view.apply(&log.all())).expect("ignores what was applied before the restart");
    assert_eq!(db.rows("SELECT what FROM seen"), ["'a'", "'b'"]);
}

#[test]
fn a_zombie_is_fenced_and_changes_nothing() {
    let db = Database::new(SCHEMA);
    let mut log = Script::default();
    log.one(&orders(), &[insert(order(1, "a"))]);
    log.one(&orders(), &[insert(order(2, "b"))]);
    let (mut old, mut new) = (db.applier(), db.applier());
    run(old.apply(&log.batch(0, 1))).expect("applies");
    run(new.cursor()).expect("takes over");
    run(new.apply(&log.all())).expect("applies");
    let before = db.rows("SELECT * FROM orders");
    let fenced = run(old.apply(&log.all())).expect_err("the zombie");
    assert!(
        matches!(fenced, ViewError::Fenced { expected, found } if expected == Some(cursor(1)) && found == Some(cursor(2)))
    );
    assert_eq!(db.rows("SELECT * FROM orders"), before);
}

#[test]
fn changes_find_their_rows_by_key() {
    let db = Database::new(SCHEMA);
    let mut log = Script::default();
    log.one(&orders(), &[insert(order(1, "a")), insert(order(2, "b")), insert(order(3, "c"))]);
    log.one(&orders(), &[update(None, order(1, "a2")), update(Some(order(2, "b")), order(20, "b2"))]);
    let unchanged = vec![int(3), Value::UNCHANGED, int(9)];
    log.one(&orders(), &[update(None, unchanged), insert(order(1, "a3")), delete(order(99, "missing"))]);
    run(db.applier().apply(&log.all())).expect("applies");
    assert_eq!(db.rows("SELECT * FROM orders"), ["1 'a3' 1.5", "3 'c' 9", "20 'b2' 1.5"]);
    let truncate = Change { table: 0, op: Op::Truncate, row: None, old: None };
    log.one(&orders(), &[update(None, order(7, "entered")), truncate, insert(order(8, "after"))]);
    run(db.applier().apply(&log.all())).expect("applies");
    assert_eq!(db.rows("SELECT * FROM orders"), ["8 'after' 1.5"]);
}

#[test]
fn local_entries_are_passed_over_and_the_cursor_advances() {
    let db = Database::new(SCHEMA);
    let mut log = Script::default();
    log.commit(LinkId::LOCAL, &[&orders()], &[insert(order(1, "is there already"))]);
    let mut view = db.applier();
    run(view.apply(&log.all())).expect("applies");
    assert!(db.rows("SELECT * FROM orders").is_empty());
    assert_eq!(run(view.cursor()).expect("reads"), Some(cursor(1)));
}

#[test]
fn columns_are_matched_by_name_and_extra_ones_keep_their_defaults() {
    let db = Database::new(
        "CREATE TABLE orders(extra TEXT DEFAULT 'mine', total, twice AS (id * 2), note TEXT, id INTEGER PRIMARY KEY)",
    );
    let wide = table("orders", &[("id", 1), ("note", 0), ("total", 0), ("twice", 0)]);
    let mut log = Script::default();
    log.one(&wide, &[insert(vec![int(4), text("a"), int(1), int(0)])]);
    log.one(&wide, &[update(None, vec![int(4), text("b"), int(1), int(0)])]);
    run(db.applier().apply(&log.all())).expect("applies");
    assert_eq!(db.rows("SELECT id, note, total, extra, twice FROM orders"), ["4 'b' 1 'mine' 8"]);
}

#[test]
fn every_storage_class_arrives_as_what_it_was() {
    let db = Database::new("CREATE TABLE v(id INTEGER PRIMARY KEY, value)");
    let v = table("v", &[("id", 1), ("value", 0)]);
    let values = [
        (Value::NULL, "null"),
        (int(i64::MIN), "-9223372036854775808"),
        (text("1"), "'1'"),
        (Value::new(Kind::Real, "Infinity"), "inf"),
        (Value::new(Kind::Real, "0.1"), "0.1"),
        (Value::new(Kind::Blob, vec![0u8, 255]), "[00, ff]"),
        (text("a\0b"), "'a\0b'"),
    ];
    let mut log = Script::default();
    for (i, (value, _)) in values.iter().enumerate() {
        log.one(&v, &[insert(vec![int(i as i64), value.clone()])]);
    }
    run(db.applier().apply(&log.all())).expect("applies");
    let expected: Vec<&str> = values.iter().map(|(_, shown)| *shown).collect();
    assert_eq!(db.rows("SELECT value FROM v ORDER BY id"), expected);
}

#[test]
fn hostile_names_are_names() {
    let name = "a\"b; DROP TABLE orders --";
    let column = "x\" = 1; --";
    let quoted = |name: &str| format!("\"{}\"", name.replace('"', "\"\""));
    let db = Database::new(&format!("{SCHEMA} CREATE TABLE {}({} TEXT PRIMARY KEY)", quoted(name), quoted(column)));
    let hostile = table(name, &[(column, 1)]);
    let mut log = Script::default();
    log.one(&hostile, &[insert(vec![text("'); --")]), update(Some(vec![text("'); --")]), vec![text("b")])]);
    let mut view = db.applier();
    run(view.apply(&log.all())).expect("applies");
    assert_eq!(view.lanes(), []);
    assert_eq!(db.rows(&format!("SELECT * FROM {}", quoted(name))), ["'b'"]);
    assert!(db.rows("SELECT * FROM orders").is_empty());
}

#[test]
fn the_local_sequence_does_not_move() {
    let db = Database::new(
        "CREATE TABLE s(id INTEGER PRIMARY KEY AUTOINCREMENT, note); CREATE TABLE t(id INTEGER PRIMARY KEY AUTOINCREMENT, note);
         INSERT INTO s(id, note) VALUES (1000, 'mine')",
    );
    let columns = [("id", 1), ("note", 0)];
    let mut log = Script::default();
    log.one(&table("s", &columns), &[insert(vec![int(5000), text("theirs")])]);
    log.one(&table("t", &columns), &[insert(vec![int(6000), text("theirs")])]);
    run(db.applier().apply(&log.all())).expect("applies");
    assert_eq!(db.rows("SELECT name, seq FROM sqlite_sequence"), ["'s' 1000"]);
}

#[test]
fn a_large_transaction_is_committed_with_its_last_part() {
    let db = Database::new(SCHEMA);
    let mut log = Script::default();
    log.one(&orders(), &[insert(order(1, "before"))]);
    let parts: Vec<Vec<Change>> =
        (0..5).map(|p| (0..100).map(|i| insert(order(p * 100 + i, "large"))).collect()).collect();
    log.large(&orders(), &parts);
    log.one(&orders(), &[insert(order(1000, "after"))]);
    let mut view = db.applier();
    let entries = log.entries.clone();
    run(view.apply(&log.batch_of(entries[..3].to_vec(), 1))).expect("applies the first, keeps two parts");
    assert_eq!(db.rows("SELECT count(*) FROM orders"), ["1"]);
    db.conn().execute("CREATE TABLE nobody_is_locked_out(x)", []).expect("writable between the parts");
    run(view.apply(&log.batch_of(entries[2..4].to_vec(), 1))).expect("a part may come again");
    assert_eq!(run(view.cursor()).expect("reads"), Some(cursor(1)));
    drop(view);
    let mut view = db.applier();
    run(view.apply(&log.batch_of(entries[1..4].to_vec(), 1))).expect("from the cursor again after a restart");
    run(view.apply(&log.batch_of(entries[4..].to_vec(), 3))).expect("commits");
    assert_eq!(db.rows("SELECT count(*), sum(note = 'large') FROM orders"), ["501 500"]);
    assert_eq!(run(view.cursor()).expect("reads"), Some(cursor(3)));
}

#[test]
fn a_locked_database_is_tried_again_and_nothing_is_lost() {
    let db = Database::new(SCHEMA);
    let mut log = Script::default();
    log.one(&orders(), &[insert(order(1, "a"))]);
    let mut view = db.applier();
    let writer = db.conn();
    writer.execute_batch("BEGIN IMMEDIATE").expect("locks");
    let error = run(view.apply(&log.all())).expect_err("locked");
    assert!(error.is_retryable() && error.to_string().contains("shop.db"), "{error}");
    writer.execute_batch("COMMIT; BEGIN; SELECT * FROM orders").expect("reads");
    let error = run(view.apply(&log.all())).expect_err("the rollback journal waits for readers");
    assert!(error.is_retryable(), "{error}");
    writer.execute_batch("COMMIT").expect("unlocks");
    run(view.apply(&log.all())).expect("applies");
    assert_eq!(db.rows("SELECT id FROM orders"), ["1"]);
}

#[test]
fn triggers_fire_only_if_asked_for_and_never_ours() {
    let schema = format!(
        "{SCHEMA} CREATE TABLE audit(id); CREATE TRIGGER a AFTER INSERT ON orders BEGIN INSERT INTO audit VALUES (new.id); END;"
    );
    let db = Database::new(&schema);
    let mut log = Script::default();
    log.one(&orders(), &[insert(order(1, "a"))]);
    log.one(&orders(), &[insert(order(2, "b"))]);
    run(db.applier().apply(&log.batch(0, 1))).expect("applies");
    assert!(db.rows("SELECT * FROM audit").is_empty());
    db.conn()
        .execute_batch(
            "CREATE TABLE captured(id); CREATE TRIGGER c AFTER INSERT ON orders
             WHEN NOT EXISTS (SELECT 1 FROM watershed_origin) BEGIN INSERT INTO captured VALUES (new.id); END;",
        )
        .expect("a trigger that stands aside");
    let mut options = ApplierOptions::new(&db.path, LOG);
    options.fire_triggers = true;
    run(Applier::open(options).expect("opens").apply(&log.all())).expect("applies");
    assert_eq!(db.rows("SELECT * FROM audit"), ["2"]);
    assert!(db.rows("SELECT * FROM captured").is_empty());
    db.conn().execute("INSERT INTO orders(id) VALUES (3)", []).expect("a local write");
    assert_eq!(db.rows("SELECT * FROM captured"), ["3"]);
}

#[test]
fn a_missing_database_is_an_error_and_is_not_created() {
    let db = Database::new(SCHEMA);
    let missing = db.path.with_file_name("missing.db");
    let error = Applier::open(ApplierOptions::new(&missing, LOG)).expect_err("missing");
    assert!(error.to_string().contains("missing.db"), "{error}");
    assert!(!missing.exists());
}

#[test]
fn received_changes_are_never_captured_and_local_ones_are() {
    let db = Database::new("CREATE TABLE orders(id INTEGER PRIMARY KEY, note UNIQUE, total);");
    let options = watershed::sqlite::CaptureOptions {
        path: db.path.clone(),
        log: LOG,
        captured: Arc::new(|_: &watershed::model::TableName| true),
        spool_dir: db.path.parent().expect("a folder").to_path_buf(),
        node: "here".into(),
        resume: None,
    };
    let mut capture = watershed::sqlite::Capture::open(options).expect("installs");
    while capture.poll().expect("looks").is_some() {}
    let mut log = Script::default();
    for (fire_triggers, id) in [(false, 1), (true, 2)] {
        let after = log.tail().0;
        log.one(&orders(), &[insert(order(id, "a")), update(None, order(id, "b")), delete(order(id, "b"))]);
        log.one(&orders(), &[insert(order(id, &format!("kept {id}")))]);
        let mut options = ApplierOptions::new(&db.path, LOG);
        options.fire_triggers = fire_triggers;
        let mut view = Applier::open(options).expect("opens");
        run(view.apply(&log.batch(after, log.tail().0))).expect("applies");
        assert_eq!(view.lanes(), []);
        assert!(capture.poll().expect("looks").is_none(), "captured what was received (triggers on: {fire_triggers})");
        db.conn().execute("INSERT INTO orders VALUES (?1, ?1, ?1)", [id + 100]).expect("a local write");
        assert!(capture.poll().expect("looks").is_some());
    }
    assert_eq!(db.rows("SELECT id FROM orders ORDER BY id"), ["1", "2", "101", "102"]);
}
