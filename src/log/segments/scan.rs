//! Finds out what a folder holds, without changing it: which batches are valid, and where the log ends.
//!
//! Damage below a durable mark found anywhere later is refused. Above every mark it is a torn tail.

use std::sync::Arc;

use bytes::Bytes;
use prost::Message;

use super::error::OpenError;
use super::format::{
    BATCH_HEADER, BATCH_MAGIC, BatchHeader, BatchMeta, FLAG_LARGE, FLAG_MORE, SegmentHeader, SegmentPrefix, entry_at,
};
use super::segment::{Segment, parse_name, segment_name};
use super::storage::{Storage, StoredFile};
use crate::log::ledger::Ledger;
use crate::model::{Catalog, Entry, Epoch, Position, decode_table};

/// A segment's file whose header is valid.
pub(super) struct Found {
    pub name: String,
    pub header: SegmentHeader,
    pub header_bytes: u64,
    pub capacity: u64,
}

fn damaged(segment: &str, offset: u64, why: impl Into<String>) -> OpenError {
    OpenError::Damaged { segment: segment.into(), offset, why: why.into() }
}

/// Reads the headers of all segments, oldest first, and checks that none is missing between two others.
pub(super) fn find(storage: &dyn Storage) -> Result<Vec<Found>, OpenError> {
    let mut names: Vec<String> = storage.list()?.into_iter().filter(|name| parse_name(name).is_some()).collect();
    names.sort_by_key(|name| parse_name(name));
    let mut found: Vec<Found> = Vec::with_capacity(names.len());
    for name in names {
        let next = read_header(storage, name)?;
        if let Some(previous) = found.last() {
            let (name, header) = (&next.name, &next.header);
            if header.log() != previous.header.log() {
                let why =
                    format!("it belongs to log {}, the segments before it to {}", header.log(), previous.header.log());
                return Err(damaged(name, 0, why));
            }
            if header.previous_sequence != previous.header.sequence {
                let why = format!(
                    "the segment before it is missing (the one whose first batch is {})",
                    header.previous_sequence
                );
                return Err(damaged(name, 0, why));
            }
        }
        found.push(next);
    }
    Ok(found)
}

fn read_header(storage: &dyn Storage, name: String) -> Result<Found, OpenError> {
    let file = storage.open(&name, false)?;
    let length = file.len()?;
    let mut fixed = [0; SegmentPrefix::BYTES];
    if length < fixed.len() as u64 {
        return Err(damaged(&name, length, "the file ends within the segment's header"));
    }
    file.read_at(&mut fixed, 0)?;
    let prefix = SegmentPrefix::decode(&fixed).map_err(|why| damaged(&name, 0, why))?;
    if u64::from(prefix.header_bytes) > length {
        return Err(damaged(&name, length, "the file ends within the segment's header"));
    }
    let mut bytes = vec![0; prefix.header_bytes as usize];
    file.read_at(&mut bytes, 0)?;
    let header = prefix.header(&bytes).map_err(|why| damaged(&name, 0, why))?;
    if length != prefix.capacity {
        let why = format!("the file has {length} bytes, but {} were preallocated", prefix.capacity);
        return Err(damaged(&name, length.min(prefix.capacity), why));
    }
    if segment_name(Position(header.base), header.sequence) != name {
        return Err(damaged(&name, 0, "the header does not belong to that file name"));
    }
    Ok(Found { name, header_bytes: u64::from(prefix.header_bytes), capacity: prefix.capacity, header })
}

/// A valid batch in a buffer.
pub(super) struct Parsed {
    pub header: BatchHeader,
    pub crc: u32,
    pub body: Bytes,
    pub meta: BatchMeta,
}

impl Parsed {
    /// Where the entries end and the meta part begins.
    pub fn entries_end(&self) -> usize {
        self.body.len() - self.header.meta_bytes as usize
    }
}

/// Reads the batch at that offset of a buffer and checks both CRCs. Says why not.
pub(super) fn parse(buffer: &Bytes, at: usize) -> Result<Parsed, String> {
    let (header, crc) = BatchHeader::decode(buffer.get(at..).unwrap_or_default())?;
    let start = at + BATCH_HEADER;
    let end = start + header.body_bytes as usize;
    if end > buffer.len() {
        return Err("a batch is longer than its segment".into());
    }
    let body = buffer.slice(start..end);
    let body_crc = crc32c::crc32c(&body);
    if body_crc != header.body_crc {
        return Err(format!("a batch has CRC {body_crc:08x}, but {:08x} is stored", header.body_crc));
    }
    let meta = BatchMeta::decode(&body[body.len() - header.meta_bytes as usize..]).map_err(|e| e.to_string())?;
    Ok(Parsed { header, crc, body, meta })
}

/// The highest durable mark of the valid batches at or after an offset.
fn highest_mark(buffer: &Bytes, from: usize) -> u64 {
    let mut highest = 0;
    let mut at = from;
    while let Some(found) = find_magic(buffer, at) {
        match parse(buffer, found) {
            Ok(batch) => {
                highest = highest.max(batch.header.mark_sequence);
                at = found + batch.header.total_bytes() as usize;
            }
            Err(_) => at = found + 1,
        }
    }
    highest
}

fn find_magic(buffer: &[u8], from: usize) -> Option<usize> {
    let mut at = from;
    loop {
        let rest = buffer.get(at..)?;
        at += rest.iter().position(|&byte| byte == BATCH_MAGIC[0])?;
        if buffer[at..].starts_with(&BATCH_MAGIC) {
            return Some(at);
        }
        at += 1;
    }
}

/// A batch that no durable mark covers yet.
#[derive(Clone, Copy, Debug)]
pub(super) struct Unproven {
    pub segment: usize,
    pub start: u64,
    pub end: u64,
    sequence: u64,
}

/// What a scan has found: the log up to where it ends.
pub(super) struct Scan {
    pub ledger: Ledger,
    /// Index of the segment in which the log ends, and the offset there: the next batch goes here.
    pub segment: usize,
    pub offset: u64,
    pub sequence: u64,
    pub prev_crc: u32,
    /// Bytes behind the end that are not zero.
    pub torn_bytes: u64,
    /// Valid batches above the last mark, in order.
    pub unproven: Vec<Unproven>,
    /// Whether the last batch is a durable mark and nothing else.
    pub marked: bool,
}

struct Scanner<'a> {
    storage: &'a dyn Storage,
    found: &'a [Found],
    segments: &'a [Arc<Segment>],
    catalog: &'a Catalog,
    scan: Scan,
    /// The state before a unit of which only some batches have been seen.
    before_unit: Option<(Ledger, usize, u64, u64, u32)>,
}

/// Scans from the last segment that does not begin within a unit. `segments` get their index.
pub(super) fn scan(
    storage: &dyn Storage,
    found: &[Found],
    segments: &[Arc<Segment>],
    catalog: &Catalog,
) -> Result<Scan, OpenError> {
    let first = found.iter().rposition(|found| !found.header.continues);
    let Some(first) = first else {
        return Err(damaged(&found[0].name, 0, "the segment in which its large transaction begins is missing"));
    };
    for table in found[first].header.tables().map_err(|why| damaged(&found[first].name, 0, why))? {
        catalog.add(Arc::new(table));
    }
    let header = &found[first].header;
    let mut ledger = header.ledger();
    if ledger.epochs.is_empty() {
        return Err(damaged(&found[first].name, 0, "the header lists no epoch"));
    }
    if header.epoch != ledger.epoch().0 {
        ledger.begin_epoch(Epoch(header.epoch));
    }
    let scan = Scan {
        ledger,
        segment: first,
        offset: found[first].header_bytes,
        sequence: header.sequence,
        prev_crc: header.prev_crc,
        torn_bytes: 0,
        unproven: Vec::new(),
        marked: false,
    };
    let mut scanner = Scanner { storage, found, segments, catalog, scan, before_unit: None };
    scanner.run(first)?;
    Ok(scanner.scan)
}

impl Scanner<'_> {
    fn read(&self, segment: usize) -> Result<Bytes, OpenError> {
        let found = &self.found[segment];
        let file: Arc<dyn StoredFile> = self.storage.open(&found.name, false)?;
        let mut bytes = vec![0; found.capacity as usize];
        file.read_at(&mut bytes, 0)?;
        Ok(bytes.into())
    }

    fn run(&mut self, first: usize) -> Result<(), OpenError> {
        for segment in first..self.found.len() {
            let buffer = self.read(segment)?;
            self.scan.segment = segment;
            self.scan.offset = self.found[segment].header_bytes;
            let Err(why) = self.batches(segment, &buffer)? else { continue };
            return self.end(segment, &buffer, why);
        }
        Ok(())
    }

    /// Takes batches while they are valid. `Ok(Ok)`: the segment ends here and another follows.
    fn batches(&mut self, segment: usize, buffer: &Bytes) -> Result<Result<(), String>, OpenError> {
        let name = &self.found[segment].name;
        loop {
            let offset = self.scan.offset;
            if let Some(next) = self.found.get(segment + 1).filter(|next| next.header.previous_end == offset) {
                let (expected, actual) = (self.scan.sequence, next.header.sequence);
                if expected != actual || self.scan.prev_crc != next.header.prev_crc {
                    let why = format!(
                        "it begins with batch {actual}, but {expected} is the next after the segment before it"
                    );
                    return Err(damaged(&next.name, 0, why));
                }
                return Ok(Ok(()));
            }
            let batch = match parse(buffer, offset as usize) {
                Ok(batch) => batch,
                Err(why) => return Ok(Err(why)),
            };
            let (expected, actual) = (self.scan.sequence, batch.header.sequence);
            if actual != expected || batch.header.prev_crc != self.scan.prev_crc {
                return Ok(Err(format!("batch {actual} stands where batch {expected} was expected")));
            }
            self.take(segment, batch).map_err(|why| damaged(name, offset, why))?;
        }
    }

    fn take(&mut self, segment: usize, batch: Parsed) -> Result<(), String> {
        let header = batch.header;
        let scan = &mut self.scan;
        let unit_goes_on = header.is(FLAG_MORE);
        let expected = if header.first_part > 0 { scan.ledger.tail } else { scan.ledger.tail.next() };
        if header.first != expected {
            return Err(format!("position {} stands where {expected} was expected", header.first));
        }
        if unit_goes_on && self.before_unit.is_none() {
            self.before_unit = Some((scan.ledger.clone(), scan.segment, scan.offset, scan.sequence, scan.prev_crc));
        }
        note(&mut scan.ledger, self.catalog, &batch)?;
        let end = scan.offset + header.total_bytes();
        scan.unproven.retain(|unproven| unproven.sequence > header.mark_sequence);
        scan.unproven.push(Unproven { segment, start: scan.offset, end, sequence: header.sequence });
        self.segments[segment].note(header.first, header.first_part, scan.offset);
        scan.offset = end;
        scan.sequence += 1;
        scan.prev_crc = batch.crc;
        scan.marked = header.count == 0 && !unit_goes_on;
        if !unit_goes_on {
            self.before_unit = None;
        }
        Ok(())
    }

    /// The scan stopped for `why`: here the log ends, unless something later proves that more was durable.
    fn end(&mut self, segment: usize, buffer: &Bytes, why: String) -> Result<(), OpenError> {
        let offset = self.scan.offset;
        let mut mark = highest_mark(buffer, offset as usize + 1);
        let mut used = used_end(buffer).saturating_sub(offset);
        for later in segment + 1..self.found.len() {
            let bytes = self.read(later)?;
            let header = &self.found[later].header;
            mark = mark.max(header.mark_sequence).max(highest_mark(&bytes, 0));
            used += used_end(&bytes);
        }
        if mark >= self.scan.sequence {
            let why = format!("{why}; a later mark says that batch {} was durable", self.scan.sequence);
            return Err(damaged(&self.found[segment].name, offset, why));
        }
        self.scan.torn_bytes = used;
        if let Some((ledger, segment, offset, sequence, prev_crc)) = self.before_unit.take() {
            let cut = |(i, found): (usize, &Found)| match i {
                _ if i == self.scan.segment && i == segment => self.scan.offset - offset,
                _ if i == segment => self.found[i + 1].header.previous_end - offset,
                _ if i == self.scan.segment => self.scan.offset - found.header_bytes,
                _ => self.found[i + 1].header.previous_end,
            };
            let range = self.found.iter().enumerate().filter(|(i, _)| (segment..=self.scan.segment).contains(i));
            let torn: u64 = range.map(cut).sum();
            self.scan.torn_bytes += torn;
            self.scan.unproven.retain(|unproven| unproven.sequence < sequence);
            self.scan =
                Scan { ledger, segment, offset, sequence, prev_crc, ..std::mem::replace(&mut self.scan, blank()) };
        }
        Ok(())
    }
}

fn blank() -> Scan {
    Scan {
        ledger: Ledger::default(),
        segment: 0,
        offset: 0,
        sequence: 0,
        prev_crc: 0,
        torn_bytes: 0,
        unproven: Vec::new(),
        marked: false,
    }
}

/// Behind the last byte that is not zero.
pub(super) fn used_end(buffer: &[u8]) -> u64 {
    buffer.iter().rposition(|&byte| byte != 0).map_or(0, |last| last as u64 + 1)
}

/// What a batch changes in the log's state.
fn note(ledger: &mut Ledger, catalog: &Catalog, batch: &Parsed) -> Result<(), String> {
    if batch.header.epoch != ledger.epoch() {
        ledger.begin_epoch(batch.header.epoch);
    }
    for table in &batch.meta.tables {
        catalog.add(Arc::new(decode_table(table).map_err(|e| e.to_string())?));
    }
    let mut position = batch.header.first;
    for_each_entry(batch, |entry| {
        ledger.note(position, entry.header());
        if !batch.header.is(FLAG_LARGE) {
            position = position.next();
        }
    })?;
    for cursor in &batch.meta.cursors {
        let (link, cursor) = cursor.clone().read();
        ledger.cursors.insert(link, cursor);
    }
    Ok(())
}

/// Decodes the entries of a batch, in order.
pub(super) fn for_each_entry(batch: &Parsed, mut each: impl FnMut(Entry)) -> Result<(), String> {
    let end = batch.entries_end();
    let mut at = 0;
    for _ in 0..batch.header.count {
        let bytes = entry_at(&batch.body, at, end)?;
        at += 4 + bytes.len();
        each(Entry::decode(bytes).map_err(|e| e.to_string())?);
    }
    match at == end {
        true => Ok(()),
        false => Err("a batch has more bytes than its entries".into()),
    }
}
