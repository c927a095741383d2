//! First copies converge while the source is written to, however chunks and entries interleave.

use std::collections::BTreeMap;

use proptest::prelude::*;
use watershed::model::Position;
use watershed::postgres::PgReader;
use watershed::view::{CopyChunk, CopyScope, Lane, LaneState, LaneView, Settled, TableReader, View};

use super::*;

const SCHEMA: &str = "CREATE TABLE items(id bigint PRIMARY KEY, u bigint UNIQUE, v text)";

fn read(
    db: &Database,
    table: &watershed::model::TableName,
    after: Option<&Row>,
    rows: usize,
) -> watershed::view::Chunk {
    let endpoint = Endpoint::from_url(&db.url).expect("a URL");
    run(async {
        let mut reader = PgReader::open(&endpoint).await.expect("opens");
        reader.read_chunk(table, after, rows, 1 << 20).await.expect("reads")
    })
}

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
        self.db.sql(sql);
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
                self.commit(&format!("INSERT INTO items VALUES ({id}, {u}, {v}) ON CONFLICT (id) DO UPDATE SET u = excluded.u, v = excluded.v"), &[change]);
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
    /// `None` only while it is restarted.
    view: Option<PgApplier>,
    applied: u64,
}

impl Receiver {
    fn view(&mut self) -> &mut PgApplier {
        self.view.as_mut().expect("open")
    }

    fn lane(&mut self) -> Option<Lane> {
        self.view().lanes().into_iter().next()
    }

    fn deliver(&mut self, log: &Script, entries: u64) -> Result<(), ViewError> {
        let upto = (self.applied + entries).min(log.tail().0);
        let batch = log.batch(self.applied, upto);
        run(self.view().apply(&batch))?;
        self.applied = upto;
        let Some(lane) = self.lane() else { return Ok(()) };
        if let LaneState::Replaying { settled } = lane.state {
            run(self.view().apply_lane(&lane.table, &log.batch(lane.after.0, upto)))?;
            if settled.is_some_and(|settled| settled.upto.0 <= upto) {
                run(self.view().join_lane(&lane.table))?;
            }
        }
        Ok(())
    }

    fn chunk(&mut self, source: &Source) -> Result<(), ViewError> {
        let Some(lane) = self.lane() else { return Ok(()) };
        let LaneState::Copying { from, done, .. } = &lane.state else { return Ok(()) };
        let read = read(&source.db, &lane.table, done.as_ref(), 2);
        let last = read.upto.is_none();
        let chunk =
            CopyChunk { table: read.def, after: done.clone(), upto: read.upto, rows: read.rows, lines: read.lines };
        run(self.view().copy_chunk(&chunk, &CopyScope::All, &|_, _| false))?;
        if last {
            let settled = Some(Settled::keyed(*from, source.log.tail()));
            let table = lane.table.clone();
            let lane = Lane { table: table.clone(), after: lane.after, state: LaneState::Replaying { settled } };
            run(self.view().set_lane(&table, Some(lane)))?;
        }
        Ok(())
    }
}

fn converges(stale: Vec<(i64, i64)>, before: Vec<Step>, steps: Vec<Step>) -> Result<(), ViewError> {
    let table = table("items", &[("id", 1), ("u", 0), ("v", 0)]);
    let mut source =
        Source { db: Database::new(SCHEMA), rows: BTreeMap::new(), log: Script::default(), table: table.clone() };
    let db = Database::new(SCHEMA);
    source.log = db.script();
    for (id, u) in stale {
        db.sql(&format!("INSERT INTO items VALUES ({id}, {u}, 'stale') ON CONFLICT DO NOTHING"));
    }
    for step in &before {
        source.write(step);
    }
    let view = Some(db.applier());
    let mut receiver = Receiver { db, view, applied: 0 };
    // What was before the copy has been received, and passed the receiver by.
    let applied = source.log.tail().0;
    run(receiver.view().apply(&source.log.batch_of(Vec::new(), applied)))?;
    receiver.applied = applied;
    let state = LaneState::Copying { from: PEER, done: None, rows: 0, received: Position::ZERO };
    let lane = Lane { table: table.name.clone(), after: Position(applied), state };
    run(receiver.view().set_lane(&table.name, Some(lane)))?;
    for step in &steps {
        match step {
            Step::Chunk => receiver.chunk(&source)?,
            Step::Deliver { entries } => receiver.deliver(&source.log, *entries)?,
            Step::Restart => {
                receiver.view = None;
                receiver.view = Some(receiver.db.applier());
                run(receiver.view().cursor())?;
            }
            write => source.write(write),
        }
    }
    while matches!(receiver.lane(), Some(Lane { state: LaneState::Copying { .. }, .. })) {
        receiver.chunk(&source)?;
    }
    receiver.deliver(&source.log, u64::MAX / 2)?;
    assert_eq!(receiver.lane(), None, "joined, and not parked");
    let all = "SELECT id, u, v FROM items ORDER BY id";
    assert_eq!(receiver.db.rows(all), source.db.rows(all));
    assert_eq!(receiver.db.rows(all).len(), source.rows.len());
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, failure_persistence: None, ..ProptestConfig::default() })]
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

#[test]
fn a_copy_never_touches_rows_that_the_receiver_owns() {
    let (source, db) = (Database::new(SCHEMA), Database::new(SCHEMA));
    source.sql("INSERT INTO items VALUES (1, 1, 'theirs'), (2, 2, 'theirs')");
    db.sql("INSERT INTO items VALUES (1, 1, 'mine'), (3, 3, 'mine'), (4, 4, 'gone')");
    let chunk = |view: &mut PgApplier, scope: CopyScope| {
        let name = "items".parse().expect("a name");
        let read = read(&source, &name, None, 10);
        let state = LaneState::Copying { from: PEER, done: None, rows: 0, received: Position::ZERO };
        run(view.set_lane(&name, Some(Lane { table: name.clone(), after: Position(0), state }))).expect("sets");
        let chunk = CopyChunk { table: read.def, after: None, upto: None, rows: read.rows, lines: read.lines };
        let mine = |_: &TableDef, row: &Row| &*row[0].text == b"1" || &*row[0].text == b"3";
        let foreign = CopyChunk { upto: Some(vec![int(1), int(2)]), ..chunk.clone() };
        let refused = run(view.copy_chunk(&foreign, &scope, &mine)).expect_err("not a key of this table");
        assert!(matches!(refused, ViewError::Table { .. }), "{refused}");
        run(view.copy_chunk(&chunk, &scope, &mine)).expect("writes");
        assert!(run(view.copy_chunk(&chunk, &scope, &mine)).is_err(), "a chunk that does not continue the copy");
    };
    let mut view = db.applier();
    chunk(&mut view, CopyScope::UpsertOnly);
    assert_eq!(db.rows("SELECT id, v FROM items ORDER BY id"), ["1|mine", "2|theirs", "3|mine", "4|gone"]);
    chunk(&mut view, CopyScope::All);
    assert_eq!(db.rows("SELECT id, v FROM items ORDER BY id"), ["1|mine", "2|theirs", "3|mine"]);
}

/// Copies a table as a node does, chunk by chunk, and gives how many chunks there were.
pub fn copied(source: &Database, view: &mut PgApplier, name: &str, rows: usize) -> Result<usize, ViewError> {
    let name: watershed::model::TableName = name.parse().expect("a name");
    let state = LaneState::Copying { from: PEER, done: None, rows: 0, received: Position::ZERO };
    run(view.set_lane(&name, Some(Lane { table: name.clone(), after: Position(0), state })))?;
    let (mut after, mut chunks) = (None, 0);
    let mut reader = run(PgReader::open(&Endpoint::from_url(&source.url).expect("a URL"))).expect("opens");
    loop {
        let chunk = run(reader.read_chunk(&name, after.as_ref(), rows, 1 << 20)).expect("reads");
        let upto = chunk.upto.clone();
        let chunk = CopyChunk {
            table: chunk.def,
            after: after.clone(),
            upto: chunk.upto,
            rows: chunk.rows,
            lines: chunk.lines,
        };
        run(view.copy_chunk(&chunk, &CopyScope::All, &|_, _| false))?;
        chunks += 1;
        if upto.is_none() {
            break;
        }
        after = upto;
    }
    let settled = Some(Settled::keyed(PEER, Position(0)));
    run(view.set_lane(
        &name,
        Some(Lane { table: name.clone(), after: Position(0), state: LaneState::Replaying { settled } }),
    ))?;
    assert!(run(view.join_lane(&name))?);
    Ok(chunks)
}

#[test]
fn a_copy_makes_the_table_whatever_was_there() {
    let schema = "CREATE TABLE k(a text, b int, v text, PRIMARY KEY (b, a)); CREATE TABLE t(k text PRIMARY KEY, v text); CREATE TABLE n(v text);";
    let source = Database::new(schema);
    source.sql(
        "INSERT INTO k SELECT 'x' || (i % 3), i / 3, 'v' || i FROM generate_series(1, 50) i;
         INSERT INTO t SELECT chr(64 + i) || 'Ab', E'tab\\t back\\\\slash\\n' || i FROM generate_series(1, 50) i;
         INSERT INTO n SELECT CASE WHEN i % 2 = 0 THEN 'twice' END FROM generate_series(1, 10) i",
    );
    let (fresh, stale, missing) = (Database::new(schema), Database::new(schema), Database::new("SELECT 1"));
    stale.sql("INSERT INTO k SELECT 'x' || (i % 4), i / 3, 'stale' FROM generate_series(20, 90) i; INSERT INTO t VALUES ('AAb', 'stale'), ('zz', 'stale'); INSERT INTO n VALUES ('stale')");
    for db in [&fresh, &stale, &missing] {
        let mut view = db.applier();
        assert_eq!(copied(&source, &mut view, "k", 7).expect("copies"), 8);
        copied(&source, &mut view, "t", 7).expect("copies");
        copied(&source, &mut view, "n", 7).expect("copies");
        for all in [
            "SELECT * FROM k ORDER BY b, a COLLATE \"C\"",
            "SELECT * FROM t ORDER BY k COLLATE \"C\"",
            "SELECT * FROM n ORDER BY v",
        ] {
            assert_eq!(db.rows(all), source.rows(all));
        }
        assert_eq!(view.lanes(), []);
    }
}

#[test]
fn a_table_whose_type_is_missing_is_not_created_and_it_is_said_what_to_do() {
    let source = Database::new(
        "CREATE TYPE mood AS ENUM ('ok'); CREATE TABLE m(id int PRIMARY KEY, m mood); INSERT INTO m VALUES (1, 'ok')",
    );
    let db = Database::new("SELECT 1");
    let mut view = db.applier();
    let error = copied(&source, &mut view, "m", 10).expect_err("no such type");
    assert!(
        matches!(&error, ViewError::Table { why, .. } if why.contains("mood") && why.contains("CREATE TYPE")),
        "{error}"
    );
    db.sql("CREATE TYPE mood AS ENUM ('ok')");
    copied(&source, &mut view, "m", 10).expect("copies");
    assert_eq!(db.rows("SELECT * FROM m"), ["1|ok"]);
}

/// What the destination's own constraint refuses parks the table at its first chunk, too, however often that is tried.
#[test]
fn a_first_chunk_that_a_constraint_refuses_ends() {
    let source = Database::new("CREATE TABLE t (id int PRIMARY KEY, v int)");
    source.sql("INSERT INTO t SELECT n, n FROM generate_series(1, 50) n");
    let db = Database::new("CREATE TABLE t (id int PRIMARY KEY, v int CHECK (v <> 7))");
    let mut view = db.applier();
    for _ in 0..2 {
        let name: watershed::model::TableName = "t".parse().expect("a name");
        let read = read(&source, &name, None, 100);
        let state = LaneState::Copying { from: PEER, done: None, rows: 0, received: Position::ZERO };
        run(view.set_lane(&name, Some(Lane { table: name.clone(), after: Position(0), state }))).expect("sets");
        let chunk = CopyChunk { table: read.def, after: None, upto: read.upto, rows: read.rows, lines: read.lines };
        let refused = run(async {
            let copying = view.copy_chunk(&chunk, &CopyScope::All, &|_, _| false);
            tokio::time::timeout(std::time::Duration::from_secs(60), copying).await
        });
        let refused = refused.expect("it ends").expect_err("row 7 is refused");
        assert!(matches!(&refused, ViewError::Table { why, .. } if why.contains("t_v_check")), "{refused}");
        assert!(db.rows("SELECT id FROM t").is_empty());
    }
}

/// However many rows go: found again for every part of them, they would take the square of their number.
#[test]
fn what_a_chunk_lacks_is_looked_for_once() {
    let source = Database::new("CREATE TABLE t(k text PRIMARY KEY, v text); INSERT INTO t VALUES ('only', 'this')");
    let db = Database::new("CREATE TABLE t(k text PRIMARY KEY, v text)");
    db.sql("INSERT INTO t SELECT 'k' || n, 'gone' FROM generate_series(1, 100000) n");
    let mut view = db.applier();
    copied(&source, &mut view, "t", 10).expect("copies");
    assert_eq!(db.rows("SELECT * FROM t"), ["only|this"]);
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(180);
    let told = "SELECT seq_scan FROM pg_stat_user_tables WHERE relname = 't' AND n_tup_del >= 100000";
    let scans = loop {
        // The server counts a session's work when it is asked for the next.
        run(view.cursor()).expect("looks");
        match &db.rows(told)[..] {
            [scans] => break scans.parse::<u32>().expect("a number"),
            _ => assert!(std::time::Instant::now() < deadline, "the server does not tell"),
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    };
    assert!(scans <= 3, "the table was read {scans} times");
}
