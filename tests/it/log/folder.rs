//! The folder of a log: who may open it, what retention removes, what a full disk does.

use std::sync::Arc;
use std::time::Duration;

use watershed::log::segments::{OpenError, Retention, SegmentLog, SegmentOptions, verify};
use watershed::log::{AppendError, Log, Source, SourceError};
use watershed::model::{LinkId, LogId, Position};
use watershed::testing::log_conformance::{append, arrival, large, local, read_all, texts};
use watershed::testing::log_storage::{Fault, FaultyStorage};

use super::options;

#[tokio::test]
async fn a_folder_is_opened_once_and_the_refusal_names_the_process() {
    let dir = tempfile::tempdir().expect("a folder");
    let log = SegmentLog::open(options(dir.path(), 1 << 14)).expect("opened");
    for second in [SegmentLog::open(options(dir.path(), 1 << 14)), SegmentLog::open_read_only(dir.path())] {
        let Err(OpenError::Locked { pid, .. }) = second else { panic!("opened twice") };
        assert_eq!(pid, Some(std::process::id()));
    }
    log.close().expect("closed");
    assert!(matches!(log.append(append(vec![])).await, Err(AppendError::Closed)));
    assert!(matches!(log.read(Position::ZERO.into(), Default::default()).await, Err(SourceError::Closed)));
    assert!(matches!(log.read_ahead(Position::ZERO.into(), Default::default()).await, Err(SourceError::Closed)));
    SegmentLog::open(options(dir.path(), 1 << 14)).expect("opened after the first was closed");
}

#[tokio::test]
async fn reading_a_stopped_nodes_log_changes_nothing() {
    let dir = tempfile::tempdir().expect("a folder");
    assert!(matches!(SegmentLog::open_read_only(dir.path()), Err(OpenError::Missing(_))));
    let log = SegmentLog::open(options(dir.path(), 1 << 13)).expect("opened");
    for i in 0..30 {
        log.append(append(vec![local(&format!("{i}")), large(2, 300, None)])).await.expect("appended");
    }
    let all = read_all(&log, Position::ZERO.into()).await.expect("readable");
    drop(log);
    let files = || -> Vec<(std::ffi::OsString, Vec<u8>)> {
        let mut files: Vec<_> = std::fs::read_dir(dir.path())
            .expect("listed")
            .map(|entry| entry.expect("an entry"))
            .map(|entry| (entry.file_name(), std::fs::read(entry.path()).expect("read")))
            .collect();
        files.sort();
        files
    };
    let before = files();
    let verified = verify(dir.path()).expect("whole");
    assert_eq!((verified.oldest, verified.tail, verified.torn_bytes), (Position(1), Position(60), 0));
    assert_eq!(verified.entries, 90);
    assert!(verified.segments > 2);
    let log = SegmentLog::open_read_only(dir.path()).expect("opened");
    assert_eq!(read_all(&log, Position::ZERO.into()).await.expect("readable"), all);
    assert!(matches!(log.append(append(vec![local("no")])).await, Err(AppendError::Closed)));
    drop(log);
    assert!(files() == before);
}

#[tokio::test]
async fn verify_names_the_segment_and_offset_of_damage() {
    let dir = tempfile::tempdir().expect("a folder");
    let log = SegmentLog::open(options(dir.path(), 1 << 13)).expect("opened");
    for i in 0..60 {
        log.append(append(vec![local(&format!("{i} {}", "z".repeat(300)))])).await.expect("appended");
    }
    drop(log);
    let mut names: Vec<_> =
        std::fs::read_dir(dir.path()).expect("listed").map(|e| e.expect("an entry").path()).collect();
    names.retain(|path| path.extension().is_some_and(|extension| extension == "log"));
    names.sort();
    let mut bytes = std::fs::read(&names[1]).expect("read");
    bytes[5_000] ^= 1;
    std::fs::write(&names[1], &bytes).expect("written");
    let Err(OpenError::Damaged { segment, offset, .. }) = verify(dir.path()) else { panic!("not noticed") };
    assert_eq!(names[1].file_name().and_then(|name| name.to_str()), Some(&*segment));
    assert!(offset <= 5_000 && offset > 4_000, "{offset}");
}

/// Fills several segments; returns the tail.
async fn fill(log: &SegmentLog) -> Position {
    for i in 0..100 {
        log.append(append(vec![local(&format!("{i} {}", "z".repeat(300)))])).await.expect("appended");
    }
    log.info().tail
}

#[tokio::test]
async fn what_is_released_goes_when_its_time_is_over() {
    let dir = tempfile::tempdir().expect("a folder");
    let retain = Retention { time: Duration::ZERO, bytes: u64::MAX };
    let log = SegmentLog::open(SegmentOptions { retain, ..options(dir.path(), 1 << 13) }).expect("opened");
    let tail = fill(&log).await;
    assert_eq!(log.info().oldest, Position(1), "nothing goes that somebody may need");
    log.release(Position(50)).await.expect("released");
    let oldest = log.info().oldest;
    assert!(oldest > Position(20) && oldest <= Position(51), "{oldest}");
    let trimmed = log.read(Position::ZERO.into(), Default::default()).await;
    assert!(
        matches!(trimmed, Err(SourceError::Trimmed { asked: Position(1), oldest: o }) if o == oldest),
        "{trimmed:?}"
    );
    let left = read_all(&log, Position(oldest.0 - 1).into()).await.expect("readable");
    assert_eq!(left.len() as u64, tail.0 + 1 - oldest.0);
    drop(log);
    let kept = Retention { time: Duration::from_secs(3600), bytes: u64::MAX };
    let log = SegmentLog::open(SegmentOptions { retain: kept, ..options(dir.path(), 1 << 13) }).expect("opened");
    assert_eq!(log.info().oldest, oldest);
    log.release(tail).await.expect("released");
    assert_eq!(log.info().oldest, oldest, "its time is not over");
}

#[tokio::test]
async fn the_byte_budget_forces_out_what_is_still_needed() {
    let dir = tempfile::tempdir().expect("a folder");
    let retain = Retention { time: Duration::from_secs(3600), bytes: 3 << 13 };
    let log = SegmentLog::open(SegmentOptions { retain, ..options(dir.path(), 1 << 13) }).expect("opened");
    fill(&log).await;
    log.release(Position::ZERO).await.expect("released");
    assert!(log.info().oldest > Position(1));
    assert!(log.info().bytes <= 3 << 13);
    let all = read_all(&log, Position(log.info().oldest.0 - 1).into()).await.expect("readable");
    assert!(!all.is_empty());
}

#[tokio::test]
async fn trimming_keeps_the_last_segment_and_everything_after_the_position() {
    let dir = tempfile::tempdir().expect("a folder");
    let log = SegmentLog::open(options(dir.path(), 1 << 13)).expect("opened");
    let tail = fill(&log).await;
    log.append(append(vec![large(30, 1_000, None)])).await.expect("appended");
    log.trim(Position(40)).await.expect("trimmed");
    assert!(log.info().oldest > Position(1) && log.info().oldest <= Position(41));
    log.trim(tail.next()).await.expect("trimmed");
    drop(log);
    let log = SegmentLog::open(options(dir.path(), 1 << 13)).expect("opened");
    assert_eq!(log.info().tail, tail.next());
    log.append(append(vec![local("next")])).await.expect("appended");
    assert_eq!(texts(&read_all(&log, tail.next().into()).await.expect("readable")), ["next"]);
}

#[tokio::test]
async fn a_full_disk_stops_appends_and_poisons_nothing() {
    let storage = FaultyStorage::new();
    let options = SegmentOptions { storage: Some(Arc::new(storage.clone())), ..options("m".as_ref(), 1 << 13) };
    let log = SegmentLog::open(options.clone()).expect("opened");
    storage.set_room(Some(0));
    let mut appended = 0;
    let refused = loop {
        match log.append(append(vec![local(&format!("{appended}"))])).await {
            Ok(_) => appended += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(refused, AppendError::DiskFull { needed: 8192, .. }), "{refused}");
    assert!(refused.is_retryable());
    assert_eq!(read_all(&log, Position::ZERO.into()).await.expect("readable").len(), appended);
    storage.set_room(None);
    log.append(append(vec![local("there is room again")])).await.expect("appended");
    drop(log);
    let log = SegmentLog::open(options).expect("opened");
    assert_eq!(log.info().tail.0 as usize, appended + 1);
}

#[tokio::test]
async fn after_a_failed_sync_nothing_of_the_append_is_read_and_the_next_one_recovers() {
    let storage = FaultyStorage::new();
    let options = SegmentOptions { storage: Some(Arc::new(storage.clone())), ..options("m".as_ref(), 1 << 16) };
    let log = SegmentLog::open(options).expect("opened");
    log.append(append(vec![local("a")])).await.expect("appended");
    let mut kept = vec!["a"];
    for fault in [Fault::Sync, Fault::ShortWrite] {
        // Sometimes the fault meets what the log does in the background (its reserve, a mark), and the append is none the worse.
        let failed = loop {
            let before = log.source_cursor(LinkId(LogId(5)));
            let text: &str = format!("{fault:?} {}", kept.len()).leak();
            storage.inject(fault, 7);
            match log.append(arrival(5, vec![local(text)], Some(text))).await {
                Ok(_) => kept.push(text),
                Err(error) => {
                    assert_eq!(log.source_cursor(LinkId(LogId(5))), before);
                    break error;
                }
            }
            assert!(kept.len() < 100, "the fault is met by nobody");
        };
        assert!(matches!(failed, AppendError::Failed(_)), "{failed:?}");
    }
    log.append(append(vec![local("b")])).await.expect("appended");
    kept.push("b");
    assert_eq!(texts(&read_all(&log, Position::ZERO.into()).await.expect("readable")), kept);
}
