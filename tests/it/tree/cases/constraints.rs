//! Triggers, constraints and columns that the destination has of its own.

use super::Pair;
use crate::tree::site::wait;

#[test]
fn foreign_keys_and_ordinary_triggers_stand_aside_and_those_for_replicas_fire() {
    let schema = "create table parents (id int primary key); create table children (id int primary key, parent int references parents on delete cascade, v text);
        create table fired (n serial, what text);
        create function note() returns trigger language plpgsql as $$ begin insert into public.fired (what) values (tg_name || ' ' || tg_op); return coalesce(new, old); end $$;";
    let triggers = "create trigger ordinary before insert or update or delete on children for each row execute function note();
        create trigger for_replicas after insert or update or delete on children for each row execute function note();
        alter table children enable replica trigger for_replicas;
        create trigger always after insert on children for each row execute function note(); alter table children enable always trigger always;";
    // Only the children are sent: their parents are missing at the leaf.
    let pair = Pair::new("\"children\"", schema, &format!("{schema} {triggers}"));
    pair.writes(&[
        "insert into parents values (1), (2)",
        "insert into children values (1, 1, 'a'), (2, 2, 'b'), (3, 1, 'c')",
        "update children set v = 'x' where id = 3",
        "delete from parents where id = 1",
    ]);
    pair.equal(&["children"]);
    assert_eq!(pair.leaf.sql("select id from children"), "2\n");
    let fired = "select what, count(*) from fired group by what order by what";
    assert_eq!(
        pair.leaf.sql(fired),
        "always INSERT|3\nfor_replicas DELETE|2\nfor_replicas INSERT|3\nfor_replicas UPDATE|1\n",
        "no ordinary trigger"
    );
}

#[test]
fn a_replica_trigger_may_veto_and_change_rows_and_holds_up_nobody() {
    let schema = "create table t (id int primary key, v text); create table other (id int primary key);";
    let veto = "create function veto() returns trigger language plpgsql as $$ begin if new.v = 'secret' then return null; end if; new.v = upper(new.v); return new; end $$;
        create trigger veto before insert on t for each row execute function veto(); alter table t enable replica trigger veto;";
    let pair = Pair::new("\"t\", \"other\"", schema, &format!("{schema} {veto}"));
    pair.writes(&[
        "insert into t values (1, 'a')",
        "insert into t values (2, 'secret')",
        "insert into t values (3, 'c'); insert into other values (1)",
    ]);
    wait("what the trigger lets pass is there", || pair.leaf.sql("select * from t order by id") == "1|A\n3|C\n");
    pair.equal(&["other"]);
}

#[test]
fn generated_identity_and_default_columns_are_each_sides_own() {
    let root = "create table t (id bigint generated always as identity primary key, a int, twice int generated always as (a * 2) stored, d text default 'of the root', n int);
        create table g (id int primary key, a int, b int);";
    let leaf = "create table t (id bigint generated always as identity primary key, a int, twice int generated always as (a * 2) stored, d text default 'of the leaf', n int, extra int default 5);
        create table g (id int primary key, a int, b int, sum int generated always as (a + b) stored, only_here text default 'x' not null);";
    let pair = Pair::new("\"t\", \"g\"", root, leaf);
    pair.writes(&[
        "insert into t (a) values (1), (2), (3)",
        "insert into t (id, a) overriding system value values (100, 4)",
        "update t set a = 10 where id = 2; update t set d = null where id = 3; delete from t where id = 1",
        "insert into g values (1, 1, 2), (2, null, 1)",
        "update g set b = 5 where id = 1; update g set id = 7 where id = 2",
    ]);
    pair.same("select id, a, twice, d, n from t order by id");
    pair.same("select id, a, b from g order by id");
    assert_eq!(pair.leaf.sql("select sum, only_here from g order by id"), "6|x\n|x\n");
    assert_eq!(
        pair.leaf.sql("select id, twice, d, extra from t order by id"),
        "2|20|of the root|5\n3|6||5\n100|8|of the root|5\n"
    );
}

#[test]
fn materialised_views_rules_and_row_security_are_not_in_the_way() {
    let schema = "create table t (id int primary key, v text); create materialized view m as select count(*) as n from t; create view plain as select * from t;
        create table secured (id int primary key, who text); alter table secured enable row level security; create policy mine on secured using (who = current_user);";
    let ruled = format!(
        "{schema} create table ruled (id int); create rule also as on insert to t do also insert into ruled values (new.id);"
    );
    let pair = Pair::new("\"t\", \"secured\"", schema, &ruled);
    pair.writes(&[
        "insert into t values (1, 'a')",
        "begin; insert into t values (2, 'b'); refresh materialized view m; insert into plain values (3, 'c'); commit",
        "insert into secured values (1, 'nobody'), (2, 'postgres')",
        "update secured set who = 'somebody'; delete from secured where id = 2",
    ]);
    pair.equal(&["t", "secured"]);
    pair.leaf.sql("refresh materialized view m");
    assert_eq!(pair.leaf.sql("select n from m"), "3\n");
    assert_eq!(pair.leaf.sql("select who from secured"), "somebody\n");
    assert_eq!(pair.leaf.sql("select count(*) from ruled"), "0\n", "rules stand aside, too");
}

#[test]
fn a_row_of_the_destinations_own_that_has_the_unique_value_parks_the_table_until_it_is_gone() {
    let schema = "create table t (id int primary key, u int unique, w int unique, v text); create table other (id int primary key);";
    let pair = Pair::new("\"t\", \"other\"", schema, schema);
    pair.writes(&["insert into t values (1, 1, 1, 'a'), (2, 2, 2, 'b')"]);
    pair.equal(&["t"]);
    for (mine, theirs) in [
        // Met by an insert, by an update, and by one that meets two rows by two keys.
        ("(50, 3, 50, 'mine')", "insert into t values (3, 3, 3, 'c')"),
        ("(50, 50, 4, 'mine')", "update t set w = 4 where id = 1"),
        ("(50, 5, 50, 'mine'), (51, 51, 5, 'mine')", "update t set u = 5, w = 5, v = 'two keys' where id = 2"),
    ] {
        pair.leaf.sql(&format!("insert into t values {mine}"));
        pair.writes(&[theirs, "insert into other select coalesce(max(id), 0) + 1 from other"]);
        pair.leaf.wait_source("t", "parked");
        let error = pair.leaf.source("t")["error"].to_string();
        assert!(error.contains("duplicate key value violates unique constraint"), "{error}");
        pair.same("select * from other order by id");
        pair.leaf.sql("delete from t where v = 'mine'");
        pair.leaf.does(&["source", "retry", "t"]);
        pair.equal(&["t", "other"]);
    }
}
