//! What is written, and what of it the log gets.

use watershed::log::{Capture, Polled};

use super::bed::Bed;

#[test]
fn transactions_come_whole_and_in_the_order_of_their_commits() {
    let mut bed = Bed::new("create table t (id int primary key, v text); insert into t values (0, 'before')");
    bed.sql("insert into t values (1, 'a')");
    bed.sql(
        "begin; update t set v = 'b' where id = 1; insert into t values (2, null); delete from t where id = 0; commit",
    );
    bed.sql("begin; insert into t values (3, 'gone'); rollback");
    bed.sql("truncate t");
    assert_eq!(
        bed.lines(),
        ["insert t (1, a)", "update t (1, b); insert t (2, null); delete t was (0, unchanged)", "truncate t",]
    );
    assert!(bed.lines().is_empty(), "nothing comes twice");
}

#[test]
fn subtransactions_that_are_rolled_back_are_not_in_it() {
    let mut bed = Bed::new("create table t (id int primary key)");
    bed.sql(
        "begin; insert into t values (1); savepoint a; insert into t values (2); savepoint b; insert into t values (3);
         rollback to a; insert into t values (4); release a; insert into t values (5); commit",
    );
    assert_eq!(bed.lines(), ["insert t (1); insert t (4); insert t (5)"]);
}

#[test]
fn reading_goes_on_exactly_where_it_was() {
    let mut bed = Bed::new("create table t (id int primary key)");
    bed.sql("insert into t values (1)");
    assert_eq!(bed.lines(), ["insert t (1)"]);
    bed.capture = None;
    bed.sql("insert into t values (2)");
    bed.reopen();
    assert_eq!(bed.lines(), ["insert t (2)"]);
    // What was given and could not be logged comes again.
    bed.sql("insert into t values (3)");
    let given = loop {
        match bed.capture().poll().expect("it goes on") {
            Polled::Captured(captured) if !captured.drafts.is_empty() => break captured,
            _ => bed.capture().wait(false),
        }
    };
    drop(given);
    bed.capture().retry();
    bed.sql("insert into t values (4)");
    let lines: Vec<String> = bed.wait_for(2).iter().map(|logged| bed.line(logged)).collect();
    assert_eq!(lines, ["insert t (3)", "insert t (4)"]);
}
