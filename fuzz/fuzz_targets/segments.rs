//! A log's folder with arbitrary bytes in it: the open is refused or everything in it can be read; never a panic.
//!
//! The input is written over a valid segment from an offset on (its first two bytes), with valid CRCs where the third
//! byte asks for it, so that the checks behind the CRCs are reached as well.
#![no_main]

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use libfuzzer_sys::fuzz_target;
use watershed::log::segments::{SegmentLog, SegmentOptions};
use watershed::log::{Limit, Log, Source};
use watershed::model::Position;
use watershed::testing::log_conformance::{append, large, local};
use watershed::testing::log_storage::FaultyStorage;

fn options(storage: &FaultyStorage) -> SegmentOptions {
    let storage = Some(Arc::new(storage.clone()) as _);
    SegmentOptions { segment_bytes: 4 << 10, storage, ..SegmentOptions::new("memory") }
}

fn block_on<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().build().expect("a runtime").block_on(future)
}

static SEED: LazyLock<BTreeMap<String, Vec<u8>>> = LazyLock::new(|| {
    let storage = FaultyStorage::new();
    let log = SegmentLog::open(options(&storage)).expect("opened");
    for i in 0..8 {
        block_on(log.append(append(vec![local(&i.to_string()), large(2, 100, None)]))).expect("appended");
    }
    storage.files().into_iter().filter(|(name, _)| name.ends_with(".log")).collect()
});

fuzz_target!(|data: &[u8]| {
    let [low, high, which, bytes @ ..] = data else { return };
    let mut files = SEED.clone();
    let n = usize::from(*which) % files.len();
    let Some(file) = files.values_mut().nth(n) else { return };
    let offset = usize::from(u16::from_le_bytes([*low, *high])) % file.len();
    let end = file.len().min(offset + bytes.len());
    file[offset..end].copy_from_slice(&bytes[..end - offset]);
    if which & 128 != 0 && offset + 88 <= file.len() {
        let crc = crc32c(&file[offset + 8..offset + 88]);
        file[offset + 4..offset + 8].copy_from_slice(&crc.to_le_bytes());
    }
    let Ok(log) = SegmentLog::open(options(&FaultyStorage::with_files(files))) else { return };
    let mut from = Position(log.info().oldest.0.saturating_sub(1)).into();
    while let Ok(batch) = block_on(log.read(from, Limit::default())) {
        if batch.entries.is_empty() {
            break;
        }
        from = batch.next;
    }
});

/// Bit by bit: the input is small.
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0u32, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| (crc >> 1) ^ if crc & 1 != 0 { 0x82f6_3b78 } else { 0 })
    })
}
