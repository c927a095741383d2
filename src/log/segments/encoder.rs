//! Builds the batches of one unit: what becomes durable together.

use prost::Message;

use super::format::{
    BATCH_HEADER, BatchHeader, BatchMeta, CursorMessage, FLAG_LARGE, FLAG_LAST_PART, FLAG_MORE, RunMessage,
};
use crate::log::AppendError;
use crate::log::ledger::check_size;
use crate::model::{EntryHeader, Epoch, LinkId, Position, SourceCursor, TableDef, Timestamp};
use crate::model::{encode_table, limits, put_entry};

/// What all batches of a unit have in common.
#[derive(Clone, Copy, Debug)]
pub(super) struct UnitStart {
    pub epoch: Epoch,
    /// Of the first batch.
    pub sequence: u64,
    pub prev_crc: u32,
    pub mark_position: Position,
    pub time: Timestamp,
}

/// Where a batch stands in the encoder's buffer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub at: usize,
    pub first: Position,
    pub first_part: u32,
}

/// The batch that is being filled.
#[derive(Clone, Debug, Default)]
struct Open {
    at: usize,
    count: u32,
    first: Position,
    first_part: u32,
    flags: u32,
    meta: BatchMeta,
}

/// State to go back to when an append turns out to be refused.
pub(super) struct Saved {
    bytes: usize,
    batches: usize,
    open: Option<Open>,
    sequence: u64,
    prev_crc: u32,
    epoch: Epoch,
}

pub(super) struct Encoder {
    unit: UnitStart,
    buffer: Vec<u8>,
    batches: Vec<Place>,
    open: Option<Open>,
    sequence: u64,
    prev_crc: u32,
    /// Of the last batch that has been flushed.
    flushed_crc: u32,
}

impl Encoder {
    pub fn new(unit: UnitStart, mut buffer: Vec<u8>) -> Encoder {
        buffer.clear();
        Encoder {
            unit,
            buffer,
            batches: vec![],
            open: None,
            sequence: unit.sequence,
            prev_crc: unit.prev_crc,
            flushed_crc: unit.prev_crc,
        }
    }

    pub fn save(&self) -> Saved {
        Saved {
            bytes: self.buffer.len(),
            batches: self.batches.len(),
            open: self.open.clone(),
            sequence: self.sequence,
            prev_crc: self.prev_crc,
            epoch: self.unit.epoch,
        }
    }

    pub fn restore(&mut self, saved: Saved) {
        self.buffer.truncate(saved.bytes);
        self.batches.truncate(saved.batches);
        self.open = saved.open;
        self.sequence = saved.sequence;
        self.prev_crc = saved.prev_crc;
        self.unit.epoch = saved.epoch;
    }

    /// What follows was appended in another epoch: it goes into batches of its own.
    pub fn begin_epoch(&mut self, epoch: Epoch) {
        self.close(FLAG_MORE);
        self.unit.epoch = epoch;
    }

    pub fn is_empty(&self) -> bool {
        self.buffer.is_empty()
    }

    pub fn bytes(&self) -> usize {
        self.buffer.len()
    }

    fn open(&mut self, first: Position) -> &mut Open {
        let at = self.buffer.len();
        if self.open.is_none() {
            self.buffer.resize(at + BATCH_HEADER, 0);
        }
        self.open.get_or_insert_with(|| Open { at, first, ..Open::default() })
    }

    /// Adds one entry, encoded from its parts.
    pub fn put_new(
        &mut self,
        at: Position,
        from: LinkId,
        header: &EntryHeader,
        changes: &[u8],
    ) -> Result<(), AppendError> {
        self.put(at, from, |out| put_entry(out, header, changes))
    }

    /// Adds one entry as it came.
    pub fn put_bytes(&mut self, at: Position, from: LinkId, entry: &[u8]) -> Result<(), AppendError> {
        self.put(at, from, |out| out.extend_from_slice(entry))
    }

    fn put(&mut self, at: Position, from: LinkId, write: impl FnOnce(&mut Vec<u8>)) -> Result<(), AppendError> {
        if self.open.as_ref().is_some_and(|open| self.buffer.len() - open.at > limits::LOG_BATCH_BYTES_TARGET) {
            self.close(FLAG_MORE);
        }
        let open = self.open(at);
        open.first = if open.count == 0 { at } else { open.first };
        open.count += 1;
        match open.meta.runs.last_mut() {
            Some(run) if run.link() == from => run.count += 1,
            _ => open.meta.runs.push(RunMessage::new(from, 1)),
        }
        let start = self.buffer.len();
        self.buffer.extend_from_slice(&[0; 4]);
        write(&mut self.buffer);
        let length = self.buffer.len() - start - 4;
        check_size(length)?;
        self.buffer[start..start + 4].copy_from_slice(&(length as u32).to_le_bytes());
        Ok(())
    }

    /// Adds a part of a large transaction, in a batch of its own.
    pub fn put_part(
        &mut self,
        at: Position,
        from: LinkId,
        header: &EntryHeader,
        changes: &[u8],
    ) -> Result<(), AppendError> {
        self.close(FLAG_MORE);
        self.put_new(at, from, header, changes)?;
        let open = self.open(at);
        open.first_part = header.part;
        open.flags = FLAG_LARGE | if header.more { 0 } else { FLAG_LAST_PART };
        self.close(FLAG_MORE);
        Ok(())
    }

    /// Adds definitions that the log has not seen before.
    pub fn put_tables<'a>(&mut self, next: Position, tables: impl Iterator<Item = &'a TableDef>) {
        for table in tables {
            self.open(next).meta.tables.push(encode_table(table));
        }
    }

    /// Adds how far a source has been read.
    pub fn put_cursor(&mut self, next: Position, from: LinkId, cursor: &SourceCursor) {
        self.open(next).meta.cursors.push(CursorMessage::new(from, cursor));
    }

    /// Adds a batch that says only what is durable.
    pub fn put_mark(&mut self, next: Position) {
        self.open(next);
    }

    /// Ends the unit. `next` is the position that the next entry will have.
    pub fn finish(&mut self, next: Position) {
        if self.open.is_none() && self.sequence > self.unit.sequence {
            self.open(next);
        }
        self.close(0);
    }

    fn close(&mut self, more: u32) {
        let Some(mut open) = self.open.take() else { return };
        if open.meta.runs.iter().all(|run| run.link().is_local()) {
            open.meta.runs.clear();
        }
        let meta_bytes = open.meta.encoded_len() as u32;
        open.meta.encode_raw(&mut self.buffer);
        let body = &self.buffer[open.at + BATCH_HEADER..];
        let header = BatchHeader {
            body_bytes: body.len() as u32,
            body_crc: crc32c::crc32c(body),
            prev_crc: self.prev_crc,
            count: open.count,
            epoch: self.unit.epoch,
            sequence: self.sequence,
            mark_sequence: self.unit.sequence - 1,
            mark_position: self.unit.mark_position,
            first: open.first,
            time: self.unit.time,
            first_part: open.first_part,
            meta_bytes,
            flags: open.flags | more,
        };
        let (bytes, crc) = header.encode();
        self.buffer[open.at..open.at + BATCH_HEADER].copy_from_slice(&bytes);
        self.batches.push(Place { at: open.at, first: open.first, first_part: open.first_part });
        self.sequence += 1;
        self.prev_crc = crc;
    }

    /// The batches closed so far; the encoder goes on behind them.
    pub fn flush(&mut self, write: impl FnOnce(&[u8], &[Place]) -> Result<(), AppendError>) -> Result<(), AppendError> {
        assert!(self.open.is_none(), "only closed batches are written");
        write(&self.buffer, &self.batches)?;
        self.buffer.clear();
        self.batches.clear();
        self.flushed_crc = self.prev_crc;
        Ok(())
    }

    /// What the next unit starts with (sequence, CRC of the last batch), and the buffer for it.
    pub fn into_next(self) -> (u64, u32, Vec<u8>) {
        (self.sequence, self.prev_crc, self.buffer)
    }

    /// Of the next batch that is to be closed.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Of the first batch that has not been flushed: its first entry, its sequence, and the CRC of the batch before.
    pub fn first(&self) -> (super::segment::Place, u64, u32) {
        let place = self.batches.first().map(|place| (place.first, place.first_part)).unwrap_or_default();
        (place, self.sequence - self.batches.len() as u64, self.flushed_crc)
    }
}
