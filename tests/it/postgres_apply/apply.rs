//! The main cursor: exactly once, fenced, whole transactions, kinds of tables and values.

use watershed::view::{LaneView, View};

use super::*;

const SCHEMA: &str = "CREATE TABLE orders(id integer PRIMARY KEY, note text, total numeric);";

fn orders() -> Arc<TableDef> {
    table("orders", &[("id", 1), ("note", 0), ("total", 0)])
}

fn order(id: i64, note: &str) -> Row {
    vec![int(id), text(note), Value::new(Kind::Real, "1.5")]
}

#[test]
fn redelivered_transactions_are_applied_once() {
    let db = Database::new("CREATE TABLE seen(what text)");
    let seen = table("seen", &[("what", 0)]);
    let mut log = db.script();
    log.one(&seen, &[insert(vec![text("a")])]);
    log.one(&seen, &[insert(vec![text("b")])]);
    let mut view = db.applier();
    run(view.apply(&log.batch(0, 1))).expect("applies");
    run(view.apply(&log.all())).expect("ignores what it has");
    run(view.apply(&log.batch(0, 1))).expect("ignores what is behind");
    drop(view);
    let mut view = db.applier();
    assert_eq!(run(view.cursor()).expect("reads"), Some(db.cursor(2)));
    run(view.apply(&log.all())).expect("ignores what was applied before the restart");
    assert_eq!(db.rows("SELECT what FROM seen"), ["a", "b"]);
    assert_eq!(db.rows("SELECT cursor FROM watershed.cursor"), [db.cursor(2).to_string()]);
}

#[test]
fn a_zombie_is_fenced_and_changes_nothing() {
    let db = Database::new(SCHEMA);
    let mut log = db.script();
    log.one(&orders(), &[insert(order(1, "a"))]);
    log.one(&orders(), &[insert(order(2, "b"))]);
    let mut old = db.applier();
    run(old.apply(&log.batch(0, 1))).expect("applies");
    let refused = run(PgApplier::open(db.options())).expect_err("the origin is in use");
    assert!(refused.is_retryable() && refused.to_string().contains("in use"), "{refused}");
    // Whatever moved the cursor: this one does not go on.
    db.sql(&format!("UPDATE watershed.cursor SET cursor = '{}'", db.cursor(2)));
    let fenced = run(old.apply(&log.all())).expect_err("the zombie");
    let expected = (Some(db.cursor(1)), Some(db.cursor(2)));
    assert!(matches!(fenced, ViewError::Fenced { expected: e, found: f } if (e, f) == expected), "{fenced}");
    assert_eq!(db.rows("SELECT id FROM orders"), ["1"]);
}

#[test]
fn changes_find_their_rows_by_key() {
    let db = Database::new(SCHEMA);
    let mut log = db.script();
    log.one(&orders(), &[insert(order(1, "a")), insert(order(2, "b")), insert(order(3, "c"))]);
    log.one(&orders(), &[update(None, order(1, "a2")), update(Some(order(2, "b")), order(20, "b2"))]);
    let unchanged = vec![int(3), Value::UNCHANGED, int(9)];
    log.one(&orders(), &[update(None, unchanged), insert(order(1, "a3")), delete(order(99, "missing"))]);
    run(db.applier().apply(&log.all())).expect("applies");
    assert_eq!(db.rows("SELECT * FROM orders ORDER BY id"), ["1|a3|1.5", "3|c|9", "20|b2|1.5"]);
    log.one(&orders(), &[update(None, order(7, "entered")), truncate(), insert(order(8, "after"))]);
    run(db.applier().apply(&log.all())).expect("applies");
    assert_eq!(db.rows("SELECT * FROM orders"), ["8|after|1.5"]);
}

#[test]
fn each_transaction_is_one_here_when_there_are_few() {
    let db = Database::new(SCHEMA);
    let mut log = db.script();
    for id in 1..=20 {
        log.one(&orders(), &[insert(order(id, "live"))]);
    }
    let mut view = db.applier();
    run(view.apply(&log.batch(0, 1))).expect("applies");
    run(view.apply(&log.all())).expect("applies");
    assert_eq!(db.rows("SELECT count(*), count(DISTINCT xmin::text) FROM orders"), ["20|20"]);
    assert_eq!(run(view.cursor()).expect("reads"), Some(db.cursor(20)));
}

#[test]
fn local_entries_are_passed_over_and_the_cursor_advances() {
    let db = Database::new(SCHEMA);
    let mut log = db.script();
    log.commit(LinkId::LOCAL, &[&orders()], &[insert(order(1, "is there already"))]);
    let mut view = db.applier();
    run(view.apply(&log.all())).expect("applies");
    assert!(db.rows("SELECT * FROM orders").is_empty());
    assert_eq!(run(view.cursor()).expect("reads"), Some(db.cursor(1)));
}

#[test]
fn columns_are_matched_by_name_and_extra_ones_keep_their_defaults() {
    let db = Database::new(
        "CREATE TABLE orders(extra text DEFAULT 'mine', \"Total\" int, twice int GENERATED ALWAYS AS (id * 2) STORED, note text,
           id integer PRIMARY KEY GENERATED ALWAYS AS IDENTITY)",
    );
    let wide = table("orders", &[("id", 1), ("note", 0), ("total", 0), ("twice", 0)]);
    let mut log = db.script();
    log.one(&wide, &[insert(vec![int(4), text("a"), int(1), int(0)])]);
    log.one(&wide, &[update(None, vec![int(4), text("b"), int(1), int(0)])]);
    log.one(&wide, &[insert(vec![int(5), text("c"), int(1), int(0)])]);
    let mut view = db.applier();
    run(view.apply(&log.all())).expect("applies");
    assert_eq!(view.lanes(), []);
    let shown = "SELECT id, note, \"Total\", extra, twice FROM orders ORDER BY id";
    assert_eq!(db.rows(shown), ["4|b|1|mine|8", "5|c|1|mine|10"]);
    db.sql("UPDATE orders SET extra = 'kept'");
    let old = vec![int(5), text("c"), int(1), int(0)];
    log.one(&wide, &[update(None, vec![int(4), text("d"), int(1), int(0)])]);
    log.one(&wide, &[update(Some(old), vec![int(6), text("e"), int(1), int(0)])]);
    run(view.apply(&log.all())).expect("applies");
    assert_eq!(view.lanes(), []);
    assert_eq!(db.rows("SELECT id, note FROM orders ORDER BY id"), ["4|d", "6|e"]);
    assert_eq!(db.rows("SELECT extra FROM orders WHERE id = 4"), ["kept"]);
}

#[test]
fn values_of_both_engines_arrive_as_what_they_are() {
    let db = Database::new(
        "CREATE TABLE v(id integer PRIMARY KEY, i bigint, r double precision, t text, b bytea, o boolean, n numeric(10,2), c char(4), a int[])",
    );
    let columns = [("id", 1), ("i", 0), ("r", 0), ("t", 0), ("b", 0), ("o", 0), ("n", 0), ("c", 0), ("a", 0)];
    let v = table("v", &columns);
    let mut log = db.script();
    let blob = Value::new(Kind::Blob, vec![0u8, 255]);
    let sqlite = |number: i64| {
        vec![
            int(number),
            int(i64::MIN),
            Value::new(Kind::Real, "Infinity"),
            Value::new(Kind::Text, "a\\b\n'"),
            blob.clone(),
            int(1),
            Value::new(Kind::Text, "12.5"),
            Value::new(Kind::Text, "x"),
            Value::NULL,
        ]
    };
    let postgres = |number: i64| {
        vec![
            int(number),
            text("7"),
            text("NaN"),
            text(""),
            text("\\x00ff"),
            text("t"),
            text("1.10"),
            text("ab  "),
            text("{1,NULL,2}"),
        ]
    };
    log.one(&v, &[insert(sqlite(1)), insert(postgres(2))]);
    let mut view = db.applier();
    run(view.apply(&log.all())).expect("applies");
    assert_eq!(view.lanes(), []);
    let shown = "SELECT id, i, r, t = E'a\\\\b\\n''', b, o, n, c, a FROM v ORDER BY id";
    assert_eq!(
        db.rows(shown),
        ["1|-9223372036854775808|Infinity|t|\\x00ff|t|12.50|x   |", "2|7|NaN|f|\\x00ff|t|1.10|ab  |{1,NULL,2}"]
    );
    for merged in 0..200 {
        log.one(&v, &[insert(sqlite(10 + 2 * merged)), insert(postgres(11 + 2 * merged))]);
    }
    run(view.apply(&log.all())).expect("applies");
    run(view.flush()).expect("is there");
    assert_eq!(view.lanes(), []);
    let same = "SELECT count(*), count(DISTINCT (i, r, t, b, o, n, c, a)) FROM v";
    assert_eq!(db.rows(same), ["402|2"]);
}

#[test]
fn a_value_that_is_too_long_is_refused_and_not_cut() {
    let short = table("short", &[("id", 1), ("v", 0), ("w", 0)]);
    for (rows, v, w) in [(1, "abcd", "x"), (200, "abcd", "x"), (1, "abc", "xyz"), (200, "abc", "xyz")] {
        let db = Database::new("CREATE TABLE short(id integer PRIMARY KEY, v varchar(3), w char(2))");
        let mut log = db.script();
        for id in 0..rows {
            log.one(&short, &[insert(vec![int(id), text(v), text(w)])]);
        }
        let mut view = db.applier();
        run(view.apply(&log.all())).expect("parks");
        run(view.flush()).expect("parks");
        assert_eq!(view.lanes().len(), 1);
        assert!(db.rows("SELECT * FROM short").is_empty());
    }
}

#[test]
fn hostile_names_are_names() {
    let name = "a\"b'; DROP TABLE orders --$ws$";
    let column = "x\" = 1; --'";
    let quoted = |name: &str| format!("\"{}\"", name.replace('"', "\"\""));
    let db = Database::new(&format!("{SCHEMA} CREATE TABLE {}({} text PRIMARY KEY)", quoted(name), quoted(column)));
    let hostile = table(name, &[(column, 1)]);
    let mut log = db.script();
    log.one(&hostile, &[insert(vec![text("'); --")]), update(Some(vec![text("'); --")]), vec![text("b")])]);
    let mut view = db.applier();
    run(view.apply(&log.all())).expect("applies");
    assert_eq!(view.lanes(), []);
    assert_eq!(db.rows(&format!("SELECT * FROM {}", quoted(name))), ["b"]);
}

#[test]
fn the_local_sequence_does_not_move() {
    let db = Database::new(
        "CREATE TABLE s(id serial PRIMARY KEY, note text); CREATE TABLE i(id int GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY, note text);
         INSERT INTO s(note) VALUES ('mine'); INSERT INTO i(note) VALUES ('mine')",
    );
    let mut log = db.script();
    for name in ["s", "i"] {
        let s = table(name, &[("id", 1), ("note", 0)]);
        for id in 0..200 {
            log.one(&s, &[insert(vec![int(5000 + id), text("theirs")])]);
        }
        log.one(&s, &[update(None, vec![int(9000), text("entered")])]);
    }
    let mut view = db.applier();
    run(view.apply(&log.all())).expect("applies");
    run(view.flush()).expect("is there");
    assert_eq!(view.lanes(), []);
    assert_eq!(db.rows("SELECT nextval('s_id_seq'), nextval('i_id_seq')"), ["2|2"]);
    assert_eq!(db.rows("SELECT count(*) FROM s UNION ALL SELECT count(*) FROM i"), ["202", "202"]);
}

#[test]
fn a_large_transaction_is_committed_with_its_last_part() {
    let db = Database::new(SCHEMA);
    let mut log = db.script();
    log.one(&orders(), &[insert(order(1, "before"))]);
    let parts: Vec<Vec<Change>> =
        (0..5).map(|p| (0..100).map(|i| insert(order(p * 100 + i, "large"))).collect()).collect();
    log.large(&orders(), &parts);
    log.one(&orders(), &[insert(order(1000, "after"))]);
    let mut view = db.applier();
    let entries = log.entries.clone();
    run(view.apply(&log.batch_of(entries[..3].to_vec(), 1))).expect("applies the first, keeps two parts");
    assert_eq!(db.rows("SELECT count(*) FROM orders"), ["1"]);
    run(view.apply(&log.batch_of(entries[2..4].to_vec(), 1))).expect("a part may come again");
    assert_eq!(run(view.cursor()).expect("reads"), Some(db.cursor(1)));
    drop(view);
    let mut view = db.applier();
    run(view.apply(&log.batch_of(entries[1..4].to_vec(), 1))).expect("from the cursor again after a restart");
    run(view.apply(&log.batch_of(entries[4..].to_vec(), 3))).expect("commits");
    assert_eq!(db.rows("SELECT count(*), count(*) FILTER (WHERE note = 'large') FROM orders"), ["501|500"]);
    assert_eq!(run(view.cursor()).expect("reads"), Some(db.cursor(3)));
}

#[test]
fn a_lock_is_tried_again_and_a_deadlock_too() {
    let db = Database::new(SCHEMA);
    db.sql("INSERT INTO orders VALUES (1, 'a', 0), (2, 'b', 0)");
    db.sql(&format!("ALTER DATABASE {} SET deadlock_timeout = '50ms'", db.url.rsplit('/').next().expect("a name")));
    let mut log = db.script();
    log.one(&orders(), &[update(None, order(1, "a2")), update(None, order(2, "b2"))]);
    let mut view = db.applier();
    let endpoint = Endpoint::from_url(&db.url).expect("a URL");
    run(async {
        let other = endpoint.connect(std::time::Duration::from_secs(5)).await.expect("connects");
        // Their row first, then ours: one of the two is chosen as the victim.
        other.client.batch_execute("BEGIN; UPDATE orders SET note = 'local' WHERE id = 2").await.expect("locks");
        let batch = log.all();
        let crossing = async {
            let waits =
                "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()";
            let deadline = std::time::Instant::now() + std::time::Duration::from_secs(180);
            loop {
                let row = other.client.query_one(waits, &[]).await.expect("looks");
                if row.get::<_, i64>(0) > 0 {
                    break;
                }
                assert!(std::time::Instant::now() < deadline, "nobody waits");
            }
            let crossed = other.client.batch_execute("UPDATE orders SET note = 'local' WHERE id = 1").await;
            let _ = other.client.batch_execute("COMMIT").await;
            crossed
        };
        let (applied, crossed) = tokio::join!(view.apply(&batch), crossing);
        match applied {
            Ok(()) => assert!(crossed.is_err(), "somebody was the victim"),
            Err(error) => {
                assert!(error.is_retryable() && error.to_string().contains("deadlock"), "{error}");
                view.apply(&batch).await.expect("applies at the second attempt");
            }
        }
    });
    assert_eq!(view.lanes(), []);
    assert_eq!(db.rows("SELECT id, note FROM orders ORDER BY id"), ["1|a2", "2|b2"]);
}

#[test]
fn triggers_and_foreign_keys_work_only_if_asked_for() {
    let db = Database::new(&format!(
        "{SCHEMA} CREATE TABLE audit(id int); CREATE TABLE lines(id int PRIMARY KEY, of int REFERENCES orders);
         CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO audit VALUES (new.id); RETURN NULL; END $$;
         CREATE TRIGGER a AFTER INSERT ON orders FOR EACH ROW EXECUTE FUNCTION note();"
    ));
    let lines = table("lines", &[("id", 1), ("of", 0)]);
    let mut log = db.script();
    log.one(&orders(), &[insert(order(1, "a"))]);
    log.one(&lines, &[insert(vec![int(1), int(77)])]);
    log.one(&orders(), &[insert(order(2, "b"))]);
    log.one(&lines, &[insert(vec![int(2), int(78)])]);
    let mut view = db.applier();
    run(view.apply(&log.batch(0, 2))).expect("applies");
    assert_eq!(view.lanes(), []);
    assert!(db.rows("SELECT * FROM audit").is_empty());
    drop(view);
    let mut view = db.applier_with(|options| options.fire_triggers = true);
    run(view.apply(&log.all())).expect("applies");
    assert_eq!(db.rows("SELECT * FROM audit"), ["2"]);
    let lanes = view.lanes();
    assert_eq!(lanes.len(), 1, "{lanes:?}");
    assert!(format!("{:?}", lanes[0]).contains("foreign key"), "{lanes:?}");
}

#[test]
fn what_is_applied_bears_our_origin() {
    let db = Database::new(SCHEMA);
    let name = format!("watershed_{}", &db.log.to_string()[..16]);
    db.sql("SELECT pg_create_logical_replication_slot('slot_of_' || current_database(), 'test_decoding')");
    let mut log = db.script();
    log.one(&orders(), &[insert(order(1, "a"))]);
    run(db.applier().apply(&log.all())).expect("applies");
    db.sql("INSERT INTO orders VALUES (2, 'local', 0)");
    let seen = |only_local: &str| {
        db.rows(&format!(
            "SELECT count(*) FROM pg_logical_slot_peek_changes('slot_of_' || current_database(), NULL, NULL, 'only-local', '{only_local}')
             WHERE data LIKE 'table public.orders%'"
        ))
    };
    assert_eq!(seen("false"), ["2"]);
    assert_eq!(seen("true"), ["1"], "what was received is somebody else's");
    assert_eq!(db.rows(&format!("SELECT count(*) FROM pg_replication_origin WHERE roname = '{name}'")), ["1"]);
    db.sql("SELECT pg_drop_replication_slot('slot_of_' || current_database())");
}

#[test]
fn tables_without_a_key_change_one_equal_row() {
    let whole = "CREATE TABLE k(a int, j json, p point)";
    let parts = "CREATE TABLE k(a int, j json, p point) PARTITION BY RANGE (a);
        CREATE TABLE low PARTITION OF k FOR VALUES FROM (0) TO (10); CREATE TABLE high PARTITION OF k FOR VALUES FROM (10) TO (99);
        CREATE TABLE other PARTITION OF k DEFAULT";
    let row = |a: i64, j: &str| vec![int(a), text(j), text("(1,2)")];
    let k = table("k", &[("a", 0), ("j", 0), ("p", 0)]);
    let nothing = vec![Value::NULL, Value::NULL, Value::NULL];
    for schema in [whole, parts] {
        let db = Database::new(schema);
        let mut log = db.script();
        log.one(&k, &[insert(row(1, "{}")), insert(row(1, "{}")), insert(row(12, "[1]")), insert(nothing.clone())]);
        log.one(&k, &[delete(row(1, "{}")), update(Some(row(12, "[1]")), row(3, "[2]")), delete(nothing.clone())]);
        let mut view = db.applier();
        run(view.apply(&log.all())).expect("applies");
        assert_eq!(view.lanes(), []);
        assert_eq!(db.rows("SELECT a, j FROM k ORDER BY a"), ["1|{}", "3|[2]"]);
    }
}

#[test]
fn a_missing_privilege_is_said_with_what_grants_it() {
    let db = Database::new(SCHEMA);
    let user = format!("poor_{}", db.url.rsplit('/').next().expect("a name"));
    db.sql(&format!("CREATE ROLE {user} LOGIN"));
    let mut options = db.options();
    options.endpoint = Endpoint::from_url(&db.url.replace("postgres@", &format!("{user}@"))).expect("a URL");
    let error = run(PgApplier::open(options)).expect_err("may not");
    assert!(error.to_string().contains("GRANT SET ON PARAMETER session_replication_role"), "{error}");
}
