//! Logs: the laws that every log keeps, and what a log on disk does under damage.

mod damage;
mod faults;
mod fixture;
mod folder;
mod mirror;

use watershed::log::memory::MemoryLog;
use watershed::log::segments::{SegmentLog, SegmentOptions};
use watershed::testing::log_conformance;

fn options(dir: &std::path::Path, segment_bytes: u64) -> SegmentOptions {
    SegmentOptions { segment_bytes, ..SegmentOptions::new(dir) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_memory_log_keeps_every_law() {
    log_conformance::check_all(MemoryLog::new).await;
    let reopen = |log: MemoryLog| {
        log.reopen();
        log
    };
    log_conformance::check_reopen(MemoryLog::new(), reopen).await;
}

async fn segment_logs_keep_every_law(segment_bytes: u64) {
    let dir = tempfile::tempdir().expect("a folder");
    let number = std::sync::atomic::AtomicU32::new(0);
    let fresh = || {
        let n = number.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        SegmentLog::open(options(&dir.path().join(n.to_string()), segment_bytes)).expect("opened")
    };
    log_conformance::check_all(fresh).await;
    let again = dir.path().join("again");
    let reopen = |log: SegmentLog| {
        drop(log);
        let log = SegmentLog::open(options(&again, segment_bytes)).expect("opened");
        assert_eq!(watershed::log::Log::info(&log).torn_bytes, 0, "a clean close leaves nothing torn");
        log
    };
    log_conformance::check_reopen(SegmentLog::open(options(&again, segment_bytes)).expect("opened"), reopen).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_segment_log_keeps_every_law() {
    segment_logs_keep_every_law(1 << 20).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_segment_log_of_many_small_segments_keeps_every_law() {
    segment_logs_keep_every_law(4 << 10).await;
}

#[tokio::test]
async fn a_segment_log_keeps_every_law_on_one_thread() {
    segment_logs_keep_every_law(16 << 10).await;
}
