//! Rows of every identity, and of every shape.

use watershed::model::Kind;

use super::bed::Bed;

#[test]
fn every_identity_tells_the_old_row_in_its_way() {
    let mut bed = Bed::new(
        "create table by_key (a int, b int, c text, primary key (b, a));
         create table by_index (a int, b int not null unique, c text); alter table by_index replica identity using index by_index_b_key;
         create table whole (a int primary key, c text); alter table whole replica identity full;
         create table bare_whole (a int, c text); alter table bare_whole replica identity full;
         create table bare (a int, c text);
         create table nothing (a int primary key, c text); alter table nothing replica identity nothing",
    );
    for table in ["by_key", "by_index"] {
        bed.sql(&format!("insert into {table} values (1, 2, 'x')"));
        bed.sql(&format!("update {table} set c = 'y'"));
        bed.sql(&format!("update {table} set b = 3"));
        bed.sql(&format!("delete from {table}"));
    }
    assert_eq!(
        bed.lines(),
        [
            "insert by_key (1, 2, x)",
            "update by_key (1, 2, y)",
            "update by_key (1, 3, y) was (1, 2, unchanged)",
            "delete by_key was (1, 3, unchanged)",
            "insert by_index (1, 2, x)",
            "update by_index (1, 2, y)",
            "update by_index (1, 3, y) was (unchanged, 2, unchanged)",
            "delete by_index was (unchanged, 3, unchanged)",
        ]
    );
    for table in ["whole", "bare_whole", "bare", "nothing"] {
        bed.sql(&format!("insert into {table} values (1, 'x')"));
        bed.sql(&format!("update {table} set c = 'y'"));
        bed.sql(&format!("update {table} set a = 2, c = null"));
        bed.sql(&format!("delete from {table}"));
        bed.sql(&format!("truncate {table}"));
    }
    assert_eq!(
        bed.lines(),
        [
            "insert whole (1, x)",
            "update whole (1, y) was (=, x)",
            "update whole (2, null) was (1, y)",
            "delete whole was (2, null)",
            "truncate whole",
            "insert bare_whole (1, x)",
            "update bare_whole (1, y) was (=, x)",
            "update bare_whole (2, null) was (1, y)",
            "delete bare_whole was (2, null)",
            "truncate bare_whole",
            "insert bare (1, x)",
            "truncate bare",
            "insert nothing (1, x)",
            "truncate nothing",
        ]
    );
}

#[test]
fn large_values_that_did_not_change_are_not_sent_unless_the_key_moves() {
    let mut bed = Bed::new(
        "create table t (id int primary key, big text, n int); alter table t alter big set storage external;
         create table f (id int primary key, big text, n int); alter table f alter big set storage external;
         alter table f replica identity full",
    );
    for table in ["t", "f"] {
        bed.sql(&format!("insert into {table} values (1, repeat('x', 9000), 1)"));
        bed.sql(&format!("update {table} set n = 2"));
        bed.sql(&format!("update {table} set id = 7"));
        bed.sql(&format!("update {table} set big = repeat('y', 9001)"));
        bed.sql(&format!("delete from {table}"));
    }
    assert_eq!(
        bed.lines(),
        [
            "insert t (1, 9000 bytes, 1)",
            "update t (1, unchanged, 2)",
            // Read at the source when it came: the row was gone by then, and its deletion follows.
            "update t (7, unchanged, 2) was (1, unchanged, unchanged)",
            "update t (7, 9001 bytes, 2)",
            "delete t was (7, unchanged, unchanged)",
            "insert f (1, 9000 bytes, 1)",
            "update f (1, 9000 bytes, 2) was (=, =, 1)",
            "update f (7, 9000 bytes, 2) was (1, =, =)",
            "update f (7, 9001 bytes, 2) was (=, 9000 bytes, =)",
            "delete f was (7, 9001 bytes, 2)",
        ]
    );
    bed.sql("insert into t values (1, repeat('z', 9002), 1)");
    bed.sql("update t set id = 2");
    assert_eq!(
        bed.lines(),
        ["insert t (1, 9002 bytes, 1)", "update t (2, 9002 bytes, 1) was (1, unchanged, unchanged)"]
    );
}

#[test]
fn a_composite_key_of_odd_types_is_found_again_when_it_moves() {
    let mut bed = Bed::new(
        "create schema app; create type app.mood as enum ('sad', 'ok');
         create table app.\"Odd t\" (m app.mood, \"At\" timestamptz, c char(5), b bytea, big text, primary key (m, \"At\", c, b));
         alter table app.\"Odd t\" alter big set storage external;
         insert into app.\"Odd t\" values ('sad', '2024-01-02 03:04:05.678+05', 'ab', '\\x00ff', repeat('x', 9000))",
    );
    bed.sql("update app.\"Odd t\" set m = 'ok'");
    assert_eq!(
        bed.lines(),
        ["update app.Odd t (ok, 2024-01-01 22:04:05.678+00, ab   , \\x00ff, 9000 bytes) \
          was (sad, 2024-01-01 22:04:05.678+00, ab   , \\x00ff, unchanged)"]
    );
}

#[test]
fn values_are_the_servers_own_text() {
    let mut bed = Bed::new(
        "create domain price as numeric(12,2); create type pair as (a int, b text);
         create table t (id bigint generated always as identity primary key, d double precision, n numeric, p price, c pair,
            a text[], r int4range, i interval, b bytea, j jsonb, e timestamp, u uuid, l bool, g int generated always as (1) stored)",
    );
    bed.sql(
        "set datestyle = 'German'; set extra_float_digits = -10; set intervalstyle = 'iso_8601'; set bytea_output = 'escape';
         insert into t (d, n, p, c, a, r, i, b, j, e, u, l) values (0.1::float8 + 0.2::float8, 'NaN', 3, row(1, 'x y'), array['a', null, '\"'], '[1,5)',
            '1 year 2 days 03:04:05', 'a', '{\"b\": 1, \"a\": null}', '0044-03-15 12:00:00 BC', 'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11', true)",
    );
    let logged = bed.drain();
    let row = logged[0].changes[0].row.as_ref().expect("a row");
    assert!(row.iter().all(|value| value.kind == Kind::Typed));
    let texts: Vec<String> = row.iter().map(|value| String::from_utf8_lossy(&value.text).into_owned()).collect();
    assert_eq!(
        texts,
        [
            "1",
            "0.30000000000000004",
            "NaN",
            "3.00",
            "(1,\"x y\")",
            "{a,NULL,\"\\\"\"}",
            "[1,5)",
            "1 year 2 days 03:04:05",
            "\\x61",
            "{\"a\": null, \"b\": 1}",
            "0044-03-15 12:00:00 BC",
            "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11",
            "t",
        ]
    );
    let def = bed.def(logged[0].header.tables[0]);
    let types: Vec<&str> = def.columns.iter().map(|column| &*column.type_name).collect();
    assert_eq!(types[3..5], ["public.price", "public.pair"]);
    assert_eq!(def.columns.len(), 13, "the generated column is left out");
}

#[test]
fn a_truncation_names_every_table_that_it_empties() {
    let mut bed = Bed::new(
        "create table a (id int primary key); create table b (id int primary key, a int references a); create table c (id int)",
    );
    bed.sql("begin; truncate a cascade; truncate c restart identity; commit");
    assert_eq!(bed.lines(), ["truncate a; truncate b; truncate c"]);
}

#[test]
fn partitions_are_part_of_their_root() {
    let mut bed = Bed::new(
        "create table p (id int, v text, primary key (id)) partition by range (id);
         create table p1 partition of p for values from (0) to (100);
         create table p2 (v text, gone int, id int not null); alter table p2 drop gone; alter table p2 add primary key (id);
         alter table p attach partition p2 for values from (100) to (200)",
    );
    bed.sql("insert into p values (1, 'a'), (101, 'b')");
    bed.sql("insert into p2 values ('c', 102)");
    bed.sql("update p set id = 150 where id = 1");
    bed.sql("delete from p1; delete from p where id = 101");
    bed.sql("truncate p");
    assert_eq!(
        bed.lines(),
        [
            "insert p (1, a); insert p (101, b)",
            "insert p (102, c)",
            "delete p was (1, unchanged); insert p (150, a)",
            "delete p was (101, unchanged)",
            "truncate p",
        ]
    );
}
