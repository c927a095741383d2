//! Views in PostgreSQL: what statements are given, what questions may not do, and how builds take each other's place.

use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use serde_json::{Value as Json, json};
use watershed::log::Log;
use watershed::model::{Change, Op, Position, Value};
use watershed::postgres::{Endpoint, PgViewOptions, PgViews};
use watershed::testing::postgres::Cluster;
use watershed::view::sql::{Definition, Dialect};
use watershed::view::{AskError, Bounds, Question, ViewBuilds, ViewError, ViewStore};

use super::bed::*;

pub static CLUSTER: LazyLock<Cluster> =
    LazyLock::new(|| Cluster::with(&[("fsync", "off"), ("shared_buffers", "32MB"), ("max_connections", "100")]));

fn at(url: &str, sql: &str) -> Result<PgViews, ViewError> {
    let definition = Arc::new(Definition::parse("view.sql", sql, Dialect::Postgres)?);
    let endpoint = Endpoint::from_url(url).expect("a URL");
    PgViews::new(PgViewOptions {
        name: "totals".into(),
        definition,
        endpoint,
        spool_dir: std::env::temp_dir(),
        changes: false,
        publish: false,
    })
}

fn views(url: &str, sql: &str) -> PgViews {
    at(url, sql).expect("a definition")
}

async fn live(sql: &str) -> (String, Arc<dyn ViewStore>) {
    let url = CLUSTER.database();
    let store = views(&url, sql).live().await.unwrap_or_else(|error| panic!("{error}"));
    (url, store)
}

const STATE: &str = "select * from totals where orders <> 0 order by customer";

#[tokio::test(flavor = "multi_thread")]
async fn rows_of_a_feed_are_grouped_and_the_digest_is_that_of_sqlite() {
    let (feed, (_, view)) = (Feed::new(), live(TOTALS_PG).await);
    for (customer, amount) in [("ada", 3), ("bob", 5), ("ada", 4)] {
        feed.order(customer, amount).await;
    }
    feed.follow(&*view).await.expect("follows");
    let answer = ask(&*view, STATE).await.expect("answered");
    assert_eq!(json!(answer.rows), json!([["ada", 2, 7], ["bob", 1, 5]]));
    let [cursor] = answer.cursors[..] else { panic!("{:?}", answer.cursors) };
    assert_eq!((cursor.log, cursor.position), (feed.id(), Position(3)));
    feed.log.check(cursor).expect("a cursor of the log");
    assert_eq!(answer.definition, view.definition());
    let sqlite = kept(TOTALS).await;
    feed.follow(&*sqlite.store).await.expect("follows");
    assert_eq!(view.digest().await.expect("digest"), sqlite.store.digest().await.expect("digest"));
    feed.order("ada", 1).await;
    feed.follow(&*view).await.expect("follows");
    assert_ne!(view.digest().await.expect("digest"), sqlite.store.digest().await.expect("digest"));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_parameter_has_its_value_and_the_type_that_it_needs() {
    let sql = "-- setup
        create table seen (id bigserial primary key, a numeric, b jsonb, t timestamptz, k text, n bigint, o text, flag boolean);
        -- on insert things
        insert into seen (a, b, t, k, n, o, flag) values (:row.a, :json, :time, :key || '/' || :row.a, :position, :node || :correlation || :origin, :row.flag);";
    let (feed, (_, view)) = (Feed::new(), live(sql).await);
    let row = r#"{"a": 12345678901234567890.10, "flag": true, "c": {"d": [1]}}"#;
    let cursor = feed.append("things", &[(Some("k"), row)]).await;
    feed.append("things", &[(Some("k"), "{}")]).await;
    feed.follow(&*view).await.expect("follows");
    let seen =
        rows(&*view, "select a, b -> 'c', t = '2023-11-14T22:13:20.000001Z', k, n, o, flag from seen order by id")
            .await;
    let expected = json!([
        ["12345678901234567890.10", {"d": [1]}, true, "k/12345678901234567890.10", 1, format!("shopc-1{cursor}"), true],
        [null, null, true, null, 2, null, null],
    ]);
    assert_eq!(seen[0], expected[0]);
    assert_eq!(seen[1][0], expected[1][0]);
    assert_eq!(seen[1][6], expected[1][6]);
}

const LEDGER: &str = "-- setup
create table totals (customer text primary key, orders integer not null, amount numeric not null);
-- on insert shop.orders
insert into totals values (:row.customer, 1, :row.amount)
  on conflict (customer) do update set orders = totals.orders + 1, amount = totals.amount + excluded.amount;
-- on update shop.orders
update totals set orders = orders - 1, amount = amount - :old.amount where customer = :old.customer;
insert into totals values (:row.customer, 1, :row.amount)
  on conflict (customer) do update set orders = totals.orders + 1, amount = totals.amount + excluded.amount;
-- on delete shop.orders
update totals set orders = orders - 1, amount = amount - :old.amount where customer = :old.customer;
-- on truncate shop.orders
delete from totals;
";

fn order(id: &str, customer: &str, amount: &str) -> Vec<Value> {
    vec![typed(id), typed(customer), typed(amount)]
}

#[tokio::test(flavor = "multi_thread")]
async fn old_rows_are_there_also_within_one_batch() {
    let orders = table("shop.orders", &[("id", "bigint", 1), ("customer", "text", 0), ("amount", "numeric", 0)]);
    let key_only = |id: &str| vec![typed(id), Value::UNCHANGED, Value::UNCHANGED];
    let changes = [
        insert(order("1", "ada", "10")),
        insert(order("2", "bob", "2.5")),
        update(None, vec![typed("1"), Value::UNCHANGED, typed("12")]),
        update(Some(key_only("2")), order("3", "cid", "2.5")),
        delete(key_only("1")),
        delete(key_only("77")),
    ];
    for batch in [1, 100] {
        let (feed, (_, view)) = (Feed::new(), live(LEDGER).await);
        for change in &changes {
            feed.commit(&orders, std::slice::from_ref(change)).await;
        }
        let mut part = view.part(feed.id()).await.expect("opens");
        feed.follow_by(&mut *part, batch).await.expect("follows");
        assert_eq!(rows(&*view, STATE).await, json!([["cid", 1, 2.5]]));
        feed.commit(&orders, &[update(None, vec![typed("3"), typed("dot"), Value::UNCHANGED])]).await;
        feed.commit(&orders, &[insert(order("4", "eve", "1"))]).await;
        feed.follow_by(&mut *part, batch).await.expect("follows");
        assert_eq!(rows(&*view, STATE).await, json!([["dot", 1, 2.5], ["eve", 1, 1]]));
        feed.commit(&orders, &[Change { table: 0, op: Op::Truncate, row: None, old: None }]).await;
        feed.commit(&orders, &[insert(order("4", "fay", "1"))]).await;
        feed.follow_by(&mut *part, batch).await.expect("follows");
        assert_eq!(rows(&*view, STATE).await, json!([["fay", 1, 1]]));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_a_definition_is_said_at_load_with_its_place() {
    let url = CLUSTER.database();
    for (sql, expected) in [
        (
            "-- setup\ncreate table t (a text);\n-- on insert o\ninsert into u values (:row.a);",
            "view.sql:4:13: relation \"u\" does not exist",
        ),
        (
            "-- setup\ncreate table t (a text);\n-- on insert o\ninsert into t values (:row.a,\n  :row.long_name || nope);",
            "view.sql:5:21: column \"nope\" does not exist",
        ),
        ("-- setup\ncreate table t (a;\n-- on insert o\ninsert into t values (1);", "view.sql:2:18: syntax error"),
        ("-- setup\ncreate table t (a text);\n-- on insert o\nselect :row.a;", "view.sql:4:1: it gives rows"),
        (
            "-- setup\ncreate table t (a text);\n-- on insert o\ninsert into t values (1) returning a;",
            "without RETURNING",
        ),
        ("-- setup\ncommit;\n-- on insert o\nselect 1", "view.sql:2:1: COMMIT"),
        (
            "-- setup\ncreate table t (a timestamptz);\n-- on insert o\ninsert into t values (now ());",
            "view.sql:4:1: now answers something else each time",
        ),
        (
            "-- setup\ncreate table t (a text);\n-- on insert o\ndelete from watershed_view_cursor;",
            "watershed_view_cursor is not the view's",
        ),
        ("-- setup\nset role postgres;\n-- on insert o\nselect 1", "view.sql:2:1: SET"),
        ("-- on insert o\ninsert into t values ($1)", "view.sql:2:23: `$1` is no parameter"),
    ] {
        let error = match at(&url, sql) {
            Ok(views) => views.live().await.map(drop).expect_err(sql),
            Err(error) => error,
        };
        assert!(error.to_string().contains(expected), "{sql}\n{error}\nexpected {expected}");
        assert_eq!(
            CLUSTER.sql(&url, "select count(*) from pg_namespace where nspname = 'totals'").trim(),
            "0",
            "{sql}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_that_fails_stops_the_view_there_and_what_is_before_it_is_committed() {
    let sql = "-- setup
        create table seen (id integer primary key);
        -- on insert orders
        insert into seen values (:row.id);
        insert into seen select 1000 + :row.id::int;";
    let (feed, (_, view)) = (Feed::new(), live(sql).await);
    for id in [json!(1), json!(2), json!(1002), json!("x"), json!(5)] {
        feed.append("orders", &[(None, &json!({ "id": id }).to_string())]).await;
    }
    for (position, line, part) in [(3, 4, "duplicate key"), (4, 4, "invalid input syntax")] {
        let error = feed.follow(&*view).await.expect_err("it fails");
        let ViewError::Statement { position: at, line: found, why, .. } = &error else { panic!("{error}") };
        assert_eq!((at.0, *found), (position, line));
        assert!(why.contains(part), "{why}");
        assert_eq!(view.cursors().await.expect("read")[0].position, Position(position - 1));
        view.pass_over(feed.log.cursor_at(Position(position))).await.expect("passed over");
    }
    assert!(view.pass_over(feed.log.cursor_at(Position(4))).await.is_err(), "not the next one");
    feed.follow(&*view).await.expect("goes on");
    assert_eq!(rows(&*view, "select id from seen order by 1").await, json!([[1], [2], [5], [1001], [1002], [1005]]));
    let passed = view.passed().await.expect("read");
    assert_eq!(passed.iter().map(|(cursor, _)| cursor.position.0).collect::<Vec<_>>(), [3, 4]);
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_writes_or_looks_elsewhere_is_forbidden() {
    let (feed, (url, view)) = (Feed::new(), live(TOTALS_PG).await);
    feed.order("ada", 3).await;
    feed.follow(&*view).await.expect("follows");
    CLUSTER.sql(&url, "create table public.secrets (a text); insert into secrets values ('x');
        create function public.sneak() returns int language plpgsql as 'begin insert into public.secrets values (1); return 1; end'");
    for sql in [
        "insert into totals values ('x', 1, 1)",
        "update totals set orders = 0",
        "delete from totals returning *",
        "with x as (delete from totals returning *) select * from x",
        "create table x (a int)",
        "drop table totals",
        "truncate totals",
        "begin",
        "commit",
        "rollback",
        "set transaction read write",
        "set role postgres",
        "show data_directory",
        "explain analyze select 1",
        "copy totals to '/tmp/x'",
        "do 'begin end'",
        "call x()",
        "lock totals",
        "notify x",
        "select * from watershed_view",
        "select * from public.secrets",
        "select * from \"public\" . secrets",
        "select public.sneak()",
        "select sneak() from totals",
        "select * from pg_authid",
        "select * from \"pg_authid\"",
        "select * from information_schema.tables",
        "select pg_read_file('/etc/passwd')",
        "select \"pg_read_file\" ('/etc/passwd')",
        "select pg_terminate_backend(1)",
        "select pg_sleep(1000)",
        "select set_config('transaction_read_only', 'off', true)",
        "select set_config /* x */ ('role', 'postgres', false)",
        "select lo_import('/etc/passwd')",
        "select nextval('x')",
        "select query_to_xml('select 1', true, true, '')",
        "select table_to_xml('totals', true, true, '')",
        "select ts_stat('select 1')",
        "select * from totals for update",
        "select 1 into x",
    ] {
        let error = ask(&*view, sql).await.expect_err(sql);
        let is_refused = matches!(error, AskError::Forbidden(_))
            || sql.contains(" into x")
            || sql.contains("for update")
            || sql.starts_with("with");
        assert!(is_refused, "{sql}: {error:?}");
    }
    assert_eq!(rows(&*view, STATE).await, json!([["ada", 1, 3]]));
    assert_eq!(CLUSTER.sql(&url, "select count(*) from public.secrets").trim(), "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_question_is_invalid_and_says_why() {
    let (_, view) = live(TOTALS_PG).await;
    for (sql, params, part) in [
        ("", json!(null), "no rows"),
        ("select 1; select 2", json!(null), "one statement"),
        ("select 1) r(a), (select 2", json!(null), "syntax error"),
        ("select U&\"\\0070g_sleep\"(1)", json!(null), "U&"),
        ("select * from nowhere", json!(null), "does not exist"),
        ("select $1::int", json!(null), "1 parameters"),
        ("select :a::int", json!({"b": 1}), "a was not given"),
        ("select :a::int", json!([1]), "from an object"),
        ("select $1::int", json!(["x"]), "invalid input syntax"),
    ] {
        match ask_within(&*view, sql, params, BOUNDS).await {
            Err(AskError::Invalid(why)) => assert!(why.contains(part), "{sql}: {why}"),
            other => panic!("{sql}: {other:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_has_bounds_and_its_values_are_json() {
    let (_, view) = live(TOTALS_PG).await;
    let short = Bounds { time: Duration::from_millis(300), ..BOUNDS };
    let endless = "with recursive c(i) as (select 1::bigint union all select i + 1 from c) select ";
    for sql in [format!("{endless} max(i) from c"), format!("{endless} count(*) from c a, c b")] {
        let began = Instant::now();
        let error = ask_within(&*view, &sql, json!(null), short).await.expect_err("endless");
        assert_eq!(error, AskError::Slow(short.time), "{sql}");
        assert!(began.elapsed() < Duration::from_secs(15));
    }
    let many = ask(&*view, "select * from generate_series(1, 1000000)").await.expect_err("too many rows");
    assert_eq!(many, AskError::Large { what: "rows", most: BOUNDS.rows });
    for sql in ["select repeat('x', 100000000)", "select repeat('x', 10000), * from generate_series(1, 9000)"] {
        assert_eq!(ask(&*view, sql).await, Err(AskError::Large { what: "bytes", most: BOUNDS.bytes }), "{sql}");
    }
    let given = json!({"a": 2, "b": "x", "c": null, "d": [1, {"e": 2}]});
    let sql = "select :a::int, :b::text as b, :c::int, :d::jsonb, 'NaN'::float8, 0.1::numeric, true, '\\x00ff'::bytea, 1.5::real, :b::text;";
    let answer = ask_within(&*view, sql, given, BOUNDS).await.expect("answered");
    let expected = json!([[2, "x", null, [1, {"e": 2}], "NaN", 0.1, true, "\\x00ff", 1.5, "x"]]);
    assert_eq!(json!(answer.rows), expected);
    assert_eq!(answer.columns[1], "b");
    let answer = ask_within(&*view, "values ($1::int, $2::text)", json!([1, "y"]), BOUNDS).await.expect("answered");
    assert_eq!(json!(answer.rows), json!([[1, "y"]]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_is_found_by_its_key() {
    let sql = "-- setup
        create table pairs (a integer, b text, v text, primary key (a, b)); create table heap (v text);
        -- on insert orders
        insert into pairs values (1, 'x', 'one'), (2, 'y,\\', 'two');";
    let (feed, (_, view)) = (Feed::new(), live(sql).await);
    feed.order("ada", 1).await;
    feed.follow(&*view).await.expect("follows");
    let row = async |table: &str, key: &str| -> Result<Json, AskError> {
        let question = Question::Row { table: table.into(), key: key.into() };
        view.ask(&question, &BOUNDS).await.map(|answer| json!(answer.rows))
    };
    assert_eq!(row("pairs", "1,x").await, Ok(json!([[1, "x", "one"]])));
    assert_eq!(row("pairs", "2,y\\,\\\\").await, Ok(json!([[2, "y,\\", "two"]])));
    for (table, key) in [("pairs", "1,y"), ("nowhere", "1"), ("watershed_view", "1"), ("pg_class", "1")] {
        assert!(matches!(row(table, key).await, Err(AskError::Absent(_))), "{table} {key}");
    }
    for (table, key) in [("pairs", "1"), ("pairs", "x,x"), ("heap", "1")] {
        assert!(matches!(row(table, key).await, Err(AskError::Invalid(_))), "{table} {key}");
    }
}

const COUNTS: &str = "-- setup
create table counts (customer text primary key, n integer not null);
-- on insert orders
insert into counts values (:row.customer, 1) on conflict (customer) do update set n = counts.n + 1;
";

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_definition_takes_the_place_of_the_old_one() {
    let (feed, url) = (Feed::new(), CLUSTER.database());
    let (first, second) = (views(&url, TOTALS_PG), views(&url, COUNTS));
    let old = first.live().await.expect("opens");
    feed.order("ada", 1).await;
    feed.order("bob", 2).await;
    feed.follow(&*old).await.expect("follows");
    let mut zombie = old.part(feed.id()).await.expect("opens");
    zombie.cursor().await.expect("read");
    assert!(second.switch().await.is_err(), "there is no build");
    let live = second.live().await.expect("opens");
    assert_eq!(live.definition(), first.wanted());
    let build = second.build(false).await.expect("opens");
    let mut part = build.part(feed.id()).await.expect("opens");
    part.cursor().await.expect("read");
    part.apply(&feed.batch(0, 1).await).await.expect("takes it");
    let error = second.switch().await.map(drop).expect_err("it has not come as far").to_string();
    assert!(error.contains("has come to 1"), "{error}");
    let error = first.switch().await.map(drop).expect_err("it is of what the other one wants").to_string();
    assert!(error.contains("a build of another definition"), "{error}");
    let build = second.build(false).await.expect("opens again, as far as it had come");
    assert_eq!(build.cursors().await.expect("read")[0].position, Position(1));
    feed.order("ada", 3).await;
    feed.follow(&*live).await.expect("follows");
    assert_eq!(rows(&*live, STATE).await, json!([["ada", 2, 4], ["bob", 1, 2]]));
    feed.follow(&*build).await.expect("follows");
    let now = second.switch().await.expect("switches");
    assert_eq!(now.definition(), second.wanted());
    assert_eq!(rows(&*now, "select * from counts order by 1").await, json!([["ada", 2], ["bob", 1]]));
    let scratch = kept(&COUNTS.replace("counts.n", "n")).await;
    feed.follow(&*scratch.store).await.expect("follows");
    assert_eq!(now.digest().await.expect("digest"), scratch.store.digest().await.expect("digest"));
    assert!(matches!(zombie.apply(&feed.batch(2, 1).await).await, Err(ViewError::Lost(_))), "its build is gone");
    let answer =
        ask(&*old, "select n from counts where customer = 'ada'").await.expect("the old one's readers see the new one");
    assert_eq!((json!(answer.rows), answer.definition), (json!([[2]]), second.wanted()));
    let schemas = CLUSTER.sql(&url, "select string_agg(nspname, ',') from pg_namespace where nspname like 'totals%'");
    assert_eq!(schemas.trim(), "totals");
}

/// PostgreSQL wants to be told whose `orders` it is.
const TOTALS_PG: &str = "-- setup
create table totals (customer text primary key, orders integer not null, amount numeric not null);
-- on insert orders
insert into totals values (:row.customer, 1, :row.amount)
  on conflict (customer) do update set orders = totals.orders + 1, amount = totals.amount + excluded.amount;
";

#[tokio::test(flavor = "multi_thread")]
async fn two_who_follow_the_same_apply_once_and_a_session_that_ends_is_made_again() {
    let (feed, (url, one)) = (Feed::new(), live(TOTALS_PG).await);
    let two = views(&url, TOTALS_PG).live().await.expect("opens");
    feed.order("ada", 1).await;
    let (mut first, mut second) =
        (one.part(feed.id()).await.expect("opens"), two.part(feed.id()).await.expect("opens"));
    first.cursor().await.expect("read");
    second.cursor().await.expect("read");
    let batch = feed.batch(0, 1).await;
    first.apply(&batch).await.expect("takes it");
    assert!(matches!(second.apply(&batch).await, Err(ViewError::Fenced { .. })), "a zombie");
    let ended = "select count(pg_terminate_backend(pid)) > 0 from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()";
    assert_eq!(CLUSTER.sql(&url, ended).trim(), "t");
    feed.order("ada", 1).await;
    let deadline = Instant::now() + Duration::from_secs(180);
    while let Err(error) = feed.follow(&*one).await {
        // Whether the server's last words are read before the connection is seen to be closed is chance.
        assert!(matches!(error, ViewError::Lost(_) | ViewError::Retry(_)), "{error}");
        assert!(Instant::now() < deadline, "{error}");
    }
    assert_eq!(rows(&*one, "select orders from totals").await, json!([[2]]));
    CLUSTER.sql(&url, "create schema counts");
    let definition = Arc::new(Definition::parse("view.sql", COUNTS, Dialect::Postgres).expect("a definition"));
    let endpoint = Endpoint::from_url(&url).expect("a URL");
    let options = PgViewOptions {
        name: "counts".into(),
        definition,
        endpoint,
        spool_dir: std::env::temp_dir(),
        changes: false,
        publish: false,
    };
    let error =
        PgViews::new(options.clone()).expect("a name").live().await.map(drop).expect_err("a schema of the user's");
    assert!(error.to_string().contains("somebody else's"), "{error}");
    for name in ["", "public", "pg_x", &"x".repeat(60)] {
        assert!(PgViews::new(PgViewOptions { name: name.into(), ..options.clone() }).is_err(), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_transaction_that_fails_leaves_no_cursor_behind_it() {
    check_nothing_before_what_fails(&*live(FAILING).await.1).await;
}
