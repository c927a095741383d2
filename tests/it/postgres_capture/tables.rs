//! What a database says of its tables, and of what a node lacks there.

use watershed::postgres::inspect;
use watershed::testing::postgres::Cluster;
use watershed::view::{InspectedTable, Inspection};

use super::{CLUSTER, LIMIT, endpoint, every_table};

async fn look(url: &str) -> Inspection {
    inspect(&endpoint(url), Some(&every_table()), LIMIT).await.expect("it can be looked at")
}

/// `name(column type key, …)`.
fn shown(table: &InspectedTable) -> String {
    let columns = table.def.columns.iter().map(|column| format!("{} {} {}", column.name, column.type_name, column.key));
    format!("{}({})", table.def.name, columns.collect::<Vec<_>>().join(", "))
}

fn found<'a>(inspection: &'a Inspection, name: &str) -> &'a InspectedTable {
    let table = inspection.tables.iter().find(|table| table.def.name.as_str() == name);
    table.unwrap_or_else(|| panic!("no {name} in {:?}", inspection.tables))
}

#[tokio::test]
async fn definitions_have_the_columns_in_order_with_types_and_the_key_of_the_identity() {
    let url = CLUSTER.database();
    CLUSTER.sql(
        &url,
        "create schema app; create type app.mood as enum ('ok'); create domain money2 as numeric(10,2);
         create table orders (b int not null, gone text, a text, c varchar(7), m app.mood, d money2, n numeric(5,1)[],
            twice int generated always as (b * 2) stored, primary key (c, b));
         alter table orders drop column gone;
         create table app.\"Odd name\" (\"Key\" bigint generated always as identity primary key);
         create table by_index (x int primary key, y int not null unique); alter table by_index replica identity using index by_index_y_key;
         create table whole (x int primary key, y int); alter table whole replica identity full;
         create table nothing (x int primary key); alter table nothing replica identity nothing;
         create table late (x int primary key deferrable);
         create table bare (x int); create table empty ();
         create unlogged table quick (x int primary key);
         create table part (x int primary key, y text) partition by range (x);
         create table part1 partition of part for values from (0) to (10);
         create table mixed (x int primary key, y text) partition by range (x);
         create table mixed1 partition of mixed for values from (0) to (10);
         alter table mixed1 replica identity nothing;
         create temp table t (x int); create schema watershed; create table watershed.own (x int);
         create table \"do.t\" (x int); create schema main; create table main.orders (x int);",
    );
    let inspection = look(&url).await;
    let all: Vec<String> = inspection.tables.iter().map(shown).collect();
    assert_eq!(
        all,
        [
            "bare(x integer 0)",
            "by_index(x integer 0, y integer 1)",
            "empty()",
            "late(x integer 0)",
            "mixed(x integer 1, y text 0)",
            "nothing(x integer 0)",
            "orders(b integer 2, a text 0, c character varying(7) 1, m app.mood 0, d public.money2 0, n numeric(5,1)[] 0)",
            "part(x integer 1, y text 0)",
            "quick(x integer 1)",
            "whole(x integer 1, y integer 0)",
            "app.Odd name(Key bigint 1)",
        ]
    );
    assert_eq!(inspection.unnamed.len(), 2, "{:?}", inspection.unnamed);
    assert!(inspection.refusals.is_empty(), "{:?}", inspection.refusals);
    for name in ["orders", "by_index", "whole", "part", "app.Odd name"] {
        assert!(found(&inspection, name).problems.is_empty(), "{name}: {:?}", found(&inspection, name).problems);
    }
    for (name, words) in [
        ("bare", "REPLICA IDENTITY FULL"),
        ("late", "no primary key that is checked at once"),
        ("nothing", "its replica identity is NOTHING"),
        ("mixed", "mixed1 has another replica identity"),
        ("empty", "only inserts"),
    ] {
        let table = found(&inspection, name);
        assert!(table.capturable, "{name} is captured, in part");
        assert!(table.problems.join("\n").contains(words), "{name}: {:?}", table.problems);
    }
    let quick = found(&inspection, "quick");
    assert!(!quick.capturable);
    assert!(quick.problems[0].contains("SET LOGGED"), "{:?}", quick.problems);
}

#[tokio::test]
async fn what_a_user_lacks_is_said_with_the_statement_that_grants_it() {
    let url = CLUSTER.database();
    let database = url.rsplit('/').next().expect("a name");
    CLUSTER.sql(
        &url,
        &format!(
            "create role \"Small {database}\" login; create table theirs (x int primary key);
             revoke create, temp on database {database} from public"
        ),
    );
    let small = url.replace("postgres@", &format!("Small%20{database}@"));
    let inspection = look(&small).await;
    let words = inspection.refusals.join("\n");
    for code in ["007", "008", "010", "011"] {
        assert!(words.contains(&format!("WS-PGCAPTURE-{code}")), "{code} in {words}");
    }
    let theirs = found(&inspection, "theirs");
    assert!(!theirs.capturable);
    assert_eq!(theirs.problems.len(), 2, "{:?}", theirs.problems);
    // What the messages say is run, word by word, by the superuser.
    for text in inspection.refusals.iter().chain(&theirs.problems) {
        let todo = text.split(" / do: ").nth(1).unwrap_or_else(|| panic!("nothing to do in {text}"));
        let statements = &todo[..todo.rfind(';').expect("statements end") + 1];
        CLUSTER.sql(&url, statements);
    }
    let inspection = look(&small).await;
    assert!(inspection.refusals.is_empty(), "{:?}", inspection.refusals);
    let theirs = found(&inspection, "theirs");
    assert!(theirs.capturable && theirs.problems.is_empty(), "{:?}", theirs.problems);
}

#[tokio::test]
async fn a_server_as_it_comes_is_refused_with_the_settings_to_change() {
    let cluster = Cluster::start();
    let inspection = look(&cluster.database()).await;
    let words = inspection.refusals.join("\n");
    assert_eq!(inspection.refusals.len(), 2, "{words}");
    assert!(words.contains("ALTER SYSTEM SET wal_level = 'logical'"), "{words}");
    assert!(words.contains("ALTER SYSTEM SET max_slot_wal_keep_size"), "{words}");
}
