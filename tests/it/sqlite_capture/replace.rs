use super::bed::{Bed, ops};

const TABLE: &str = "CREATE TABLE t(id INTEGER PRIMARY KEY, u TEXT COLLATE NOCASE UNIQUE, v, w, d TEXT NOT NULL DEFAULT 'd', UNIQUE (v, w));
    INSERT INTO t VALUES (1, 'a', 1, 1, 'x'), (2, 'b', 2, 2, 'x'), (3, 'c', 3, 3, 'x'), (-1, 'm', NULL, 1, 'x'), (5, NULL, 5, 5, 'x');";

/// Runs the statements; gives what was captured.
fn captured(schema: &str, sql: &str) -> Vec<&'static str> {
    let bed = Bed::new("wal", schema);
    let (mut capture, mut replay) = bed.begin();
    bed.shell(sql);
    ops(&replay.agrees(&bed, &mut capture).concat())
}

#[test]
fn replace_on_the_primary_key_is_an_update() {
    assert_eq!(captured(TABLE, "REPLACE INTO t VALUES (1, 'z', 9, 9, 'y')"), ["update"]);
}

#[test]
fn replace_on_other_unique_keys_deletes_what_was_there() {
    assert_eq!(captured(TABLE, "REPLACE INTO t VALUES (7, 'B', 7, 7, 'y')"), ["delete", "insert"]);
    assert_eq!(captured(TABLE, "REPLACE INTO t(u, v, w) VALUES ('B', 3, 3)"), ["delete", "delete", "insert"]);
    assert_eq!(captured(TABLE, "REPLACE INTO t VALUES (1, 'b', 3, 3, 'y')").len(), 3);
}

#[test]
fn replace_fills_defaults_for_nulls_and_is_still_recognised() {
    assert_eq!(captured(TABLE, "REPLACE INTO t VALUES (NULL, 'b', 7, 7, NULL)"), ["delete", "insert"]);
    let keyed =
        "CREATE TABLE t(id INTEGER PRIMARY KEY, d TEXT NOT NULL DEFAULT 'd' UNIQUE); INSERT INTO t VALUES (1, 'd')";
    assert_eq!(captured(keyed, "REPLACE INTO t VALUES (2, NULL)"), ["delete", "insert"]);
}

#[test]
fn a_new_rowid_is_not_taken_for_the_row_minus_one() {
    assert_eq!(captured(TABLE, "INSERT INTO t(u) VALUES ('new')"), ["insert"]);
    assert_eq!(captured(TABLE, "REPLACE INTO t(u) VALUES ('new')"), ["insert"]);
    assert_eq!(captured(TABLE, "REPLACE INTO t(u) VALUES ('M')"), ["delete", "insert"]);
    assert_eq!(captured(TABLE, "REPLACE INTO t(id, u) VALUES (-1, 'new')"), ["update"]);
}

#[test]
fn ignored_and_failed_statements_remove_nothing() {
    assert!(captured(TABLE, "INSERT OR IGNORE INTO t(id, u) VALUES (1, 'b')").is_empty());
    let then_inserted = "INSERT OR IGNORE INTO t(id, u) VALUES (9, 'b'); DELETE FROM t WHERE id = 2; INSERT INTO t(id, u) VALUES (9, 'b')";
    assert_eq!(captured(TABLE, then_inserted), ["delete", "insert"]);
    let then_moved = "INSERT OR IGNORE INTO t(id, u) VALUES (9, 'b'); UPDATE t SET u = 'q' WHERE id = 2; INSERT INTO t(id, u) VALUES (9, 'b')";
    assert_eq!(captured(TABLE, then_moved), ["update", "insert"]);
    let bed = Bed::new("delete", TABLE);
    let (mut capture, mut replay) = bed.begin();
    assert!(bed.try_shell("INSERT OR FAIL INTO t(id, u) VALUES (8, 'h'), (9, 'b')").is_err());
    assert_eq!(ops(&replay.agrees(&bed, &mut capture).concat()), ["insert"]);
}

#[test]
fn upserts_are_updates() {
    assert_eq!(
        captured(TABLE, "INSERT INTO t(id, u) VALUES (9, 'b') ON CONFLICT(u) DO UPDATE SET d = 'up'"),
        ["update"]
    );
    assert!(captured(TABLE, "INSERT INTO t(id, u) VALUES (9, 'b') ON CONFLICT DO NOTHING").is_empty());
}

#[test]
fn update_or_replace_deletes_what_was_in_the_way() {
    assert_eq!(captured(TABLE, "UPDATE OR REPLACE t SET u = 'A' WHERE id = 2"), ["delete", "update"]);
    assert_eq!(captured(TABLE, "UPDATE OR REPLACE t SET id = 1 WHERE id = 2"), ["delete", "update"]);
    assert_eq!(captured(TABLE, "UPDATE OR REPLACE t SET rowid = 1 WHERE id = 2"), ["delete", "update"]);
    assert_eq!(captured(TABLE, "UPDATE t SET u = 'A' WHERE id = 1"), ["update"]);
    assert!(captured(TABLE, "UPDATE OR IGNORE t SET u = 'A' WHERE id = 2").is_empty());
}

#[test]
fn tables_without_rowid_and_with_composite_keys_are_replaced_too() {
    let schema =
        "CREATE TABLE t(a TEXT COLLATE NOCASE, b INT, u UNIQUE, g AS (u % 100), PRIMARY KEY (b, a)) WITHOUT ROWID;
        CREATE UNIQUE INDEX by_g ON t(g); INSERT INTO t VALUES ('x', 1, 101), ('y', 2, 102), ('z', 3, 103);";
    assert_eq!(captured(schema, "REPLACE INTO t(a, b, u) VALUES ('X', 1, 1)"), ["delete", "insert"]);
    assert_eq!(captured(schema, "REPLACE INTO t(a, b, u) VALUES ('q', 4, 102)"), ["delete", "insert"]);
    assert_eq!(captured(schema, "REPLACE INTO t(a, b, u) VALUES ('q', 4, 502)"), ["delete", "insert"]);
    assert_eq!(captured(schema, "UPDATE OR REPLACE t SET a = 'Z', b = 3 WHERE b = 1"), ["delete", "update"]);
    assert_eq!(captured(schema, "UPDATE t SET a = 'Z' WHERE b = 3"), ["update"]);
}

#[test]
fn a_random_run_of_conflicting_statements_is_replayed_exactly() {
    let bed = Bed::new("wal", TABLE);
    let (mut capture, mut replay) = bed.begin();
    bed.python(
        "
import random
random.seed(5)
conflict = ['OR REPLACE', 'OR IGNORE', 'OR FAIL', 'OR ABORT', '']
pick = lambda: random.choice([None, -1, 1, 2, 3, 4, 5, 6])
word = lambda: random.choice(['a', 'B', 'b', 'c', 'D', None])
for n in range(3000):
    if n % 20 == 0:
        db.execute('BEGIN')
    try:
        kind = random.randrange(10)
        if kind < 6:
            db.execute(f'INSERT {random.choice(conflict)} INTO t VALUES (?,?,?,?,?)', (pick(), word(), pick(), pick(), word()))
        elif kind < 9:
            column = random.choice(['id', 'u', 'v', 'w', 'd'])
            value = word() if column in 'ud' else pick()
            db.execute(f'UPDATE {random.choice(conflict)} t SET {column} = ? WHERE v IS ? OR id = ?', (value, pick(), pick()))
        else:
            db.execute('DELETE FROM t WHERE id = ?', (pick(),))
    except sqlite3.IntegrityError:
        pass
    if n % 20 == 19:
        db.execute('ROLLBACK' if n % 100 == 99 else 'COMMIT')
",
    );
    replay.agrees(&bed, &mut capture);
    assert!(replay.changes > 1000, "{}", replay.changes);
}
