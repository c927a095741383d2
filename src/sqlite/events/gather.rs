//! Rows of events in the order of their ids, gathered into entries.

use crate::log::Limit;
use crate::model::{Event, EventEntries, EventTime, Logged, Position, ReadFrom, limits, put_event};

/// Entries under construction. Neighbours with one time are one transaction.
pub(super) struct Gathering {
    limit: Limit,
    entries: EventEntries,
    time: EventTime,
    last_id: i64,
    /// Of the transaction whose end has not been seen; empty when there is none.
    changes: Vec<u8>,
    part: u32,
    /// Where the entries gathered so far end.
    pub(super) next: ReadFrom,
    /// Id and time of the last event that is in an entry.
    pub(super) put: (i64, EventTime),
}

impl Gathering {
    /// Goes on at `from`; where that is in the middle of a transaction, `before` is its last event that was read.
    pub(super) fn new(from: ReadFrom, before: (i64, EventTime), limit: Limit) -> Gathering {
        Gathering {
            limit,
            entries: EventEntries::with_capacity(limit.bytes.min(limits::PART_BYTES_TARGET)),
            time: before.1,
            last_id: before.0,
            changes: Vec::new(),
            part: from.part,
            next: from,
            put: before,
        }
    }

    /// Adds an event; `false` if there is no room, and it is to be read again.
    pub(super) fn add(&mut self, event: Event<'_>) -> bool {
        if !self.changes.is_empty() {
            if event.time != self.time {
                self.put(false);
            } else if self.changes.len() >= limits::PART_BYTES_TARGET {
                self.put(true);
            }
        }
        if self.changes.is_empty() && self.is_full() {
            return false;
        }
        (self.time, self.last_id) = (event.time, event.id);
        put_event(&mut self.changes, event);
        true
    }

    fn is_full(&self) -> bool {
        self.entries.bytes() >= self.limit.bytes || self.entries.count() >= self.limit.entries
    }

    /// There are no more events: the last transaction is whole.
    pub(super) fn close(&mut self) {
        if !self.changes.is_empty() {
            self.put(false);
        }
    }

    fn put(&mut self, more: bool) {
        // Of a transaction in parts only the last one's position is the transaction's.
        let position = Position(self.last_id as u64);
        self.entries.put(position, self.time, self.part, more, &self.changes);
        self.changes.clear();
        self.put = (self.last_id, self.time);
        self.part = if more { self.part + 1 } else { 0 };
        self.next = match more {
            true => ReadFrom { after: self.next.after, part: self.part },
            false => position.into(),
        };
    }

    /// The entries.
    pub(super) fn finish(self) -> Vec<Logged> {
        self.entries.finish()
    }
}
