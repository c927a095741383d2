//! One table's trouble is that table's.

use watershed::model::Position;
use watershed::view::{Lane, LaneState, LaneView, View, ViewError};

use super::*;

const SCHEMA: &str =
    "CREATE TABLE good(id INTEGER PRIMARY KEY, v); CREATE TABLE bad(id INTEGER PRIMARY KEY, v UNIQUE NOT NULL);
                      CREATE TABLE worse(id INTEGER PRIMARY KEY, v CHECK (v < 100));";
const COLUMNS: [(&str, u16); 2] = [("id", 1), ("v", 0)];

fn at(table: usize, id: i64, v: i64) -> Change {
    Change { table, ..insert(vec![int(id), int(v)]) }
}

fn lane_of(view: &Applier, table: &str) -> Lane {
    view.lanes().into_iter().find(|lane| lane.table.as_str() == table).expect("has a lane")
}

#[test]
fn failing_tables_are_parked_and_the_others_go_on() {
    let db = Database::new(SCHEMA);
    let (good, bad, worse) = (table("good", &COLUMNS), table("bad", &COLUMNS), table("worse", &COLUMNS));
    let tables = [&good, &bad, &worse];
    let mut log = Script::default();
    log.commit(PEER, &tables, &[at(0, 1, 1), at(1, 1, 1), at(2, 1, 1)]);
    log.commit(PEER, &tables, &[at(0, 2, 2), at(1, 2, 1), at(2, 2, 2)]);
    log.commit(PEER, &tables, &[at(0, 3, 3), at(1, 3, 3), at(2, 3, 500)]);
    let mut view = db.applier();
    run(view.apply(&log.all())).expect("applies the rest");
    assert_eq!(db.rows("SELECT id FROM good"), ["1", "2", "3"]);
    assert_eq!(db.rows("SELECT id FROM bad"), ["1"]);
    assert_eq!(db.rows("SELECT id FROM worse"), ["1", "2"]);
    assert_eq!(view.torn(), 2);
    let lane = lane_of(&view, "bad");
    assert_eq!(lane.after, Position(1));
    let LaneState::Parked { position, error, .. } = lane.state else { panic!("not parked: {lane:?}") };
    assert_eq!(position, Position(2));
    assert!(error.contains("id=\"2\"") && error.contains("UNIQUE") && error.contains("INSERT"), "{error}");
    assert!(matches!(lane_of(&view, "worse").state, LaneState::Parked { position: Position(3), .. }));
    assert_eq!(view.lanes(), db.applier().lanes(), "lanes are stored");

    // Mended by hand, the table replays from its own cursor and joins.
    db.conn().execute("UPDATE bad SET v = 77 WHERE id = 1", []).expect("mends");
    let name = bad.name.clone();
    let replay = Lane { table: name.clone(), after: Position(1), state: LaneState::Replaying { settled: None } };
    run(view.set_lane(&name, Some(replay))).expect("sets");
    assert!(matches!(run(view.set_lane(&name, None)), Err(ViewError::Failed(_))), "changes would be lost");
    assert!(!run(view.join_lane(&name)).expect("looks"));
    run(view.apply_lane(&name, &log.batch(1, 3))).expect("replays");
    assert!(run(view.join_lane(&name)).expect("joins"));
    assert_eq!(db.rows("SELECT id, v FROM bad"), ["1 77", "2 1", "3 3"]);
    log.commit(PEER, &tables, &[at(1, 4, 4)]);
    run(view.apply(&log.batch(3, 4))).expect("applies");
    assert_eq!(db.rows("SELECT max(id) FROM bad"), ["4"]);
}

#[test]
fn a_retried_table_that_fails_again_is_parked_again_where_it_failed() {
    let db = Database::new(SCHEMA);
    let bad = table("bad", &COLUMNS);
    let mut log = Script::default();
    for (id, v) in [(1, 1), (2, 1), (3, 3), (4, 3)] {
        log.one(&bad, &[at(0, id, v)]);
    }
    let mut view = db.applier();
    run(view.apply(&log.all())).expect("parks");
    // Skipped: the lane goes on behind the failing entry, and fails at the next.
    let replay = Lane { table: bad.name.clone(), after: Position(2), state: LaneState::Replaying { settled: None } };
    run(view.set_lane(&bad.name, Some(replay))).expect("sets");
    run(view.apply_lane(&bad.name, &log.batch(2, 4))).expect("parks again");
    let lane = lane_of(&view, "bad");
    assert_eq!(lane.after, Position(3));
    assert!(matches!(lane.state, LaneState::Parked { position: Position(4), .. }));
    assert_eq!(db.rows("SELECT id FROM bad"), ["1", "3"]);
    assert!(run(view.apply_lane(&bad.name, &log.all())).is_err(), "a parked lane does not move");
}

#[test]
fn a_destination_that_does_not_fit_is_parked_with_the_reason() {
    let db = Database::new(SCHEMA);
    let cases = [
        (table("nowhere", &COLUMNS), "no table"),
        (table("good", &[("id", 1), ("v", 0), ("w", 0)]), "no column \"w\""),
        (table("bad", &[("id", 1), ("v", 2)]), "another key"),
        (table("watershed_cursor", &COLUMNS), "reserved"),
    ];
    let mut log = Script::default();
    for (case, _) in &cases {
        let row = vec![int(1); case.columns.len()];
        log.one(case, &[insert(row)]);
    }
    let mut view = db.applier();
    run(view.apply(&log.all())).expect("parks");
    for (case, why) in &cases {
        let LaneState::Parked { error, .. } = lane_of(&view, case.name.as_str()).state else { panic!("not parked") };
        assert!(error.contains(why), "{error}");
    }
    assert_eq!(run(view.cursor()).expect("reads"), Some(cursor(4)));
}

#[test]
fn a_large_transaction_parks_its_table_as_a_whole() {
    let db = Database::new(SCHEMA);
    let bad = table("bad", &COLUMNS);
    let mut log = Script::default();
    log.one(&bad, &[at(0, 1, 1)]);
    log.large(&bad, &[vec![at(0, 2, 2)], vec![at(0, 3, 1)], vec![at(0, 4, 4)]]);
    let mut view = db.applier();
    run(view.apply(&log.all())).expect("parks");
    assert_eq!(db.rows("SELECT id FROM bad"), ["1"]);
    assert_eq!(lane_of(&view, "bad").after, Position(1));
}

#[test]
fn a_schema_change_while_running_is_seen() {
    let db = Database::new(SCHEMA);
    let (narrow, wide) = (table("good", &COLUMNS), table("good", &[("id", 1), ("v", 0), ("w", 0)]));
    let mut log = Script::default();
    log.one(&narrow, &[at(0, 1, 1)]);
    let mut view = db.applier();
    run(view.apply(&log.all())).expect("applies");
    db.conn().execute_batch("ALTER TABLE good ADD COLUMN w").expect("alters");
    log.one(&wide, &[insert(vec![int(2), int(2), int(2)])]);
    log.one(&narrow, &[at(0, 3, 3)]);
    run(view.apply(&log.all())).expect("applies");
    assert_eq!(view.lanes(), []);
    assert_eq!(db.rows("SELECT * FROM good"), ["1 1 null", "2 2 2", "3 3 null"]);
}
