//! Two copies can be proved equal, and made equal.

use std::time::Duration;

use watershed::model::TableName;
use watershed::sqlite::{DiffOptions, RowDiffKind, Side, TableDiff, diff_table, list_tables, repair_table};

use super::*;

fn compare(a: &Database, b: &Database, table: &str) -> TableDiff {
    let options = DiffOptions { settle: Duration::ZERO, ..DiffOptions::default() };
    diff_table(&a.path, &b.path, &name(table), options).expect("compares")
}

fn name(table: &str) -> TableName {
    table.parse().expect("a name")
}

const SCHEMA: &str = "CREATE TABLE t(id TEXT COLLATE NOCASE PRIMARY KEY, u UNIQUE, v);";

#[test]
fn every_kind_of_difference_is_found_and_mended() {
    let a = Database::new(SCHEMA);
    let b = Database::new(SCHEMA);
    a.conn()
        .execute_batch("INSERT INTO t VALUES ('same', 0, 0), ('value', 1, 'x'), ('class', 2, 1), ('only a', 3, NULL), ('swap1', 4, 0), ('swap2', 5, 0), ('Case', 6, 0)")
        .expect("fills");
    b.conn()
        .execute_batch("INSERT INTO t VALUES ('same', 0, 0), ('value', 1, 'y'), ('class', 2, 1.0), ('only b', 9, NULL), ('swap1', 5, 0), ('swap2', 4, 0), ('case', 6, 0)")
        .expect("fills");
    let diff = compare(&a, &b, "t");
    assert!(!diff.is_equal() && diff.digest_a != diff.digest_b);
    assert_eq!((diff.rows_a, diff.rows_b, diff.different), (7, 7, 8));
    let kind = |key: &str| diff.rows.iter().find(|row| row.key == [text(key)]).map(|row| row.kind.clone());
    let values = vec![("v".into(), text("x"), text("y"))];
    assert_eq!(kind("value"), Some(RowDiffKind::Values(values)));
    let classes = vec![("v".into(), int(1), Value::new(Kind::Real, "1.0"))];
    assert_eq!(kind("class"), Some(RowDiffKind::Values(classes)));
    assert_eq!(kind("only a"), Some(RowDiffKind::Only(Side::A)));
    assert_eq!(kind("only b"), Some(RowDiffKind::Only(Side::B)));
    assert_eq!(kind("Case"), Some(RowDiffKind::Only(Side::A)));
    assert_eq!(kind("same"), None);
    let mut calls = 0;
    let done = repair_table(&a.path, &b.path, &name("t"), &mut |_| calls += 1).expect("repairs");
    assert_eq!((done.rows, calls), (7, 1));
    let diff = compare(&a, &b, "t");
    assert!(diff.is_equal() && diff.digest_a == diff.digest_b, "{diff:?}");
    let again = repair_table(&a.path, &b.path, &name("t"), &mut |_| ()).expect("repairs");
    assert_eq!((again.written, again.removed), (0, 0), "nothing is written where nothing differs");
}

#[test]
fn missing_tables_and_columns_are_differences() {
    let a = Database::new(
        "CREATE TABLE t(id INTEGER PRIMARY KEY, x, y); CREATE TABLE u(id); INSERT INTO t VALUES (1, 1, 1)",
    );
    let b = Database::new("CREATE TABLE t(z, y, id INTEGER PRIMARY KEY); INSERT INTO t VALUES (5, 1, 1)");
    let diff = compare(&a, &b, "t");
    assert_eq!(
        (diff.columns_only_a.as_slice(), diff.columns_only_b.as_slice()),
        (&["x".into()][..], &["z".into()][..])
    );
    assert!(!diff.is_equal() && diff.different == 0 && diff.digest_a == diff.digest_b);
    assert_eq!(compare(&a, &b, "u").missing_in, [Side::B]);
    assert!(repair_table(&a.path, &b.path, &name("u"), &mut |_| ()).is_err());
    assert_eq!(list_tables(&a.path).expect("lists"), [name("t"), name("u")]);
}

#[test]
fn a_table_without_a_key_is_compared_as_a_multiset() {
    let a = Database::new("CREATE TABLE t(v); INSERT INTO t VALUES (1), (1), ('b'), (NULL)");
    let b = Database::new("CREATE TABLE t(v); INSERT INTO t VALUES (NULL), ('b'), (1), (1)");
    assert!(compare(&a, &b, "t").is_equal());
    b.conn().execute_batch("DELETE FROM t WHERE rowid = 3; INSERT INTO t VALUES (1.0)").expect("changes");
    let diff = compare(&a, &b, "t");
    assert_eq!(diff.different, 2, "{diff:?}");
    repair_table(&a.path, &b.path, &name("t"), &mut |_| ()).expect("repairs");
    assert!(compare(&a, &b, "t").is_equal());
}

#[test]
fn rows_that_are_being_written_are_looked_at_again() {
    let a = Database::new("CREATE TABLE t(id INTEGER PRIMARY KEY, v); INSERT INTO t VALUES (1, 'new'), (2, 'kept')");
    let b = Database::new("CREATE TABLE t(id INTEGER PRIMARY KEY, v); INSERT INTO t VALUES (1, 'old'), (2, 'wrong')");
    let path = b.path.clone();
    let options = DiffOptions { settle: Duration::from_millis(100), rechecks: 50, ..DiffOptions::default() };
    let writer = std::thread::spawn(move || {
        Connection::open(path).expect("opens").execute("UPDATE t SET v = 'new' WHERE id = 1", []).expect("arrives late")
    });
    let diff = diff_table(&a.path, &b.path, &name("t"), DiffOptions { rechecks: 3, ..options }).expect("compares");
    writer.join().expect("wrote");
    assert_eq!((diff.different, diff.rows.len()), (1, 1), "{diff:?}");
    assert_eq!(diff.rows[0].key, [int(2)]);
}
