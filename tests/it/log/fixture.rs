//! Every released format stays readable: folders written by the version that introduced them.

use std::path::{Path, PathBuf};

use watershed::log::segments::{SegmentLog, SegmentOptions, verify};
use watershed::log::{Draft, Log, Source};
use watershed::model::{Lamport, LinkId, LogId, Origin, Position};
use watershed::testing::log_conformance::{append, arrival, large, local, read_all, relayed, table, texts};

fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/format-1")
}

fn options(dir: &Path) -> SegmentOptions {
    SegmentOptions { segment_bytes: 4 << 10, ..SegmentOptions::new(dir) }
}

// Not a test: what a released version has written must never be written anew.
#[tokio::test]
#[ignore = "writes the fixture anew: only for a format that has not been released"]
async fn write_the_fixture() {
    let dir = tempfile::tempdir().expect("a folder");
    let log = SegmentLog::open(options(dir.path())).expect("opened");
    for i in 0..12 {
        log.append(append(vec![local(&format!("{i}")), local(&format!("{i} again"))])).await.expect("appended");
    }
    drop(log);
    let log = SegmentLog::open(options(dir.path())).expect("opened");
    let origin = Origin { log: LogId(8), epoch: watershed::model::Epoch(2), position: Position(40) };
    log.append(arrival(7, vec![large(4, 1_000, Some(origin))], None)).await.expect("appended");
    log.append(arrival(7, vec![Draft::Relayed(relayed(7, 1, 2, "foreign"))], Some("two"))).await.expect("appended");
    drop(log);
    std::fs::create_dir_all(fixture()).expect("created");
    for entry in std::fs::read_dir(dir.path()).expect("listed") {
        let entry = entry.expect("an entry");
        if entry.file_name().to_string_lossy().ends_with(".log") {
            std::fs::copy(entry.path(), fixture().join(entry.file_name())).expect("copied");
        }
    }
}

#[tokio::test]
async fn format_1_is_read_and_appended_to() {
    let verified = verify(&fixture()).expect("whole");
    assert_eq!((verified.oldest, verified.tail, verified.torn_bytes), (Position(1), Position(26), 0));
    let dir = tempfile::tempdir().expect("a folder");
    for entry in std::fs::read_dir(fixture()).expect("the fixture is there") {
        let entry = entry.expect("an entry");
        std::fs::copy(entry.path(), dir.path().join(entry.file_name())).expect("copied");
    }
    let log = SegmentLog::open(options(dir.path())).expect("opened");
    assert_eq!(log.info().epochs.len(), 3);
    assert_eq!(log.catalog().all(), [table()]);
    assert_eq!(log.source_cursor(LinkId(LogId(7))).map(|cursor| cursor.0), Some("two".into()));
    let all = read_all(&log, Position::ZERO.into()).await.expect("readable");
    let mut expected: Vec<String> = (0..12).flat_map(|i| [format!("{i}"), format!("{i} again")]).collect();
    expected.extend(vec!["x".repeat(1_000); 4]);
    expected.push("foreign".into());
    assert_eq!(texts(&all), expected);
    assert_eq!(all[28].from, LinkId(LogId(7)));
    assert_eq!(all[28].entry, relayed(7, 1, 2, "foreign"));
    assert_eq!(all[23].entry.header().lamport, Lamport(24));
    let known = log.append(arrival(7, vec![Draft::Relayed(relayed(7, 1, 2, "foreign"))], None)).await;
    assert_eq!(known.expect("a no-op").position, Position(26));
    assert_eq!(log.append(append(vec![local("next")])).await.expect("appended").position, Position(27));
}
