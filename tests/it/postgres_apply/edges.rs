//! Tables whose names, parents or locks stand in the way of the statements that write them.

use watershed::postgres::Session;
use watershed::view::{Lane, LaneState, LaneView, View};

use super::*;

const FOUND: [(&str, u16); 3] = [("found", 1), ("id", 2), ("v", 0)];

fn found_row(found: bool, id: i64, v: &str) -> Row {
    vec![text(if found { "t" } else { "f" }), int(id), text(v)]
}

/// plpgsql has a variable of that name.
#[test]
fn a_column_called_found_is_a_column() {
    for many in [false, true] {
        let db = Database::new(
            "CREATE TABLE named(found boolean, id int, v text, PRIMARY KEY (found, id)); CREATE TABLE lost(what text, found boolean)",
        );
        let (named, lost) = (table("named", &FOUND), table("lost", &[("what", 0), ("found", 0)]));
        let mut log = db.script();
        let rows = if many { 300 } else { 8 };
        for id in 0..rows {
            for found in [false, true] {
                log.one(&named, &[insert(found_row(found, id, "new"))]);
            }
            log.one(&lost, &[insert(vec![text(&format!("hat {id}")), text("f")])]);
        }
        let mut view = db.applier();
        run(view.apply(&log.all())).expect("applies");
        run(view.flush()).expect("is there");
        let before = log.last;
        for id in 0..rows {
            log.one(&named, &[update(None, found_row(false, id, "changed"))]);
            log.one(&named, &[insert(found_row(false, id, "again"))]);
            if id % 2 == 0 {
                log.one(&named, &[delete(found_row(true, id, "new"))]);
                log.one(&lost, &[delete(vec![text(&format!("hat {id}")), text("f")])]);
            }
        }
        run(view.apply(&log.batch(before, log.last))).expect("applies");
        run(view.flush()).expect("is there");
        assert_eq!(view.lanes(), []);
        let counted = "SELECT count(*) FILTER (WHERE NOT found AND v = 'again'), count(*) FILTER (WHERE found AND v = 'new'), count(*) FROM named";
        assert_eq!(db.rows(counted), [format!("{rows}|{}|{}", rows / 2, rows + rows / 2)]);
        assert_eq!(db.rows("SELECT count(*) FROM lost"), [format!("{}", rows / 2)]);
    }
}

#[test]
fn a_table_that_others_inherit_from_is_written_alone() {
    for many in [false, true] {
        let db = Database::new(
            "CREATE TABLE par(id int PRIMARY KEY, v text); CREATE TABLE chi(PRIMARY KEY (id)) INHERITS (par);
             INSERT INTO chi SELECT n, 'child' FROM generate_series(0, 299) n",
        );
        let par = table("par", &[("id", 1), ("v", 0)]);
        let mut log = db.script();
        let rows = if many { 300 } else { 8 };
        let mut view = db.applier();
        let row = |id: i64, v: &str| vec![int(id), text(v)];
        type Of = fn(Row) -> Change;
        for (of, v) in [(insert as Of, "a"), ((|row| update(None, row)) as Of, "b"), (delete as Of, "b")] {
            let before = log.last;
            for id in 0..rows {
                log.one(&par, &[of(row(id, v))]);
            }
            run(view.apply(&log.batch(before, log.last))).expect("applies");
            run(view.flush()).expect("is there");
        }
        assert_eq!(
            db.rows("SELECT (SELECT count(*) FROM ONLY par), count(*) FILTER (WHERE v = 'child') FROM chi"),
            ["0|300"]
        );
        let before = log.last;
        log.one(&par, &[insert(row(1000, "a"))]);
        log.one(&par, &[truncate()]);
        run(view.apply(&log.batch(before, log.last))).expect("applies");
        assert_eq!(view.lanes(), []);
        assert_eq!(db.rows("SELECT (SELECT count(*) FROM ONLY par), count(*) FROM chi"), ["0|300"]);
    }
}

#[test]
fn a_locked_cursor_is_tried_again_and_the_session_is_whole() {
    let db = Database::new("CREATE TABLE t(id int PRIMARY KEY, v text)");
    let t = table("t", &[("id", 1), ("v", 0)]);
    let mut log = db.script();
    log.one(&t, &[insert(vec![int(1), text("one")])]);
    let mut view = db.applier();
    run(view.apply(&log.all())).expect("applies");
    let lock: Session = run(async {
        let endpoint = Endpoint::from_url(&db.url).expect("a URL");
        let session = endpoint.connect(std::time::Duration::from_secs(10)).await.expect("connects");
        session.client.batch_execute("BEGIN; LOCK TABLE watershed.cursor").await.expect("locks");
        session
    });
    let part = |from: i64| (from..from + 5).map(|id| insert(vec![int(id), text("part")])).collect::<Vec<_>>();
    log.large(&t, &[part(10), part(20)]);
    let error = run(view.apply(&log.all())).expect_err("waits for the lock, not for ever");
    assert!(error.is_retryable(), "{error}");
    run(lock.client.batch_execute("COMMIT")).expect("ends");
    run(view.apply(&log.all())).expect("applies");
    assert_eq!(view.lanes(), []);
    assert_eq!(db.rows("SELECT count(*) FROM t"), ["11"]);
}

/// Capture knows by the cursor's row what is ours.
#[test]
fn the_cursors_row_is_written_also_where_the_cursor_stays() {
    let db = Database::new("CREATE TABLE t(id int PRIMARY KEY, v text)");
    let t = table("t", &[("id", 1), ("v", 0)]);
    let mut log = db.script();
    log.one(&t, &[insert(vec![int(1), text("one")])]);
    let mut view = db.applier();
    let lane = |state: LaneState| Some(Lane { table: t.name.clone(), after: Position(0), state });
    run(view.set_lane(&t.name, lane(LaneState::Paused))).expect("sets");
    assert_eq!(db.rows("SELECT count(*) FROM watershed.cursor"), ["0"], "there is none yet");
    run(view.apply(&log.all())).expect("passes over the table");
    run(view.set_lane(&t.name, lane(LaneState::Replaying { settled: None }))).expect("sets");
    let before = db.rows("SELECT xmin, cursor FROM watershed.cursor");
    run(view.apply_lane(&t.name, &log.all())).expect("replays");
    let after = db.rows("SELECT xmin, cursor FROM watershed.cursor");
    assert_ne!(before, after, "it is written");
    assert_eq!(db.rows("SELECT t.xmin = c.xmin FROM t, watershed.cursor c"), ["t"], "with the replay");
    assert_eq!(before[0].split('|').nth(1), after[0].split('|').nth(1), "it stays where it is");
}

/// An identity that is always generated can be inserted, and only so: a row in which it has changed is put in again, with what
/// only this database knows of it.
#[test]
fn an_identity_outside_of_the_key_changes_with_its_row() {
    for many in [false, true] {
        let rows = if many { 300 } else { 6 };
        let db = Database::new(
            "CREATE TABLE ident(k int, id int GENERATED ALWAYS AS IDENTITY, v text, own text DEFAULT 'own', PRIMARY KEY (k));
             CREATE TABLE loose(k int, id int GENERATED ALWAYS AS IDENTITY, v text)",
        );
        let of = [("k", 1), ("id", 0), ("v", 0)];
        let (ident, loose) = (table("ident", &of), table("loose", &of.map(|(name, _)| (name, 0))));
        let row = |k: i64, id: i64, v: &str| vec![int(k), int(id), text(v)];
        let mut log = db.script();
        for k in 0..rows {
            log.one(&ident, &[insert(row(k, k, "new"))]);
            log.one(&loose, &[insert(row(k, k, "new"))]);
        }
        let mut view = db.applier();
        run(view.apply(&log.all())).expect("applies");
        run(view.flush()).expect("is there");
        db.sql("UPDATE ident SET own = 'kept'");
        let before = log.last;
        let partial = |k: i64, id: Value| vec![int(k), id, Value::UNCHANGED];
        for k in 0..rows {
            let change = match k % 6 {
                0 => update(None, partial(k, int(1000 + k))),
                1 => update(None, row(k, 1000 + k, "new")),
                2 => insert(row(k, 1000 + k, "new")),
                3 => update(Some(row(k, k, "new")), row(-k, 1000 + k, "new")),
                4 => update(None, row(k, k, "same")),
                _ => update(Some(row(k, k, "new")), vec![int(-k), int(1000 + k), Value::UNCHANGED]),
            };
            log.one(&ident, &[change]);
            log.one(&loose, &[update(Some(row(k, k, "new")), row(k, 1000 + k, "changed"))]);
        }
        run(view.apply(&log.batch(before, log.last))).expect("applies");
        run(view.flush()).expect("is there");
        assert_eq!(view.lanes(), []);
        let found = db.rows("SELECT k, id, v, own FROM ident ORDER BY abs(k)");
        let expected: Vec<String> = (0..rows)
            .map(|k| match k % 6 {
                3 | 5 => format!("-{k}|{}|new|kept", 1000 + k),
                4 => format!("{k}|{k}|same|kept"),
                _ => format!("{k}|{}|new|kept", 1000 + k),
            })
            .collect();
        assert_eq!(found, expected, "many: {many}");
        let all = "SELECT count(*) FROM loose WHERE id = 1000 + k AND v = 'changed'";
        assert_eq!(db.rows(all), [rows.to_string()], "many: {many}");
    }
}
