//! Rows of events in the order of their ids, gathered into entries.

use bytes::Bytes;

use crate::log::Limit;
use crate::model::{
    Entry, EntryHeader, Event, EventTime, LinkId, Logged, Position, ReadFrom, Timestamp, events_table, limits,
    put_entry, put_event,
};

/// Microseconds from 1970-01-01 to 2000-01-01.
const EPOCH_2000_US: i64 = 946_684_800_000_000;

/// Entries under construction: one buffer, cut into entries at the end. Neighbours with one time are one transaction.
pub(super) struct Gathering {
    limit: Limit,
    bytes: Vec<u8>,
    ends: Vec<(Position, usize)>,
    header: EntryHeader,
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
            bytes: Vec::with_capacity(limit.bytes.min(limits::PART_BYTES_TARGET)),
            ends: Vec::new(),
            header: EntryHeader { tables: vec![events_table().fingerprint], ..EntryHeader::default() },
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
        self.bytes.len() >= self.limit.bytes || self.ends.len() >= self.limit.entries
    }

    /// There are no more events: the last transaction is whole.
    pub(super) fn close(&mut self) {
        if !self.changes.is_empty() {
            self.put(false);
        }
    }

    fn put(&mut self, more: bool) {
        (self.header.part, self.header.more) = (self.part, more);
        self.header.time = Timestamp(self.time.0.saturating_add(EPOCH_2000_US));
        put_entry(&mut self.bytes, &self.header, &self.changes);
        // Of a transaction in parts only the last one's position is the transaction's.
        let position = Position(self.last_id as u64);
        self.ends.push((position, self.bytes.len()));
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
        let bytes = Bytes::from(self.bytes);
        let mut start = 0;
        let entries = self.ends.iter().map(|&(position, end)| {
            let entry = Entry::decode(bytes.slice(start..end)).expect("it was encoded here");
            start = end;
            Logged { position, from: LinkId::LOCAL, entry }
        });
        entries.collect()
    }
}
