//! The one place where positions are given: encodes a group of appends, makes it durable, and publishes it.

use std::io;
use std::sync::Arc;
use std::time::Instant;

use super::encoder::{Encoder, Place, UnitStart};
use super::format::{BATCH_HEADER, SegmentHeader};
use super::segment::Segment;
use super::shared::Shared;
use super::storage::StoredFile;
use crate::log::ledger::{Delta, Ledger, check_whole};
use crate::log::{Append, AppendError, Draft};
use crate::model::{Cursor, EntryHeader, Lamport, LinkId, Position, SourceCursor, TableDef, Timestamp, limits};

/// Where the next batch goes.
pub(super) struct Writer {
    pub file: Arc<dyn StoredFile>,
    pub segment: Arc<Segment>,
    pub offset: u64,
    /// Behind the last byte that has been written to the segment, durable or not.
    pub written: u64,
    pub sequence: u64,
    pub prev_crc: u32,
    /// Whether the last batch says that everything before it is durable.
    pub marked: bool,
    pub last_append: Instant,
    /// Why nothing may be appended before the log has been recovered.
    pub broken: Option<String>,
    pub buffer: Vec<u8>,
}

/// What to go back to when a unit fails.
pub(super) struct Checkpoint {
    file: Arc<dyn StoredFile>,
    segment: Arc<Segment>,
    offset: u64,
    sequence: u64,
    prev_crc: u32,
}

/// A unit's batches per segment, published once durable.
type Written = Vec<(Arc<Segment>, Vec<(super::segment::Place, u64)>, u64)>;

pub(super) fn failed(error: io::Error) -> AppendError {
    AppendError::Failed(error.to_string())
}

impl Writer {
    fn checkpoint(&self) -> Checkpoint {
        Checkpoint {
            file: self.file.clone(),
            segment: self.segment.clone(),
            offset: self.offset,
            sequence: self.sequence,
            prev_crc: self.prev_crc,
        }
    }

    fn encoder(&mut self, shared: &Shared) -> Encoder {
        let ledger = shared.ledger();
        let unit = UnitStart {
            epoch: ledger.epoch(),
            sequence: self.sequence,
            prev_crc: self.prev_crc,
            mark_position: ledger.tail,
            time: Timestamp::now(),
        };
        Encoder::new(unit, std::mem::take(&mut self.buffer))
    }

    /// Appends all of them in one unit; a large transaction comes alone. One answer each, in order.
    pub fn append(&mut self, shared: &Shared, group: Vec<Append>) -> Vec<Result<(Cursor, Lamport), AppendError>> {
        if let Err(why) = self.recover(shared) {
            return group.iter().map(|_| Err(AppendError::Failed(why.clone()))).collect();
        }
        self.last_append = Instant::now();
        let large = |append: &Append| append.drafts.iter().any(|draft| matches!(draft, Draft::Large { .. }));
        if group.iter().any(large) {
            assert!(group.len() == 1, "a large transaction is a group of its own");
            return group.into_iter().map(|append| self.append_large(shared, append)).collect();
        }
        let mut encoder = self.encoder(shared);
        let ledger = shared.ledger();
        let mut delta = ledger.delta();
        let mut answers = Vec::with_capacity(group.len());
        for append in group {
            let saved = (encoder.save(), delta.clone());
            let answer = encode(shared, &ledger, &mut encoder, &mut delta, append);
            if answer.is_err() {
                encoder.restore(saved.0);
                delta = saved.1;
            }
            answers.push(answer);
        }
        drop(ledger);
        if encoder.is_empty() {
            self.buffer = encoder.into_next().2;
            return answers;
        }
        encoder.finish(delta.tail.next());
        let outcome = self.write_unit(shared, encoder, delta);
        if let Err(error) = outcome {
            // Whoever was refused because of what came before it in the group would have been told of a tail that never was.
            let depends =
                |answer: &&mut Result<(Cursor, Lamport), _>| matches!(answer, Ok(_) | Err(AppendError::Moved { .. }));
            for answer in answers.iter_mut().filter(depends) {
                *answer = Err(again(&error));
            }
        }
        answers
    }

    /// Writes a whole unit into one segment.
    fn write_unit(&mut self, shared: &Shared, mut encoder: Encoder, delta: Delta) -> Result<(), AppendError> {
        let start = self.checkpoint();
        let mut written = Written::new();
        let result = self
            .make_room(shared, encoder.bytes() as u64)
            .and_then(|()| encoder.flush(|bytes, places| self.write(bytes, places, &mut written)))
            .and_then(|()| self.sync(shared));
        self.settle(shared, result, start, written, encoder, delta)
    }

    /// The end of every unit: it is published, or the log goes back to where it was.
    fn settle(
        &mut self,
        shared: &Shared,
        result: Result<(), AppendError>,
        start: Checkpoint,
        written: Written,
        encoder: Encoder,
        delta: Delta,
    ) -> Result<(), AppendError> {
        let (sequence, prev_crc, buffer) = encoder.into_next();
        self.buffer = buffer;
        if self.buffer.capacity() > 2 * limits::BATCH_BYTES_MAX {
            self.buffer = Vec::new();
        }
        if let Err(error) = result {
            let untouched = Arc::ptr_eq(&self.segment, &start.segment) && self.written <= start.offset;
            if matches!(error, AppendError::Failed(_)) || !untouched {
                self.rewind(shared, start);
            }
            return Err(error);
        }
        for (segment, places, end) in written {
            segment.note_unit(places.into_iter(), end);
        }
        (self.sequence, self.prev_crc) = (sequence, prev_crc);
        self.marked = false;
        shared.publish(delta);
        Ok(())
    }

    fn write(&mut self, bytes: &[u8], places: &[Place], written: &mut Written) -> Result<(), AppendError> {
        let offset = self.offset;
        assert!(offset + bytes.len() as u64 <= self.segment.capacity, "room was made before");
        self.written = self.written.max(offset + bytes.len() as u64);
        self.file.write_at(bytes, offset).map_err(failed)?;
        self.offset += bytes.len() as u64;
        let places = places.iter().map(|place| ((place.first, place.first_part), offset + place.at as u64));
        match written.last_mut().filter(|(segment, ..)| Arc::ptr_eq(segment, &self.segment)) {
            Some((_, known, end)) => {
                known.extend(places);
                *end = self.offset;
            }
            None => written.push((self.segment.clone(), places.collect(), self.offset)),
        }
        Ok(())
    }

    fn sync(&self, shared: &Shared) -> Result<(), AppendError> {
        if shared.fsync { self.file.sync_data().map_err(failed) } else { Ok(()) }
    }

    /// Between units: goes to the next segment if the unit does not fit into this one.
    fn make_room(&mut self, shared: &Shared, bytes: u64) -> Result<(), AppendError> {
        if self.offset + bytes + BATCH_HEADER as u64 <= self.segment.capacity {
            return Ok(());
        }
        let base = (shared.ledger().tail.next(), 0);
        self.roll(shared, base, self.sequence, self.prev_crc, &[], bytes)
    }

    /// Between units: goes to the next segment, so that this one may go.
    pub fn begin_segment(&mut self, shared: &Shared) -> Result<(), AppendError> {
        self.recover(shared).map_err(AppendError::Failed)?;
        let (start, base) = (self.checkpoint(), (shared.ledger().tail.next(), 0));
        let begun = self.roll(shared, base, self.sequence, self.prev_crc, &[], 0);
        if begun.as_ref().is_err_and(|error| matches!(error, AppendError::Failed(_))) {
            self.rewind(shared, start);
        }
        begun
    }

    /// Begins the next segment. Within a unit `sequence` and `prev_crc` are those of the unit's next batch.
    fn roll(
        &mut self,
        shared: &Shared,
        base: super::segment::Place,
        sequence: u64,
        prev_crc: u32,
        tables: &[Arc<TableDef>],
        bytes: u64,
    ) -> Result<(), AppendError> {
        self.file.sync_data().map_err(failed)?;
        let known = shared.catalog.all();
        let mut header = SegmentHeader::new(&shared.ledger(), known.iter().chain(tables).map(Arc::as_ref));
        (header.base, header.base_part) = (base.0.0, base.1);
        (header.sequence, header.prev_crc) = (sequence, prev_crc);
        header.mark_sequence = self.sequence - 1;
        header.continues = sequence != self.sequence;
        (header.previous_end, header.previous_sequence) = (self.offset, self.segment.sequence);
        let needed = header.encode(0).len() as u64 + bytes + 2 * BATCH_HEADER as u64;
        let (file, segment) = shared.reserve.take(needed, |file, capacity| {
            let bytes = header.encode(capacity);
            file.write_at(&bytes, 0)?;
            file.sync_data()?;
            Ok(Segment::new(&header, bytes.len() as u64, capacity))
        })?;
        let segment = Arc::new(segment);
        segment.set_end(segment.header_bytes, true);
        shared.add_segment(segment.clone());
        self.offset = segment.header_bytes;
        self.written = self.offset;
        (self.file, self.segment) = (file, segment);
        shared.worker.wake();
        Ok(())
    }

    /// Writes a batch that says that everything is durable. Best effort where there is no room.
    pub fn mark(&mut self, shared: &Shared) -> Result<(), AppendError> {
        if self.marked || self.broken.is_some() {
            return Ok(());
        }
        if self.offset + BATCH_HEADER as u64 > self.segment.capacity {
            self.marked = true;
            return Ok(());
        }
        let start = self.checkpoint();
        let delta = shared.ledger().delta();
        let mut encoder = self.encoder(shared);
        encoder.put_mark(delta.tail.next());
        encoder.finish(delta.tail.next());
        let mut written = Written::new();
        let result =
            encoder.flush(|bytes, places| self.write(bytes, places, &mut written)).and_then(|()| self.sync(shared));
        self.settle(shared, result, start, written, encoder, delta)?;
        self.marked = true;
        Ok(())
    }

    /// The same, also where everything is marked already: the mark carries a new epoch.
    pub fn begin_mark(&mut self, shared: &Shared) -> Result<(), AppendError> {
        self.marked = false;
        self.mark(shared)
    }

    fn append_large(&mut self, shared: &Shared, append: Append) -> Result<(Cursor, Lamport), AppendError> {
        let start = self.checkpoint();
        let mut delta = shared.ledger().delta();
        let mut encoder = self.encoder(shared);
        let mut written = Written::new();
        let result = self.write_large(shared, append, &mut encoder, &mut delta, &mut written);
        let cursor = delta.cursor(&shared.ledger());
        if encoder.sequence() == self.sequence {
            self.buffer = encoder.into_next().2;
            return result.map(|()| cursor);
        }
        let result = result.and_then(|()| self.sync(shared));
        self.settle(shared, result, start, written, encoder, delta)?;
        Ok(cursor)
    }

    fn write_large(
        &mut self,
        shared: &Shared,
        append: Append,
        encoder: &mut Encoder,
        delta: &mut Delta,
        written: &mut Written,
    ) -> Result<(), AppendError> {
        let Append { from, tables, drafts, upto } = append;
        let tables = delta.admit_tables(&shared.catalog, &tables);
        encoder.put_tables(delta.tail.next(), tables.iter().map(Arc::as_ref));
        for draft in drafts {
            let Draft::Large { mut header, mut parts } = draft else {
                encode_draft(shared, &shared.ledger(), encoder, delta, from, draft)?;
                continue;
            };
            Delta::require_original(&shared.ledger())?;
            delta.require_tables(&shared.catalog, &header.tables)?;
            let position = match header.origin {
                None => Some(delta.stamp(&shared.ledger(), &mut header)),
                Some(_) => delta.relay(&shared.ledger(), &header)?,
            };
            let Some(position) = position else { continue };
            let mut read = || parts.next().map_err(|e| AppendError::Invalid(format!("a part cannot be read: {e}")));
            let mut next = read()?.ok_or_else(|| AppendError::Invalid("a large transaction without parts".into()))?;
            for part in 0.. {
                let after = read()?;
                let part = EntryHeader { part, more: after.is_some(), ..header.clone() };
                encoder.put_part(position, from, &part, &next)?;
                self.flush_part(shared, encoder, &tables, written)?;
                match after {
                    Some(after) => next = after,
                    None => break,
                }
            }
        }
        if let Some(upto) = upto {
            store_cursor(&shared.ledger(), encoder, delta, from, &upto)?;
        }
        if !encoder.is_empty() || !written.is_empty() {
            encoder.finish(delta.tail.next());
            self.flush_part(shared, encoder, &tables, written)?;
        }
        Ok(())
    }

    /// Writes the batches that are complete, into the next segment if they do not fit into this one.
    fn flush_part(
        &mut self,
        shared: &Shared,
        encoder: &mut Encoder,
        tables: &[Arc<TableDef>],
        written: &mut Written,
    ) -> Result<(), AppendError> {
        let bytes = encoder.bytes() as u64;
        if self.offset + bytes + BATCH_HEADER as u64 > self.segment.capacity {
            let (first, sequence, prev_crc) = encoder.first();
            self.roll(shared, first, sequence, prev_crc, tables, bytes)?;
        }
        encoder.flush(|bytes, places| self.write(bytes, places, written))
    }

    /// Takes back everything after the checkpoint. If that fails too, nothing is appended before it has succeeded.
    fn rewind(&mut self, shared: &Shared, to: Checkpoint) {
        let behind = Arc::ptr_eq(&self.segment, &to.segment);
        if !behind {
            self.written = to.segment.capacity;
        }
        (self.file, self.segment) = (to.file, to.segment);
        (self.offset, self.sequence, self.prev_crc) = (to.offset, to.sequence, to.prev_crc);
        self.marked = false;
        self.broken = Some("a write failed".into());
        let _ = self.recover(shared);
    }

    /// Brings the disk back to the last durable batch, if a write or fsync has failed.
    pub fn recover(&mut self, shared: &Shared) -> Result<(), String> {
        let Some(why) = self.broken.clone() else { return Ok(()) };
        match self.cut(shared) {
            Ok(()) => {
                self.written = self.offset;
                self.broken = None;
                Ok(())
            }
            Err(error) => Err(format!("{why}, and recovery failed: {error}")),
        }
    }

    /// Removes later segments, and zeroes what is behind the last durable batch. Its page is written again as a whole,
    /// because after a failed fsync the system may have forgotten that it was not on disk.
    fn cut(&mut self, shared: &Shared) -> io::Result<()> {
        shared.remove_after(&self.segment)?;
        let page = self.offset - self.offset % 4096;
        let end = self.written.max(self.offset).next_multiple_of(4096).min(self.segment.capacity);
        let mut bytes = vec![0; (self.offset - page) as usize];
        self.file.read_at(&mut bytes, page)?;
        bytes.resize((end - page) as usize, 0);
        self.file.write_at(&bytes, page)?;
        self.file.sync_data()
    }
}

/// The same error for another append of the group.
fn again(error: &AppendError) -> AppendError {
    match error {
        AppendError::DiskFull { place, needed } => AppendError::DiskFull { place: place.clone(), needed: *needed },
        other => AppendError::Failed(other.to_string()),
    }
}

fn encode(
    shared: &Shared,
    ledger: &Ledger,
    encoder: &mut Encoder,
    delta: &mut Delta,
    append: Append,
) -> Result<(Cursor, Lamport), AppendError> {
    let Append { from, tables, drafts, upto } = append;
    let new = delta.admit_tables(&shared.catalog, &tables);
    encoder.put_tables(delta.tail.next(), new.iter().map(Arc::as_ref));
    for draft in drafts {
        encode_draft(shared, ledger, encoder, delta, from, draft)?;
    }
    if let Some(upto) = upto {
        store_cursor(ledger, encoder, delta, from, &upto)?;
    }
    Ok(delta.cursor(ledger))
}

fn store_cursor(
    ledger: &Ledger,
    encoder: &mut Encoder,
    delta: &mut Delta,
    from: LinkId,
    upto: &SourceCursor,
) -> Result<(), AppendError> {
    if delta.store_cursor(ledger, from, upto)? {
        encoder.put_cursor(delta.tail.next(), from, upto);
    }
    Ok(())
}

fn encode_draft(
    shared: &Shared,
    ledger: &Ledger,
    encoder: &mut Encoder,
    delta: &mut Delta,
    from: LinkId,
    draft: Draft,
) -> Result<(), AppendError> {
    match draft {
        Draft::Expect(expected) => delta.expect(expected),
        Draft::Mirrored { position, epoch, entry } => {
            check_whole(&entry)?;
            delta.require_tables(&shared.catalog, &entry.header().tables)?;
            if delta.mirror(ledger, position, epoch, entry.header())? {
                encoder.begin_epoch(epoch);
            }
            encoder.put_bytes(position, from, entry.bytes())
        }
        Draft::Local { mut header, changes } => {
            Delta::require_original(ledger)?;
            delta.require_tables(&shared.catalog, &header.tables)?;
            (header.part, header.more) = (0, false);
            let position: Position = delta.stamp(ledger, &mut header);
            encoder.put_new(position, from, &header, &changes)
        }
        Draft::Relayed(entry) => {
            Delta::require_original(ledger)?;
            check_whole(&entry)?;
            delta.require_tables(&shared.catalog, &entry.header().tables)?;
            match delta.relay(ledger, entry.header())? {
                Some(position) => encoder.put_bytes(position, from, entry.bytes()),
                None => Ok(()),
            }
        }
        Draft::Large { .. } => Err(AppendError::Invalid("a large transaction within a group".into())),
    }
}
