//! Reads batches out of segment files, and checks every one of them.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Bytes, BytesMut};

use super::format::{BATCH_HEADER, BatchHeader, FLAG_LARGE, FLAG_LAST_PART, entry_at};
use super::scan::{Parsed, parse};
use super::segment::{Place, Segment};
use super::shared::Shared;
use super::storage::StoredFile;
use crate::log::{Limit, SourceError};
use crate::model::{Batch, Entry, Logged, Position, ReadFrom, limits};

/// What one read has collected.
struct Collected {
    entries: Vec<Logged>,
    bytes: usize,
    next: ReadFrom,
    limit: Limit,
    /// Nothing beyond it is delivered.
    tail: Position,
}

impl Collected {
    fn place(&self) -> Place {
        (self.next.after.next(), self.next.part)
    }

    fn has_room_for(&self, bytes: usize) -> bool {
        self.entries.is_empty()
            || (self.entries.len() < self.limit.entries && self.bytes.saturating_add(bytes) <= self.limit.bytes)
    }
}

fn damaged(segment: &Segment, offset: u64, why: impl Into<String>) -> SourceError {
    SourceError::Damaged { place: segment.name.clone(), offset, why: why.into() }
}

/// See [`crate::log::Source::read`].
pub(super) fn read(shared: &Shared, from: ReadFrom, limit: Limit) -> Result<Batch, SourceError> {
    let tail = *shared.tail.borrow();
    if from.after > tail || (from.after == tail && from.part > 0) {
        return Err(SourceError::Beyond { asked: from.after, tail });
    }
    if from.after < shared.hidden() {
        return Err(SourceError::Trimmed { asked: from.after.next(), oldest: shared.oldest() });
    }
    let mut collected = Collected { entries: Vec::new(), bytes: 0, next: from, limit, tail };
    while collected.next.after < tail {
        let Some(segment) = segment_of(shared, collected.place()) else {
            if !collected.entries.is_empty() {
                break;
            }
            return Err(SourceError::Trimmed { asked: from.after.next(), oldest: shared.oldest() });
        };
        match read_segment(shared, &segment, &mut collected) {
            Ok(true) => {}
            Ok(false) => break,
            Err(SourceError::Io(e)) if e.kind() == io::ErrorKind::NotFound => {
                // Retention took it meanwhile; the next look at the list says so.
                if shared.segments().iter().any(|known| Arc::ptr_eq(known, &segment)) {
                    return Err(damaged(&segment, 0, "the file is missing"));
                }
            }
            // What was read before the damage is good.
            Err(SourceError::Damaged { .. }) if !collected.entries.is_empty() => break,
            Err(error) => return Err(error),
        }
    }
    let upto = shared.ledger().cursor_at(collected.next.after);
    Ok(Batch { entries: collected.entries, upto, next: collected.next, catalog: shared.catalog.clone() })
}

/// The segment in which that place is, if it has not been removed.
fn segment_of(shared: &Shared, place: Place) -> Option<Arc<Segment>> {
    let segments = shared.segments();
    let first = segments.first()?.base;
    // A large transaction whose first parts are gone is gone.
    if first.1 > 0 && first.0 == place.0 {
        return None;
    }
    let after = segments.partition_point(|segment| segment.base <= place);
    segments.get(after.checked_sub(1)?).cloned()
}

/// Reads on in one segment; true if the next segment may have more for this read.
fn read_segment(shared: &Shared, segment: &Segment, collected: &mut Collected) -> Result<bool, SourceError> {
    let file = shared.storage.open(&segment.name, false)?;
    let (mut offset, end) = match segment.locate(collected.place()) {
        Some(found) => found,
        None => {
            index(file.as_ref(), segment)?;
            segment.locate(collected.place()).ok_or_else(|| damaged(segment, 0, "it cannot be indexed"))?
        }
    };
    let before = collected.next;
    while offset < end {
        // The index leads to a batch near the place, so a little more than the limit is read.
        let wanted = (collected.limit.bytes as u64).saturating_sub(collected.bytes as u64);
        let wanted = wanted.min(limits::READ_BYTES_MAX as u64) + limits::SEGMENT_INDEX_BYTES;
        let buffer = fill(shared, file.as_ref(), segment, offset, wanted.min(end - offset))?;
        let used = take_batches(segment, &buffer, offset, collected)?;
        match used {
            Taken::Full => return Ok(false),
            // The next read begins with this batch, and checks it once.
            Taken::Bytes(0) if !collected.entries.is_empty() => return Ok(false),
            Taken::Bytes(0) => {
                let (header, _) = BatchHeader::decode(&buffer).map_err(|why| damaged(segment, offset, why))?;
                if header.total_bytes() > end - offset {
                    return Err(damaged(segment, offset, "a batch is longer than its segment"));
                }
                let whole = fill(shared, file.as_ref(), segment, offset, header.total_bytes())?;
                match take_batches(segment, &whole, offset, collected)? {
                    Taken::Full => return Ok(false),
                    Taken::Bytes(used) => offset += used,
                }
            }
            Taken::Bytes(used) => offset += used,
        }
    }
    // Everything in this segment was taken, so the place that comes next begins the next segment.
    let next_begins =
        shared.segments().iter().any(|later| later.sequence > segment.sequence && later.base <= collected.place());
    if collected.next == before && !next_begins && collected.next.after < collected.tail {
        return Err(damaged(segment, end, "the entries that should be here are missing"));
    }
    Ok(next_begins)
}

fn fill(
    shared: &Shared,
    file: &dyn StoredFile,
    segment: &Segment,
    offset: u64,
    bytes: u64,
) -> Result<Bytes, SourceError> {
    match shared.buffers.fill(bytes as usize, |buffer| file.read_at(buffer, offset)) {
        Ok(buffer) => Ok(buffer),
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Err(damaged(segment, offset, "the file ends here")),
        Err(e) => Err(e.into()),
    }
}

/// Buffers of large reads, used again once nobody has entries in them: getting fresh memory for every read costs more
/// than reading.
#[derive(Default)]
pub(super) struct Buffers {
    kept: Mutex<Vec<Bytes>>,
}

impl Buffers {
    const KEPT: usize = 4;
    const BYTES: usize = limits::READ_BYTES_MAX + limits::SEGMENT_INDEX_BYTES as usize;

    fn fill(&self, bytes: usize, read: impl FnOnce(&mut [u8]) -> io::Result<()>) -> io::Result<Bytes> {
        if !(Self::BYTES / 4..=Self::BYTES).contains(&bytes) {
            let mut buffer = vec![0; bytes];
            read(&mut buffer)?;
            return Ok(buffer.into());
        }
        let mut buffer = self.take().unwrap_or_else(|| BytesMut::zeroed(Self::BYTES));
        read(&mut buffer[..bytes])?;
        let buffer = buffer.freeze();
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() == Self::KEPT {
            kept.remove(0);
        }
        kept.push(buffer.clone());
        Ok(buffer.slice(..bytes))
    }

    fn take(&self) -> Option<BytesMut> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let free = kept.iter().position(Bytes::is_unique)?;
        kept.swap_remove(free).try_into_mut().ok().filter(|buffer| buffer.len() == Self::BYTES)
    }
}

enum Taken {
    /// No more is wanted.
    Full,
    /// The batches that are whole in the buffer, in bytes; 0 if the first one is not.
    Bytes(u64),
}

/// Takes the entries of whole batches in the buffer, which begins at `offset` of the segment.
fn take_batches(
    segment: &Segment,
    buffer: &Bytes,
    offset: u64,
    collected: &mut Collected,
) -> Result<Taken, SourceError> {
    let mut at = 0;
    while at + BATCH_HEADER <= buffer.len() {
        let bad = |why| damaged(segment, offset + at as u64, why);
        let (header, _) = BatchHeader::decode(&buffer[at..]).map_err(bad)?;
        let end = at as u64 + header.total_bytes();
        if end > buffer.len() as u64 {
            break;
        }
        if header.first > collected.tail {
            return Ok(Taken::Full);
        }
        let place = collected.place();
        let behind = match header.is(FLAG_LARGE) {
            true => (header.first, header.first_part.saturating_add(header.count)) <= place,
            false => header.count == 0 || header.last() < place.0,
        };
        if !behind {
            if !collected.entries.is_empty() && !collected.has_room_for(header.body_bytes as usize) {
                return Ok(Taken::Full);
            }
            let batch = parse(buffer, at).map_err(bad)?;
            if !take_entries(&batch, collected).map_err(bad)? {
                return Ok(Taken::Full);
            }
        }
        at = end as usize;
    }
    Ok(Taken::Bytes(at as u64))
}

/// Takes a batch's entries from the place on that is asked for; false when no more are wanted.
fn take_entries(batch: &Parsed, collected: &mut Collected) -> Result<bool, String> {
    let header = &batch.header;
    let (place, end) = (collected.place(), batch.entries_end());
    let first = (header.first, header.first_part);
    if first > place && first.0 > place.0 {
        return Err(format!("position {} is expected here, but {} follows", place.0, first.0));
    }
    let mut runs = batch.meta.runs.iter();
    let mut run = runs.next().copied();
    let mut at = 0;
    let room = collected.limit.entries.saturating_sub(collected.entries.len());
    collected.entries.reserve(room.min(header.count as usize).min(batch.body.len() / 4));
    for i in 0..header.count {
        let bytes = entry_at(&batch.body, at, end)?;
        at += 4 + bytes.len();
        while run.is_some_and(|run| run.count == 0) {
            run = runs.next().copied();
        }
        let from = run.as_ref().map(|run| run.link()).unwrap_or_default();
        if let Some(run) = &mut run {
            run.count -= 1;
        }
        let here = match header.is(FLAG_LARGE) {
            true => (header.first, header.first_part.saturating_add(i)),
            false => (Position(header.first.0.saturating_add(u64::from(i))), 0),
        };
        if here < place {
            continue;
        }
        if !collected.has_room_for(bytes.len()) {
            return Ok(false);
        }
        collected.bytes += bytes.len();
        let entry = Entry::decode(bytes).map_err(|e| e.to_string())?;
        let last_part = header.is(FLAG_LAST_PART) && i + 1 == header.count;
        collected.next = match header.is(FLAG_LARGE) && !last_part {
            true => ReadFrom { after: Position(here.0.0.saturating_sub(1)), part: here.1.saturating_add(1) },
            false => here.0.into(),
        };
        collected.entries.push(Logged { position: here.0, from, entry });
    }
    Ok(true)
}

/// Builds the index of a segment that was complete before the log was opened.
fn index(file: &dyn StoredFile, segment: &Segment) -> Result<(), SourceError> {
    let end = segment.end();
    let mut offset = segment.header_bytes;
    let mut header_bytes = [0; BATCH_HEADER];
    while offset < end {
        file.read_at(&mut header_bytes, offset)?;
        let (header, _) = BatchHeader::decode(&header_bytes).map_err(|why| damaged(segment, offset, why))?;
        segment.note(header.first, header.first_part, offset);
        offset += header.total_bytes();
    }
    segment.set_end(end, true);
    Ok(())
}
