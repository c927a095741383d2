//! Ordinary tables, keys and identities, and values that are stored apart.

use super::Pair;

#[test]
fn a_table_that_is_not_selected_stays_empty_and_columns_are_matched_by_name() {
    let root =
        "create table orders (id int primary key, note text, total numeric); create table private (id int primary key);
                insert into orders values (1, 'copied', 1.50); insert into private values (1);";
    let leaf = "create table orders (total numeric, extra text default 'kept', id int primary key, at timestamptz default 'epoch', note text);
                create table private (id int primary key);";
    let pair = Pair::new("\"orders\"", root, leaf);
    pair.writes(&[
        "insert into orders values (2, 'inserted', 2), (3, 'deleted', 3)",
        "update orders set note = 'updated' where id = 1; insert into private values (2)",
        "delete from orders where id = 3",
    ]);
    assert_eq!(pair.same("select id, note, total from orders order by id"), "1|updated|1.50\n2|inserted|2\n");
    assert_eq!(pair.leaf.sql("select distinct extra, at = 'epoch' from orders"), "kept|t\n");
    assert_eq!(pair.leaf.sql("select count(*) from private"), "0\n");
}

#[test]
fn tables_that_come_later_follow_whatever_they_are_called() {
    let pair = Pair::new("\"*\"", "create table first (id int primary key)", "");
    pair.writes(&[
        "insert into first values (1)",
        "create schema \"My App\"; create table \"My App\".\"Odd \"\"T\"\" x\" (\"Key of\" int primary key, \"UPPER\" text, \"select\" int)",
        "insert into \"My App\".\"Odd \"\"T\"\" x\" values (1, 'a', 1), (2, 'b', 2)",
        "update \"My App\".\"Odd \"\"T\"\" x\" set \"UPPER\" = 'c', \"Key of\" = 3 where \"Key of\" = 1",
        "create table late (a int, b text, primary key (b, a)); insert into late values (1, 'x')",
        "insert into late values (2, 'y')",
    ]);
    pair.equal(&["first", "\"My App\".\"Odd \"\"T\"\" x\"", "late"]);
    pair.writes(&[
        "delete from late where a = 1; update \"My App\".\"Odd \"\"T\"\" x\" set \"select\" = null; delete from first",
    ]);
    pair.equal(&["first", "\"My App\".\"Odd \"\"T\"\" x\"", "late"]);
}

#[test]
fn every_replica_identity_is_followed() {
    let schema = "create table by_key (a int, b int, c text, primary key (a, b));
        create table by_index (a int primary key, b int not null, c text); create unique index i on by_index (b);
        alter table by_index replica identity using index i;
        create table whole (a int primary key, c text); alter table whole replica identity full;
        create table bare (a int, c text); alter table bare replica identity full;
        create table inserts (a int, c text);
        create table late (a int primary key deferrable initially deferred, c text); alter table late replica identity full;
        create table odd (at timestamptz, m char(5), u uuid, n numeric, primary key (m, at, n, u));";
    let tables = "\"by_key\", \"by_index\", \"whole\", \"bare\", \"inserts\", \"late\", \"odd\"";
    let pair = Pair::new(tables, schema, schema);
    pair.writes(&[
        "insert into by_key select n, -n, 'x' from generate_series(1, 20) n; insert into by_index select n, -n, 'x' from generate_series(1, 20) n",
        "update by_key set c = 'y' where a % 2 = 0; update by_key set a = a + 100 where a % 3 = 0; delete from by_key where a = 5",
        "update by_index set c = 'y' where a % 2 = 0; update by_index set b = b - 100 where a % 3 = 0; update by_index set a = a + 50; delete from by_index where a = 55",
        "insert into whole select n, 'x' from generate_series(1, 20) n; update whole set a = a + 100, c = null where a < 5; delete from whole where a = 7",
        // Equal rows: one is changed, one is removed.
        "insert into bare values (1, 'x'), (1, 'x'), (1, 'x'), (null, null), (null, null)",
        "update bare set c = 'y' where ctid = (select min(ctid) from bare where a = 1); delete from bare where ctid = (select min(ctid) from bare where a is null)",
        "insert into inserts values (1, 'x'), (1, 'x'), (null, null)",
        "insert into late values (1, 'a'), (2, 'b')",
        // Only a deferrable key lets rows swap their keys in one statement.
        "update late set a = 3 - a",
        "insert into odd values ('2024-01-02 03:04:05.678+05', 'ab', 'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11', 1.50), ('infinity', '', gen_random_uuid(), 'NaN')",
        "update odd set m = 'cd', n = 1.5 where m = 'ab'; delete from odd where m = ''",
    ]);
    pair.equal(&["by_key", "by_index", "whole", "bare", "inserts", "late", "odd"]);
    assert_eq!(pair.leaf.sql("select * from late order by a"), "1|b\n2|a\n");
}

#[test]
fn keys_that_are_moved_swapped_or_changed_under_way_are_followed() {
    let schema = "create table chain (id int primary key, v text); create table swap (id int primary key, u int unique, w int unique);
        create collation blind (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
        create table words (w text collate blind primary key, n int); create table other (a int not null unique, b int not null unique, v text);";
    let pair = Pair::new("\"chain\", \"swap\", \"words\", \"other\"", schema, schema);
    pair.writes(&[
        "insert into chain select n, 'v' || n from generate_series(1, 10) n",
        "begin; delete from chain where id = 10; update chain set id = 10 where id = 9; update chain set id = 9 where id = 8; insert into chain values (8, 'new'); commit",
        "begin; update chain set id = -1 where id = 1; update chain set id = 1 where id = 2; update chain set id = 2 where id = -1; commit",
        "insert into swap values (1, 1, 1), (2, 2, 2), (3, 3, 3)",
        "begin; update swap set u = -1 where id = 1; update swap set u = 1 where id = 2; update swap set u = 2 where id = 1; commit",
        "begin; delete from swap where id = 3; insert into swap values (4, 3, 3); commit",
        // Two unique keys of two rows at once.
        "begin; delete from swap where id in (1, 2); insert into swap values (5, 1, 2), (6, 2, 1); commit",
        "insert into words values ('a', 1), ('b', 1)",
        "update words set w = 'A' where w = 'a'; update words set n = 2 where w = 'B'",
    ]);
    pair.equal(&["chain", "swap", "words"]);
    assert_eq!(pair.leaf.sql("select w from words order by w"), "A\nb\n");
    // The key becomes another one, and is dropped.
    pair.writes(&["insert into other values (1, 2, 'x')"]);
    for sql in [
        "alter table other add primary key (a)",
        "alter table other drop constraint other_pkey; alter table other add primary key (b)",
    ] {
        pair.leaf.sql(sql);
        pair.root.sql(sql);
        pair.writes(&["insert into other select max(a) + 1, max(b) + 1, 'more' from other"]);
        pair.equal(&["other"]);
        pair.writes(&["update other set v = v || 'x' where a = 1"]);
        pair.equal(&["other"]);
    }
}

#[test]
fn values_that_are_stored_apart_stay_unless_they_change() {
    let columns = "(id int primary key, n int, t text, j jsonb, a text[], b bytea)";
    let external: String =
        ["t", "j", "a", "b"].map(|column| format!("alter column {column} set storage external")).join(", ");
    let schema = format!(
        "create table by_key {columns}; alter table by_key {external};
        create table whole {columns}; alter table whole {external}; alter table whole replica identity full;"
    );
    let pair = Pair::new("\"by_key\", \"whole\"", &schema, &schema);
    for table in ["by_key", "whole"] {
        let rows = |ids: &str, letter: char| {
            format!(
                "insert into {table} select i, 1, repeat('{letter}', 9000), jsonb_build_object('k', repeat('{letter}', 9000)), \
             array[repeat('{letter}', 9000), null], decode(repeat('0a', 9000), 'hex') from generate_series({ids}) i"
            )
        };
        pair.writes(&[
            &rows("1, 8", 'x'),
            &format!("update {table} set n = 2 where id <= 6"),
            &format!("update {table} set t = repeat('y', 9001) where id = 2"),
            &format!("update {table} set j = '{{}}', a = null where id = 3"),
            &format!("update {table} set id = 100 + id where id in (4, 5)"),
            &format!("begin; update {table} set id = 200, n = 5 where id = 6; update {table} set n = 6 where id = 200; commit"),
            &format!("begin; update {table} set n = 7 where id = 7; update {table} set t = 'short' where id = 7; commit"),
            &format!("delete from {table} where id = 8"),
        ]);
    }
    pair.equal(&["by_key", "whole"]);
    assert_eq!(pair.leaf.sql("select count(*) from by_key where length(t) = 9000 and n = 2"), "4\n");
}
