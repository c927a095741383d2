//! Many transactions merged to their net effect come to the same as one after the other.

use std::collections::BTreeMap;

use proptest::prelude::*;
use watershed::view::{LaneView, View};

use super::*;

pub(super) const SCHEMA: &str = "CREATE TABLE one(id bigint PRIMARY KEY, u bigint UNIQUE, v text, w text);
    CREATE TABLE two(a int, b text, v text, w text, PRIMARY KEY (b, a));
    CREATE TABLE none(a int, b text, v text, w text);";

pub(super) type Key = (i64, i64);
/// Of one table: by key the values `u`, `v` and `w`.
type Rows = BTreeMap<Key, (i64, i64, Option<i64>)>;

#[derive(Clone, Debug)]
pub(super) enum Step {
    Put(Key, i64, i64),
    /// `v` only; `w` does not travel.
    Touch(Key, i64),
    /// Nothing but the key and `w`.
    Fill(Key, Option<i64>),
    Delete(Key),
    Move(Key, Key),
    Swap(Key, Key),
    Append(i64),
    Truncate,
}

fn key() -> impl Strategy<Value = Key> {
    (0..4i64, 0..2i64)
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        60 => (key(), 0..40i64, 0..99i64).prop_map(|(key, u, v)| Step::Put(key, u, v)),
        30 => (key(), 0..99i64).prop_map(|(key, v)| Step::Touch(key, v)),
        10 => (key(), prop::option::of(0..99i64)).prop_map(|(key, w)| Step::Fill(key, w)),
        20 => key().prop_map(Step::Delete),
        15 => (key(), key()).prop_map(|(from, to)| Step::Move(from, to)),
        3 => (key(), key()).prop_map(|(a, b)| Step::Swap(a, b)),
        10 => (0..9i64).prop_map(Step::Append),
        1 => Just(Step::Truncate),
    ]
}

fn one_row(key: Key, (u, v, w): (i64, i64, Option<i64>)) -> Row {
    let w = w.map_or(Value::NULL, |w| text(&format!("w{w}")));
    vec![int(key.0 * 2 + key.1), int(u), text(&format!("v{v}")), w]
}

fn two_row(key: Key, (_, v, w): (i64, i64, Option<i64>)) -> Row {
    let w = w.map_or(Value::NULL, |w| text(&format!("w{w}")));
    vec![int(key.0), text(&format!("b{}", key.1)), text(&format!("v{v}")), w]
}

fn unchanged(mut row: Row, columns: &[usize]) -> Row {
    columns.iter().for_each(|&i| row[i] = Value::UNCHANGED);
    row
}

/// What happens at the source, in a transaction per step: to a table with a key of one column and to one with two.
pub(super) struct Source {
    rows: Rows,
    appended: Vec<i64>,
    pub log: Script,
    /// The changes of every transaction.
    commits: Vec<Vec<Change>>,
    tables: [Arc<TableDef>; 3],
}

impl Source {
    fn commit(&mut self, changes: Vec<Change>) {
        let [one, two, none] = &self.tables;
        self.log.commit(PEER, &[one, two, none], &changes);
        self.commits.push(changes);
    }

    /// The same as large transactions, of so many each, in parts.
    fn large(&self, log: &mut Script, each: usize) {
        let [one, two, none] = &self.tables;
        for commits in self.commits.chunks(each) {
            log.last += 1;
            let parts: Vec<Vec<Change>> = commits.chunks(each / 5 + 1).map(<[_]>::concat).collect();
            for (n, changes) in parts.iter().enumerate() {
                log.part(PEER, &[one, two, none], changes, n as u32, n + 1 < parts.len());
            }
        }
    }

    /// A change of the row in both tables with a key.
    fn both(&mut self, change: impl Fn(usize, fn(Key, (i64, i64, Option<i64>)) -> Row) -> Change) {
        let changes = [one_row as fn(_, _) -> _, two_row].into_iter().enumerate();
        let changes = changes.map(|(table, row)| Change { table, ..change(table, row) }).collect();
        self.commit(changes);
    }

    pub(super) fn write(&mut self, step: &Step) {
        let free = |rows: &Rows, key: Key, u: i64| rows.iter().all(|(other, row)| *other == key || row.0 != u);
        match *step {
            Step::Put(key, u, v) if free(&self.rows, key, u) => {
                let known = self.rows.insert(key, (u, v, None));
                self.both(|_, row| match known {
                    None => insert(row(key, (u, v, None))),
                    Some(old) if v % 2 == 0 => update(Some(row(key, old)), row(key, (u, v, None))),
                    Some(_) => update(None, row(key, (u, v, None))),
                });
            }
            Step::Touch(key, v) => {
                let Some(row) = self.rows.get_mut(&key) else { return };
                row.1 = v;
                let new = *row;
                self.both(|_, row| update(None, unchanged(row(key, new), &[3])));
            }
            Step::Fill(key, w) => {
                let Some(row) = self.rows.get_mut(&key) else { return };
                row.2 = w;
                let new = *row;
                self.both(|table, row| update(None, unchanged(row(key, new), if table == 0 { &[1, 2] } else { &[2] })));
            }
            Step::Delete(key) => {
                let Some(old) = self.rows.remove(&key) else { return };
                self.both(|_, row| delete(row(key, old)));
            }
            Step::Move(from, to) if from != to && self.rows.contains_key(&from) && !self.rows.contains_key(&to) => {
                let old = self.rows.remove(&from).expect("checked");
                self.rows.insert(to, old);
                self.both(|_, row| update(Some(row(from, old)), row(to, old)));
            }
            Step::Swap(a, b) if a != b && self.rows.contains_key(&a) && self.rows.contains_key(&b) => {
                let (old_a, old_b) = (self.rows[&a], self.rows[&b]);
                let (new_a, new_b) = ((old_b.0, old_a.1, old_a.2), (old_a.0, old_b.1, old_b.2));
                self.rows.insert(a, new_a);
                self.rows.insert(b, new_b);
                let away = (-1, old_a.1, old_a.2);
                let changes = [(a, old_a, away), (b, old_b, new_b), (a, away, new_a)];
                self.commit(
                    changes.iter().map(|&(key, old, new)| update(Some(one_row(key, old)), one_row(key, new))).collect(),
                );
            }
            Step::Append(n) => {
                self.appended.push(n);
                let row = vec![int(n), text("b"), Value::NULL, text("w")];
                self.commit(vec![Change { table: 2, ..insert(row) }]);
            }
            Step::Truncate => {
                self.rows.clear();
                self.appended.clear();
                self.commit((0..3).map(|table| Change { table, ..truncate() }).collect());
            }
            _ => {}
        }
    }

    pub(super) fn expected(&self) -> [Vec<String>; 3] {
        let shown = |row: &Row| -> String {
            let values: Vec<String> =
                row.iter().map(|value| String::from_utf8_lossy(&value.text).into_owned()).collect();
            values.join("|")
        };
        let of = |row: fn(Key, (i64, i64, Option<i64>)) -> Row| -> Vec<String> {
            self.rows.iter().map(|(key, values)| shown(&row(*key, *values))).collect()
        };
        let mut appended = self.appended.clone();
        appended.sort_unstable();
        [of(one_row), of(two_row), appended.iter().map(|n| format!("{n}|b||w")).collect()]
    }
}

pub(super) fn found(db: &Database) -> [Vec<String>; 3] {
    ["SELECT * FROM one ORDER BY id", "SELECT * FROM two ORDER BY a, b", "SELECT * FROM none ORDER BY a"]
        .map(|sql| db.rows(sql))
}

pub(super) fn source(log: Script) -> Source {
    let tables = [
        table("one", &[("id", 1), ("u", 0), ("v", 0), ("w", 0)]),
        table("two", &[("a", 2), ("b", 1), ("v", 0), ("w", 0)]),
        table("none", &[("a", 0), ("b", 0), ("v", 0), ("w", 0)]),
    ];
    Source { rows: Rows::new(), appended: Vec::new(), log, commits: Vec::new(), tables }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, max_shrink_iters: 40, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn merged_is_exact(steps in prop::collection::vec(step(), 200..900), at in 1..400u64) {
        let (merged, exact, live) = (Database::new(SCHEMA), Database::new(SCHEMA), Database::new(SCHEMA));
        for (db, batch, is_exact) in [(&merged, at.max(140), false), (&exact, 300, true), (&live, 40, false)] {
            let mut source = source(db.script());
            steps.iter().for_each(|step| source.write(step));
            let mut view = db.applier_with(|options| options.exact = is_exact);
            let mut after = 0;
            while after < source.log.last {
                let upto = (after + batch).min(source.log.last);
                run(view.apply(&source.log.batch(after, upto))).expect("applies");
                after = upto;
            }
            run(view.flush()).expect("is there");
            prop_assert_eq!(run(view.cursor()).expect("reads"), Some(db.cursor(source.log.last)));
            prop_assert_eq!(view.lanes(), []);
            prop_assert_eq!(found(db), source.expected(), "batches of {}, exact: {}", batch, is_exact);
        }
        let db = Database::new(SCHEMA);
        let (mut source, mut log) = (source(db.script()), db.script());
        steps.iter().for_each(|step| source.write(step));
        source.large(&mut log, at as usize);
        let mut view = db.applier();
        run(view.apply(&log.all())).expect("applies");
        prop_assert_eq!(run(view.cursor()).expect("reads"), Some(db.cursor(log.last)));
        prop_assert_eq!(view.lanes(), []);
        prop_assert_eq!(found(&db), source.expected(), "large transactions of {}", at);
    }
}

/// A database that counts what is done to its table `one`, also by us.
pub(super) fn counting() -> Database {
    Database::new(&format!(
        "{SCHEMA} CREATE TABLE done(op text);
         CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO public.done VALUES (tg_op); RETURN NULL; END $$;
         CREATE TRIGGER note AFTER INSERT OR UPDATE OR DELETE ON one FOR EACH ROW EXECUTE FUNCTION note();
         ALTER TABLE one ENABLE ALWAYS TRIGGER note"
    ))
}

#[test]
fn only_the_net_effect_is_written_and_exact_writes_everything() {
    for exact in [false, true] {
        let db = counting();
        let mut source = source(db.script());
        (0..8).for_each(|n| source.write(&Step::Put((n, 0), n, 0)));
        for v in 0..30 {
            (0..7).for_each(|n| source.write(&Step::Touch((n, 0), v)));
        }
        source.write(&Step::Delete((7, 0)));
        let mut view = db.applier_with(|options| options.exact = exact);
        run(view.apply(&source.log.all())).expect("applies");
        run(view.flush()).expect("is there");
        assert_eq!(found(&db), source.expected());
        let done = db.rows("SELECT op, count(*) FROM done GROUP BY 1 ORDER BY 1");
        let expected: &[&str] = if exact { &["DELETE|1", "INSERT|8", "UPDATE|210"] } else { &["INSERT|7"] };
        assert_eq!(done, expected);
    }
}

#[test]
fn rows_that_swap_a_unique_value_are_redone_in_order_and_nothing_is_parked() {
    let db = Database::new(SCHEMA);
    let mut source = source(db.script());
    (0..20).for_each(|n| source.write(&Step::Put((n, 0), n, 0)));
    let mut view = db.applier();
    run(view.apply(&source.log.all())).expect("applies");
    let before = source.log.last;
    for n in 0..150 {
        source.write(&Step::Swap((n % 20, 0), ((n + 1) % 20, 0)));
    }
    run(view.apply(&source.log.batch(before, source.log.last))).expect("applies");
    let before = source.log.last;
    (0..150).for_each(|n| source.write(&Step::Put((n % 20, 1), 100 + n, n)));
    run(view.apply(&source.log.batch(before, source.log.last))).expect("applies what comes after");
    run(view.flush()).expect("is there");
    assert_eq!(view.lanes(), []);
    assert_eq!(found(&db), source.expected());
}

#[test]
fn what_is_under_way_and_fails_parks_its_table_and_what_comes_after_knows_it() {
    let db = Database::new(SCHEMA);
    let mut source = source(db.script());
    (0..150).for_each(|n| source.write(&Step::Put((n, 0), n, 0)));
    let before = source.log.last;
    // A row that the source does not know of has the value.
    db.sql("INSERT INTO one VALUES (-1, 77, 'local', NULL)");
    (0..150).for_each(|n| source.write(&Step::Touch((n, 0), 9)));
    let mut view = db.applier();
    run(view.apply(&source.log.batch(0, before))).expect("is under way");
    run(view.apply(&source.log.batch(before, source.log.last))).expect("knows of it");
    run(view.flush()).expect("is there");
    let lanes = view.lanes();
    assert_eq!((lanes.len(), lanes[0].after), (1, Position(77)));
    assert_eq!(db.rows("SELECT count(*) FROM one"), ["78"]);
    assert_eq!(found(&db)[1], source.expected()[1]);
    assert_eq!(view.torn(), 223);
    assert_eq!(run(view.cursor()).expect("reads"), Some(db.cursor(300)));
}

#[test]
fn inserts_that_meet_rows_overwrite_them() {
    let db = Database::new(SCHEMA);
    db.sql("INSERT INTO one SELECT n * 2, n, 'old', 'old' FROM generate_series(0, 299) n; INSERT INTO two SELECT n, 'b0', 'old', 'old' FROM generate_series(0, 299) n");
    let mut source = source(db.script());
    let mut view = db.applier();
    for run_of in 0..2 {
        let before = source.log.last;
        (0..150).for_each(|n| source.write(&Step::Put((run_of * 150 + n, 0), run_of * 150 + n, 1)));
        run(view.apply(&source.log.batch(before, source.log.last))).expect("applies");
    }
    run(view.flush()).expect("is there");
    assert_eq!(view.lanes(), []);
    assert_eq!(found(&db), source.expected());
}
