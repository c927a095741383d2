//! Every type, live through the log; types and encodings of one's own.

use super::{CLUSTER, Pair};
use crate::postgres_copy::types::{OWN, TYPES, literal};
use crate::tree::site::wait;

#[test]
fn values_of_every_type_are_inserted_updated_and_found_again() {
    let columns: Vec<String> = TYPES.iter().enumerate().map(|(i, (name, _))| format!("c{i} {name}")).collect();
    let schema = format!(
        "{OWN} create table t (id int primary key, {0}); create table whole (id int primary key, {0}); alter table whole replica identity full;",
        columns.join(", ")
    );
    let pair = Pair::new("\"t\", \"whole\"", &schema, &schema);
    let most = TYPES.iter().map(|(_, values)| values.len()).max().expect("types");
    let values =
        |n: usize| TYPES.iter().map(move |(_, values)| values.get(n).map_or("null".to_string(), |text| literal(text)));
    for table in ["t", "whole"] {
        for n in 0..=most {
            pair.root.sql(&format!("insert into {table} values ({n}, {})", values(n).collect::<Vec<_>>().join(", ")));
        }
        // From a value to the next, to null and back.
        for n in 0..most {
            let set: Vec<String> = values(n + 1).enumerate().map(|(i, value)| format!("c{i} = {value}")).collect();
            pair.root.sql(&format!("update {table} set {} where id = {n}", set.join(", ")));
        }
        let first: Vec<String> = values(0).enumerate().map(|(i, value)| format!("c{i} = {value}")).collect();
        pair.root.sql(&format!(
            "update {table} set {}, id = id + 100 where id = {most}; delete from {table} where id = 1",
            first.join(", ")
        ));
        for (i, (type_name, _)) in TYPES.iter().enumerate() {
            pair.same(&format!(
                "set extra_float_digits = 3; select id, quote_nullable(c{i}::text) from {table} order by id"
            ));
            let given = pair.leaf.sql(&format!("select count(c{i}::text) from {table}"));
            assert_ne!(given, "0\n", "{type_name} has values");
        }
    }
    pair.equal(&[]);
}

#[test]
fn a_value_that_is_added_to_an_enum_arrives_once_the_other_side_has_it() {
    let schema = "create type mood as enum ('sad'); create table t (id int primary key, m mood, many mood[]); create table other (id int primary key)";
    let pair = Pair::new("\"t\", \"other\"", schema, schema);
    pair.writes(&[
        "alter type mood add value 'ok' before 'sad'",
        "insert into t values (1, 'ok', '{ok,sad}'); insert into other values (1)",
    ]);
    pair.leaf.wait_source("t", "parked");
    assert!(
        pair.leaf.source("t")["error"].to_string().contains("invalid input value for enum public.mood"),
        "{}",
        pair.leaf.source("t")
    );
    pair.same("select * from other");
    pair.leaf.sql("alter type mood add value 'ok' before 'sad'");
    pair.leaf.does(&["source", "retry", "t"]);
    pair.equal(&["t", "other"]);
}

#[test]
fn databases_of_different_encodings_have_the_same_texts_or_say_which_cannot_be_had() {
    let latin = |name: &str| {
        CLUSTER.sql(
            "postgres",
            &format!("create database {name} encoding 'LATIN1' lc_collate 'C' lc_ctype 'C' template template0"),
        );
        CLUSTER.url(name)
    };
    let schema = "create table t (id int primary key, v text); create table other (id int primary key)";
    let pair = Pair::at([latin("latin_root"), CLUSTER.database()], "\"t\", \"other\"", [schema; 2]);
    pair.writes(&["insert into t values (1, U&'\\00e9\\00ff'), (2, 'plain')", "update t set v = v || U&'\\00a3'"]);
    pair.same("set client_encoding = 'UTF8'; select * from t order by id");
    assert_eq!(pair.leaf.sql("select v from t where id = 1"), "éÿ£\n");
    let back = Pair::at([CLUSTER.database(), latin("latin_leaf")], "\"t\", \"other\"", [schema; 2]);
    back.writes(&["insert into t values (1, 'é')"]);
    back.same("set client_encoding = 'UTF8'; select * from t order by id");
    back.writes(&["insert into t values (2, '漢'); insert into other values (1)"]);
    back.leaf.wait_source("t", "parked");
    wait("the reason is told", || back.leaf.source("t")["error"].to_string().contains("has no equivalent in encoding"));
    back.same("select * from other");
}
