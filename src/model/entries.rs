//! Entries under construction: one buffer, cut into entries at the end.

use bytes::Bytes;

use super::{Entry, EntryHeader, EventTime, LinkId, Logged, Position, events_table, put_entry};

/// Entries of events, gathered by a source that reads rows.
pub struct EventEntries {
    bytes: Vec<u8>,
    ends: Vec<(Position, usize)>,
    header: EntryHeader,
}

impl EventEntries {
    /// With room for so many bytes.
    pub fn with_capacity(bytes: usize) -> EventEntries {
        let header = EntryHeader { tables: vec![events_table().fingerprint], ..EntryHeader::default() };
        EventEntries { bytes: Vec::with_capacity(bytes), ends: Vec::new(), header }
    }

    /// Encoded bytes so far.
    pub fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Entries so far, parts counted singly.
    pub fn count(&self) -> usize {
        self.ends.len()
    }

    /// Adds an entry around encoded events: part `part` (from 0) of its transaction, and whether more follow.
    pub fn put(&mut self, position: Position, time: EventTime, part: u32, more: bool, changes: &[u8]) {
        (self.header.part, self.header.more, self.header.time) = (part, more, time.since_1970());
        put_entry(&mut self.bytes, &self.header, changes);
        self.ends.push((position, self.bytes.len()));
    }

    /// The entries, first logged here.
    pub fn finish(self) -> Vec<Logged> {
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
