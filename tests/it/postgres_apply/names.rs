//! Names that differ by the case of letters only are two names here.

use watershed::model::Position;
use watershed::view::{LaneView, View};

use super::converge::copied;
use super::*;

const BOTH: &str =
    "CREATE TABLE orders(id int PRIMARY KEY, note text); CREATE TABLE \"Orders\"(id int PRIMARY KEY, note text)";
const OF: [(&str, u16); 2] = [("id", 1), ("note", 0)];

fn all(db: &Database) -> (Vec<String>, Vec<String>) {
    (db.rows("SELECT * FROM orders ORDER BY id"), db.rows("SELECT * FROM \"Orders\" ORDER BY id"))
}

#[test]
fn two_tables_of_a_server_never_become_one_whichever_is_here() {
    let source = Database::new(BOTH);
    source.sql(
        "INSERT INTO orders SELECT n, 'small' FROM generate_series(1, 3) n;
         INSERT INTO \"Orders\" SELECT n, 'large' FROM generate_series(1, 5) n",
    );
    let (small, large) = (table("orders", &OF), table("Orders", &OF));
    let halves: Vec<&str> = BOTH.split("; ").collect();
    for here in ["SELECT 1", halves[0], halves[1], BOTH] {
        for order in [["orders", "Orders"], ["Orders", "orders"]] {
            let db = Database::new(here);
            let mut view = db.applier();
            for name in order {
                copied(&source, &mut view, name, 2).expect("copies");
            }
            assert_eq!(all(&db), all(&source), "{order:?} into {here}");
            let mut log = db.script();
            let row = |id: i64, note: &str| vec![text(&id.to_string()), text(note)];
            log.one(&small, &[insert(row(10, "small")), update(None, row(1, "smaller"))]);
            log.one(&large, &[insert(row(20, "large")), delete(row(1, "large"))]);
            run(view.apply(&log.all())).expect("applies");
            run(view.flush()).expect("is there");
            assert_eq!(view.lanes(), []);
            assert_eq!(db.rows("SELECT id FROM orders ORDER BY id"), ["1", "2", "3", "10"]);
            assert_eq!(db.rows("SELECT id FROM \"Orders\" ORDER BY id"), ["2", "3", "4", "5", "20"]);
            // A table that is gone is not looked for under another name.
            db.sql("DROP TABLE \"Orders\"");
            let mut view = db.applier_again(view);
            log.one(&large, &[insert(row(30, "large"))]);
            run(view.apply(&log.batch(2, 3))).expect("the table is parked");
            assert_eq!(view.lanes().len(), 1);
            assert_eq!(db.rows("SELECT count(*) FROM orders"), ["4"]);
        }
    }
}

/// SQLite has names in any letters; but what is another's already is not taken.
#[test]
fn a_table_of_a_file_is_found_in_other_letters_unless_it_is_anothers() {
    let db = Database::new("CREATE TABLE orders(id int PRIMARY KEY, note text)");
    let file = table("Orders", &OF);
    let mut log = db.script();
    let row = |id: i64, note: &str| vec![int(id), Value::new(Kind::Text, note.to_owned())];
    log.one(&file, &[insert(row(1, "file"))]);
    let mut view = db.applier();
    run(view.apply(&log.all())).expect("applies");
    assert_eq!(db.rows("SELECT * FROM orders"), ["1|file"]);
    run(view.set_followed(PEER, &file.name, Some(file.fingerprint))).expect("follows");
    // Another table of exactly that name would be written to the same one.
    let server = table("orders", &OF);
    let mut view = db.applier_again(view);
    log.one(&server, &[insert(vec![text("2"), text("server")])]);
    run(view.apply(&log.batch(1, 2))).expect("applies the rest");
    let [lane] = &view.lanes()[..] else { panic!("one table is parked: {:?}", view.lanes()) };
    assert_eq!((lane.table.as_str(), lane.after), ("orders", Position(1)));
    assert!(format!("{lane:?}").contains("the table orders here is written by Orders"), "{lane:?}");
    assert_eq!(db.rows("SELECT * FROM orders"), ["1|file"]);
    log.one(&file, &[insert(row(3, "file"))]);
    run(view.apply(&log.batch(2, 3))).expect("the first one goes on");
    assert_eq!(db.rows("SELECT id FROM orders ORDER BY id"), ["1", "3"]);
    // And the other way round: what has its table keeps it.
    let db = Database::new("CREATE TABLE orders(id int PRIMARY KEY, note text)");
    let mut view = db.applier();
    let mut log = db.script();
    run(view.set_followed(PEER, &server.name, Some(server.fingerprint))).expect("follows");
    log.one(&server, &[insert(vec![text("2"), text("server")])]);
    log.one(&file, &[insert(row(3, "file"))]);
    run(view.apply(&log.all())).expect("applies the rest");
    assert_eq!(view.lanes().len(), 1);
    assert_eq!(db.rows("SELECT id FROM orders ORDER BY id"), ["2"]);
}

#[test]
fn two_columns_never_become_one() {
    let source = Database::new(
        "CREATE TABLE t(id int PRIMARY KEY, a text, \"A\" text); INSERT INTO t VALUES (1, 'small', 'large')",
    );
    for here in ["a", "\"A\""] {
        let db = Database::new(&format!("CREATE TABLE t(id int PRIMARY KEY, {here} text)"));
        let mut view = db.applier();
        let error = copied(&source, &mut view, "t", 2).expect_err("a column is missing");
        assert!(error.to_string().contains("the table has no column"), "{error}");
        assert_eq!(db.rows("SELECT count(*) FROM t"), ["0"]);
    }
}
