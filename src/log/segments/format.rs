//! The bytes of a segment file: its header, and the headers of its batches. `docs/FORMAT.md` draws them.

use bytes::Bytes;
use prost::Message;

use super::super::ledger::{Ledger, OriginRun};
use crate::model::{Epoch, Lamport, LinkId, LogId, Position, SourceCursor, TableDef, Timestamp};
use crate::model::{decode_table, encode_table, limits};

pub(super) const VERSION: u32 = 1;
const SEGMENT_MAGIC: [u8; 8] = *b"WSHEDSEG";
pub(super) const BATCH_MAGIC: [u8; 4] = *b"WSb\xA7";
/// Before the protobuf part of a segment's header.
const SEGMENT_FIXED: usize = 32;
/// Bytes of a batch's header.
pub(super) const BATCH_HEADER: usize = 88;

/// The unit goes on in the next batch: durable with it, or not at all.
pub(super) const FLAG_MORE: u32 = 1;
/// The batch holds parts of one large transaction.
pub(super) const FLAG_LARGE: u32 = 2;
/// The last part is among them.
pub(super) const FLAG_LAST_PART: u32 = 4;
const FLAGS_KNOWN: u32 = FLAG_MORE | FLAG_LARGE | FLAG_LAST_PART;

/// What stands before a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct BatchHeader {
    pub body_bytes: u32,
    pub body_crc: u32,
    /// The header CRC of the batch before it, wherever that is.
    pub prev_crc: u32,
    /// Entries, parts counted singly.
    pub count: u32,
    pub epoch: Epoch,
    /// Batches of a log are numbered 1, 2, 3…
    pub sequence: u64,
    /// Everything up to and including that batch was durable when this one was written.
    pub mark_sequence: u64,
    pub mark_position: Position,
    /// Of the first entry; of the next one to come in a batch without entries.
    pub first: Position,
    pub time: Timestamp,
    pub first_part: u32,
    /// The last bytes of the body: a [`BatchMeta`].
    pub meta_bytes: u32,
    pub flags: u32,
}

impl BatchHeader {
    /// The last position of which something is in the batch; `first - 1` in a batch without entries.
    pub fn last(&self) -> Position {
        match (self.count, self.is(FLAG_LARGE)) {
            (0, _) => Position(self.first.0.saturating_sub(1)),
            (_, true) => self.first,
            (count, false) => Position(self.first.0.saturating_add(u64::from(count) - 1)),
        }
    }

    pub fn is(&self, flag: u32) -> bool {
        self.flags & flag != 0
    }

    /// Header and body.
    pub fn total_bytes(&self) -> u64 {
        BATCH_HEADER as u64 + u64::from(self.body_bytes)
    }

    /// The header's bytes and its CRC.
    pub fn encode(&self) -> ([u8; BATCH_HEADER], u32) {
        let mut out = [0; BATCH_HEADER];
        let mut at = 8;
        let mut put = |bytes: &[u8]| {
            out[at..at + bytes.len()].copy_from_slice(bytes);
            at += bytes.len();
        };
        put(&self.body_bytes.to_le_bytes());
        put(&self.body_crc.to_le_bytes());
        put(&self.prev_crc.to_le_bytes());
        put(&self.count.to_le_bytes());
        put(&self.epoch.0.to_le_bytes());
        put(&self.sequence.to_le_bytes());
        put(&self.mark_sequence.to_le_bytes());
        put(&self.mark_position.0.to_le_bytes());
        put(&self.first.0.to_le_bytes());
        put(&self.time.0.to_le_bytes());
        put(&self.first_part.to_le_bytes());
        put(&self.meta_bytes.to_le_bytes());
        put(&self.flags.to_le_bytes());
        let crc = crc32c::crc32c(&out[8..]);
        out[..4].copy_from_slice(&BATCH_MAGIC);
        out[4..8].copy_from_slice(&crc.to_le_bytes());
        (out, crc)
    }

    /// Reads a header and its CRC. Says why not.
    pub fn decode(bytes: &[u8]) -> Result<(BatchHeader, u32), String> {
        let Some(bytes) = bytes.get(..BATCH_HEADER) else {
            return Err("the file ends within a batch's header".into());
        };
        if bytes[..4] != BATCH_MAGIC {
            return Err("no batch begins here (its magic is missing)".into());
        }
        let crc = crc32c::crc32c(&bytes[8..]);
        let stored = u32_at(bytes, 4);
        if crc != stored {
            return Err(format!("a batch's header has CRC {crc:08x}, but {stored:08x} is stored"));
        }
        let header = BatchHeader {
            body_bytes: u32_at(bytes, 8),
            body_crc: u32_at(bytes, 12),
            prev_crc: u32_at(bytes, 16),
            count: u32_at(bytes, 20),
            epoch: Epoch(u64_at(bytes, 24)),
            sequence: u64_at(bytes, 32),
            mark_sequence: u64_at(bytes, 40),
            mark_position: Position(u64_at(bytes, 48)),
            first: Position(u64_at(bytes, 56)),
            time: Timestamp(u64_at(bytes, 64) as i64),
            first_part: u32_at(bytes, 72),
            meta_bytes: u32_at(bytes, 76),
            flags: u32_at(bytes, 80),
        };
        if header.flags & !FLAGS_KNOWN != 0 {
            return Err(format!("a batch has unknown flags {:#x}: it was written by a newer version", header.flags));
        }
        if header.meta_bytes > header.body_bytes {
            return Err("a batch's parts are longer than the batch".into());
        }
        Ok((header, crc))
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    (u64::from(u32_at(bytes, at + 4)) << 32) | u64::from(u32_at(bytes, at))
}

/// The entries of a body: each after its length (4 bytes, little endian).
pub(super) fn entry_at(body: &Bytes, at: usize, end: usize) -> Result<Bytes, String> {
    if at + 4 > end {
        return Err("a batch has fewer entries than it announces".into());
    }
    let length = u32_at(body, at) as usize;
    if length > end - at - 4 {
        return Err("an entry is longer than its batch".into());
    }
    Ok(body.slice(at + 4..at + 4 + length))
}

/// Entries of a batch that arrived by one link.
#[derive(Clone, Copy, PartialEq, Message)]
pub(super) struct RunMessage {
    #[prost(fixed64, tag = "1")]
    high: u64,
    #[prost(fixed64, tag = "2")]
    low: u64,
    #[prost(uint32, tag = "3")]
    pub count: u32,
}

impl RunMessage {
    pub fn new(link: LinkId, count: u32) -> RunMessage {
        let (high, low) = link.0.halves();
        RunMessage { high, low, count }
    }

    pub fn link(&self) -> LinkId {
        LinkId(LogId::from_halves(self.high, self.low))
    }
}

/// How far a source has been read.
#[derive(Clone, PartialEq, Message)]
pub(super) struct CursorMessage {
    #[prost(fixed64, tag = "1")]
    high: u64,
    #[prost(fixed64, tag = "2")]
    low: u64,
    #[prost(bytes = "bytes", tag = "3")]
    cursor: Bytes,
}

impl CursorMessage {
    pub fn new(link: LinkId, cursor: &SourceCursor) -> CursorMessage {
        let (high, low) = link.0.halves();
        CursorMessage { high, low, cursor: cursor.0.clone() }
    }

    pub fn read(self) -> (LinkId, SourceCursor) {
        (LinkId(LogId::from_halves(self.high, self.low)), SourceCursor(self.cursor))
    }
}

/// What a batch stores besides entries. Without runs all entries are local.
#[derive(Clone, PartialEq, Message)]
pub(super) struct BatchMeta {
    #[prost(message, repeated, tag = "1")]
    pub runs: Vec<RunMessage>,
    #[prost(message, repeated, tag = "2")]
    pub cursors: Vec<CursorMessage>,
    #[prost(bytes = "vec", repeated, tag = "3")]
    pub tables: Vec<Vec<u8>>,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct EpochMessage {
    #[prost(fixed64, tag = "1")]
    epoch: u64,
    #[prost(uint64, tag = "2")]
    first: u64,
    /// In an origin's list only.
    #[prost(uint64, tag = "3")]
    last: u64,
}

#[derive(Clone, PartialEq, Message)]
struct OriginMessage {
    #[prost(fixed64, tag = "1")]
    high: u64,
    #[prost(fixed64, tag = "2")]
    low: u64,
    #[prost(message, repeated, tag = "3")]
    epochs: Vec<EpochMessage>,
}

/// What a segment's header says, besides magic, version and lengths.
#[derive(Clone, PartialEq, Message)]
pub(super) struct SegmentHeader {
    #[prost(fixed64, tag = "1")]
    log_high: u64,
    #[prost(fixed64, tag = "2")]
    log_low: u64,
    /// Position and part of the first entry.
    #[prost(uint64, tag = "3")]
    pub base: u64,
    #[prost(uint32, tag = "4")]
    pub base_part: u32,
    /// Of the first batch, and the header CRC of the batch before it.
    #[prost(uint64, tag = "5")]
    pub sequence: u64,
    #[prost(fixed32, tag = "6")]
    pub prev_crc: u32,
    /// The durable mark; below `sequence - 1` when the segment begins within a unit.
    #[prost(uint64, tag = "7")]
    pub mark_sequence: u64,
    /// Everything below describes the log at this position.
    #[prost(uint64, tag = "8")]
    tail: u64,
    #[prost(int64, tag = "9")]
    pub created: i64,
    #[prost(uint64, tag = "10")]
    lamport: u64,
    #[prost(message, repeated, tag = "11")]
    epochs: Vec<EpochMessage>,
    #[prost(message, repeated, tag = "12")]
    origins: Vec<OriginMessage>,
    #[prost(message, repeated, tag = "13")]
    cursors: Vec<CursorMessage>,
    #[prost(bytes = "vec", repeated, tag = "14")]
    pub tables: Vec<Vec<u8>>,
    /// Where the segment before this one ends; 0 in the first.
    #[prost(uint64, tag = "15")]
    pub previous_end: u64,
    #[prost(uint64, tag = "16")]
    pub previous_sequence: u64,
    /// The segment begins within a unit.
    #[prost(bool, tag = "17")]
    pub continues: bool,
    /// The epoch in which it was created.
    #[prost(fixed64, tag = "18")]
    pub epoch: u64,
}

impl SegmentHeader {
    pub fn new<'a>(ledger: &Ledger, tables: impl Iterator<Item = &'a TableDef>) -> SegmentHeader {
        let (log_high, log_low) = ledger.id.halves();
        let run = |run: &OriginRun| EpochMessage { epoch: run.epoch.0, first: run.first.0, last: run.last.0 };
        let origin = |(log, runs): (&LogId, &Vec<OriginRun>)| {
            let (high, low) = log.halves();
            OriginMessage { high, low, epochs: runs.iter().map(run).collect() }
        };
        let epoch = |(epoch, first): &(Epoch, Position)| EpochMessage { epoch: epoch.0, first: first.0, last: 0 };
        SegmentHeader {
            log_high,
            log_low,
            tail: ledger.tail.0,
            created: Timestamp::now().0,
            lamport: ledger.lamport.0,
            epochs: ledger.epochs.iter().map(epoch).collect(),
            origins: ledger.origins.iter().map(origin).collect(),
            cursors: ledger.cursors.iter().map(|(link, cursor)| CursorMessage::new(*link, cursor)).collect(),
            tables: tables.map(encode_table).collect(),
            epoch: ledger.epoch().0,
            ..SegmentHeader::default()
        }
    }

    pub fn log(&self) -> LogId {
        LogId::from_halves(self.log_high, self.log_low)
    }

    /// The log's state when the segment was created.
    pub fn ledger(&self) -> Ledger {
        let run = |run: &EpochMessage| OriginRun {
            epoch: Epoch(run.epoch),
            first: Position(run.first),
            last: Position(run.last),
        };
        let origin = |origin: &OriginMessage| {
            (LogId::from_halves(origin.high, origin.low), origin.epochs.iter().map(run).collect())
        };
        Ledger {
            id: self.log(),
            epochs: self.epochs.iter().map(|epoch| (Epoch(epoch.epoch), Position(epoch.first))).collect(),
            tail: Position(self.tail),
            lamport: Lamport(self.lamport),
            origins: self.origins.iter().map(origin).collect(),
            cursors: self.cursors.iter().cloned().map(CursorMessage::read).collect(),
            mirror: false,
        }
    }

    /// The definitions in the header.
    pub fn tables(&self) -> Result<Vec<TableDef>, String> {
        self.tables.iter().map(|table| decode_table(table).map_err(|e| e.to_string())).collect()
    }

    /// The file's first bytes; `capacity` is its length.
    pub fn encode(&self, capacity: u64) -> Vec<u8> {
        let mut out = vec![0; SEGMENT_FIXED];
        self.encode_raw(&mut out);
        let length = out.len() as u32;
        out[..8].copy_from_slice(&SEGMENT_MAGIC);
        out[8..12].copy_from_slice(&VERSION.to_le_bytes());
        out[16..20].copy_from_slice(&length.to_le_bytes());
        out[24..32].copy_from_slice(&capacity.to_le_bytes());
        let crc = crc32c::crc32c(&out[16..]);
        out[12..16].copy_from_slice(&crc.to_le_bytes());
        out
    }
}

/// The fixed part of a segment's header.
pub(super) struct SegmentPrefix {
    /// Of the whole header, in bytes.
    pub header_bytes: u32,
    /// Of the file, in bytes.
    pub capacity: u64,
    crc: u32,
}

impl SegmentPrefix {
    pub const BYTES: usize = SEGMENT_FIXED;

    pub fn decode(bytes: &[u8; SEGMENT_FIXED]) -> Result<SegmentPrefix, String> {
        if bytes[..8] != SEGMENT_MAGIC {
            return Err("this is no segment (its magic is missing)".into());
        }
        let version = u32_at(bytes, 8);
        if version != VERSION {
            return Err(format!("the segment has format version {version}, this program reads {VERSION}"));
        }
        let (header_bytes, capacity) = (u32_at(bytes, 16), u64_at(bytes, 24));
        if (header_bytes as usize) < SEGMENT_FIXED || header_bytes as usize > limits::SEGMENT_HEADER_BYTES_MAX {
            return Err(format!("the segment's header announces {header_bytes} bytes"));
        }
        if u64::from(header_bytes) > capacity {
            return Err(format!("the segment's header announces {header_bytes} bytes in a file of {capacity}"));
        }
        Ok(SegmentPrefix { header_bytes, capacity, crc: u32_at(bytes, 12) })
    }

    /// Reads the header, given all its bytes.
    pub fn header(&self, bytes: &[u8]) -> Result<SegmentHeader, String> {
        let crc = crc32c::crc32c(&bytes[16..]);
        if crc != self.crc {
            return Err(format!("the segment's header has CRC {crc:08x}, but {:08x} is stored", self.crc));
        }
        let header =
            SegmentHeader::decode(&bytes[SEGMENT_FIXED..]).map_err(|e| format!("the segment's header: {e}"))?;
        let numbers = [header.base, header.sequence, header.tail, header.lamport, header.previous_end];
        match numbers.iter().all(|&number| number <= i64::MAX as u64) && header.sequence > 0 {
            true => Ok(header),
            false => Err("the segment's header has a number beyond any bound".into()),
        }
    }
}
