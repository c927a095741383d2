//! Questions: what they may not do, and what they may not cost.

use std::time::{Duration, Instant};

use serde_json::json;
use watershed::sqlite::{SqlitePlace, SqliteViewOptions, SqliteViews};
use watershed::view::{AskError, Bounds, Question, ViewBuilds};

use super::bed::*;

async fn filled() -> Kept {
    let (feed, view) = (Feed::new(), kept(TOTALS).await);
    for (customer, amount) in [("ada", 3), ("bob", 5)] {
        feed.order(customer, amount).await;
    }
    feed.follow(&*view.store).await.expect("follows");
    view
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_writes_attaches_or_looks_elsewhere_is_forbidden() {
    let view = filled().await;
    for sql in [
        "insert into totals values ('x', 1, 1)",
        "update totals set orders = 0",
        "delete from totals",
        "delete from totals returning *",
        "with x as (select 1) delete from totals",
        "create table x (a)",
        "create temp table x (a)",
        "drop table totals",
        "alter table totals rename to x",
        "attach '/tmp/x.db' as x",
        "detach main",
        "vacuum",
        "vacuum into '/tmp/x.db'",
        "pragma query_only = off",
        "pragma writable_schema = on",
        "pragma journal_mode = delete",
        "pragma database_list",
        "begin",
        "commit",
        "rollback",
        "savepoint a",
        "reindex",
        "analyze",
        "select * from watershed_view",
        "select * from Watershed_View_Cursor",
        "select load_extension('/tmp/x.so')",
        "select * from pragma_database_list",
        "explain insert into totals values ('x', 1, 1)",
    ] {
        let error = ask(&*view.store, sql).await.expect_err(sql);
        assert!(matches!(error, AskError::Forbidden(_)), "{sql}: {error:?}");
    }
    let after = rows(&*view.store, "select * from totals order by customer").await;
    assert_eq!(after, json!([["ada", 1, 3], ["bob", 1, 5]]));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_question_is_invalid_and_says_why() {
    let view = filled().await;
    for (sql, params, part) in [
        ("", json!(null), "no rows"),
        ("-- nothing", json!(null), "no rows"),
        ("select", json!(null), "incomplete"),
        ("select 1; select 2", json!(null), "one statement"),
        ("select * from nowhere", json!(null), "no such table"),
        ("select ?", json!(null), "1 parameters"),
        ("select ?", json!([1, 2]), "2 were given"),
        ("select :a", json!({"b": 1}), "a was not given"),
        ("select :a", json!({"a": 1, "b": 1}), "2 parameters were given"),
        ("select ?", json!({"a": 1}), "array"),
        ("select 1", json!("x"), "an array or an object"),
    ] {
        match ask_within(&*view.store, sql, params, BOUNDS).await {
            Err(AskError::Invalid(why)) => assert!(why.contains(part), "{sql}: {why}"),
            other => panic!("{sql}: {other:?}"),
        }
    }
    let long = format!("select {}1", " ".repeat(200_000));
    assert!(matches!(ask(&*view.store, &long).await, Err(AskError::Large { .. })));
}

#[tokio::test(flavor = "multi_thread")]
async fn parameters_and_values_are_json() {
    let view = filled().await;
    let given = json!([1, "a", null, true, 1.5, {"b": [1]}]);
    let answer = ask_within(&*view.store, "select ?1, ?2, ?3, ?4, ?5, ?6", given, BOUNDS).await.expect("answered");
    assert_eq!(json!(answer.rows), json!([[1, "a", null, 1, 1.5, "{\"b\":[1]}"]]));
    let given = json!({"a": 2, "b": "x"});
    let answer = ask_within(&*view.store, "select :a, @b, $a, x'00ff', 9e999", given, BOUNDS).await.expect("answered");
    assert_eq!(json!(answer.rows), json!([[2, "x", 2, "\\x00ff", "Infinity"]]));
    let schema = rows(&*view.store, "select name from pragma_table_info('totals')").await;
    assert_eq!(schema, json!([["customer"], ["orders"], ["amount"]]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_is_found_by_its_key() {
    let sql = "-- setup
        create table pairs (a integer, b text, v, primary key (a, b));
        create table loose (k primary key, v);
        create table heap (v);
        -- on insert orders
        insert into pairs values (1, 'x', 'one'), (2, 'y,z', 'two');
        insert into loose values (5, 'number'), ('six', 'text');";
    let (feed, view) = (Feed::new(), kept(sql).await);
    feed.order("ada", 1).await;
    feed.follow(&*view.store).await.expect("follows");
    let row = async |table: &str, key: &str| {
        let question = Question::Row { table: table.into(), key: key.into() };
        view.store.ask(&question, &BOUNDS).await.map(|answer| json!(answer.rows))
    };
    assert_eq!(row("pairs", "1,x").await, Ok(json!([[1, "x", "one"]])));
    assert_eq!(row("PAIRS", "1,x").await, Ok(json!([[1, "x", "one"]])));
    assert_eq!(row("pairs", "2,y\\,z").await, Ok(json!([[2, "y,z", "two"]])));
    assert_eq!(row("loose", "5").await, Ok(json!([[5, "number"]])));
    assert_eq!(row("loose", "six").await, Ok(json!([["six", "text"]])));
    for (table, key) in
        [("pairs", "1,y"), ("nowhere", "1"), ("watershed_view", "1"), ("sqlite_schema", "1"), ("loose", "")]
    {
        assert!(matches!(row(table, key).await, Err(AskError::Absent(_))), "{table} {key}");
    }
    for (table, key) in [("pairs", "1"), ("pairs", "1,x,z"), ("heap", "1")] {
        assert!(matches!(row(table, key).await, Err(AskError::Invalid(_))), "{table} {key}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_two_keys_of_several_columns_are_one_text_and_each_finds_its_row() {
    let sql = "-- setup
        create table seen (k text primary key, a text, b text);
        create table places (a text, b text, k text, primary key (a, b));
        -- on insert places
        insert into seen values (:key, :row.a, :row.b);
        insert into places values (:row.a, :row.b, :key);";
    let (feed, view) = (Feed::new(), kept(sql).await);
    let places = table("places", &[("a", "text", 1), ("b", "text", 2)]);
    let keys = [("a,b", "c"), ("a", "b,c"), ("a\\", "b"), ("a\\,", "b"), ("", ","), (",", ""), ("x", "y")];
    let changes: Vec<_> = keys.iter().map(|(a, b)| insert(vec![typed(a), typed(b)])).collect();
    feed.commit(&places, &changes).await;
    feed.follow(&*view.store).await.expect("no two of them are one");
    let found = rows(&*view.store, "select k, a, b from seen where a = 'x'").await;
    assert_eq!(found, json!([["x,y", "x", "y"]]));
    for row in rows(&*view.store, "select k, a, b from seen").await.as_array().expect("rows") {
        let key = row[0].as_str().expect("a key").to_owned();
        let question = Question::Row { table: "places".into(), key };
        let found = view.store.ask(&question, &BOUNDS).await.expect("answered").rows;
        assert_eq!(json!(found), json!([[row[1], row[2], row[0]]]));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_has_bounds_in_time_rows_bytes_and_memory() {
    let view = filled().await;
    let endless = "with recursive c(i) as (select 1 union all select i + 1 from c) select ";
    let short = Bounds { time: Duration::from_millis(200), ..BOUNDS };
    for sql in [
        format!("{endless} max(i) from c"),
        format!("{endless} count(*) from c a, c b"),
        format!("{endless} i from c where i < 0"),
        format!("{endless} sum(length(hex(randomblob(1000)))) from c"),
    ] {
        let began = Instant::now();
        let error = ask_within(&*view.store, &sql, json!(null), short).await.expect_err("endless");
        assert_eq!(error, AskError::Slow(short.time), "{sql}");
        assert!(began.elapsed() < Duration::from_secs(15), "{sql}: {:?}", began.elapsed());
    }
    let many = format!("{endless} i from c limit 1000000");
    let error = ask(&*view.store, &many).await.expect_err("too many rows");
    assert_eq!(error, AskError::Large { what: "rows", most: BOUNDS.rows });
    let wide = format!("{endless} printf('%.1000c', 'x') from c limit 9000");
    let error = ask(&*view.store, &wide).await.expect_err("too many bytes");
    assert_eq!(error, AskError::Large { what: "bytes", most: BOUNDS.bytes });
    for sql in [
        "select zeroblob(1000000000)",
        "select hex(zeroblob(1000000000))",
        "select length(randomblob(1000000000))",
        "select length(printf('%.1000000000c', 'x'))",
        "select length(replace(printf('%.100000c', 'x'), 'x', printf('%.100000c', 'y')))",
        &format!("{endless} length(group_concat(printf('%.1000c', 'x'))) from (select i from c limit 1000000)"),
    ] {
        match ask(&*view.store, sql).await {
            Err(AskError::Large { .. }) => {}
            other => panic!("{sql}: {other:?}"),
        }
    }
    let columns = format!("select {}", vec!["randomblob(1000000)"; 2_000].join(", "));
    assert!(matches!(ask(&*view.store, &columns).await, Err(AskError::Invalid(_))));
    let deep = format!("select {}1{}", "(".repeat(5_000), ")".repeat(5_000));
    assert!(matches!(ask(&*view.store, &deep).await, Err(AskError::Invalid(_))));
    assert_eq!(rows(&*view.store, "select count(*) from totals").await, json!([[2]]), "and answers go on");
}

#[tokio::test(flavor = "multi_thread")]
async fn many_at_once_are_answered_each_from_one_snapshot() {
    let sql = "-- setup
        create table a (n integer); create table b (n integer);
        insert into a values (0); insert into b values (0);
        -- on insert orders
        update a set n = n + 1; update b set n = n + 1;";
    let (feed, view) = (Feed::new(), kept(sql).await);
    let askers = (0..8).map(|_| {
        let store = view.store.clone();
        tokio::spawn(async move {
            for _ in 0..50 {
                let answer = ask(&*store, "select (select n from a), (select n from b)").await.expect("answered");
                let at = answer.cursors.first().map_or(0, |cursor| cursor.position.0);
                assert_eq!(json!(answer.rows), json!([[at, at]]));
            }
        })
    });
    let askers: Vec<_> = askers.collect();
    let mut part = view.store.part(feed.id()).await.expect("opens");
    while askers.iter().any(|asker| !asker.is_finished()) {
        feed.order("ada", 1).await;
        feed.follow_by(&mut *part, 10).await.expect("follows");
    }
    for asker in askers {
        asker.await.expect("every answer is of one position");
    }
}

/// SQLite's own would compare for minutes within one instruction, where nobody looks at the clock.
#[tokio::test(flavor = "multi_thread")]
async fn long_values_are_searched_in_one_go() {
    let dir = tempfile::tempdir().expect("a folder");
    let options = SqliteViewOptions::new("totals", sqlite(TOTALS), SqlitePlace::Memory(dir.path().join("saved.db")));
    let memory = SqliteViews::new(options).live().await.expect("opens");
    let file = filled().await;
    let cases = [
        ("instr(hex(zeroblob(1000000)), hex(zeroblob(500000)) || '1')", json!([[0]])),
        ("length(replace(hex(zeroblob(1000000)), hex(zeroblob(500000)) || '1', 'x'))", json!([[2_000_000]])),
    ];
    for store in [&*file.store, &*memory] {
        for (call, expected) in &cases {
            let sql = format!("select {call}");
            let one = || ask_within(store, &sql, json!([]), BOUNDS);
            // More than there are places.
            let answers = tokio::join!(one(), one(), one(), one(), one());
            for answer in [answers.0, answers.1, answers.2, answers.3, answers.4] {
                assert_eq!(json!(answer.expect("in time").rows), *expected, "{call}");
            }
        }
    }
}
