//! Checks every batch of a log that is not running.

use std::path::Path;
use std::sync::Arc;

use super::error::OpenError;
use super::open::{self, Verified};
use super::scan;
use super::storage::{FolderStorage, Storage};

/// Reads the whole log in a folder and checks everything that can be checked. Changes nothing. The first damage is the
/// error, with its segment and offset.
pub fn verify(dir: &Path) -> Result<Verified, OpenError> {
    verify_in(Arc::new(FolderStorage::new(dir)))
}

pub(super) fn verify_in(storage: Arc<dyn Storage>) -> Result<Verified, OpenError> {
    let (shared, _guard) = open::open_read_only(storage.clone())?;
    let segments = shared.segments().clone();
    let tail = shared.ledger().tail;
    let mut verified = Verified {
        segments: segments.len(),
        batches: 0,
        entries: 0,
        oldest: shared.oldest(),
        tail,
        torn_bytes: shared.torn_bytes,
    };
    let mut previous: Option<(u64, u32)> = None;
    for segment in segments {
        let damaged = |offset: u64, why: String| OpenError::Damaged { segment: segment.name.clone(), offset, why };
        let file = storage.open(&segment.name, false)?;
        let mut bytes = vec![0; segment.end() as usize];
        file.read_at(&mut bytes, 0)?;
        let bytes = bytes.into();
        let mut offset = segment.header_bytes;
        while offset < segment.end() {
            let batch = scan::parse(&bytes, offset as usize).map_err(|why| damaged(offset, why))?;
            scan::for_each_entry(&batch, |_| verified.entries += 1).map_err(|why| damaged(offset, why))?;
            if previous
                .is_some_and(|(sequence, crc)| (sequence + 1, crc) != (batch.header.sequence, batch.header.prev_crc))
            {
                return Err(damaged(
                    offset,
                    format!("batch {} does not follow the one before it", batch.header.sequence),
                ));
            }
            previous = Some((batch.header.sequence, batch.crc));
            verified.batches += 1;
            offset += batch.header.total_bytes();
        }
    }
    Ok(verified)
}
