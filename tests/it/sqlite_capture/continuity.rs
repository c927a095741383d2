use std::fs;

use watershed::model::{LogId, SourceCursor};
use watershed::sqlite::{Capture, CaptureError};

use super::bed::{Bed, Replay, ops, until};

const TABLE: &str = "CREATE TABLE t(id INTEGER PRIMARY KEY, a);";

/// Lets the log have everything, and waits until it is removed from the database.
fn release(bed: &Bed, capture: &mut Capture, replay: &Replay) -> SourceCursor {
    let upto = replay.cursor.clone().unwrap();
    capture.release(&upto).unwrap();
    until("captured rows are removed", || {
        capture.poll().unwrap();
        bed.shell("SELECT count(*) FROM watershed_changes").trim() == "1"
    });
    upto
}

#[test]
fn after_a_crash_the_older_cursor_gives_the_same_again_and_the_newer_nothing() {
    for mode in ["wal", "delete"] {
        let bed = Bed::new(mode, TABLE);
        let (mut capture, mut replay) = bed.begin();
        bed.shell("INSERT INTO t VALUES (1, 1)");
        replay.drain(&mut capture);
        let first = release(&bed, &mut capture, &replay);
        bed.shell("INSERT INTO t VALUES (2, 2); UPDATE t SET a = 3");
        let lost = capture.poll().unwrap().unwrap();
        drop(capture);
        // Several starts without an append between them are as harmless as one.
        for _ in 0..3 {
            drop(bed.open(Some(first.clone())).unwrap());
        }
        let mut capture = bed.open(Some(first)).unwrap();
        assert_eq!(ops(&replay.agrees(&bed, &mut capture).concat()).len() as u64, lost.changes);
        drop(capture);
        let mut capture = bed.open(replay.cursor.clone()).unwrap();
        assert!(replay.agrees(&bed, &mut capture).is_empty());
        bed.shell("DELETE FROM t");
        assert_eq!(ops(&replay.agrees(&bed, &mut capture).concat()), ["delete", "delete"]);
    }
}

#[test]
fn a_crash_between_trim_and_append_is_harmless() {
    let bed = Bed::new("wal", TABLE);
    let (mut capture, mut replay) = bed.begin();
    let mut resume = None;
    for id in 0..3 {
        bed.shell(&format!("INSERT INTO t VALUES ({id}, 1), ({id} + 100, 1)"));
        replay.drain(&mut capture);
        let durable = release(&bed, &mut capture, &replay);
        drop(capture);
        capture = bed.open(Some(durable.clone())).unwrap();
        resume = Some(durable);
    }
    drop(capture);
    let mut capture = bed.open(resume).unwrap();
    assert!(replay.agrees(&bed, &mut capture).is_empty());
}

#[test]
fn what_the_log_could_not_take_is_read_again() {
    let bed = Bed::new("wal", TABLE);
    let (mut capture, mut replay) = bed.begin();
    bed.shell("INSERT INTO t VALUES (1, 1)");
    assert_eq!(capture.poll().unwrap().unwrap().changes, 1);
    capture.retry();
    bed.shell("INSERT INTO t VALUES (2, 2)");
    assert_eq!(ops(&replay.agrees(&bed, &mut capture).concat()), ["insert", "insert"]);
}

#[test]
fn a_database_restored_while_stopped_is_refused() {
    let bed = Bed::new("delete", TABLE);
    let (mut capture, mut replay) = bed.begin();
    bed.shell("INSERT INTO t VALUES (1, 1), (2, 2)");
    replay.drain(&mut capture);
    fs::copy(&bed.path, bed.dir.path().join("backup")).unwrap();
    bed.shell("INSERT INTO t VALUES (3, 3)");
    replay.drain(&mut capture);
    drop(capture);
    fs::copy(bed.dir.path().join("backup"), &bed.path).unwrap();
    let refused = |sql: &str| {
        bed.shell(sql);
        let error = bed.open(replay.cursor.clone()).err().unwrap();
        assert!(matches!(error, CaptureError::Restored { .. }) && error.needs_operator(), "{error}");
        assert!(!error.is_retryable());
    };
    refused("");
    // As many changes as the log has, but others.
    refused("INSERT INTO t VALUES (4, 4)");
    refused("INSERT INTO t VALUES (5, 5), (6, 6)");
}

#[test]
fn a_database_restored_to_before_a_trim_is_refused_whatever_was_written_since() {
    let bed = Bed::new("delete", TABLE);
    let (mut capture, mut replay) = bed.begin();
    bed.shell("INSERT INTO t VALUES (1, 1)");
    replay.drain(&mut capture);
    fs::copy(&bed.path, bed.dir.path().join("backup")).unwrap();
    let write = "INSERT INTO t VALUES (2, 2), (3, 3)";
    bed.shell(write);
    replay.drain(&mut capture);
    release(&bed, &mut capture, &replay);
    bed.shell("INSERT INTO t VALUES (4, 4)");
    replay.drain(&mut capture);
    drop(capture);
    fs::copy(bed.dir.path().join("backup"), &bed.path).unwrap();
    // The very same changes again, so that only the mark tells.
    bed.shell(write);
    bed.shell("INSERT INTO t VALUES (4, 4)");
    let error = bed.open(replay.cursor.clone()).err().unwrap();
    assert!(error.to_string().contains("mark"), "{error}");
}

#[test]
fn a_database_replaced_or_overwritten_while_running_is_noticed() {
    for overwrite in [false, true] {
        let bed = Bed::new("delete", TABLE);
        let (mut capture, mut replay) = bed.begin();
        bed.shell("INSERT INTO t VALUES (1, 1)");
        replay.drain(&mut capture);
        let backup = bed.dir.path().join("backup");
        fs::copy(&bed.path, &backup).unwrap();
        bed.shell("INSERT INTO t VALUES (2, 2), (3, 3)");
        replay.drain(&mut capture);
        match overwrite {
            true => bed.python(&format!("connect().execute('SELECT 1'); sqlite3.connect({backup:?}).backup(db)")),
            false => fs::rename(&backup, &bed.path).unwrap(),
        }
        until("the restored file is noticed", || match capture.poll() {
            Ok(captured) => captured.is_some_and(|_| panic!("nothing is to be captured")),
            Err(error) => matches!(error, CaptureError::Restored { .. }),
        });
    }
}

#[test]
fn a_log_restored_from_yesterday_finds_a_gap() {
    let bed = Bed::new("wal", TABLE);
    let (mut capture, mut replay) = bed.begin();
    bed.shell("INSERT INTO t VALUES (1, 1)");
    replay.drain(&mut capture);
    let yesterday = replay.cursor.clone();
    bed.shell("INSERT INTO t VALUES (2, 2), (3, 3), (4, 4)");
    replay.drain(&mut capture);
    release(&bed, &mut capture, &replay);
    drop(capture);
    let error = bed.open(yesterday).err().unwrap();
    assert!(matches!(error, CaptureError::Gap { .. }), "{error}");
    assert!(bed.open(replay.cursor.clone()).is_ok(), "looking changed nothing");
}

#[test]
fn changes_that_somebody_deleted_are_a_gap() {
    let bed = Bed::new("wal", TABLE);
    let (mut capture, mut replay) = bed.begin();
    bed.shell("INSERT INTO t VALUES (1, 1)");
    replay.drain(&mut capture);
    bed.shell("INSERT INTO t VALUES (2, 2), (3, 3); DELETE FROM watershed_changes WHERE seq = 2");
    assert!(matches!(capture.poll(), Err(CaptureError::Gap { .. })));
    drop(capture);
    assert!(matches!(bed.open(replay.cursor), Err(CaptureError::Gap { .. })));
}

#[test]
fn another_log_is_refused_and_another_database_too() {
    let bed = Bed::new("wal", TABLE);
    let (mut capture, mut replay) = bed.begin();
    bed.shell("INSERT INTO t VALUES (1, 1)");
    replay.drain(&mut capture);
    drop(capture);
    let error = bed.open_for(LogId(8), None).err().unwrap();
    assert!(matches!(error, CaptureError::OtherLog { .. }), "{error}");
    let other = Bed::new("wal", TABLE);
    assert!(matches!(other.open(replay.cursor.clone()), Err(CaptureError::Restored { .. })));
    drop(other.begin());
    assert!(matches!(other.open(replay.cursor), Err(CaptureError::Restored { .. })));
    assert!(other.open(Some(SourceCursor(bytes::Bytes::from_static(b"\xff")))).is_err());
}

#[test]
fn a_log_that_lost_its_place_has_everything_copied_afresh() {
    let bed = Bed::new("wal", TABLE);
    let (mut capture, mut replay) = bed.begin();
    bed.shell("INSERT INTO t VALUES (1, 1), (2, 2)");
    replay.drain(&mut capture);
    drop(capture);
    let mut capture = bed.open(None).unwrap();
    assert_eq!(ops(&replay.agrees(&bed, &mut capture).concat()), ["copied"]);
}

#[test]
fn a_missing_database_is_an_error_and_is_not_created() {
    let bed = Bed::new("delete", TABLE);
    fs::remove_file(&bed.path).unwrap();
    assert!(matches!(bed.open(None), Err(CaptureError::File { .. })));
    assert!(!bed.path.exists());
}

#[test]
fn a_locked_database_is_retried_and_loses_nothing() {
    let bed = Bed::new("delete", TABLE);
    let (mut capture, mut replay) = bed.begin();
    bed.shell("INSERT INTO t VALUES (1, 1)");
    let lock = rusqlite::Connection::open(&bed.path).unwrap();
    lock.execute_batch("BEGIN EXCLUSIVE; INSERT INTO t VALUES (2, 2)").unwrap();
    until("the lock is reported", || match capture.poll() {
        Ok(captured) => captured.is_some_and(|_| panic!("the database is locked")),
        Err(error) => error.is_retryable(),
    });
    lock.execute_batch("COMMIT").unwrap();
    assert_eq!(ops(&replay.agrees(&bed, &mut capture).concat()), ["insert", "insert"]);
}

#[test]
fn resetting_all_sequences_does_not_hide_changes() {
    let bed = Bed::new("wal", "CREATE TABLE t(id INTEGER PRIMARY KEY AUTOINCREMENT, a);");
    let (mut capture, mut replay) = bed.begin();
    bed.shell("INSERT INTO t(a) VALUES (1), (2)");
    replay.drain(&mut capture);
    release(&bed, &mut capture, &replay);
    bed.shell("DELETE FROM t; DELETE FROM sqlite_sequence; INSERT INTO t(a) VALUES (3); VACUUM;");
    assert_eq!(ops(&replay.agrees(&bed, &mut capture).concat()), ["delete", "delete", "insert"]);
}
