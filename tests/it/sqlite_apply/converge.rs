//! First copies converge while the source is written to, however chunks and entries interleave.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;
use watershed::model::Position;
use watershed::sqlite::{DiffOptions, Reader, diff_table};
use watershed::view::{CopyChunk, CopyScope, Lane, LaneState, LaneView, Settled, View, ViewError};

use super::*;

const SCHEMA: &str = "CREATE TABLE items(id INTEGER PRIMARY KEY, u UNIQUE, v)";

#[derive(Clone, Debug)]
enum Step {
    Put { id: i64, u: i64, v: i64 },
    Delete { id: i64 },
    Move { id: i64, to: i64 },
    SwapUnique { a: i64, b: i64 },
    Truncate,
    Chunk,
    Deliver { entries: u64 },
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        16 => (0..6i64, 0..8i64, 0..3i64).prop_map(|(id, u, v)| Step::Put { id, u, v }),
        3 => (0..6i64).prop_map(|id| Step::Delete { id }),
        3 => (0..6i64, 0..6i64).prop_map(|(id, to)| Step::Move { id, to }),
        3 => (0..6i64, 0..6i64).prop_map(|(a, b)| Step::SwapUnique { a, b }),
        1 => Just(Step::Truncate),
        6 => Just(Step::Chunk),
        3 => (1..5u64).prop_map(|entries| Step::Deliver { entries }),
        1 => Just(Step::Restart),
    ]
}

/// The writing side: a real database, its rows as the test knows them, and its log.
struct Source {
    db: Database,
    rows: BTreeMap<i64, (i64, i64)>,
    log: Script,
    table: Arc<TableDef>,
}

impl Source {
    fn row(&self, id: i64) -> Row {
        let (u, v) = self.rows[&id];
        vec![int(id), int(u), int(v)]
    }

    fn commit(&mut self, sql: &str, changes: &[Change]) {
        self.db.conn().execute_batch(&format!("BEGIN; {sql}; COMMIT")).expect("the source takes it");
        self.log.one(&self.table.clone(), changes);
    }

    fn write(&mut self, step: &Step) {
        match *step {
            Step::Put { id, u, v } => {
                if self.rows.iter().any(|(other, row)| *other != id && row.0 == u) {
                    return;
                }
                let before = self.rows.insert(id, (u, v));
                let mut row = self.row(id);
                let change = match before {
                    None => insert(row),
                    // A value that is stored apart and has not changed does not come.
                    Some((_, same)) if same == v => {
                        row[2] = Value::UNCHANGED;
                        update(None, row)
                    }
                    Some((u, v)) => update(Some(vec![int(id), int(u), int(v)]), row),
                };
                self.commit(&format!("INSERT OR REPLACE INTO items VALUES ({id}, {u}, {v})"), &[change]);
            }
            Step::Delete { id } if self.rows.contains_key(&id) => {
                let old = self.row(id);
                self.rows.remove(&id);
                self.commit(&format!("DELETE FROM items WHERE id = {id}"), &[delete(old)]);
            }
            Step::Move { id, to } if self.rows.contains_key(&id) && !self.rows.contains_key(&to) => {
                let old = self.row(id);
                let row = self.rows.remove(&id).expect("checked");
                self.rows.insert(to, row);
                self.commit(&format!("UPDATE items SET id = {to} WHERE id = {id}"), &[update(Some(old), self.row(to))]);
            }
            Step::SwapUnique { a, b } if a != b && self.rows.contains_key(&a) && self.rows.contains_key(&b) => {
                let (old_a, old_b) = (self.row(a), self.row(b));
                let (u_a, u_b) = (self.rows[&a].0, self.rows[&b].0);
                let away = vec![int(a), int(-1), int(self.rows[&a].1)];
                self.rows.get_mut(&a).expect("checked").0 = u_b;
                self.rows.get_mut(&b).expect("checked").0 = u_a;
                let set = |id: i64, u: i64| format!("UPDATE items SET u = {u} WHERE id = {id}");
                let changes = [
                    update(Some(old_a), away.clone()),
                    update(Some(old_b), self.row(b)),
                    update(Some(away), self.row(a)),
                ];
                self.commit(&format!("{}; {}; {}", set(a, -1), set(b, u_a), set(a, u_b)), &changes);
            }
            Step::Truncate => {
                self.rows.clear();
                let truncate = Change { table: 0, op: Op::Truncate, row: None, old: None };
                self.commit("DELETE FROM items", &[truncate]);
            }
            _ => {}
        }
    }
}

/// The receiving side, as a node drives it.
struct Receiver {
    db: Database,
    view: Applier,
    applied: u64,
}

impl Receiver {
    fn lane(&self) -> Option<Lane> {
        self.view.lanes().into_iter().next()
    }

    fn deliver(&mut self, log: &Script, entries: u64) -> Result<(), ViewError> {
        let upto = (self.applied + entries).min(log.tail().0);
        run(self.view.apply(&log.batch(self.applied, upto)))?;
        self.applied = upto;
        let Some(lane) = self.lane() else { return Ok(()) };
        if let LaneState::Replaying { settled } = lane.state {
            run(self.view.apply_lane(&lane.table, &log.batch(lane.after.0, upto)))?;
            if settled.is_some_and(|settled| settled.upto.0 <= upto) {
                run(self.view.join_lane(&lane.table))?;
            }
        }
        Ok(())
    }

    fn chunk(&mut self, source: &Source) -> Result<(), ViewError> {
        let Some(lane) = self.lane() else { return Ok(()) };
        let LaneState::Copying { from, done, .. } = &lane.state else { return Ok(()) };
        let mut reader = Reader::open(&source.db.path).expect("opens");
        let read = reader.read_chunk(&lane.table, done.as_ref(), 2, usize::MAX).expect("reads");
        let last = read.upto.is_none();
        let chunk =
            CopyChunk { table: read.def, after: done.clone(), upto: read.upto, rows: read.rows, lines: read.lines };
        run(self.view.copy_chunk(&chunk, &CopyScope::All, &|_, _| false))?;
        if last {
            let settled = Some(Settled::keyed(*from, source.log.tail()));
            let table = lane.table.clone();
            let lane = Lane { table: table.clone(), after: lane.after, state: LaneState::Replaying { settled } };
            run(self.view.set_lane(&table, Some(lane)))?;
        }
        Ok(())
    }
}

fn converges(stale: Vec<(i64, i64)>, before: Vec<Step>, steps: Vec<Step>) -> Result<(), ViewError> {
    let table = table("items", &[("id", 1), ("u", 0), ("v", 0)]);
    let mut source =
        Source { db: Database::new(SCHEMA), rows: BTreeMap::new(), log: Script::default(), table: table.clone() };
    let db = Database::new(SCHEMA);
    for (id, u) in stale {
        db.conn().execute("INSERT OR IGNORE INTO items VALUES (?1, ?2, 'stale')", [id, u]).expect("inserts");
    }
    for step in &before {
        source.write(step);
    }
    let view = db.applier();
    let mut receiver = Receiver { db, view, applied: 0 };
    // What was before the copy has been received, and passed the receiver by.
    let applied = source.log.tail().0;
    run(receiver.view.apply(&source.log.batch_of(Vec::new(), applied)))?;
    receiver.applied = applied;
    let state = LaneState::Copying { from: PEER, done: None, rows: 0, received: Position::ZERO };
    let lane = Lane { table: table.name.clone(), after: Position(applied), state };
    run(receiver.view.set_lane(&table.name, Some(lane)))?;
    for step in &steps {
        match step {
            Step::Chunk => receiver.chunk(&source)?,
            Step::Deliver { entries } => receiver.deliver(&source.log, *entries)?,
            Step::Restart => {
                receiver.view = receiver.db.applier();
                run(receiver.view.cursor())?;
            }
            write => source.write(write),
        }
    }
    while matches!(receiver.lane(), Some(Lane { state: LaneState::Copying { .. }, .. })) {
        receiver.chunk(&source)?;
    }
    receiver.deliver(&source.log, u64::MAX / 2)?;
    assert_eq!(receiver.lane(), None, "joined, and not parked");
    let options = DiffOptions { settle: Duration::ZERO, ..DiffOptions::default() };
    let diff = diff_table(&source.db.path, &receiver.db.path, &table.name, options).expect("compares");
    assert!(diff.is_equal() && diff.digest_a == diff.digest_b, "{diff:#?}");
    assert_eq!(diff.rows_a, source.rows.len() as u64);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn a_copy_under_writing_converges(
        stale in prop::collection::vec((0..6i64, 0..8i64), 0..6),
        before in prop::collection::vec(step(), 0..15),
        steps in prop::collection::vec(step(), 0..50),
    ) {
        converges(stale, before, steps).expect("nothing fails");
    }
}

#[test]
fn a_replay_after_a_copy_wins_over_what_the_copy_brought_too_early() {
    let puts = [(1, 5), (1, 6), (2, 5)];
    let mut steps: Vec<Step> = puts.iter().map(|&(id, u)| Step::Put { id, u, v: 0 }).collect();
    steps.extend([Step::Chunk, Step::Chunk]);
    converges(Vec::new(), Vec::new(), steps).expect("the second row is in the way of the first's past");
}

/// Values of a server, of which an update leaves out what has not changed: the row that another's past removes for now is made
/// of what it had, whatever index they stand in each other's way by.
#[test]
fn a_row_that_is_set_aside_comes_back_whole_though_its_change_is_not() {
    let big = "x".repeat(100);
    for unique in [
        "email UNIQUE",
        "email); CREATE UNIQUE INDEX e ON u(email) WHERE email > ''; --",
        "email); CREATE UNIQUE INDEX e ON u(lower(email)); --",
    ] {
        let schema = format!("CREATE TABLE u(id INTEGER PRIMARY KEY, v TEXT, big TEXT, {unique})");
        let db = Database::new(&schema);
        let columns = [("id", 1), ("v", 0), ("big", 0), ("email", 0)];
        let table = table("u", &columns);
        let typed = |text: &str| Value::new(Kind::Typed, text.to_owned());
        let row = |id: &str, v: &str, email: &str| vec![typed(id), typed(v), Value::UNCHANGED, typed(email)];
        let whole = |id: &str, v: &str, email: &str| vec![typed(id), typed(v), typed(&big), typed(email)];
        let mut log = Script::default();
        log.one(&table, &[update(None, row("1", "new", "X"))]);
        log.one(&table, &[update(None, row("1", "new", "Y"))]);
        log.one(&table, &[update(None, row("2", "old", "X"))]);
        log.one(&table, &[update(Some(row("3", "old", "Z")), whole("4", "old", "Z"))]);
        let lane = |state: LaneState| Some(Lane { table: table.name.clone(), after: Position(0), state });
        let mut view = db.applier();
        run(view.set_lane(
            &table.name,
            lane(LaneState::Copying { from: PEER, done: None, rows: 0, received: Position::ZERO }),
        ))
        .expect("sets");
        // The first chunk was read before the second change, the second after the last.
        let chunk = |after: Option<Row>, upto: Option<Row>, rows: Vec<Row>| CopyChunk {
            table: table.clone(),
            after,
            upto,
            rows,
            lines: None,
        };
        let upto = Some(vec![typed("1")]);
        let write = |view: &mut Applier, chunk: CopyChunk| {
            run(view.copy_chunk(&chunk, &CopyScope::All, &|_, _| false)).expect("writes")
        };
        write(&mut view, chunk(None, upto.clone(), vec![whole("1", "new", "X")]));
        write(&mut view, chunk(upto, None, vec![whole("2", "old", "X"), whole("4", "old", "Z")]));
        run(view.set_lane(&table.name, lane(LaneState::Replaying { settled: Some(Settled::keyed(PEER, Position(4))) })))
            .expect("sets");
        for position in 1..=log.tail().0 {
            run(view.apply(&log.batch(position - 1, position))).expect("passes over");
            run(view.apply_lane(&table.name, &log.batch(position - 1, position))).expect("replays");
            view = db.applier();
            run(view.cursor()).expect("looks");
        }
        assert!(run(view.join_lane(&table.name)).expect("looks"), "{:?}", view.lanes());
        let all = "SELECT id, v, length(big), email, typeof(big) FROM u ORDER BY id";
        assert_eq!(
            db.rows(all),
            ["1 'new' 100 'Y' 'text'", "2 'old' 100 'X' 'text'", "4 'old' 100 'Z' 'text'"],
            "{unique}"
        );
        assert_eq!(db.rows("SELECT count(*) FROM watershed_evicted"), ["0"]);
    }
}

#[test]
fn a_copy_never_touches_rows_that_the_receiver_owns() {
    let (source, db) = (Database::new(SCHEMA), Database::new(SCHEMA));
    source.conn().execute_batch("INSERT INTO items VALUES (1, 1, 'theirs'), (2, 2, 'theirs')").expect("fills");
    db.conn().execute_batch("INSERT INTO items VALUES (1, 1, 'mine'), (3, 3, 'mine'), (4, 4, 'gone')").expect("fills");
    let chunk = |view: &mut Applier, scope: CopyScope| {
        let name = "items".parse().expect("a name");
        let read = Reader::open(&source.path).expect("opens").read_chunk(&name, None, 10, 1000).expect("reads");
        assert_eq!((read.upto.as_ref(), read.left_estimate, read.cursor), (None, 0, None));
        let state = LaneState::Copying { from: PEER, done: None, rows: 0, received: Position::ZERO };
        run(view.set_lane(&name, Some(Lane { table: name.clone(), after: Position(0), state }))).expect("sets");
        let chunk = CopyChunk { table: read.def, after: None, upto: None, rows: read.rows, lines: read.lines };
        let mine = |_: &TableDef, row: &Row| row[0] == int(1) || row[0] == int(3);
        let foreign = CopyChunk { upto: Some(vec![int(1), int(2)]), ..chunk.clone() };
        let refused = run(view.copy_chunk(&foreign, &scope, &mine)).expect_err("not a key of this table");
        assert!(matches!(refused, ViewError::Table { .. }), "{refused}");
        run(view.copy_chunk(&chunk, &scope, &mine)).expect("writes");
        assert!(run(view.copy_chunk(&chunk, &scope, &mine)).is_err(), "a chunk that does not continue the copy");
    };
    let mut view = db.applier();
    chunk(&mut view, CopyScope::UpsertOnly);
    assert_eq!(db.rows("SELECT id, v FROM items"), ["1 'mine'", "2 'theirs'", "3 'mine'", "4 'gone'"]);
    chunk(&mut view, CopyScope::All);
    assert_eq!(db.rows("SELECT id, v FROM items"), ["1 'mine'", "2 'theirs'", "3 'mine'"]);
}

#[test]
fn chunks_cover_composite_keys_of_mixed_classes_without_a_gap() {
    let db = Database::new("CREATE TABLE k(a COLLATE NOCASE, b, v, PRIMARY KEY (b, a)) WITHOUT ROWID");
    db.conn()
        .execute_batch("INSERT INTO k VALUES ('A', 1, 0), ('b', 1, 0), ('C', 1.5, 0), ('a', 'x', 0), ('B', 'x', 0), (x'00', x'01', 0), (7, 'x', 0)")
        .expect("fills");
    let mut reader = Reader::open(&db.path).expect("opens");
    let name = "k".parse().expect("a name");
    let (mut after, mut rows) = (None, Vec::new());
    loop {
        let chunk = reader.read_chunk(&name, after.as_ref(), 2, 1000).expect("reads");
        assert!(chunk.rows.len() <= 2);
        rows.extend(chunk.rows);
        assert_eq!(chunk.left_estimate, 7 - rows.len() as u64);
        match chunk.upto {
            Some(upto) => after = Some(upto),
            None => break,
        }
    }
    let shown: Vec<String> = rows.iter().map(|row| String::from_utf8_lossy(&row[0].text).into_owned()).collect();
    assert_eq!(shown, ["A", "b", "C", "7", "a", "B", "\0"]);
}
