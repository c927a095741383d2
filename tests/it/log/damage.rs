//! A log of which some byte is not what was written: what was acknowledged is read, or the damage is named.

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;
use watershed::log::segments::{OpenError, SegmentLog, SegmentOptions};
use watershed::log::{Log, Source, SourceError};
use watershed::model::Position;
use watershed::testing::log_conformance::{append, arrival, large, local, read_all, relayed, texts};
use watershed::testing::log_storage::FaultyStorage;

type Files = BTreeMap<String, Vec<u8>>;

fn options(storage: &FaultyStorage) -> SegmentOptions {
    let storage = Some(Arc::new(storage.clone()) as _);
    SegmentOptions { segment_bytes: 1536, storage, ..SegmentOptions::new("memory") }
}

/// A small log as it is found after a clean close, and as it is found when the process was killed right after its last
/// append; and what was acknowledged.
async fn logs() -> (Vec<Files>, Vec<String>) {
    let storage = FaultyStorage::new();
    let log = SegmentLog::open(options(&storage)).expect("opened");
    for i in 0..7 {
        log.append(append(vec![local(&format!("a{i}")), local(&format!("b{i}"))])).await.expect("appended");
    }
    log.append(append(vec![large(3, 600, None)])).await.expect("appended");
    let foreign = watershed::log::Draft::Relayed(relayed(7, 1, 1, "foreign"));
    log.append(arrival(7, vec![foreign], Some("one"))).await.expect("appended");
    log.append(append(vec![local("last but one")])).await.expect("appended");
    log.append(append(vec![local("last")])).await.expect("appended");
    let killed = storage.files();
    let acknowledged = texts(&read_all(&log, Position::ZERO.into()).await.expect("readable"));
    log.close().expect("closed");
    let segments = |files: Files| files.into_iter().filter(|(name, _)| name.starts_with("seg-")).collect::<Files>();
    let logs = vec![segments(storage.files()), segments(killed)];
    assert!(logs[0].len() >= 3, "several segments are tested, not {}", logs[0].len());
    (logs, acknowledged)
}

enum Outcome {
    /// That many entries, and then nothing.
    Prefix(usize),
    /// Named at that segment and offset.
    Refused(String, u64),
}

/// Opens, reads everything, and compares it with what was acknowledged. Panics on a wrong entry.
async fn outcome(files: &Files, acknowledged: &[String]) -> Outcome {
    let storage = FaultyStorage::with_files(files.clone());
    let log = match SegmentLog::open(options(&storage)) {
        Ok(log) => log,
        Err(OpenError::Damaged { segment, offset, .. }) => {
            let after = storage.files();
            assert!(files.iter().all(|(name, bytes)| after.get(name) == Some(bytes)), "a refusal changes nothing");
            return Outcome::Refused(segment, offset);
        }
        Err(error) => panic!("{error}"),
    };
    let outcome = match read_all(&log, Position::ZERO.into()).await {
        Ok(entries) => {
            let found = texts(&entries);
            assert!(acknowledged.starts_with(&found), "a wrong entry: {found:?}");
            let at = log.append(append(vec![local("next")])).await.expect("a log that opens can be appended to");
            assert_eq!(at.position, log.info().tail);
            let next = read_all(&log, Position(at.position.0 - 1).into()).await.expect("readable");
            assert_eq!(texts(&next), ["next"]);
            Outcome::Prefix(found.len())
        }
        Err(SourceError::Damaged { place, offset, .. }) => Outcome::Refused(place, offset),
        Err(error) => panic!("{error}"),
    };
    drop(log);
    outcome
}

/// Makes a change at every offset of every segment and checks what comes of it. Returns the fewest entries seen.
async fn everywhere(change: impl Fn(&mut Vec<u8>, usize), may_cost_last: usize) {
    let (logs, acknowledged) = logs().await;
    for files in logs {
        for (name, bytes) in &files {
            for offset in 0..bytes.len() {
                let mut damaged = files.clone();
                change(damaged.get_mut(name).expect("it is there"), offset);
                if damaged == files {
                    continue;
                }
                match outcome(&damaged, &acknowledged).await {
                    Outcome::Prefix(n) => {
                        assert!(n + may_cost_last >= acknowledged.len(), "{name} {offset}: only {n} entries are left")
                    }
                    Outcome::Refused(segment, at) => {
                        assert_eq!(&segment, name, "damage at {offset} is found in {segment}");
                        assert!(at <= offset as u64, "damage at {offset} is found at {at}");
                    }
                }
            }
        }
    }
}

#[tokio::test]
async fn a_flipped_bit_anywhere_costs_the_last_group_or_is_named() {
    everywhere(|bytes, offset| bytes[offset] ^= 1 << (offset % 8), 1).await;
}

#[tokio::test]
async fn a_segment_cut_short_anywhere_is_named() {
    let (logs, acknowledged) = logs().await;
    for files in logs {
        for (name, bytes) in &files {
            for offset in 0..bytes.len() {
                let mut damaged = files.clone();
                damaged.get_mut(name).expect("it is there").truncate(offset);
                match outcome(&damaged, &acknowledged).await {
                    Outcome::Prefix(_) => panic!("{name} cut at {offset} was not noticed"),
                    Outcome::Refused(segment, _) => assert_eq!(&segment, name),
                }
            }
        }
    }
}

#[tokio::test]
async fn a_missing_segment_is_named_unless_it_is_the_oldest() {
    let (logs, acknowledged) = logs().await;
    let names: Vec<_> = logs[0].keys().cloned().collect();
    for name in &names[1..names.len() - 1] {
        let mut damaged = logs[0].clone();
        damaged.remove(name);
        assert!(matches!(outcome(&damaged, &acknowledged).await, Outcome::Refused(..)), "{name}");
    }
}

#[tokio::test]
async fn an_unreached_tail_of_zeroes_anywhere_is_an_acknowledged_prefix_or_is_named() {
    let (logs, acknowledged) = logs().await;
    let files = &logs[1];
    let (name, bytes) = files.last_key_value().expect("segments");
    for offset in 0..bytes.len() {
        let mut damaged = files.clone();
        damaged.get_mut(name).expect("it is there")[offset..].fill(0);
        // Nothing is left that could prove what was lost, so a prefix is all that can be asked for.
        outcome(&damaged, &acknowledged).await;
    }
}

/// The same CRC as the log's, bit by bit: the input is small.
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0u32, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| (crc >> 1) ^ if crc & 1 != 0 { 0x82f6_3b78 } else { 0 })
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// Whoever writes valid CRCs reaches the checks behind them; they must not panic either.
    #[test]
    fn batch_headers_forged_with_valid_crcs_never_panic(
        batch in 0..12usize, at in 8..84usize, forged in prop::collection::vec(any::<u8>(), 1..9),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        runtime.block_on(async {
            let (mut logs, _) = logs().await;
            let (name, bytes) = logs[1].iter().nth(batch % 3).expect("segments");
            let begins = |at: usize| bytes[at..].starts_with(b"WSb\xA7");
            let batches: Vec<usize> = (0..bytes.len() - 88).filter(|at| begins(*at)).collect();
            let (name, start) = (name.clone(), batches[batch % batches.len()]);
            let bytes = logs[1].get_mut(&name).expect("it is there");
            let end = (start + at + forged.len()).min(start + 88);
            bytes[start + at..end].copy_from_slice(&forged[..end - start - at]);
            let crc = crc32c(&bytes[start + 8..start + 88]);
            bytes[start + 4..start + 8].copy_from_slice(&crc.to_le_bytes());
            let opened = SegmentLog::open(options(&FaultyStorage::with_files(logs[1].clone())));
            if let Ok(log) = opened {
                let mut from = Position::ZERO.into();
                while let Ok(batch) = log.read(from, Default::default()).await {
                    if batch.entries.is_empty() {
                        break;
                    }
                    from = batch.next;
                }
            }
        });
    }
}
