use std::process::Stdio;

use watershed::model::{Kind, Op};

use super::bed::{Bed, Replay, decoded, ops, until};

const MODES: [&str; 2] = ["wal", "delete"];

#[test]
fn what_other_processes_commit_is_captured_with_old_and_new_rows() {
    for mode in MODES {
        let bed = Bed::new(mode, "CREATE TABLE t(id INTEGER PRIMARY KEY, a TEXT, b REAL)");
        let (mut capture, mut replay) = bed.begin();
        bed.shell("INSERT INTO t VALUES (1, 'x', 1.5), (2, NULL, 2)");
        let inserted = replay.agrees(&bed, &mut capture);
        assert_eq!(ops(&inserted[0]), ["insert", "insert"]);
        bed.python(
            "db.execute('UPDATE t SET a = ? WHERE id = 1', ('y',)); db.execute('UPDATE t SET id = 9 WHERE id = 2')",
        );
        let updated: Vec<_> = replay.agrees(&bed, &mut capture).concat();
        assert_eq!(ops(&updated), ["update", "update"]);
        assert_eq!(updated[0].old.as_ref().unwrap()[2].kind, Kind::Same);
        bed.shell("DELETE FROM t");
        assert_eq!(ops(&replay.agrees(&bed, &mut capture).concat()), ["delete", "delete"]);
    }
}

#[test]
fn a_transaction_is_never_split_under_a_concurrent_writer() {
    for mode in MODES {
        let bed = Bed::new(
            mode,
            "CREATE TABLE ledger(id INTEGER PRIMARY KEY, amount INTEGER); CREATE TABLE other(k TEXT PRIMARY KEY) WITHOUT ROWID",
        );
        let (mut capture, mut replay) = bed.begin();
        let program = "
for i in range(300):
    db.execute('BEGIN IMMEDIATE')
    for n in range(i % 7 + 1):
        db.execute('INSERT INTO ledger(amount) VALUES (?)', (n + i,))
        db.execute('INSERT INTO other VALUES (?)', (f'{i}-{n}',))
        db.execute('INSERT INTO ledger(amount) VALUES (?)', (-n - i,))
    db.execute('ROLLBACK' if i % 5 == 4 else 'COMMIT')
";
        let mut writer = bed.python_command(program).stderr(Stdio::inherit()).spawn().unwrap();
        let mut transactions = 0;
        let mut done = false;
        until("the writer's last commit", || {
            let was_done = done;
            done = writer.try_wait().unwrap().is_some();
            let Some(captured) = capture.poll().unwrap() else { return was_done };
            let tables = captured.tables.clone();
            let changes = replay.apply(captured);
            let ledger = changes.iter().filter(|change| tables[change.table].name.as_str() == "ledger");
            let amount = |row: &watershed::model::Row| String::from_utf8_lossy(&row[1].text).parse::<i64>().unwrap();
            assert_eq!(ledger.map(|change| amount(change.row.as_ref().unwrap())).sum::<i64>(), 0);
            transactions += 1;
            false
        });
        assert!(writer.wait().unwrap().success());
        assert!(transactions > 1, "the writer was captured while it ran");
        replay.agrees(&bed, &mut capture);
        assert!(replay.changes > 1000);
    }
}

#[test]
fn rollbacks_and_savepoints_leave_nothing() {
    let bed = Bed::new("wal", "CREATE TABLE t(id INTEGER PRIMARY KEY, a)");
    let (mut capture, mut replay) = bed.begin();
    bed.shell(
        "BEGIN; INSERT INTO t VALUES (1, 1); ROLLBACK; BEGIN; INSERT INTO t VALUES (2, 2); SAVEPOINT s; INSERT INTO t VALUES (3, 3); ROLLBACK TO s; COMMIT;",
    );
    assert_eq!(ops(&replay.agrees(&bed, &mut capture).concat()), ["insert"]);
    assert!(bed.try_shell("INSERT INTO t VALUES (4, 4), (2, 5)").is_err(), "the key is taken");
    assert!(replay.agrees(&bed, &mut capture).is_empty());
}

#[test]
fn values_keep_class_and_bytes() {
    let bed = Bed::new(
        "wal",
        "CREATE TABLE t(id INTEGER PRIMARY KEY, i INTEGER, r REAL, s TEXT, b BLOB, n NUMERIC, x, g AS (i + 1), h AS (i + 2) STORED, last)",
    );
    let (mut capture, mut replay) = bed.begin();
    bed.python(
        "
big = 2**63
rows = [(1, big - 1, 1.5, 'text', b'blob', '12.50', None), (2, -big, float('inf'), 'nul\\0inside', b'', 10**18, 'x'),
        (3, 'not a number', float('-inf'), '', b'\\0\\xff', 'n', 0.1), (4, b'b', 3, 5, 'text', 1e300, -0.0),
        (5, 5e-324, 'r', '\\U0001F600', 7, b'n', 1e16), (-1, 0, -0.0, 'CREATE', None, 9007199254740993, big - 1)]
for row in rows:
    db.execute('INSERT INTO t(id, i, r, s, b, n, x, last) VALUES (?,?,?,?,?,?,?,1)', row)
db.execute(\"UPDATE t SET x = CAST(x'c328' AS TEXT) WHERE id = 5\")
db.execute('UPDATE t SET last = CAST(last AS REAL)')
db.execute('DELETE FROM t WHERE id = 2')
",
    );
    replay.agrees(&bed, &mut capture);
    assert!(replay.changes >= 13);
}

#[test]
fn hostile_names_are_captured() {
    let bed = Bed::new(
        "wal",
        r#"CREATE TABLE "a ""quoted"".table; DROP" ("k""1" TEXT, "select" INT, "ü ñ" BLOB, PRIMARY KEY ("k""1", "select"));
           CREATE TABLE "app.orders" (rival INTEGER PRIMARY KEY, "new" TEXT UNIQUE, "old", "rowid") ;
           CREATE TABLE [Ünï] ("rowid" TEXT PRIMARY KEY, "_rowid_" UNIQUE, oid) ;"#,
    );
    let (mut capture, mut replay) = bed.begin();
    bed.shell(
        r#"INSERT INTO "a ""quoted"".table; DROP" VALUES ('x''y', 1, x'00'), ('x', 2, 'é');
           UPDATE "a ""quoted"".table; DROP" SET "select" = 3 WHERE "select" = 2;
           INSERT INTO "app.orders" VALUES (1, 'a', 'b', 'c'); REPLACE INTO "app.orders" VALUES (2, 'a', 'b', 'd');
           INSERT INTO [Ünï] VALUES ('a', 1, 1), ('b', 2, 2); UPDATE OR REPLACE [Ünï] SET _rowid_ = 1 WHERE oid = 2;
           UPDATE [Ünï] SET oid = 5;"#,
    );
    replay.agrees(&bed, &mut capture);
    assert!(replay.changes >= 8);
}

#[test]
fn a_transaction_of_100_000_rows_goes_through_the_spool_in_one_piece() {
    let bed = Bed::new("wal", "CREATE TABLE t(id INTEGER PRIMARY KEY, a TEXT)");
    let (mut capture, mut replay) = bed.begin();
    bed.shell(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100000) INSERT INTO t SELECT i, 'row number ' || i FROM n",
    );
    let mut captured = capture.poll().unwrap().unwrap();
    assert_eq!(captured.changes, 100_000);
    let draft = std::mem::replace(
        &mut captured.draft,
        watershed::log::Draft::Local { header: Default::default(), changes: Default::default() },
    );
    let (changes, large) = decoded(draft);
    assert!(large);
    assert!(changes.iter().all(|change| change.op == Op::Insert));
    assert_eq!(changes.len(), 100_000);
    capture.retry();
    replay.agrees(&bed, &mut capture);
    let upto = replay.cursor.clone().unwrap();
    capture.release(&upto).unwrap();
    until("captured rows are removed", || {
        capture.poll().unwrap();
        bed.shell("SELECT count(*) FROM watershed_changes").trim() == "1"
    });
}

#[test]
fn applied_changes_stand_aside_while_the_origin_row_is_there() {
    let bed = Bed::new("wal", "CREATE TABLE t(id INTEGER PRIMARY KEY, a UNIQUE)");
    let (mut capture, mut replay) = bed.begin();
    bed.shell(
        "BEGIN; INSERT INTO watershed_origin VALUES (1); INSERT INTO t VALUES (1, 1); REPLACE INTO t VALUES (2, 1); UPDATE t SET a = 3; DELETE FROM watershed_origin; COMMIT",
    );
    assert!(replay.drain(&mut capture).is_empty());
    let mut replay = Replay::of(&bed);
    bed.shell("UPDATE t SET a = 4");
    assert_eq!(ops(&replay.agrees(&bed, &mut capture).concat()), ["update"]);
}

#[test]
fn user_triggers_and_cascades_are_captured_in_order() {
    let bed = Bed::new(
        "wal",
        "CREATE TABLE p(id INTEGER PRIMARY KEY, u UNIQUE); CREATE TABLE c(id INTEGER PRIMARY KEY, p REFERENCES p(id) ON DELETE CASCADE);
         CREATE TABLE audit(id INTEGER PRIMARY KEY, what);
         CREATE TRIGGER watch BEFORE INSERT ON p BEGIN INSERT INTO audit(what) VALUES ('p ' || NEW.u); END;
         CREATE TRIGGER twice AFTER INSERT ON c BEGIN UPDATE c SET p = p WHERE id = NEW.id; END;",
    );
    let (mut capture, mut replay) = bed.begin();
    for recursive in ["OFF", "ON"] {
        bed.shell(&format!(
            "PRAGMA foreign_keys=ON; PRAGMA recursive_triggers={recursive}; DELETE FROM p; INSERT INTO p VALUES (1, 'a'), (2, 'b'); INSERT INTO c(p) VALUES (1), (1), (2);
             REPLACE INTO p VALUES (3, 'a'); REPLACE INTO p VALUES (3, 'b'); UPDATE OR REPLACE p SET id = 3; DELETE FROM p;"
        ));
        replay.agrees(&bed, &mut capture);
    }
}

#[test]
fn a_writer_sees_its_own_row_ids_and_counts() {
    let bed = Bed::new("wal", "CREATE TABLE t(id INTEGER PRIMARY KEY, u UNIQUE)");
    let (mut capture, mut replay) = bed.begin();
    bed.python(
        "
db.execute('INSERT INTO t VALUES (1, 1), (2, 2), (3, 3)')
replaced = db.execute('REPLACE INTO t VALUES (70, 1)')
assert (replaced.lastrowid, replaced.rowcount) == (70, 1), (replaced.lastrowid, replaced.rowcount)
updated = db.execute('UPDATE t SET u = u + 100')
assert updated.rowcount == 3, updated.rowcount
assert db.execute('INSERT INTO t(u) VALUES (9) RETURNING id').fetchall() == [(71,)]
assert db.execute('SELECT last_insert_rowid()').fetchone() == (71,)
",
    );
    replay.agrees(&bed, &mut capture);
}

#[test]
fn a_transaction_of_large_rows_is_read_in_several_short_reads() {
    let bed = Bed::new("delete", "CREATE TABLE t(id INTEGER PRIMARY KEY, b BLOB)");
    let (mut capture, mut replay) = bed.begin();
    bed.shell(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 60) INSERT INTO t SELECT i, randomblob(400000) FROM n",
    );
    let all = replay.agrees(&bed, &mut capture);
    assert_eq!(all.len(), 1);
    assert_eq!(all[0].len(), 60);
}
