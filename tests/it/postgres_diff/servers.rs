//! Two PostgreSQL databases.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_difference_is_found_and_mended() {
    let schema = "create table t (id text primary key, u int unique, v jsonb);";
    let a = database(&format!(
        "{schema} insert into t values ('same', 0, '1'), ('value', 1, '\"x\"'), ('null', 2, null), ('only a', 3, '[]'), ('swap1', 4, '0'), ('swap2', 5, '0')"
    ));
    let b = database(&format!(
        "{schema} insert into t values ('same', 0, '1'), ('value', 1, '\"y\"'), ('null', 2, 'null'), ('only b', 9, '[]'), ('swap1', 5, '0'), ('swap2', 4, '0')"
    ));
    let (mut one, mut two) = (server(&a).await, server(&b).await);
    let diff = compare(&mut one, &mut two, "t").await;
    assert!(!diff.is_equal() && diff.digest_a != diff.digest_b);
    assert_eq!((diff.rows_a, diff.rows_b, diff.different), (6, 6, 6));
    let key = |text: &str| vec![value(Kind::Typed, text)];
    let kind = |text: &str| diff.rows.iter().find(|row| row.key == key(text)).map(|row| row.kind.clone());
    let texts = vec![("v".into(), value(Kind::Typed, "\"x\""), value(Kind::Typed, "\"y\""))];
    assert_eq!(kind("value"), Some(RowDiffKind::Values(texts)));
    assert_eq!(kind("null"), Some(RowDiffKind::Values(vec![("v".into(), Value::NULL, value(Kind::Typed, "null"))])));
    assert_eq!(kind("only a"), Some(RowDiffKind::Only(Side::A)));
    assert_eq!(kind("only b"), Some(RowDiffKind::Only(Side::B)));
    assert_eq!(kind("same"), None);
    let done = repair(&mut one, &mut two, "t").await;
    assert_eq!((done.rows, done.written, done.removed), (6, 5, 1));
    expect_equal(&compare(&mut one, &mut two, "t").await);
    assert_eq!(repair(&mut one, &mut two, "t").await, Repaired { rows: 6, ..Repaired::default() });
    let rows = "select * from t order by id";
    assert_eq!(CLUSTER.sql(&a, rows), CLUSTER.sql(&b, rows));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_row_of_many_is_found_by_the_servers_sums() {
    let table = "create table t (a int, b text, v text, primary key (b, a));
        insert into t select n, 'k' || n % 10, md5(n::text) from generate_series(1, 100000) n;";
    let a = database(table);
    let b = database(&format!("{table} update t set v = 'changed' where a = 77777; delete from t where a = 5"));
    let (mut one, mut two) = (server(&a).await, server(&b).await);
    let diff = compare(&mut one, &mut two, "t").await;
    assert_eq!((diff.rows_a, diff.rows_b, diff.different), (100_000, 99_999, 2));
    assert!(diff.rows.iter().any(|row| row.key == [value(Kind::Typed, "k7"), value(Kind::Typed, "77777")]));
    assert_eq!(repair(&mut one, &mut two, "t").await.written, 2);
    expect_equal(&compare(&mut one, &mut two, "t").await);
}

/// More rows differ than are remembered at once.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_differs_everywhere_is_counted_and_mended() {
    let a = database(
        "create table t (id int primary key, v int); insert into t select n, n from generate_series(1, 12000) n",
    );
    let b = database(
        "create table t (id int primary key, v int); insert into t select n, 0 from generate_series(6001, 18000) n",
    );
    let (mut one, mut two) = (server(&a).await, server(&b).await);
    let diff = compare(&mut one, &mut two, "t").await;
    assert_eq!((diff.different, diff.rows.len()), (18_000, 20));
    let done = repair(&mut one, &mut two, "t").await;
    assert_eq!((done.written, done.removed), (12_000, 6_000));
    expect_equal(&compare(&mut one, &mut two, "t").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_without_a_key_are_compared_by_whole_rows() {
    let schema = "create table t (a int, b json);";
    let a = database(&format!("{schema} insert into t values (1, '{{}}'), (1, '{{}}'), (null, null), (2, '[1]')"));
    let b = database(&format!(
        "{schema} insert into t values (1, '{{}}'), (null, null), (null, null), (3, '[1]'), (3, '[1]')"
    ));
    let (mut one, mut two) = (server(&a).await, server(&b).await);
    let diff = compare(&mut one, &mut two, "t").await;
    // One (1, {}) and (2, [1]) are missing in b; one (null, null) and both (3, [1]) are too many.
    assert_eq!(diff.different, 5, "{diff:?}");
    repair(&mut one, &mut two, "t").await;
    expect_equal(&compare(&mut one, &mut two, "t").await);
    assert_eq!(CLUSTER.sql(&b, "select count(*) from t"), "4\n");
}

/// A row's place in its file is unique within one partition only.
#[tokio::test(flavor = "multi_thread")]
async fn a_repair_takes_rows_of_the_partition_that_has_too_many_and_no_others() {
    let schema = "create table k (p int, v text) partition by list (p); create table k1 partition of k for values in (1); \
        create table k2 partition of k for values in (2); insert into k values (1, 'a'), (1, 'b');";
    let (a, b) = (database(schema), database(&format!("{schema} insert into k values (2, 'x'), (2, 'y')")));
    let (mut one, mut two) = (server(&a).await, server(&b).await);
    assert_eq!(compare(&mut one, &mut two, "k").await.different, 2);
    repair(&mut one, &mut two, "k").await;
    expect_equal(&compare(&mut one, &mut two, "k").await);
    assert_eq!(CLUSTER.sql(&b, "select count(*) from k"), "2\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repair_cuts_no_value_to_what_the_other_side_has_room_for() {
    let a = database(
        "create table n (k varchar(6) primary key, v text); insert into n values ('abc', 'keep'), ('abcdef', 'new'); \
         create table c (k char(5) primary key, b bit(3), v text); insert into c values ('ab', '101', 'x')",
    );
    let b = database(
        "create table n (k varchar(3) primary key, v text); insert into n values ('abc', 'keep'); \
         create table c (k char(5) primary key, b bit(3), v text); insert into c values ('ab', '111', 'y')",
    );
    let (mut one, mut two) = (server(&a).await, server(&b).await);
    let refused = Compare { a: &mut *one, b: &mut *two }.repair(&name("n")).await;
    assert!(refused.is_err_and(|error| error.to_string().contains("too long")));
    assert_eq!(CLUSTER.sql(&b, "select k, v from n"), "abc|keep\n");
    repair(&mut one, &mut two, "c").await;
    expect_equal(&compare(&mut one, &mut two, "c").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_tables_columns_and_other_types_are_minded() {
    let a = database(
        "create table t (id int primary key, x int, y numeric(10,2)); insert into t values (1, 1, 1.5); create table u (id int)",
    );
    let b = database("create table t (z int, y numeric, id bigint primary key); insert into t values (5, 1.500, 1)");
    let (mut one, mut two) = (server(&a).await, server(&b).await);
    let diff = compare(&mut one, &mut two, "t").await;
    assert_eq!(
        (diff.columns_only_a.as_slice(), diff.columns_only_b.as_slice()),
        (&["x".into()][..], &["z".into()][..])
    );
    assert!(!diff.is_equal() && diff.different == 0 && diff.digest_a == diff.digest_b, "{diff:?}");
    assert_eq!(compare(&mut one, &mut two, "u").await.missing_in, [Side::B]);
    assert!(Compare { a: &mut *one, b: &mut *two }.repair(&name("u")).await.is_err());
    assert_eq!(one.tables().await.expect("listed"), [name("t"), name("u")]);
}

/// What moves while it is compared is looked at again.
#[tokio::test(flavor = "multi_thread")]
async fn rows_that_become_equal_meanwhile_are_no_difference() {
    let schema =
        "create table t (id int primary key, v int); insert into t select n, 0 from generate_series(1, 100) n;";
    let (a, b) = (database(schema), database(&format!("{schema} update t set v = 1 where id <= 3")));
    let (mut one, mut two) = (server(&a).await, server(&b).await);
    let later = {
        let a = a.clone();
        std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(300));
            CLUSTER.sql(&a, "update t set v = 1 where id <= 2")
        })
    };
    let options = DiffOptions { settle: Duration::from_millis(300), rechecks: 10, ..DiffOptions::default() };
    let diff = Compare { a: &mut *one, b: &mut *two }.table(&name("t"), options).await.expect("compares");
    later.join().expect("written");
    assert_eq!((diff.different, diff.settled), (1, 2), "{diff:?}");
    assert_eq!(diff.rows[0].key, [value(Kind::Typed, "3")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repair_fires_no_trigger_and_moves_no_sequence() {
    let schema = "create table p (id int primary key);
        create table t (id int generated always as identity primary key, p int references p, v text, g text generated always as (v || '!') stored);
        create function boom() returns trigger language plpgsql as $$ begin raise 'boom'; end $$;
        create trigger boom before insert or update or delete on t for each row execute function boom();";
    let a = database(&format!(
        "{schema} set session_replication_role = replica; insert into t (p, v) values (7, 'x'), (8, E'it''s \\\\')"
    ));
    let b = database(schema);
    let (mut one, mut two) = (server(&a).await, server(&b).await);
    repair(&mut one, &mut two, "t").await;
    expect_equal(&compare(&mut one, &mut two, "t").await);
    assert_eq!(CLUSTER.sql(&b, "select g from t order by id"), "x!\nit's \\!\n");
    assert_eq!(CLUSTER.sql(&b, "select nextval(pg_get_serial_sequence('t', 'id'))"), "1\n");
}

/// In a database that a node captures a repair is nobody's new change.
#[tokio::test(flavor = "multi_thread")]
async fn a_repair_of_a_captured_database_is_not_captured() {
    let cluster = Cluster::with(&[("fsync", "off"), ("wal_level", "logical")]);
    let schema = "create table t (id int primary key); insert into t values (1);";
    let (a, b) = (cluster.database(), cluster.database());
    cluster.sql(&a, schema);
    let origin = "watershed_0123456789abcdef";
    cluster.sql(
        &b,
        &format!(
            "create table t (id int primary key); create publication {origin} for all tables;
             select pg_replication_origin_create('{origin}')"
        ),
    );
    cluster.sql(&b, &format!("select pg_create_logical_replication_slot('{origin}', 'pgoutput')"));
    let endpoint = Endpoint::from_url(&b).expect("a URL");
    let node = endpoint.connect(Duration::from_secs(10)).await.expect("connects");
    let setup = format!("select pg_replication_origin_session_setup('{origin}')");
    node.client.batch_execute(&setup).await.expect("the node's session");
    let (mut one, mut two) = (server(&a).await, server(&b).await);
    let refused = Compare { a: &mut *one, b: &mut *two }.repair(&name("t")).await.expect_err("a node is there");
    assert!(refused.why.contains("stop the node"), "{refused}");
    node.client.batch_execute("select pg_replication_origin_session_reset()").await.expect("the node stops");
    assert_eq!(repair(&mut one, &mut two, "t").await.written, 1);
    let messages = format!(
        "select string_agg(convert_from(substr(data, 1, 1), 'UTF8'), '' order by lsn) from
         pg_logical_slot_peek_binary_changes('{origin}', null, null, 'proto_version', '1', 'publication_names', '{origin}')"
    );
    assert_eq!(cluster.sql(&b, &messages), "BORIC\n", "begin, origin, relation, insert, commit");
}

/// Keys of types that an extension brought, and tables that others inherit from.
#[tokio::test(flavor = "multi_thread")]
async fn own_types_as_keys_and_children_are_minded() {
    let schema = "create schema more; create extension ltree schema more; create extension citext;
        create domain code as citext; create table t (k more.ltree, c code, v int, primary key (k, c));
        create table parent (id int primary key, v int); create table child () inherits (parent);";
    let a = database(&format!(
        "{schema} insert into t values ('a.b', 'X', 1), ('a.c', 'y', 2); insert into parent values (1, 1); insert into child values (2, 2)"
    ));
    let b = database(&format!(
        "{schema} insert into t values ('a.b', 'x', 1), ('a.d', 'y', 2); insert into parent values (2, 9); insert into child values (2, 2), (1, 3)"
    ));
    let (mut one, mut two) = (server(&a).await, server(&b).await);
    assert_eq!(compare(&mut one, &mut two, "t").await.different, 4, "'X' and 'x' are different texts of one key");
    repair(&mut one, &mut two, "t").await;
    expect_equal(&compare(&mut one, &mut two, "t").await);
    assert_eq!(compare(&mut one, &mut two, "parent").await.different, 2);
    repair(&mut one, &mut two, "parent").await;
    expect_equal(&compare(&mut one, &mut two, "parent").await);
    assert_eq!(CLUSTER.sql(&b, "select id, v from child order by id"), "1|3\n2|2\n");
}
