//! What statements of definitions are given, and what becomes of them.

use serde_json::json;
use watershed::log::Source;
use watershed::model::{Kind, Op, Position, Value};
use watershed::view::ViewError;

use super::bed::*;

#[tokio::test]
async fn rows_of_a_feed_are_grouped() {
    let (feed, view) = (Feed::new(), kept(TOTALS).await);
    for (customer, amount) in [("ada", 3), ("bob", 5), ("ada", 4)] {
        feed.order(customer, amount).await;
    }
    feed.append("other", &[(None, "{}")]).await;
    feed.follow(&*view.store).await.expect("follows");
    let answer = ask(&*view.store, "select * from totals order by customer").await.expect("answered");
    assert_eq!(json!(answer.rows), json!([["ada", 2, 7], ["bob", 1, 5]]));
    assert_eq!(answer.columns, ["customer", "orders", "amount"]);
    let [cursor] = answer.cursors[..] else { panic!("{:?}", answer.cursors) };
    assert_eq!((cursor.log, cursor.position), (feed.id(), Position(4)));
    watershed::log::Log::check(&feed.log, cursor).expect("a cursor of the log");
    assert_eq!(answer.definition, view.store.definition());
    assert_eq!(view.store.cursors().await.expect("read"), [cursor]);
}

#[tokio::test]
async fn every_parameter_has_its_value_and_every_number_its_digits() {
    let sql = "-- setup
        create table seen (value, type text);
        -- on insert things
        insert into seen values (:row.a, typeof(:row.a)), (:row.\"odd \"\"name\", typeof(:row.\"odd \"\"name\"));
        insert into seen values (:key, ':key'), (:position, :node), (:time, :correlation), (:json, 'json');
        insert into seen values (:origin, 'origin');";
    let (feed, view) = (Feed::new(), kept(sql).await);
    for (row, values) in [
        (
            r#"{"a": 9223372036854775807, "odd \"name": true}"#,
            json!([[9223372036854775807i64, "integer"], [1, "integer"]]),
        ),
        (r#"{"a": 1.5, "odd \"name": "x\u0000y"}"#, json!([[1.5, "real"], ["x\0y", "text"]])),
        (
            r#"{"a": 12345678901234567890, "odd \"name": {"b" : [1]}}"#,
            json!([["12345678901234567890", "text"], ["{\"b\" : [1]}", "text"]]),
        ),
        (r#"{"a": null}"#, json!([[null, "null"], [null, "null"]])),
        (
            r#"{"a": 0.1000000000000000055, "odd \"name": 1e2}"#,
            json!([["0.1000000000000000055", "text"], [100.0, "real"]]),
        ),
        ("[1]", json!([[null, "null"], [null, "null"]])),
    ] {
        let cursor = feed.append("things", &[(Some("k"), row)]).await;
        feed.follow(&*view.store).await.expect("follows");
        let last = "select value, type from (select rowid, * from seen order by rowid desc limit 7) order by rowid";
        let seen = rows(&*view.store, last).await;
        assert_eq!(seen[0], values[0], "{row}");
        assert_eq!(seen[1], values[1], "{row}");
        assert_eq!(seen[2], json!(["k", ":key"]));
        assert_eq!(seen[3], json!([cursor.position.0, "shop"]));
        assert_eq!(seen[4], json!(["2023-11-14T22:13:20.000001Z", "c-1"]));
        assert_eq!(seen[5], json!([row, "json"]));
        assert_eq!(seen[6][0], json!(cursor.to_string()));
    }
}

const LEDGER: &str = "-- setup
create table totals (customer text primary key, orders integer not null, amount numeric not null);
-- on insert shop.orders
insert into totals values (:row.customer, 1, :row.amount)
  on conflict (customer) do update set orders = orders + 1, amount = amount + excluded.amount;
-- on update shop.orders
update totals set orders = orders - 1, amount = amount - :old.amount where customer = :old.customer;
insert into totals values (:row.customer, 1, :row.amount)
  on conflict (customer) do update set orders = orders + 1, amount = amount + excluded.amount;
-- on delete shop.orders
update totals set orders = orders - 1, amount = amount - :old.amount where customer = :old.customer;
-- on truncate shop.orders
delete from totals;
";
const STATE: &str = "select * from totals where orders <> 0 order by customer";

fn order(id: &str, customer: &str, amount: &str) -> Vec<Value> {
    vec![typed(id), typed(customer), typed(amount)]
}

#[tokio::test]
async fn old_rows_are_there_whether_the_source_gives_them_or_not() {
    let orders = table("shop.orders", &[("id", "bigint", 1), ("customer", "text", 0), ("amount", "numeric", 0)]);
    let key_only = |id: &str| vec![typed(id), Value::UNCHANGED, Value::UNCHANGED];
    let whole = [
        insert(order("1", "ada", "10")),
        insert(order("2", "bob", "2.5")),
        update(Some(order("1", "ada", "10")), order("1", "ada", "12")),
        update(Some(order("2", "bob", "2.5")), order("3", "cid", "2.5")),
        delete(order("1", "ada", "12")),
    ];
    let keys = [
        insert(order("1", "ada", "10")),
        insert(order("2", "bob", "2.5")),
        update(None, vec![typed("1"), Value::UNCHANGED, typed("12")]),
        update(Some(key_only("2")), order("3", "cid", "2.5")),
        delete(key_only("1")),
    ];
    let states = [
        json!([["ada", 1, 10]]),
        json!([["ada", 1, 10], ["bob", 1, 2.5]]),
        json!([["ada", 1, 12], ["bob", 1, 2.5]]),
        json!([["ada", 1, 12], ["cid", 1, 2.5]]),
        json!([["cid", 1, 2.5]]),
    ];
    for changes in [whole, keys] {
        let (feed, view) = (Feed::new(), kept(LEDGER).await);
        for (change, state) in changes.into_iter().zip(&states) {
            feed.commit(&orders, &[change]).await;
            feed.follow(&*view.store).await.expect("follows");
            assert_eq!(rows(&*view.store, STATE).await, *state);
        }
        // A delete of what was never here, an update of a row that was not, and the table in a later version.
        feed.commit(&orders, &[delete(key_only("77")), update(None, order("9", "dot", "1"))]).await;
        let columns = [("id", "bigint", 1), ("customer", "text", 0), ("amount", "numeric", 0), ("note", "text", 0)];
        let later = table("shop.orders", &columns);
        feed.commit(&later, &[delete(vec![typed("3"), Value::UNCHANGED, Value::UNCHANGED, Value::UNCHANGED])]).await;
        feed.follow(&*view.store).await.expect("follows");
        assert_eq!(rows(&*view.store, STATE).await, json!([["dot", 1, 1]]));
        feed.commit(&orders, &[watershed::model::Change { table: 0, op: Op::Truncate, row: None, old: None }]).await;
        feed.commit(&orders, &[insert(order("9", "eve", "1"))]).await;
        feed.follow(&*view.store).await.expect("follows");
        assert_eq!(rows(&*view.store, STATE).await, json!([["eve", 1, 1]]));
    }
}

#[tokio::test]
async fn numbers_of_tables_are_numbers_where_all_their_digits_are_kept() {
    let sql = "-- setup
        create table seen (value);
        -- on insert t
        insert into seen values (typeof(:row.n) || ' ' || :row.n), (typeof(:row.b) || ' ' || :row.b), (typeof(:key)), (:json);";
    let (feed, view) = (Feed::new(), kept(sql).await);
    let t = table("t", &[("id", "integer", 1), ("n", "numeric(30,3)", 0), ("b", "boolean", 0)]);
    feed.commit(&t, &[insert(vec![typed("1"), typed("12.50"), typed("t")])]).await;
    feed.commit(&t, &[insert(vec![typed("2"), typed("123456789012345678.125"), Value::new(Kind::Integer, "0")])]).await;
    feed.follow(&*view.store).await.expect("follows");
    let seen = rows(&*view.store, "select value from seen").await;
    let expected = json!([
        ["real 12.5"],
        ["integer 1"],
        ["integer"],
        [r#"{"id":1,"n":12.50,"b":true}"#],
        ["text 123456789012345678.125"],
        ["integer 0"],
        ["integer"],
        [r#"{"id":2,"n":123456789012345678.125,"b":0}"#]
    ]);
    assert_eq!(seen, expected);
}

#[tokio::test]
async fn what_is_wrong_with_a_definition_is_said_at_load_with_its_place() {
    for (sql, expected) in [
        (
            "-- setup\ncreate table t (a);\n-- on insert o\ninsert into u values (:row.a);",
            "view.sql:4:13: no such table: u",
        ),
        (
            "-- setup\ncreate table t (a);\n-- on insert o\ninsert into t (a, b) values (:row.a, 1);",
            "view.sql:4:19: table t has no column named b",
        ),
        (
            "-- setup\ncreate table t (a);\n-- on insert o\ninsert into t values (:row.a,\n  :row.long_name + nope);",
            "view.sql:5:20: no such column: nope",
        ),
        ("-- setup\ncreate table t (a;\n-- on insert o\ninsert into t values (1);", "view.sql:2:18"),
        ("-- setup\ncreate table t (a);\n-- on insert o\nselect :row.a;", "view.sql:4:1: it changes nothing"),
        ("-- setup\ncreate table t (a);\n-- on insert o\ninsert into t values (1) returning a;", "leave RETURNING out"),
        ("-- on insert o\nselect :row.a, :customer", "view.sql:2:16: unknown parameter `:customer`"),
        ("-- setup\nattach 'x.db' as x;\n-- on insert o\nselect 1", "view.sql:2:1: ATTACH: a definition can only"),
        ("-- setup\ncreate table watershed_view(a);\n-- on insert o\nselect 1", "watershed_view is not the view's"),
        (
            "-- setup\ncreate table t (a);\n-- on insert o\ndelete from watershed_view_cursor;",
            "watershed_view_cursor is not the view's",
        ),
        (
            "-- setup\ncreate table t (a);\n-- on insert o\ninsert into t values (random());",
            "random() answers something else each time",
        ),
        (
            "-- setup\ncreate table t (a);\n-- on insert o\ninsert into t values (changes());",
            "changes() answers something else each time",
        ),
        (
            "-- setup\ncreate table t (a);\n-- on insert o\ninsert into t\n  values (datetime('now'));",
            "view.sql:5:20: it asks what time it is",
        ),
        ("-- setup\ncreate table t (a default (unixepoch()));\n-- on insert o\nselect 1", "view.sql:2:28: it asks"),
        ("-- setup\ncommit;\n-- on insert o\nselect 1", "BEGIN, COMMIT or ROLLBACK"),
        ("-- setup\npragma user_version = 3;\n-- on insert o\nselect 1", "PRAGMA user_version"),
        ("-- setup\ncreate temp table t (a);\n-- on insert o\nselect 1", "it changes the schema"),
    ] {
        let error = refused(sql).await;
        assert!(error.contains(expected), "{sql}\n{error}\nexpected {expected}");
    }
}

#[tokio::test]
async fn a_statement_that_fails_stops_the_view_there_and_what_is_before_it_is_committed() {
    let sql = "-- setup
        create table seen (id integer primary key);
        -- on insert orders
        insert into seen values (:row.id);
        insert into seen select 1000 + :row.id;";
    let (feed, view) = (Feed::new(), kept(sql).await);
    for id in [1, 2, 1002, 4, 5] {
        feed.append("orders", &[(None, &json!({ "id": id }).to_string())]).await;
    }
    let mut part = view.store.part(feed.id()).await.expect("opens");
    for _ in 0..2 {
        let error = feed.follow_by(&mut *part, 1_000).await.expect_err("1002 is there already");
        let ViewError::Statement { position, file, line, statement, why } = &error else { panic!("{error}") };
        assert_eq!((position.0, file.as_str(), *line), (3, "view.sql", 4));
        assert_eq!(statement, "insert into seen values (:row.id)");
        assert!(why.contains("UNIQUE constraint failed: seen.id"), "{why}");
        assert_eq!(error.stops_at(), Some(Position(3)));
        assert_eq!(rows(&*view.store, "select id from seen").await, json!([[1], [2], [1001], [1002]]));
        let cursor = view.store.cursors().await.expect("read")[0];
        assert_eq!(cursor.position, Position(2));
        watershed::log::Log::check(&feed.log, cursor).expect("a cursor of the log");
    }
    let at = |position| watershed::log::Log::cursor_at(&feed.log, Position(position));
    for wrong in [1, 2, 4] {
        let error = view.store.pass_over(at(wrong)).await.expect_err("not the next one");
        assert!(error.to_string().contains("next entry is at 3"), "{error}");
    }
    view.store.pass_over(at(3)).await.expect("passed over");
    assert!(matches!(part.apply(&feed.batch(2, 9).await).await, Err(ViewError::Fenced { .. })), "another has moved it");
    feed.follow(&*view.store).await.expect("goes on");
    assert_eq!(rows(&*view.store, "select id from seen where id < 1000").await, json!([[1], [2], [4], [5]]));
    let passed = view.store.passed().await.expect("read");
    assert_eq!(passed.iter().map(|(cursor, _)| *cursor).collect::<Vec<_>>(), [at(3)]);
}

#[tokio::test]
async fn rows_that_cannot_be_read_stop_the_view_with_their_position() {
    let (feed, view) = (Feed::new(), kept(TOTALS).await);
    feed.order("ada", 1).await;
    feed.append("orders", &[(None, "{\"customer\": ")]).await;
    let error = feed.follow(&*view.store).await.expect_err("no JSON");
    assert!(matches!(&error, ViewError::Entry { position: Position(2), why } if why.contains("not JSON")), "{error}");
    let orders = table("orders", &[("id", "integer", 1), ("amount", "integer", 0)]);
    let (feed, view) = (Feed::new(), kept(TOTALS).await);
    feed.commit(&orders, &[insert(vec![typed("1"), typed("2")])]).await;
    let error = feed.follow(&*view.store).await.expect_err("no such column").to_string();
    assert!(error.contains("`:row.customer`: table orders has no such column; it has id, amount"), "{error}");
    let ids = "-- setup\ncreate table t(a);\n-- on insert orders\ninsert into t values (:row.id)";
    let (feed, view) = (Feed::new(), kept(ids).await);
    feed.commit(&orders, &[insert(vec![typed("1")])]).await;
    let error = feed.follow(&*view.store).await.expect_err("a row of another width").to_string();
    assert!(error.contains("a row of 1 values in orders, which has 2 columns"), "{error}");
    let (feed, view) = (Feed::new(), kept(ids).await);
    feed.commit(&orders, &[insert(vec![typed("7"), typed("2")])]).await;
    feed.commit(&orders, &[watershed::model::Change { table: 0, op: Op::Copied, row: None, old: None }]).await;
    let error = feed.follow(&*view.store).await.expect_err("the table was replaced");
    assert!(matches!(error, ViewError::Replaced { position: Position(2), .. }), "{error}");
    assert_eq!(rows(&*view.store, "select a from t").await, json!([[7]]));
    assert_eq!(view.store.cursors().await.expect("read")[0].position, Position(1));
}

#[tokio::test]
async fn large_transactions_are_applied_whole_and_partitions_apart() {
    let view = kept(TOTALS).await;
    let (one, two) = (Feed::new(), Feed::new());
    let parts: Vec<String> = (0..3).map(|n| json!({"customer": "ada", "amount": n}).to_string()).collect();
    one.large("orders", &parts).await;
    let mut part = view.store.part(one.id()).await.expect("opens");
    let mut from = watershed::model::ReadFrom::default();
    loop {
        let limit = watershed::log::Limit { entries: 1, ..watershed::log::Limit::default() };
        let batch = one.log.read(from, limit).await.expect("read");
        if batch.next == from {
            break;
        }
        assert_eq!(rows(&*view.store, "select * from totals").await, json!([]), "no part before the last");
        part.apply(&batch).await.expect("takes it");
        from = batch.next;
    }
    assert_eq!(rows(&*view.store, "select * from totals").await, json!([["ada", 3, 3]]));
    two.order("bob", 9).await;
    two.follow(&*view.store).await.expect("follows");
    let mut expected = [(one.id(), 1), (two.id(), 1)];
    expected.sort();
    let cursors = view.store.cursors().await.expect("read");
    assert_eq!(cursors.iter().map(|cursor| (cursor.log, cursor.position.0)).collect::<Vec<_>>(), expected);
    assert!(part.apply(&two.batch(0, 1).await).await.is_err(), "entries of another log");
}

#[tokio::test(flavor = "multi_thread")]
async fn large_batches_are_under_way_while_the_next_is_read_and_stop_where_they_fail() {
    let sql = "-- setup
        create table seen (id integer primary key);
        -- on insert orders
        insert into seen values (:row.amount);";
    let (feed, view) = (Feed::fixed(), kept(sql).await);
    let mut part = view.store.part(feed.id()).await.expect("opens");
    part.cursor().await.expect("read");
    part.apply(&feed.numbers(0, 3_000)).await.expect("begins");
    part.apply(&feed.numbers(3_000, 3_000)).await.expect("begins");
    part.flush().await.expect("applied");
    assert_eq!(part.cursor().await.expect("read").expect("a cursor").position, Position(6_000));
    let mut bad = feed.numbers(6_000, 3_000);
    bad.entries[1_500].entry = feed.numbers(0, 1).entries[0].entry.clone();
    part.apply(&bad).await.expect("begins");
    let error = part.apply(&feed.numbers(9_000, 3_000)).await.expect_err("the one before has failed");
    assert_eq!(error.stops_at(), Some(Position(7_501)), "{error}");
    let error = part.apply(&feed.numbers(9_000, 3_000)).await.expect_err("what stands between would be missing");
    assert!(matches!(error, ViewError::Lost(_)), "{error}");
    assert_eq!(part.cursor().await.expect("read").expect("a cursor").position, Position(7_500));
    assert_eq!(rows(&*view.store, "select count(*), max(id) from seen").await, json!([[7_500, 7_500]]));
    part.apply(&feed.numbers(7_500, 1_500)).await.expect("begins");
    drop(part);
    let mut part = view.store.part(feed.id()).await.expect("opens");
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(180);
    while part.cursor().await.expect("read").expect("a cursor").position < Position(9_000) {
        assert!(std::time::Instant::now() < deadline, "what was begun is ended");
    }
    assert_eq!(rows(&*view.store, "select count(*), max(id) from seen").await, json!([[9_000, 9_000]]));
}

#[tokio::test]
async fn a_first_transaction_that_fails_leaves_no_cursor_behind_it() {
    check_nothing_before_what_fails(&*kept(FAILING).await.store).await;
}
