//! `count`, `latest` and `reduce` over feeds and over tables of databases.

use std::sync::Arc;

use serde_json::{Value as Json, json};
use watershed::log::memory::MemoryLog;
use watershed::log::{Log, Source};
use watershed::model::{Change, Column, Kind, Op, Position, Row, TableDef, Value, encode_changes};
use watershed::view::machine::{Found, MachineStore};
use watershed::view::plain::{CountSettings, LatestSettings, Plain, PlainSettings, ReduceSettings};
use watershed::view::{AskError, ViewBuilds, ViewError, ViewStore};

use super::{append, catch_up, feed, memory, plain_store, row, rows, select};

fn count(by: Option<&str>) -> PlainSettings {
    PlainSettings::Count(CountSettings { by: by.map(str::to_string), ..CountSettings::default() })
}

fn latest(indexes: &[&str]) -> PlainSettings {
    let indexes = indexes.iter().map(|index| index.to_string()).collect();
    PlainSettings::Latest(LatestSettings { indexes, ..LatestSettings::default() })
}

fn reduce(init: &str, step: &str, by: Option<&str>) -> PlainSettings {
    let by = by.map(str::to_string);
    PlainSettings::Reduce(ReduceSettings { tables: Vec::new(), init: init.into(), step: step.into(), by })
}

fn customers() -> Arc<TableDef> {
    let column = |name: &str, type_name: &str, key| Column { name: name.into(), type_name: type_name.into(), key };
    let columns = vec![column("id", "integer", 1), column("city", "text", 0), column("note", "text", 0)];
    Arc::new(TableDef::new("customers".parse().expect("a name"), columns))
}

fn typed(values: &[Option<&str>]) -> Row {
    let value = |value: &Option<&str>| match value {
        Some("?") => Value::UNCHANGED,
        Some(text) => Value::new(Kind::Typed, text.to_string()),
        None => Value::NULL,
    };
    values.iter().map(value).collect()
}

fn change(op: Op, row: Option<&[Option<&str>]>, old: Option<&[Option<&str>]>) -> Change {
    Change { table: 0, op, row: row.map(typed), old: old.map(typed) }
}

/// A table under insert, update (also of its key, also with a column that was not sent), delete.
async fn changes(log: &dyn Log) {
    let insert = |id, city| change(Op::Insert, Some(&[Some(id), city, Some("long")]), None);
    let all = [
        vec![insert("1", Some("Oslo")), insert("2", Some("Rome")), insert("3", None)],
        vec![change(Op::Update, Some(&[Some("1"), Some("Rome"), Some("?")]), None)],
        vec![change(Op::Update, Some(&[Some("9"), Some("Bonn"), Some("?")]), Some(&[Some("2"), Some("?"), Some("?")]))],
        vec![change(Op::Delete, None, Some(&[Some("3"), Some("?"), Some("?")])), change(Op::Cut, None, None)],
    ];
    for changes in all {
        append(log, &customers(), encode_changes(&changes)).await;
    }
}

#[tokio::test]
async fn count_counts_entries_and_rows_by_table_and_value() {
    let folder = tempfile::tempdir().expect("a folder");
    let (log, store) = (memory(), plain_store(folder.path(), count(Some("city"))));
    let (orders, visits) = (feed("orders"), feed("visits"));
    append(&log, &orders, rows(&[(None, r#"{"city":"Rome"}"#), (Some("k"), r#"{"city":7}"#), (None, "[1]")])).await;
    append(&log, &orders, rows(&[(None, r#"{"city":null}"#)])).await;
    append(&log, &visits, rows(&[(None, r#"{"city":"Rome"}"#)])).await;
    changes(&log).await;
    catch_up(&store, &log).await.expect("applied");
    let answer = select(&store, "select * from counts").await.expect("an answer");
    assert_eq!(answer.columns, ["table", "entries", "rows", "inserts", "updates", "deletes"]);
    let expected = json!([["customers", 4, 2, 3, 2, 1], ["orders", 2, 4, 4, 0, 0], ["visits", 1, 1, 1, 0, 0]]);
    assert_eq!(json!(answer.rows), expected);
    let answer = select(&store, "select * from values").await.expect("an answer");
    let expected = json!([
        ["customers", "Bonn", 1],
        ["customers", "Rome", 1],
        ["orders", "7", 1],
        ["orders", "Rome", 1],
        ["visits", "Rome", 1]
    ]);
    assert_eq!(json!(answer.rows), expected);
    assert_eq!(row(&store, "values", "orders,Rome").await.expect("a row"), [json!("orders"), json!("Rome"), json!(1)]);
    assert_eq!(row(&store, "counts", "visits").await.expect("a row")[1], json!(1));
    append(&log, &customers(), encode_changes(&[change(Op::Truncate, None, None)])).await;
    catch_up(&store, &log).await.expect("applied");
    assert_eq!(row(&store, "counts", "customers").await.expect("a row")[2], json!(0));
    assert!(matches!(row(&store, "values", "customers,Rome").await, Err(AskError::Absent(_))));
}

#[tokio::test]
async fn latest_finds_rows_by_key_and_by_indexed_columns() {
    let folder = tempfile::tempdir().expect("a folder");
    let (log, store) = (memory(), plain_store(folder.path(), latest(&["customer", "city"])));
    let orders = feed("orders");
    append(&log, &orders, rows(&[(Some("a"), r#"{"customer":"c1","n":1}"#), (Some("b"), r#"{"customer":"c1"}"#)]))
        .await;
    append(&log, &orders, rows(&[(Some("a"), r#"{"customer":"c2","n":1.10}"#), (None, r#"{"customer":"c2"}"#)])).await;
    append(&log, &orders, rows(&[(Some("b"), r#"{"customer":"c1","x":12345678901234567890}"#)])).await;
    changes(&log).await;
    catch_up(&store, &log).await.expect("applied");
    let found = async |sql: &str| {
        let mut rows = select(&store, sql).await.expect(sql).rows;
        rows.sort_by_key(|row| row[0].to_string());
        json!(rows)
    };
    let (a, b) = (r#"{"customer":"c2","n":1.10}"#, r#"{"customer":"c1","x":12345678901234567890}"#);
    assert_eq!(found("select * from orders").await, json!([["a", a, 2], ["b", b, 3]]), "every digit is kept");
    assert_eq!(found("select * from orders where customer = 'c1'").await, json!([["b", b, 3]]));
    assert_eq!(found("select * from orders where customer = 'c2'").await, json!([["a", a, 2]]));
    assert_eq!(found("select * from orders where customer = 'c3'").await, json!([]));
    let rome = json!([["1", r#"{"id":1,"city":"Rome","note":"long"}"#, 5]]);
    assert_eq!(found("select * from customers where city = 'Rome'").await, rome, "what was not sent is kept");
    let bonn = json!([["9", r#"{"id":9,"city":"Bonn","note":"long"}"#, 6]]);
    assert_eq!(found("select * from customers where city = 'Bonn'").await, bonn, "under its new key");
    assert_eq!(found("select * from customers where key = '3'").await, json!([]), "deleted");
    assert_eq!(select(&store, "select * from customers limit 1").await.expect("an answer").rows.len(), 1);
    assert!(matches!(row(&store, "orders", "zz").await, Err(AskError::Absent(_))));
    let wrong = select(&store, "select * from orders where n = 1").await;
    assert!(matches!(wrong, Err(AskError::Invalid(why)) if why.contains("customer, city")));
    append(&log, &customers(), encode_changes(&[change(Op::Truncate, None, None)])).await;
    catch_up(&store, &log).await.expect("applied");
    assert_eq!(found("select * from customers where city = 'Rome'").await, json!([]));
}

#[tokio::test]
async fn reduce_keeps_one_state_or_one_for_each_value() {
    let folder = tempfile::tempdir().expect("a folder");
    let log = memory();
    let orders = feed("orders");
    for (customer, amount) in [("c1", 5), ("c2", 7), ("c1", 6)] {
        append(&log, &orders, rows(&[(Some("k"), &format!(r#"{{"customer":"{customer}","amount":{amount}}}"#))])).await;
    }
    let built = async |settings: PlainSettings| {
        let store = plain_store(folder.path(), settings);
        catch_up(&store, &log).await.expect("applied");
        let mut rows = select(&store, "select * from states").await.expect("an answer").rows;
        rows.sort_by_key(|row| row[0].to_string());
        json!(rows)
    };
    assert_eq!(built(reduce("0", "state + row.amount", None)).await, json!([["", 18]]));
    let by = Some("row.customer");
    assert_eq!(built(reduce("0", "state + row.amount", by)).await, json!([["c1", 11], ["c2", 7]]));
    assert_eq!(built(reduce("[]", "state + [row.amount]", by)).await, json!([["c1", [5, 6]], ["c2", [7]]]));
    let gone = "row.amount > 5 && row.customer == 'c1' ? null : state + 1";
    assert_eq!(built(reduce("0", gone, by)).await, json!([["c2", 1]]), "a state that becomes null is removed");
    assert_eq!(built(reduce("''", "op + key + table + string(position)", None)).await, json!([["", "insertkorders3"]]));
    let some = Some("row.customer == 'c2' ? null : key");
    assert_eq!(built(reduce("0", "state + 1", some)).await, json!([["k", 2]]), "null: the row changes none");
}

#[tokio::test]
async fn a_step_that_fails_stops_the_view_with_the_row_and_keeps_nothing_of_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let (log, orders) = (memory(), feed("orders"));
    append(&log, &orders, rows(&[(None, r#"{"n":1}"#)])).await;
    append(&log, &orders, rows(&[(None, r#"{"n":2}"#), (None, r#"{"m":2}"#)])).await;
    append(&log, &orders, rows(&[(None, r#"{"n":4}"#)])).await;
    let store = plain_store(folder.path(), reduce("0", "state + row.n", None));
    let failed = catch_up(&store, &log).await.expect_err("there is no n");
    let ViewError::Table { table, position, why } = failed else { panic!("{failed}") };
    assert_eq!((table.as_str(), position), ("orders", Position(2)));
    assert!(why.contains("state + row.n"), "{why}");
    assert_eq!(row(&store, "states", "").await.expect("a row")[1], json!(1), "nothing of the transaction is kept");
    store.pass_over(log.cursor_at(Position(2))).await.expect("passed over");
    catch_up(&store, &log).await.expect("applied");
    assert_eq!(row(&store, "states", "").await.expect("a row")[1], json!(5));
    let large = reduce("'x'", "state + state", None);
    let store = plain_store(folder.path(), large);
    for _ in 0..30 {
        append(&log, &orders, rows(&[(None, "1")])).await;
    }
    let failed = catch_up(&store, &log).await.expect_err("it doubles");
    assert!(failed.to_string().contains("larger than"), "{failed}");
}

#[test]
fn wrong_settings_are_refused_with_words() {
    for (settings, word) in [
        (reduce("state", "1", None), "init: unknown name \"state\""),
        (reduce("0", "state + ", None), "step: not a CEL expression"),
        (reduce("0", "rows.a", None), "step: unknown name \"rows\""),
        (reduce("0", "1", Some("state")), "by: unknown name \"state\""),
        (reduce("b'1'", "1", None), "init: "),
        (PlainSettings::Count(CountSettings { tables: vec!["".into()], by: None }), "not a table name"),
    ] {
        let why = Plain::new(&settings).expect_err(word);
        assert!(why.contains(word), "{why}");
    }
    for text in ["by = 3", "bye = 'x'", "tables = 'orders'"] {
        assert!(toml::from_str::<CountSettings>(text).is_err(), "{text}");
    }
    assert!(toml::from_str::<ReduceSettings>("init = '0'").is_err(), "a step is needed");
    assert_eq!(toml::from_str::<LatestSettings>("").expect("nothing is needed"), LatestSettings::default());
}

async fn some_orders(log: &MemoryLog, count: usize) {
    for number in 0..count {
        append(log, &feed("orders"), rows(&[(Some(&format!("k{number}")), r#"{"customer":"c1"}"#)])).await;
    }
}

#[tokio::test]
async fn a_damaged_state_is_built_again_from_the_log() {
    let folder = tempfile::tempdir().expect("a folder");
    let log = memory();
    some_orders(&log, 50).await;
    let open = || plain_store(folder.path(), latest(&["customer"]));
    let store = open();
    assert_eq!(store.found(), &Found::Nothing);
    catch_up(&store, &log).await.expect("applied");
    store.persist().await.expect("durable");
    let path = folder.path().join("plain.state");
    let whole = std::fs::read(&path).expect("it is there");
    assert_eq!(open().found(), &Found::State);
    assert_eq!(open().digest().await.expect("a digest"), store.digest().await.expect("a digest"));
    let mut changed = whole.clone();
    changed[whole.len() / 2] ^= 0x20;
    for bytes in [&whole[..whole.len() - 1], &whole[..whole.len() / 2], &[], &changed, &[0; 4096]] {
        std::fs::write(&path, bytes).expect("written");
        let again = open();
        assert!(matches!(again.found(), Found::Damaged(_)), "{:?}", again.found());
        assert_eq!(again.cursors().await.expect("cursors"), []);
        catch_up(&again, &log).await.expect("applied");
        assert_eq!(again.digest().await.expect("a digest"), store.digest().await.expect("a digest"));
        again.persist().await.expect("durable");
        assert_eq!(std::fs::read(&path).expect("it is there").len(), whole.len());
    }
    let other = plain_store(folder.path(), count(None));
    assert_eq!(other.found(), &Found::OtherDefinition(store.definition()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_definition_is_built_beside_the_one_that_answers() {
    let folder = tempfile::tempdir().expect("a folder");
    let log = memory();
    some_orders(&log, 20).await;
    let builds = |settings| Plain::builds(folder.path(), "a/b", settings).expect("good settings");
    let first = builds(latest(&[]));
    let live = first.live().await.expect("opened");
    catch_up(&*live, &log).await.expect("applied");
    live.persist().await.expect("durable");
    drop((first, live));

    let second = builds(latest(&["customer"]));
    let live = second.live().await.expect("opened");
    assert_ne!(live.definition(), second.wanted(), "the earlier one answers");
    some_orders(&log, 25).await;
    catch_up(&*live, &log).await.expect("the earlier one goes on");
    assert_eq!(row(&*live, "orders", "k24").await.expect("a row")[2], json!(45));
    let build = second.build(false).await.expect("opened");
    assert_eq!((build.definition(), build.cursors().await.expect("cursors")), (second.wanted(), vec![]));
    catch_up(&*build, &log).await.expect("applied");
    build.persist().await.expect("durable");
    drop((second, build, live));

    // As after a crash in the middle of it: what was built is there, until it is wanted afresh.
    let third = builds(latest(&["customer"]));
    let build = third.build(false).await.expect("opened");
    assert_eq!(build.cursors().await.expect("cursors"), [log.cursor_at(Position(45))]);
    assert_eq!(third.build(true).await.expect("opened").cursors().await.expect("cursors"), []);
    let build = third.build(false).await.expect("opened");
    catch_up(&*build, &log).await.expect("applied");
    let live = third.switch().await.expect("switched");
    assert_eq!(live.definition(), third.wanted());
    drop((third, build, live));

    let fourth = builds(latest(&["customer"]));
    let live = fourth.live().await.expect("opened");
    let found = select(&*live, "select * from orders where customer = 'c1'").await.expect("an answer").rows;
    assert_eq!((live.definition(), found.len()), (fourth.wanted(), 25));
    let names: Vec<String> = std::fs::read_dir(folder.path())
        .expect("listed")
        .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
        .collect();
    assert_eq!(names, ["a%2fb.state"], "nothing is left lying about");
    assert!(matches!(fourth.switch().await, Err(ViewError::Failed(_))), "there is nothing to switch to");
}

#[tokio::test]
async fn a_state_is_saved_only_when_it_has_changed_and_a_crash_goes_on_from_there() {
    let folder = tempfile::tempdir().expect("a folder");
    let log = memory();
    some_orders(&log, 10).await;
    let open = || plain_store(folder.path(), reduce("0", "state + 1", Some("key")));
    let store = open();
    catch_up(&store, &log).await.expect("applied");
    store.persist().await.expect("durable");
    let path = folder.path().join("plain.state");
    std::fs::remove_file(&path).expect("removed");
    store.persist().await.expect("nothing to do");
    assert!(!path.exists(), "what stands there is not written again");
    some_orders(&log, 3).await;
    catch_up(&store, &log).await.expect("applied");
    store.persist().await.expect("durable");
    some_orders(&log, 2).await;
    catch_up(&store, &log).await.expect("applied");
    drop(store);
    let again = open();
    assert_eq!(again.cursors().await.expect("cursors"), [log.cursor_at(Position(13))]);
    let mut part = again.part(log.id()).await.expect("a part");
    assert_eq!(part.cursor().await.expect("a cursor"), Some(log.cursor_at(Position(13))));
    catch_up(&again, &log).await.expect("applied");
    let two: Json = row(&again, "states", "k1").await.expect("a row")[1].clone();
    assert_eq!(two, json!(3));
    std::fs::create_dir(folder.path().join("plain.state.new")).expect("in the way");
    some_orders(&log, 1).await;
    catch_up(&again, &log).await.expect("applied");
    let refused = again.persist().await.expect_err("it cannot be written");
    assert!(refused.is_retryable(), "{refused}");
    let _: &MachineStore<Plain> = &again;
}
