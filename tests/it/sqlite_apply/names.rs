//! SQLite cannot tell names apart that differ by the case of letters only: two such tables are never written to one.

use watershed::model::Position;
use watershed::view::{CopyChunk, CopyScope, Lane, LaneState, LaneView, Settled, View, ViewError};

use super::*;

const OF: [(&str, u16); 2] = [("id", 1), ("note", 0)];

fn row(id: i64, note: &str) -> Row {
    vec![int(id), text(note)]
}

/// A copy of one chunk, as a node makes it.
fn copied(view: &mut Applier, table: &Arc<TableDef>, rows: Vec<Row>) -> Result<(), ViewError> {
    let state = LaneState::Copying { from: PEER, done: None, rows: 0, received: Position::ZERO };
    let lane = |state: LaneState| Some(Lane { table: table.name.clone(), after: Position(0), state });
    run(view.set_lane(&table.name, lane(state)))?;
    let chunk = CopyChunk { table: table.clone(), after: None, upto: None, rows, lines: None };
    run(view.copy_chunk(&chunk, &CopyScope::All, &|_, _| false))?;
    run(view.set_lane(&table.name, lane(LaneState::Replaying { settled: Some(Settled::keyed(PEER, Position(0))) })))?;
    run(view.set_followed(PEER, &table.name, Some(table.fingerprint)))?;
    assert!(run(view.join_lane(&table.name))?);
    Ok(())
}

#[test]
fn of_two_tables_that_differ_by_case_the_second_is_refused() {
    let (small, large) = (table("orders", &OF), table("Orders", &OF));
    let create = |name: &str| format!("CREATE TABLE {name}(id INTEGER PRIMARY KEY, note)");
    for here in ["SELECT 1".to_owned(), create("orders"), create("Orders"), create("ORDERS")] {
        for (first, second) in [(&small, &large), (&large, &small)] {
            let db = Database::new(&here);
            let mut view = db.applier();
            copied(&mut view, first, vec![row(1, "first"), row(2, "first")]).expect("the first one is copied");
            let refused = copied(&mut view, second, vec![row(1, "second")]).expect_err("SQLite has no two such tables");
            let words = format!("is written by {}", first.name);
            assert!(matches!(&refused, ViewError::Table { why, .. } if why.contains(&words)), "{refused}");
            assert_eq!(db.rows("SELECT id, note FROM orders"), ["1 'first'", "2 'first'"]);
            // Neither do its changes come into the other, nor is the other held up.
            run(view.set_lane(&second.name, None)).expect("the copy is given up");
            let mut log = Script::default();
            log.commit(
                PEER,
                &[first, second],
                &[insert(row(3, "first")), Change { table: 1, ..insert(row(4, "second")) }],
            );
            let mut view = db.applier();
            run(view.apply(&log.all())).expect("applies the rest");
            assert_eq!(db.rows("SELECT id FROM orders"), ["1", "2", "3"]);
            let [lane] = &view.lanes()[..] else { panic!("one is parked: {:?}", view.lanes()) };
            assert_eq!(lane.table, second.name);
        }
    }
}

#[test]
fn columns_that_sqlite_cannot_tell_apart_are_that_tables_trouble() {
    let both = table("t", &[("id", 1), ("a", 0), ("A", 0)]);
    for here in ["SELECT 1", "CREATE TABLE t(id INTEGER PRIMARY KEY, a)"] {
        let db = Database::new(here);
        let mut view = db.applier();
        let refused = copied(&mut view, &both, vec![vec![int(1), int(2), int(3)]]).expect_err("they would become one");
        assert!(matches!(&refused, ViewError::Table { .. }), "{refused}");
        let other = table("u", &OF);
        copied(&mut view, &other, vec![row(1, "one")]).expect("others are copied");
    }
}
