//! Servers, slots and logs that do not belong together any more: noticed, refused with what to do, never papered over.

use std::time::Instant;

use watershed::log::{Capture, CaptureFailure, CaptureTrouble, Polled};
use watershed::model::SourceCursor;
use watershed::postgres::uninstall;

use super::bed::{Bed, DEADLINE, RUNTIME};
use super::{CLUSTER, endpoint};

fn bed() -> Bed {
    let mut bed = Bed::new("create table t (id int primary key)");
    bed.sql("insert into t values (1)");
    assert_eq!(bed.lines(), ["insert t (1)"]);
    bed
}

/// Ends capture in such a way that the server has what was acknowledged.
fn ends(bed: &mut Bed) {
    bed.capture().retry();
    bed.capture = None;
}

/// The words have what, why and what to do, and the code.
fn has(error: &CaptureFailure, kind: CaptureTrouble, code: &str, words: &[&str]) {
    assert_eq!(error.kind, kind, "{error}");
    assert!(error.what.starts_with(&format!("error[WS-PGCAPTURE-{code}]: ")), "{error}");
    for words in [" / why: ", " / do: "].iter().chain(words) {
        assert!(error.what.contains(words), "{words:?} in {error}");
    }
    println!("{error}\n");
}

#[test]
fn a_slot_that_somebody_dropped_is_not_made_again_in_silence() {
    let mut bed = bed();
    ends(&mut bed);
    let name = bed.name();
    bed.sql(&format!("select pg_drop_replication_slot('{name}')"));
    let error = bed.refusal();
    has(&error, CaptureTrouble::Operator, "034", &[&name, "is gone", "watershed source drop database --yes"]);
}

#[test]
fn a_slot_that_was_made_again_or_advanced_is_not_followed() {
    let mut bed = bed();
    ends(&mut bed);
    let name = bed.name();
    bed.sql("insert into t values (2)");
    bed.sql(&format!("select pg_drop_replication_slot('{name}')"));
    bed.sql(&format!("select pg_create_logical_replication_slot('{name}', 'pgoutput')"));
    has(&bed.refusal(), CaptureTrouble::Operator, "037", &["is ahead", "is missing in the log"][..1]);
    bed.sql(&format!("select pg_drop_replication_slot('{name}')"));
    bed.sql(&format!("select pg_create_logical_replication_slot('{name}', 'test_decoding')"));
    has(&bed.refusal(), CaptureTrouble::Operator, "035", &["test_decoding", "pgoutput"]);
    bed.sql(&format!("select pg_drop_replication_slot('{name}')"));

    let mut bed = self::bed();
    ends(&mut bed);
    bed.sql("insert into t values (2)");
    bed.sql(&format!("select pg_replication_slot_advance('{}', pg_current_wal_lsn())", bed.name()));
    has(&bed.refusal(), CaptureTrouble::Operator, "037", &["advanced"]);
}

#[test]
fn a_place_of_another_server_database_or_timeline_is_refused() {
    let mut bed = bed();
    ends(&mut bed);
    let cursor = bed.cursor.clone().expect("it was read");
    let text = String::from_utf8(cursor.0.to_vec()).expect("text");
    let parts: Vec<&str> = text.splitn(6, '-').collect();
    let [kind, system, timeline, database, lsn, slot] = parts[..] else { panic!("{text}") };
    for (code, changed) in [
        ("030", [kind, "7", timeline, database, lsn, slot]),
        ("031", [kind, system, timeline, "5", lsn, slot]),
        ("032", [kind, system, "9", database, lsn, slot]),
        ("033", [kind, system, timeline, database, "FFFF/0", slot]),
    ] {
        bed.cursor = Some(SourceCursor(changed.join("-").into()));
        has(&bed.refusal(), CaptureTrouble::Operator, code, &["watershed source drop database --yes"]);
    }
    bed.cursor = Some(cursor);
    bed.open().expect("its own place is taken");
}

#[test]
fn a_log_that_lost_its_place_begins_afresh_and_announces_all_tables() {
    let mut bed = bed();
    ends(&mut bed);
    bed.sql("insert into t values (2); create table u (id int primary key)");
    bed.cursor = None;
    bed.open().expect("it begins afresh");
    bed.sql("insert into t values (3)");
    assert_eq!(bed.lines(), ["copied t; copied u", "insert t (3)"]);
}

#[test]
fn another_log_cannot_capture_the_database_too() {
    let mut bed = bed();
    let other = Bed::closed(bed.url.clone());
    let mut other = Bed { log: watershed::model::LogId::draw(), ..other };
    has(&other.refusal(), CaptureTrouble::Operator, "038", &[&bed.log.to_string()]);
    bed.sql("insert into t values (2)");
    assert_eq!(bed.lines(), ["insert t (2)"]);
}

#[test]
fn a_slot_in_use_is_tried_again() {
    let mut bed = bed();
    bed.capture().poll().expect("it goes on");
    let options = bed.options();
    let opened = RUNTIME.block_on(watershed::postgres::PgCapture::open(options));
    let error = opened.err().expect("it is in use");
    has(&error, CaptureTrouble::Retry, "028", &["is in use", "pg_stat_replication"]);
    bed.sql("insert into t values (2)");
    assert_eq!(bed.lines(), ["insert t (2)"], "the first goes on");
}

#[test]
fn at_slot_retain_max_a_log_that_takes_nothing_loses_the_slot_and_copies_afresh() {
    let mut bed = Bed::closed(CLUSTER.database());
    bed.sql("create table t (id int primary key, v text)");
    bed.retain_max = Some(1 << 20);
    bed.open().expect("it can be captured");
    let name = bed.name();
    let slots = format!("select count(*) from pg_replication_slots where slot_name = '{name}'");
    bed.sql("insert into t select i, repeat('x', 1000) from generate_series(1, 3000) i");
    let deadline = Instant::now() + DEADLINE;
    let said = loop {
        assert!(Instant::now() < deadline, "the slot stays");
        match bed.capture().poll() {
            Ok(Polled::Captured(_)) => bed.capture().retry(),
            Ok(_) => bed.capture().wait(false),
            Err(error) if error.what.contains("WS-PGCAPTURE-039") => break error,
            Err(error) => assert_eq!(error.kind, CaptureTrouble::Retry, "{error}"),
        }
    };
    has(&said, CaptureTrouble::Retry, "039", &["slot_retain_max"]);
    assert_eq!(bed.sql(&slots), "0\n");
    // As long as the log takes nothing, there is no slot.
    for _ in 0..3 {
        let Ok(Polled::Captured(_)) = bed.capture().poll() else { panic!("the log is tried") };
        bed.capture().retry();
    }
    assert_eq!(bed.sql(&slots), "0\n");
    // A run that ends meanwhile knows at the next start that it was itself.
    bed.reopen();
    assert_eq!(bed.lines(), ["copied t"]);
    bed.sql("insert into t values (0, 'after')");
    assert_eq!(bed.lines(), ["insert t (0, after)"]);
}

#[test]
fn once_the_log_takes_something_again_a_new_slot_is_made() {
    let mut bed = Bed::closed(CLUSTER.database());
    bed.sql("create table t (id int primary key, v text)");
    bed.retain_max = Some(1 << 20);
    bed.open().expect("it can be captured");
    bed.sql("insert into t select i, repeat('x', 1000) from generate_series(1, 3000) i");
    let deadline = Instant::now() + DEADLINE;
    loop {
        assert!(Instant::now() < deadline, "the slot stays");
        match bed.capture().poll() {
            Ok(Polled::Captured(_)) => bed.capture().retry(),
            Ok(_) => bed.capture().wait(false),
            Err(error) if error.what.contains("WS-PGCAPTURE-039") => break,
            Err(_) => {}
        }
    }
    assert_eq!(bed.lines(), ["copied t"]);
    // A kill right after the new slot was made, before the log had its place, is no reason to stop.
    bed.sql("insert into t values (-1, 'x')");
    assert_eq!(bed.lines(), ["insert t (-1, x)"]);
}

#[test]
fn everything_of_ours_is_taken_away_again() {
    let mut bed = bed();
    let name = bed.name();
    bed.sql(&format!("select pg_replication_origin_create('{name}')"));
    ends(&mut bed);
    let deadline = Instant::now() + DEADLINE;
    while let Err(error) = RUNTIME.block_on(uninstall(&endpoint(&bed.url), None)) {
        assert!(Instant::now() < deadline, "{}", error.words());
    }
    let left = bed.sql(&format!(
        "select count(*) from pg_replication_slots where slot_name = '{name}'; select count(*) from pg_publication;
         select count(*) from pg_replication_origin where roname = '{name}'; select count(*) from pg_namespace where nspname = 'watershed'"
    ));
    assert_eq!(left, "0\n0\n0\n0\n");
    RUNTIME.block_on(uninstall(&endpoint(&bed.url), None)).expect("nothing to take away is no error");
    bed.cursor = None;
    bed.open().expect("it can be captured again");
}

#[test]
fn changes_made_while_the_publication_was_gone_are_not_passed_over() {
    let mut bed = bed();
    ends(&mut bed);
    bed.sql(&format!("drop publication {}", bed.name()));
    bed.sql("insert into t values (2)");
    bed.reopen();
    let error = bed.failure();
    has(&error, CaptureTrouble::Failed, "025", &["publication", "watershed source drop database --yes"]);
}
