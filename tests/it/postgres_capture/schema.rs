//! Tables that come, change and go while they are captured.

use std::time::Instant;

use watershed::log::Capture;

use super::bed::{Bed, DEADLINE};

/// Lines until one of them is there.
fn until(bed: &mut Bed, wanted: &str) -> Vec<String> {
    let mut lines = Vec::new();
    let deadline = Instant::now() + DEADLINE;
    while !lines.iter().any(|line: &String| line == wanted) {
        assert!(Instant::now() < deadline, "no {wanted:?} in {lines:?}");
        lines.extend(bed.lines());
    }
    lines
}

fn columns(bed: &Bed, logged: &super::bed::Logged) -> String {
    let def = bed.def(logged.header.tables[0]);
    def.columns
        .iter()
        .map(|column| format!("{}:{}:{}", column.name, column.type_name, column.key))
        .collect::<Vec<_>>()
        .join(" ")
}

#[test]
fn each_change_has_the_definition_under_which_it_was_made() {
    let mut bed = Bed::new("create table t (id int primary key, v text)");
    bed.sql("insert into t values (1, 'a')");
    bed.sql("alter table t add w numeric(5,1)[] default '{1}'; insert into t values (2, 'b')");
    bed.sql("begin; insert into t values (3, 'c'); alter table t rename v to \"V w\"; insert into t values (4, 'd'); commit");
    bed.sql("alter table t drop w; insert into t values (5, 'e')");
    bed.sql("alter table t alter id type bigint; insert into t values (6, 'f')");
    let mut logged = bed.drain();
    // Rows that became others are announced when somebody has looked.
    logged.retain(|logged| !bed.line(logged).starts_with("copied"));
    let lines: Vec<String> = logged.iter().map(|logged| bed.line(logged)).collect();
    assert_eq!(
        lines,
        [
            "insert t (1, a)",
            "insert t (2, b, {1.0})",
            "insert t (3, c, {1.0}); insert t (4, d, {1.0})",
            "insert t (5, e)",
            "insert t (6, f)",
        ]
    );
    let all: Vec<String> = logged.iter().map(|logged| columns(&bed, logged)).collect();
    assert_eq!(
        all,
        [
            "id:integer:1 v:text:0",
            "id:integer:1 v:text:0 w:numeric(5,1)[]:0",
            "id:integer:1 v:text:0 w:numeric(5,1)[]:0",
            "id:integer:1 V w:text:0",
            "id:bigint:1 V w:text:0",
        ]
    );
    assert_eq!(logged[2].header.tables.len(), 2);
}

#[test]
fn a_new_table_is_announced_and_captured_from_then_on() {
    let mut bed = Bed::new("create table t (id int primary key)");
    bed.sql(
        "create schema late; create table late.\"My t\" (id int primary key); insert into late.\"My t\" values (1)",
    );
    let lines = until(&mut bed, "copied late.My t");
    assert_eq!(lines, ["copied late.My t"]);
    bed.sql("insert into late.\"My t\" values (2)");
    assert_eq!(bed.lines(), ["insert late.My t (2)"]);
    bed.sql("drop table late.\"My t\"; create table late.\"My t\" (id int primary key, v int)");
    until(&mut bed, "copied late.My t");
    bed.sql("drop table late.\"My t\"");
    let deadline = Instant::now() + DEADLINE;
    while bed.dropped.is_empty() {
        assert!(Instant::now() < deadline, "nobody is told that it is gone");
        bed.lines();
    }
    assert_eq!(bed.dropped, ["late.My t"]);
}

#[test]
fn a_table_that_appears_while_nobody_looks_is_announced_at_the_next_start() {
    let mut bed = Bed::new("create table t (id int primary key)");
    bed.capture = None;
    bed.sql("insert into t values (1); create table u (id int primary key); insert into u values (1)");
    bed.reopen();
    bed.sql("insert into u values (2)");
    assert_eq!(bed.lines(), ["insert t (1)", "copied u", "insert u (2)"]);
}

#[test]
fn a_table_that_is_to_be_copied_again_is_announced_in_its_order() {
    let mut bed = Bed::new("create table t (id int primary key); create table u (id int primary key)");
    bed.sql("insert into t values (1)");
    bed.capture().request_rescan(&"t".parse().expect("a name"));
    bed.capture().request_rescan(&"no_such".parse().expect("a name"));
    let lines = until(&mut bed, "copied t");
    assert_eq!(lines, ["insert t (1)", "copied t"]);
    assert_eq!(bed.drain().len(), 0);
}

#[test]
fn nobodys_update_fails_because_a_table_is_captured() {
    let mut bed = Bed::new("create table t (id int primary key, v int); create table u (id int, v int)");
    bed.sql("insert into t values (1, 1); insert into u values (1, 1); update u set v = 2; delete from u");
    // Without its key the server would refuse updates of a table that is published for them.
    bed.sql("alter table t drop constraint t_pkey");
    let deadline = Instant::now() + DEADLINE;
    while let Err(error) = super::CLUSTER.try_sql(&bed.url, "update t set v = v + 1") {
        assert!(error.contains("does not have a replica identity"), "{error}");
        assert!(Instant::now() < deadline, "{error}");
        bed.lines();
    }
    bed.lines();
    bed.sql("insert into t values (2, 2)");
    assert_eq!(bed.lines(), ["insert t (2, 2)"]);
    // With a key again it is captured whole, from a new copy on.
    bed.sql("alter table t add primary key (id)");
    until(&mut bed, "copied t");
    bed.sql("update t set v = 9 where id = 2");
    assert_eq!(bed.lines(), ["update t (2, 9)"]);
}

#[test]
fn only_selected_tables_are_published() {
    let mut bed = Bed::closed(super::CLUSTER.database());
    bed.sql("create table t (id int primary key); create table secret (id int primary key)");
    bed.captures = std::sync::Arc::new(|table| table.as_str() != "secret");
    bed.open().expect("it can be captured");
    bed.sql("begin; insert into secret values (1); insert into t values (1); truncate secret, t; commit");
    assert_eq!(bed.lines(), ["insert t (1); truncate t"]);
    bed.captures = super::every_table();
    bed.reopen();
    bed.sql("insert into secret values (2)");
    assert_eq!(bed.lines(), ["copied secret", "insert secret (2)"]);
    bed.captures = std::sync::Arc::new(|table| table.as_str() == "secret");
    bed.reopen();
    bed.sql("insert into secret values (3); insert into t values (2)");
    assert_eq!(bed.lines(), ["insert secret (3)"]);
}

#[test]
fn what_happens_to_partitions_alone_has_their_root_copied() {
    let mut bed = Bed::new(
        "create table p (id int primary key, v text) partition by range (id);
         create table p1 partition of p for values from (0) to (100);
         create table p2 partition of p for values from (100) to (200);
         insert into p values (1, 'a'), (101, 'b')",
    );
    bed.sql("truncate p2");
    assert_eq!(until(&mut bed, "copied p"), ["copied p"]);
    bed.sql("create table p3 partition of p for values from (200) to (300)");
    bed.sql("alter table p detach partition p1");
    assert_eq!(until(&mut bed, "copied p").last().map(String::as_str), Some("copied p"));
    bed.capture = None;
    bed.sql("alter table p attach partition p1 for values from (0) to (100)");
    bed.reopen();
    assert_eq!(until(&mut bed, "copied p").last().map(String::as_str), Some("copied p"));
    // What the stream tells needs no copy: a truncation of the whole, and rows written anew as they are.
    bed.sql("insert into p values (7, 'x')");
    bed.sql("vacuum full p1");
    bed.sql("insert into p values (8, 'x'); create table other (id int primary key)");
    assert_eq!(until(&mut bed, "copied other"), ["insert p (7, x)", "insert p (8, x)", "copied other"]);
}
