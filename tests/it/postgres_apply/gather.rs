//! What comes while something is under way is gathered, and large transactions are merged part by part.

use watershed::postgres::Session;
use watershed::view::{LaneView, View};

use super::merge::{SCHEMA, Source, Step, counting, found, source};
use super::*;

/// A database that notes in which transactions its table `one` is written, also by us.
fn noting() -> Database {
    Database::new(&format!(
        "{SCHEMA} CREATE TABLE done(xid xid8);
         CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO public.done VALUES (pg_current_xact_id()); RETURN NULL; END $$;
         CREATE TRIGGER note AFTER INSERT OR UPDATE OR DELETE ON one FOR EACH STATEMENT EXECUTE FUNCTION note();
         ALTER TABLE one ENABLE ALWAYS TRIGGER note"
    ))
}

/// Another session that keeps everybody from writing the table, until it is told to end its transaction.
fn locking(db: &Database) -> Session {
    run(async {
        let endpoint = Endpoint::from_url(&db.url).expect("a URL");
        let session = endpoint.connect(std::time::Duration::from_secs(10)).await.expect("connects");
        session.client.batch_execute("BEGIN; LOCK TABLE one IN SHARE MODE").await.expect("locks");
        session
    })
}

fn unlock(session: &Session) {
    run(session.client.batch_execute("COMMIT")).expect("ends");
}

#[test]
fn what_comes_while_something_is_under_way_is_one_transaction() {
    let db = noting();
    let mut source = source(db.script());
    let mut view = db.applier();
    (0..150).for_each(|n| source.write(&Step::Put((n, 0), n, 0)));
    run(view.apply(&source.log.all())).expect("is under way");
    run(view.flush()).expect("is there");
    let lock = locking(&db);
    for round in 0..5 {
        let before = source.log.last;
        (0..150).for_each(|n| source.write(&Step::Touch((n, 0), round)));
        run(view.apply(&source.log.batch(before, source.log.last))).expect("is taken");
    }
    assert_eq!(run(view.cursor()).expect("reads"), Some(db.cursor(150)), "what is under way is not there");
    unlock(&lock);
    run(view.flush()).expect("is there");
    assert_eq!(run(view.cursor()).expect("reads"), Some(db.cursor(900)));
    assert_eq!(found(&db), source.expected());
    assert_eq!(db.rows("SELECT count(DISTINCT xid) FROM done"), ["3"], "the rows, the first round, all others");
}

#[test]
fn a_broken_connection_loses_nothing_of_what_was_gathered() {
    let db = noting();
    let mut source = source(db.script());
    let mut view = db.applier();
    let lock = locking(&db);
    for round in 0..3 {
        let before = source.log.last;
        (0..150).for_each(|n| source.write(&Step::Put((round * 150 + n, 0), round * 150 + n, 0)));
        run(view.apply(&source.log.batch(before, source.log.last))).expect("is taken");
    }
    db.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'watershed' AND datname = current_database() AND wait_event_type = 'Lock'");
    unlock(&lock);
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(180);
    while let Err(error) = run(view.flush()) {
        assert!(error.is_retryable() && std::time::Instant::now() < deadline, "{error}");
    }
    assert_eq!(run(view.cursor()).expect("reads"), Some(db.cursor(450)));
    assert_eq!(found(&db), source.expected());
}

#[test]
fn a_table_parked_by_what_was_under_way_is_not_written_by_what_was_prepared_meanwhile() {
    let db = Database::new(SCHEMA);
    let mut source = source(db.script());
    // A row that the source does not know of has the value.
    db.sql("INSERT INTO one VALUES (-1, 77, 'local', NULL)");
    (0..150).for_each(|n| source.write(&Step::Put((n, 0), n, 0)));
    let one = table("one", &[("id", 1), ("u", 0), ("v", 0), ("w", 0)]);
    let long = "x".repeat(40 << 10);
    for n in 0..150 {
        let row = vec![int(n % 50 * 2), Value::UNCHANGED, text(&format!("later {long}")), Value::UNCHANGED];
        source.log.one(&one, &[update(None, row)]);
    }
    let mut view = db.applier();
    run(view.apply(&source.log.batch(0, 150))).expect("is under way");
    // So large that it is prepared at once.
    run(view.apply(&source.log.batch(150, 300))).expect("is taken");
    run(view.flush()).expect("is there");
    let lanes = view.lanes();
    assert_eq!((lanes.len(), lanes[0].after), (1, Position(77)));
    assert_eq!(db.rows("SELECT count(*), count(*) FILTER (WHERE v LIKE 'later%') FROM one"), ["78|0"]);
    assert_eq!(view.torn(), 73);
    assert_eq!(run(view.cursor()).expect("reads"), Some(db.cursor(300)));
}

/// A large transaction of so many parts, in each of which every row is updated as often.
fn touches(source: &mut Source, db: &Database, parts: usize, times: i64) -> Script {
    let one = table("one", &[("id", 1), ("u", 0), ("v", 0), ("w", 0)]);
    let mut log = db.script();
    log.one(&one, &(0..8).map(|n| insert(vec![int(n * 2), int(n), text("v0"), Value::NULL])).collect::<Vec<_>>());
    (0..8).for_each(|n| source.write(&Step::Put((n, 0), n, 0)));
    let of = |part: i64| -> Vec<Change> {
        let rows = (0..times).flat_map(|v| (0..8).map(move |n| (n, part * 100 + v)));
        rows.map(|(n, v)| update(None, vec![int(n * 2), int(n), text(&format!("v{v}")), Value::NULL])).collect()
    };
    let parts: Vec<Vec<Change>> = (0..parts as i64).map(of).collect();
    log.large(&one, &parts);
    let last = (parts.len() as i64 - 1) * 100 + times - 1;
    (0..8).for_each(|n| source.write(&Step::Touch((n, 0), last)));
    log
}

#[test]
fn the_parts_of_a_large_transaction_are_written_by_their_net_effect() {
    for exact in [false, true] {
        let db = counting();
        let mut source = source(db.script());
        let log = touches(&mut source, &db, 3, 20);
        let mut view = db.applier_with(|options| options.exact = exact);
        run(view.apply(&log.all())).expect("applies");
        assert_eq!(found(&db)[0], source.expected()[0]);
        assert_eq!(run(view.cursor()).expect("reads"), Some(db.cursor(2)));
        let updates = if exact { "480" } else { "24" };
        assert_eq!(db.rows("SELECT count(*) FROM done WHERE op = 'UPDATE'"), [updates]);
    }
}

#[test]
fn a_large_transaction_whose_rows_swap_a_unique_value_is_redone_in_order() {
    let db = Database::new(SCHEMA);
    let one = table("one", &[("id", 1), ("u", 0), ("v", 0), ("w", 0)]);
    let row = |id: i64, u: i64| vec![int(id), int(u), text("v"), Value::NULL];
    let mut log = db.script();
    log.one(&one, &[insert(row(0, 1)), insert(row(1, 2))]);
    let swap = vec![update(None, row(0, 3)), update(None, row(1, 1)), update(None, row(0, 2))];
    // Also what is there already is overwritten.
    let again: Vec<Change> = (0..9).map(|n| insert(row(n, if n < 2 { 2 - n } else { 10 + n }))).collect();
    log.large(&one, &[swap, again]);
    let mut view = db.applier();
    run(view.apply(&log.all())).expect("applies");
    assert_eq!(view.lanes(), []);
    assert_eq!(db.rows("SELECT id, u FROM one WHERE id < 3 ORDER BY id"), ["0|2", "1|1", "2|12"]);
    assert_eq!(db.rows("SELECT count(*) FROM one"), ["9"]);
}
