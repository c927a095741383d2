//! One segment: its file's name, where its batches are, and where it ends.

use std::sync::{PoisonError, RwLock};

use super::format::SegmentHeader;
use crate::model::{Position, Timestamp, limits};

/// Position and part.
pub(super) type Place = (Position, u32);

/// A segment file.
#[derive(Debug)]
pub(super) struct Segment {
    pub name: String,
    /// Of the first entry in it.
    pub base: Place,
    /// Of the first batch in it.
    pub sequence: u64,
    pub created: Timestamp,
    /// It begins within a unit.
    pub continues: bool,
    pub header_bytes: u64,
    /// The file's length.
    pub capacity: u64,
    index: RwLock<Index>,
}

#[derive(Debug, Default)]
struct Index {
    /// First entries of some batches, and their offsets, ascending.
    places: Vec<(Place, u64)>,
    /// The first entry of the last unit, and its offset: what followers of the tail ask for.
    last: Option<(Place, u64)>,
    /// Behind the last durable batch.
    end: u64,
    /// Whether the index covers the segment; that of a segment read from disk is built when it is first read.
    complete: bool,
}

impl Segment {
    /// The segment with that header, without batches.
    pub fn new(header: &SegmentHeader, header_bytes: u64, capacity: u64) -> Segment {
        let index = Index { end: header_bytes, ..Index::default() };
        Segment {
            name: segment_name(Position(header.base), header.sequence),
            base: (Position(header.base), header.base_part),
            sequence: header.sequence,
            created: Timestamp(header.created),
            continues: header.continues,
            header_bytes,
            capacity,
            index: RwLock::new(index),
        }
    }

    fn with<R>(&self, f: impl FnOnce(&mut Index) -> R) -> R {
        f(&mut self.index.write().unwrap_or_else(PoisonError::into_inner))
    }

    /// Notes a batch at an offset; batches come in order.
    pub fn note(&self, first: Position, first_part: u32, offset: u64) {
        self.with(|index| index.note((first, first_part), offset));
    }

    /// Notes the batches of a durable unit, and where the segment ends now.
    pub fn note_unit(&self, batches: impl Iterator<Item = (Place, u64)>, end: u64) {
        self.with(|index| {
            index.last = None;
            for (place, offset) in batches {
                index.last.get_or_insert((place, offset));
                index.note(place, offset);
            }
            index.end = end;
        });
    }

    /// Sets where the segment ends. `complete`: everything before has been noted.
    pub fn set_end(&self, end: u64, complete: bool) {
        self.with(|index| {
            index.end = end;
            index.complete = complete;
            index.last = None;
            let known = index.places.partition_point(|(_, offset)| *offset < end);
            index.places.truncate(known);
        });
    }

    /// Behind the last durable batch.
    pub fn end(&self) -> u64 {
        self.index.read().unwrap_or_else(PoisonError::into_inner).end
    }

    /// The last offset known at which a batch begins that is not behind the place, and the segment's end. `None`: the
    /// index has to be built first.
    pub fn locate(&self, place: Place) -> Option<(u64, u64)> {
        let index = self.index.read().unwrap_or_else(PoisonError::into_inner);
        if !index.complete {
            return None;
        }
        if let Some((_, offset)) = index.last.filter(|(last, _)| *last <= place) {
            return Some((offset, index.end));
        }
        let after = index.places.partition_point(|(first, _)| *first <= place);
        let offset = match after {
            0 => self.header_bytes,
            _ => index.places[after - 1].1,
        };
        Some((offset, index.end))
    }
}

impl Index {
    fn note(&mut self, place: Place, offset: u64) {
        let far =
            self.places.last().is_none_or(|(last, at)| offset >= at + limits::SEGMENT_INDEX_BYTES && place > *last);
        if far {
            self.places.push((place, offset));
        }
    }
}

/// The file's name: base position and first batch.
pub(super) fn segment_name(base: Position, sequence: u64) -> String {
    format!("seg-{:020}-{sequence:020}.log", base.0)
}

/// Base position and first batch of a segment file's name.
pub(super) fn parse_name(name: &str) -> Option<(u64, u64)> {
    let (base, sequence) = name.strip_prefix("seg-")?.strip_suffix(".log")?.split_once('-')?;
    let number = |digits: &str| (digits.len() == 20).then(|| digits.parse().ok()).flatten();
    Some((number(base)?, number(sequence)?))
}
