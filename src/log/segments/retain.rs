//! Which segments may go.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::segment::Segment;
use super::shared::Shared;
use crate::model::{Position, Timestamp};

/// Segments of a log that grows slowly, in the time for which entries are kept.
const ROLLS_IN_TIME: u32 = 4;

/// Removes whole segments, oldest first: those that nobody needs and whose time is over, those beyond the byte budget,
/// and those wholly at or below `upto`. The segment that is written to stays.
pub(super) fn trim(shared: &Shared, upto: Option<Position>) -> io::Result<()> {
    let mut removed = false;
    while let Some(oldest) = due(shared, upto) {
        // First out of sight, so that readers are told; who has the file open reads on.
        shared.with_segments(|segments| {
            if segments.first().is_some_and(|first| Arc::ptr_eq(first, &oldest)) {
                segments.remove(0);
            }
        });
        match shared.storage.remove(&oldest.name) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => removed = true,
        }
    }
    if removed { shared.storage.sync() } else { Ok(()) }
}

/// Ends the segment that is written to when it has something and has been open for a good part of the time for which entries
/// are kept: a log that grows slowly, too, forgets what is old. `now`: whatever its age.
pub(super) fn roll(shared: &Shared, now: bool) -> io::Result<()> {
    let due = || {
        let segments = shared.segments();
        let Some(last) = segments.last() else { return false };
        let age_us = Timestamp::now().0.saturating_sub(last.created.0);
        let old = age_us as u128 > (shared.retention().time / ROLLS_IN_TIME).as_micros();
        let something = last.base.0 <= *shared.tail.borrow();
        something && (now || old)
    };
    if shared.read_only || !due() {
        return Ok(());
    }
    match shared.writer().as_mut() {
        // Somebody may have been faster.
        Some(writer) if due() => writer.begin_segment(shared).map_err(|error| io::Error::other(error.to_string())),
        _ => Ok(()),
    }
}

/// The oldest segment, if it may go.
fn due(shared: &Shared, upto: Option<Position>) -> Option<Arc<Segment>> {
    let segments = shared.segments();
    let [oldest, later @ ..] = segments.as_slice() else { return None };
    let next = later.first()?;
    let last = last_before(next);
    // Recovery starts at a segment that does not begin within a unit.
    if later.iter().all(|segment| segment.continues) {
        return None;
    }
    let bytes: u64 = segments.iter().map(|segment| segment.capacity).sum();
    let age_us = Timestamp::now().0.saturating_sub(next.created.0);
    let released = last <= Position(shared.released.load(Ordering::Relaxed));
    let retain = shared.retention();
    let expired = released && age_us as u128 > retain.time.as_micros();
    let over = bytes > retain.bytes;
    let asked = upto.is_some_and(|upto| last <= upto);
    (expired || over || asked).then(|| oldest.clone())
}

/// The last position of which something is in the segments before that one.
fn last_before(next: &Segment) -> Position {
    let (base, part) = next.base;
    if part > 0 { base } else { Position(base.0.saturating_sub(1)) }
}
