use std::process::Stdio;

use watershed::sqlite::{inspect, uninstall};

use super::bed::{Bed, Replay, ops, until};

const TABLE: &str = "CREATE TABLE t(id INTEGER PRIMARY KEY, a TEXT); INSERT INTO t VALUES (1, 'one'), (2, 'two');";

/// What followers of the recreated tables have after copying them afresh.
fn copy_afresh(bed: &Bed, replay: &mut Replay) {
    let rows = bed.rows();
    for table in replay.recreated.drain(..) {
        let name = table.parse().unwrap();
        replay.tables.insert(rows.get(&name).map(|_| name.clone()).unwrap(), rows[&name].clone());
    }
}

#[test]
fn a_rebuilt_table_is_announced_as_copied_after_what_was_logged_before() {
    for mode in ["wal", "delete"] {
        let bed = Bed::new(mode, TABLE);
        let (mut capture, mut replay) = bed.begin();
        bed.shell(
            "INSERT INTO t VALUES (3, 'three');
             BEGIN; CREATE TABLE t_new(id INTEGER PRIMARY KEY, a TEXT, b TEXT DEFAULT 'b'); INSERT INTO t_new(id, a) SELECT id, a FROM t;
             DROP TABLE t; ALTER TABLE t_new RENAME TO t; COMMIT;
             INSERT INTO t VALUES (4, 'four', 'seen by no trigger');",
        );
        let all = replay.drain(&mut capture).concat();
        assert_eq!(ops(&all), ["insert", "copied"]);
        assert_eq!(replay.recreated, ["t"]);
        copy_afresh(&bed, &mut replay);
        bed.shell("INSERT INTO t VALUES (5, 'five', 'seen')");
        assert_eq!(ops(&replay.agrees(&bed, &mut capture).concat()), ["insert"]);
    }
}

#[test]
fn a_rebuild_in_the_middle_of_writes_loses_nothing() {
    let bed = Bed::new("wal", TABLE);
    let (mut capture, mut replay) = bed.begin();
    let program = "
other = connect()
for i in range(10, 400):
    db.execute('INSERT INTO t(id, a) VALUES (?, ?)', (i, 'row'))
    other.execute('UPDATE t SET a = a || id WHERE id = ?', (i - 1,))
    if i % 100 == 50:
        db.executescript('''BEGIN; CREATE TABLE t_new(id INTEGER PRIMARY KEY, a TEXT); INSERT INTO t_new SELECT * FROM t;
            DROP TABLE t; ALTER TABLE t_new RENAME TO t; COMMIT;''')
";
    let mut writer = bed.python_command(program).stderr(Stdio::inherit()).spawn().unwrap();
    until("the writer's end", || {
        // The writer's later rows are not in a copy that is taken now: what it wrote unseen is compared at the end.
        if let Some(captured) = capture.poll().unwrap() {
            replay.recreated.extend(captured.recreated.iter().map(|table| table.to_string()));
        }
        writer.try_wait().unwrap().is_some()
    });
    assert!(writer.wait().unwrap().success());
    replay.drain_loosely(&mut capture);
    assert!(replay.recreated.len() >= 2, "{:?}", replay.recreated);
    copy_afresh(&bed, &mut replay);
    bed.shell("UPDATE t SET a = 'all'");
    replay.agrees(&bed, &mut capture);
}

#[test]
fn columns_added_and_renamed_between_changes_of_one_poll_are_read_by_their_definitions() {
    let bed = Bed::new("wal", TABLE);
    let (mut capture, mut replay) = bed.begin();
    bed.shell("INSERT INTO t VALUES (3, 'x'); ALTER TABLE t RENAME COLUMN a TO name; INSERT INTO t VALUES (4, 'y');");
    let captured = capture.poll().unwrap().unwrap();
    assert_eq!(captured.tables.len(), 1);
    assert!(captured.tables[0].column("a").is_some(), "as it was when the triggers were made");
    replay.apply(captured);
    replay.agrees(&bed, &mut capture);
    assert!(replay.recreated.is_empty(), "a renamed column loses nothing");
    bed.shell("UPDATE t SET name = 'z' WHERE id = 4");
    let captured = capture.poll().unwrap().unwrap();
    assert!(captured.tables[0].column("name").is_some());
    replay.apply(captured);

    bed.shell("ALTER TABLE t ADD COLUMN b DEFAULT 5; INSERT INTO t VALUES (6, 'six', 6);");
    assert_eq!(ops(&replay.drain(&mut capture).concat()), ["insert", "copied"], "the insert lacks the new column");
    copy_afresh(&bed, &mut replay);
    bed.shell("UPDATE t SET b = 7");
    replay.agrees(&bed, &mut capture);
}

#[test]
fn a_column_can_be_dropped_once_the_triggers_are() {
    let bed = Bed::new("wal", TABLE);
    let (mut capture, mut replay) = bed.begin();
    assert!(bed.try_shell("ALTER TABLE t DROP COLUMN a").unwrap_err().contains("watershed_1_"), "SQLite names us");
    assert!(replay.agrees(&bed, &mut capture).is_empty());
    let triggers =
        bed.shell("SELECT 'DROP TRIGGER ' || name || ';' FROM sqlite_master WHERE type = 'trigger' AND tbl_name = 't'");
    bed.shell(&format!("BEGIN; {triggers} ALTER TABLE t DROP COLUMN a; INSERT INTO t VALUES (9); COMMIT;"));
    assert_eq!(ops(&replay.drain(&mut capture).concat()), ["copied"]);
    copy_afresh(&bed, &mut replay);
    bed.shell("INSERT INTO t VALUES (10)");
    replay.agrees(&bed, &mut capture);
}

#[test]
fn a_table_dropped_and_made_again_is_announced_even_if_empty() {
    let bed = Bed::new("delete", TABLE);
    let (mut capture, mut replay) = bed.begin();
    bed.shell("DROP TABLE t; CREATE TABLE t(id INTEGER PRIMARY KEY, a TEXT)");
    assert_eq!(ops(&replay.drain(&mut capture).concat()), ["copied"]);
    copy_afresh(&bed, &mut replay);
    bed.shell("DROP TABLE t");
    assert!(replay.drain(&mut capture).concat().is_empty());
    assert_eq!(replay.dropped, ["t"]);
    bed.shell("CREATE TABLE t(id INTEGER PRIMARY KEY, a TEXT)");
    assert_eq!(ops(&replay.drain(&mut capture).concat()), ["copied"]);
    bed.shell("DROP TABLE t; CREATE TABLE t(id INTEGER, a TEXT); INSERT INTO t VALUES (1, 'no key')");
    assert!(replay.drain(&mut capture).concat().is_empty());
    assert_eq!(replay.dropped, ["t", "t"], "without a key it cannot be captured");
}

#[test]
fn a_new_table_is_captured_from_when_it_is_seen() {
    let bed = Bed::new("wal", TABLE);
    let (mut capture, mut replay) = bed.begin();
    bed.shell("CREATE TABLE full(id INTEGER PRIMARY KEY); INSERT INTO full VALUES (1); CREATE TABLE empty(id INTEGER PRIMARY KEY); CREATE TABLE private_x(id INTEGER PRIMARY KEY)");
    replay.drain(&mut capture);
    assert_eq!(replay.recreated, ["full"]);
    copy_afresh(&bed, &mut replay);
    bed.shell("INSERT INTO empty VALUES (1); INSERT INTO full VALUES (2); INSERT INTO private_x VALUES (3)");
    assert_eq!(ops(&replay.agrees(&bed, &mut capture).concat()), ["insert", "insert"]);
}

#[test]
fn triggers_that_moved_with_a_renamed_table_are_replaced() {
    let bed = Bed::new("wal", TABLE);
    let (mut capture, mut replay) = bed.begin();
    bed.shell("ALTER TABLE t RENAME TO old_t; CREATE TABLE t(id INTEGER PRIMARY KEY, a TEXT); INSERT INTO t VALUES (7, 'unseen')");
    replay.drain(&mut capture);
    replay.recreated.sort();
    assert_eq!(replay.recreated, ["old_t", "t"]);
    copy_afresh(&bed, &mut replay);
    bed.shell(
        "INSERT INTO t VALUES (8, 'new'); INSERT INTO old_t VALUES (8, 'old'); ALTER TABLE t RENAME TO private_t;",
    );
    replay.drain(&mut capture);
    assert_eq!(replay.dropped, ["t"]);
    bed.shell("INSERT INTO private_t VALUES (9, 'not captured')");
    assert!(replay.drain(&mut capture).is_empty());
    assert_eq!(
        bed.shell("SELECT count(*) FROM sqlite_master WHERE type = 'trigger' AND tbl_name = 'private_t'").trim(),
        "0"
    );
}

#[test]
fn a_unique_index_made_later_is_honoured() {
    let bed = Bed::new("wal", TABLE);
    let (mut capture, mut replay) = bed.begin();
    bed.shell("CREATE UNIQUE INDEX by_a ON t(a)");
    assert!(replay.agrees(&bed, &mut capture).is_empty(), "nothing was written between");
    bed.shell("REPLACE INTO t VALUES (9, 'one')");
    assert_eq!(ops(&replay.agrees(&bed, &mut capture).concat()), ["delete", "insert"]);
    bed.shell(
        "DROP INDEX by_a; CREATE UNIQUE INDEX by_lower ON t(a COLLATE NOCASE); REPLACE INTO t VALUES (10, 'ONE')",
    );
    replay.drain_loosely(&mut capture);
    assert_eq!(replay.recreated, ["t"], "the replaced row was not seen");
}

#[test]
fn a_writer_that_knew_the_old_schema_is_captured_under_the_new_one() {
    let bed = Bed::new("wal", TABLE);
    let writer = rusqlite::Connection::open(&bed.path).unwrap();
    let mut insert = writer.prepare("INSERT INTO t VALUES (?1, 'cached')").unwrap();
    insert.execute([10]).unwrap();
    let (mut capture, mut replay) = bed.begin();
    insert.execute([11]).unwrap();
    assert_eq!(ops(&replay.agrees(&bed, &mut capture).concat()), ["insert"]);
    bed.shell("CREATE UNIQUE INDEX by_id ON t(id, a)");
    insert.execute([12]).unwrap();
    replay.drain(&mut capture);
    insert.execute([13]).unwrap();
    replay.agrees(&bed, &mut capture);
}

#[test]
fn changes_logged_while_stopped_and_before_a_migration_are_read() {
    let bed = Bed::new("wal", TABLE);
    let (capture, mut replay) = bed.begin();
    drop(capture);
    let resume = replay.cursor.clone();
    assert!(resume.is_none());
    let mut capture = bed.open(None).unwrap();
    bed.shell("INSERT INTO t VALUES (3, 'x')");
    replay.drain(&mut capture);
    drop(capture);
    bed.shell("UPDATE t SET a = 'y' WHERE id = 3; ALTER TABLE t ADD COLUMN b; UPDATE t SET b = 1; CREATE TABLE u(id INTEGER PRIMARY KEY); INSERT INTO u VALUES (1)");
    let mut capture = bed.open(replay.cursor.clone()).unwrap();
    let all = replay.drain(&mut capture).concat();
    assert_eq!(ops(&all), ["update", "update", "update", "update", "copied", "copied"]);
    replay.recreated.sort();
    assert_eq!(replay.recreated, ["t", "u"]);
}

#[test]
fn inspection_tells_what_cannot_be_captured() {
    let wide: Vec<String> = (0..1200).map(|i| format!("c{i}")).collect();
    let bed = Bed::new(
        "delete",
        &format!(
            "CREATE TABLE good(id INTEGER PRIMARY KEY, g AS (id + 1)); CREATE TABLE keyless(a); CREATE TABLE loose(k TEXT PRIMARY KEY);
             CREATE TABLE part(id INTEGER PRIMARY KEY, a); CREATE UNIQUE INDEX part_a ON part(a) WHERE a > 0; CREATE UNIQUE INDEX part_e ON part(abs(a));
             CREATE TABLE wide(id INTEGER PRIMARY KEY, {}); CREATE VIRTUAL TABLE search USING fts5(body); CREATE VIEW v AS SELECT 1;
             CREATE TABLE \"main.good\"(id INTEGER PRIMARY KEY); INSERT INTO good VALUES (1), (2);",
            wide.join(", ")
        ),
    );
    let check = || {
        let inspection = inspect(&bed.path).unwrap();
        let found: Vec<_> = inspection
            .tables
            .iter()
            .map(|table| (table.def.name.to_string(), table.capturable, table.problems.len()))
            .collect();
        let expected = [
            ("good", true, 0),
            ("keyless", false, 1),
            ("loose", true, 1),
            ("part", true, 2),
            ("search", false, 1),
            ("wide", false, 1),
        ];
        assert_eq!(found, expected.map(|(name, captured, problems)| (name.to_owned(), captured, problems)));
        assert_eq!(inspection.unnamed.len(), 1);
        assert_eq!(inspection.tables[0].def.columns.len(), 1);
        assert_eq!(inspection.tables[0].rows_estimate, 2);
    };
    check();
    assert_eq!(bed.shell("SELECT count(*) FROM sqlite_master WHERE name LIKE 'watershed%'").trim(), "0");
    drop(bed.begin());
    check();
    uninstall(&bed.path).unwrap();
    assert_eq!(bed.shell("SELECT count(*) FROM sqlite_master WHERE name LIKE 'watershed%'").trim(), "0");
    bed.shell("INSERT INTO good VALUES (3)");
}

#[test]
fn a_rescan_announces_the_table() {
    let bed = Bed::new("wal", TABLE);
    let (mut capture, mut replay) = bed.begin();
    bed.shell("INSERT INTO t VALUES (3, 'x')");
    capture.request_rescan(&"t".parse().unwrap());
    capture.request_rescan(&"nothing".parse().unwrap());
    assert_eq!(ops(&replay.agrees(&bed, &mut capture).concat()), ["insert", "copied"]);
}

#[test]
fn a_wide_table_widens_the_change_table() {
    let bed = Bed::new("wal", TABLE);
    let (mut capture, mut replay) = bed.begin();
    bed.shell("INSERT INTO t VALUES (3, 'x')");
    let columns: Vec<String> = (0..900).map(|i| format!("c{i}")).collect();
    bed.shell(&format!("CREATE TABLE wide(id INTEGER PRIMARY KEY, {})", columns.join(", ")));
    replay.drain(&mut capture);
    bed.shell("INSERT INTO wide(id, c0, c899) VALUES (1, 'first', 'last'); UPDATE wide SET c500 = 5; REPLACE INTO wide(id) VALUES (1)");
    replay.agrees(&bed, &mut capture);
    drop(capture);
    let mut capture = bed.open(replay.cursor.clone()).unwrap();
    assert!(replay.agrees(&bed, &mut capture).is_empty());
}
