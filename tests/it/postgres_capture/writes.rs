//! What is written, and what of it the log gets.

use std::sync::Arc;
use std::time::Instant;

use watershed::log::{Capture, Draft, Polled};
use watershed::model::decode_changes;

use super::CLUSTER;
use super::bed::{Bed, DEADLINE};

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

#[test]
fn a_large_transaction_goes_through_a_file_whole() {
    let mut bed = Bed::new("create table t (id int primary key, v text)");
    bed.sql("insert into t select i, repeat('x', 1000) from generate_series(1, 5000) i");
    bed.sql("insert into t values (0, 'after')");
    let logged = bed.drain();
    assert_eq!(logged.len(), 2);
    assert!(logged[0].is_large);
    assert_eq!(logged[0].changes.len(), 5000);
    assert_eq!(bed.line(&logged[1]), "insert t (0, after)");
    let names = std::fs::read_dir(bed.dir.path()).expect("listed").map(|file| file.expect("listed").file_name());
    assert_eq!(names.collect::<Vec<_>>(), ["capture.witness"], "its file has no name");
}

#[test]
fn a_large_row_has_an_entry_of_its_own_whatever_stands_before_it() {
    let mut bed = Bed::new("create table t (id int primary key, v text)");
    bed.sql(
        "begin; insert into t select i, repeat('x', 1000) from generate_series(1, 900) i;
         insert into t values (0, repeat('y', 3000000)); insert into t values (-1, 'after'); commit",
    );
    let captured = loop {
        match bed.capture().poll().expect("it goes on") {
            Polled::Captured(captured) if !captured.drafts.is_empty() => break captured,
            _ => bed.capture().wait(false),
        }
    };
    let Some(Draft::Large { mut parts, .. }) = captured.drafts.into_iter().next() else { panic!("it is large") };
    let mut rows = Vec::new();
    while let Some(part) = parts.next().expect("readable") {
        rows.push(decode_changes(&part).expect("own encoding").len());
    }
    assert_eq!(rows, [900, 1, 1], "together they could be larger than an entry");
}

#[test]
fn what_is_sent_before_its_commit_counts_only_once_it_commits() {
    let url = CLUSTER.database();
    let database = url.rsplit('/').next().expect("a name");
    CLUSTER.sql(&url, "create table t (id int primary key, v text)");
    CLUSTER.sql("postgres", &format!("alter database {database} set logical_decoding_work_mem = '64kB'"));
    let mut bed = Bed::at(url);
    let rows =
        |from: u32, to: u32| format!("insert into t select i, repeat('x', 100) from generate_series({from}, {to}) i;");
    // A subtransaction is undone in the middle; a small one that fails; one within another; and all of a transaction.
    bed.sql(&format!(
        "begin; {} savepoint a; {} select pg_logical_emit_message(true, 'watershed', 'wrong'); rollback to a; {} savepoint b; {}
         savepoint c; {} rollback to c; release b; select pg_logical_emit_message(true, 'watershed', 'right'); {} commit",
        rows(1, 2000),
        rows(2001, 4000),
        rows(4001, 6000),
        rows(6001, 8000),
        rows(8001, 10000),
        rows(10001, 10100),
    ));
    bed.sql(&format!("begin; {} rollback", rows(20001, 24000)));
    bed.sql("insert into t values (0, 'small')");
    let logged = bed.drain();
    assert_eq!(logged.len(), 2);
    let ids: Vec<u32> = logged[0]
        .changes
        .iter()
        .map(|change| String::from_utf8_lossy(&change.row.as_ref().expect("a row")[0].text).parse().expect("a number"))
        .collect();
    let expected: Vec<u32> = (1..=2000).chain(4001..=8000).chain(10001..=10100).collect();
    assert_eq!(ids, expected);
    assert_eq!(logged[0].header.correlation.as_deref(), Some("right"));
    assert_eq!(bed.line(&logged[1]), "insert t (0, small)");
}

#[test]
fn a_table_that_changes_within_an_undone_transaction_stays_as_it_was() {
    let url = CLUSTER.database();
    let database = url.rsplit('/').next().expect("a name");
    CLUSTER.sql(&url, "create table t (id int primary key, v text)");
    CLUSTER.sql("postgres", &format!("alter database {database} set logical_decoding_work_mem = '64kB'"));
    let mut bed = Bed::at(url);
    bed.sql("insert into t values (1, 'a')");
    bed.sql(
        "begin; alter table t add w int; insert into t select i, repeat('x', 100), i from generate_series(10, 4000) i; rollback",
    );
    bed.sql("insert into t values (2, 'b')");
    bed.sql(
        "begin; alter table t add w int; insert into t select i, repeat('x', 100), i from generate_series(10, 4000) i; commit",
    );
    bed.sql("insert into t values (3, 'c', 3)");
    let logged = bed.drain();
    let lines: Vec<String> = [0, 1, 3].iter().map(|&at| bed.line(&logged[at])).collect();
    assert_eq!(lines, ["insert t (1, a)", "insert t (2, b)", "insert t (3, c, 3)"]);
    assert_eq!(logged[2].changes.len(), 3991);
}

#[test]
fn an_application_names_what_belongs_together() {
    let mut bed = Bed::new("create table t (id int primary key)");
    bed.sql("begin; select pg_logical_emit_message(true, 'watershed', 'order 7'); insert into t values (1); commit");
    bed.sql(
        "begin; insert into t values (2);
         select pg_logical_emit_message(true, 'watershed', '{\"correlation\":\"c\",\"causation\":\"d\"}'); commit",
    );
    bed.sql(
        "begin; select pg_logical_emit_message(true, 'other', 'x'), pg_logical_emit_message(false, 'watershed', 'x');
             insert into t values (3); commit",
    );
    let ids: Vec<_> =
        bed.drain().into_iter().map(|logged| (logged.header.correlation, logged.header.causation)).collect();
    assert_eq!(ids, [(Some("order 7".into()), None), (Some("c".into()), Some("d".into())), (None, None)]);
}

#[test]
fn what_we_applied_is_passed_over_and_what_others_applied_is_not() {
    let mut bed = Bed::new("create table t (id int primary key)");
    let ours = bed.name();
    let other = format!("other_{ours}");
    for origin in [&ours, &other] {
        let id = if *origin == ours { 1 } else { 2 };
        bed.sql(&format!(
            "select pg_replication_origin_create('{origin}'); select pg_replication_origin_session_setup('{origin}');
             insert into t values ({id}); commit; insert into t select i from generate_series(100 * {id}, 100 * {id} + 1) i"
        ));
    }
    bed.sql("insert into t values (3)");
    let lines = bed.lines();
    bed.sql(&format!("select pg_replication_origin_drop('{ours}'), pg_replication_origin_drop('{other}')"));
    assert_eq!(lines, ["insert t (2)", "insert t (200); insert t (201)", "insert t (3)"]);
}

#[test]
fn large_transactions_that_we_applied_are_passed_over_too() {
    let url = CLUSTER.database();
    let database = url.rsplit('/').next().expect("a name");
    CLUSTER.sql(&url, "create table t (id int primary key, v text)");
    CLUSTER.sql("postgres", &format!("alter database {database} set logical_decoding_work_mem = '64kB'"));
    let mut bed = Bed::at(url);
    let ours = bed.name();
    bed.sql(&format!(
        "select pg_replication_origin_create('{ours}'); select pg_replication_origin_session_setup('{ours}');
         begin; insert into t select i, repeat('x', 100) from generate_series(1, 4000) i; savepoint a; insert into t values (0);
         insert into watershed.cursor values (true, 'x'); commit"
    ));
    // As the second session writes: rows first, the cursor last.
    bed.sql(&format!(
        "select pg_replication_origin_create('{ours}/2'); select pg_replication_origin_session_setup('{ours}/2');
         begin; insert into t select i, repeat('x', 100) from generate_series(10001, 14000) i; update watershed.cursor set cursor = 'y'; commit;
         insert into t values (20000)"
    ));
    bed.sql("insert into t values (-1)");
    let lines = bed.lines();
    bed.sql(&format!("select pg_replication_origin_drop('{ours}'), pg_replication_origin_drop('{ours}/2')"));
    assert_eq!(lines, ["insert t (-1, null)"]);
}

#[test]
fn the_slot_moves_on_though_nothing_selected_is_written() {
    let mut bed = Bed::closed(CLUSTER.database());
    bed.sql("create table t (id int primary key); create table busy (id int)");
    bed.captures = Arc::new(|table| table.as_str() == "t");
    bed.open().expect("it can be captured");
    let name = bed.name();
    let confirmed = format!("select confirmed_flush_lsn - '0/0' from pg_replication_slots where slot_name = '{name}'");
    let number = |text: String| text.trim().parse::<u64>().expect("a number");
    bed.sql("insert into busy select generate_series(1, 20000)");
    let written = number(bed.sql("select pg_current_wal_insert_lsn() - '0/0'"));
    let deadline = Instant::now() + DEADLINE;
    while number(bed.sql(&confirmed)) < written {
        assert!(Instant::now() < deadline, "the slot stays behind");
        assert!(bed.lines().is_empty());
    }
}
