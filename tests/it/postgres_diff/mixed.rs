//! A PostgreSQL and a SQLite database.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn the_same_values_are_equal_in_both_and_others_are_found() {
    let url = database(
        "create table t (id bigint primary key, ok boolean, price numeric(10,2), ratio double precision, raw bytea, at timestamptz, note text);
         insert into t values (1, true, 12.50, 0.1, '\\x00ff', '2020-01-01 00:00:00+00', 'a'), (2, false, -3, 'Infinity', '', null, ''),
           (3, null, null, 'NaN', null, null, null), (4, true, 1, 1, 'x', null, 'only there')",
    );
    let file = File::new(
        "create table T (ID integer primary key, ok boolean, price numeric(10,2), ratio double precision, raw bytea, at text, note text);
         insert into T values (1, 1, 12.5, 0.1, x'00ff', '2020-01-01 00:00:00+00', 'a'), (2, 0, -3, 9e999, x'', null, ''),
           (3, null, null, 'NaN', null, null, null), (5, 1, 1, 1, x'78', null, 'only here')",
    );
    let (mut one, mut two) = (server(&url).await, file.side());
    let diff = compare(&mut one, &mut two, "t").await;
    assert_eq!((diff.rows_a, diff.rows_b, diff.different), (4, 4, 2), "{diff:?}");
    let kinds: Vec<_> = diff.rows.iter().map(|row| row.kind.clone()).collect();
    assert!(kinds.contains(&RowDiffKind::Only(Side::A)) && kinds.contains(&RowDiffKind::Only(Side::B)), "{diff:?}");
    let diff = compare(&mut two, &mut one, "t").await;
    assert_eq!(diff.different, 2, "{diff:?}");
    file.sql("update T set price = 12.51, ok = 0 where id = 1");
    let diff = compare(&mut one, &mut two, "t").await;
    let row = diff.rows.iter().find(|row| row.key == [value(Kind::Typed, "1")]).expect("row 1");
    let RowDiffKind::Values(values) = &row.kind else { panic!("{row:?}") };
    assert_eq!(values.iter().map(|(column, ..)| &**column).collect::<Vec<_>>(), ["ok", "price"]);
    // Mended in the one direction, and then in the other.
    repair(&mut one, &mut two, "t").await;
    expect_equal(&compare(&mut one, &mut two, "t").await);
    file.sql("update T set note = 'b', ratio = -1e-300, raw = x'01' where id = 1; delete from T where id = 4; insert into T(id, note) values (9, 'it''s \\ new')");
    repair(&mut two, &mut one, "t").await;
    expect_equal(&compare(&mut two, &mut one, "t").await);
    assert_eq!(
        CLUSTER.sql(&url, "select id, ratio, raw, note from t where id in (1, 4, 9) order by id"),
        "1|-1e-300|\\x01|b\n9|||it's \\ new\n"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_without_a_key_and_composite_keys_are_compared() {
    let url = database(
        "create table bag (a int, b text); insert into bag values (1, 'x'), (1, 'x'), (2, null);
         create table pair (k text, n int, v text, primary key (n, k)); insert into pair values ('a', 1, 'x'), ('A', 1, 'y')",
    );
    let file = File::new(
        "create table bag (a integer, b text); insert into bag values (1, 'x'), (2, null), (2, null);
         create table pair (k text, n int, v text, primary key (n, k)); insert into pair values ('a', 1, 'x'), ('A', 1, 'z')",
    );
    let (mut one, mut two) = (server(&url).await, file.side());
    assert_eq!(compare(&mut one, &mut two, "bag").await.different, 2);
    repair(&mut one, &mut two, "bag").await;
    expect_equal(&compare(&mut one, &mut two, "bag").await);
    let diff = compare(&mut one, &mut two, "pair").await;
    assert_eq!(diff.different, 1);
    assert_eq!(diff.rows[0].key, [value(Kind::Typed, "1"), value(Kind::Typed, "A")]);
    repair(&mut two, &mut one, "pair").await;
    expect_equal(&compare(&mut one, &mut two, "pair").await);
    assert_eq!(CLUSTER.sql(&url, "select v from pair where k = 'A'"), "z\n");
}

/// A key that is no value of the other side's type is of no row there.
#[tokio::test(flavor = "multi_thread")]
async fn keys_that_the_other_side_cannot_have_are_differences() {
    let url = database("create table t (id int primary key); insert into t values (1)");
    let file = File::new("create table t (id primary key); insert into t values (1), ('abc'), (x'00'), (1.5)");
    let (mut one, mut two) = (server(&url).await, file.side());
    let diff = compare(&mut one, &mut two, "t").await;
    assert_eq!((diff.rows_b, diff.different), (4, 3), "{diff:?}");
    repair(&mut one, &mut two, "t").await;
    expect_equal(&compare(&mut one, &mut two, "t").await);
}
