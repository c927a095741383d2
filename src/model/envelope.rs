//! An entry's envelope: the bytes around its changes, written and read in place, because every append and every read
//! passes through here.

use std::ops::Range;

use prost::encoding::{self, DecodeContext, WireType};

use super::codec::{CodecError, malformed};
use super::entry::EntryHeader;
use super::{Epoch, Fingerprint, Lamport, LogId, Origin, Position, Timestamp, limits};

/// Field numbers of an entry.
mod tag {
    pub const ORIGIN_LOG_HIGH: u32 = 1;
    pub const ORIGIN_LOG_LOW: u32 = 2;
    pub const ORIGIN_EPOCH: u32 = 3;
    pub const ORIGIN_POSITION: u32 = 4;
    pub const LAMPORT: u32 = 5;
    pub const TIME: u32 = 6;
    pub const NODE: u32 = 7;
    pub const CORRELATION: u32 = 8;
    pub const CAUSATION: u32 = 9;
    pub const PART: u32 = 10;
    pub const MORE: u32 = 11;
    pub const TABLES: u32 = 12;
    pub const CHANGES: u32 = 13;
    pub const IDEMPOTENCY: u32 = 14;
}

/// The numbers at the front of an entry, collected on the stack: they are most of its fields, and every append writes
/// them.
struct Front {
    bytes: [u8; 64],
    len: usize,
}

impl Front {
    fn fixed64(&mut self, field: u32, value: u64) {
        self.bytes[self.len] = (field << 3) as u8 | WireType::SixtyFourBit as u8;
        self.bytes[self.len + 1..self.len + 9].copy_from_slice(&value.to_le_bytes());
        self.len += 9;
    }

    fn varint(&mut self, field: u32, value: u64) {
        self.bytes[self.len] = (field << 3) as u8 | WireType::Varint as u8;
        self.len += 1;
        let mut rest = value;
        while rest >= 0x80 {
            self.bytes[self.len] = rest as u8 | 0x80;
            self.len += 1;
            rest >>= 7;
        }
        self.bytes[self.len] = rest as u8;
        self.len += 1;
    }
}

fn put_fixed64(out: &mut Vec<u8>, field: u32, value: u64) {
    let mut bytes = [0; 9];
    bytes[0] = (field << 3) as u8 | WireType::SixtyFourBit as u8;
    bytes[1..].copy_from_slice(&value.to_le_bytes());
    out.extend_from_slice(&bytes);
}

fn put_varint(out: &mut Vec<u8>, field: u32, value: u64) {
    encoding::encode_key(field, WireType::Varint, out);
    encoding::encode_varint(value, out);
}

pub(super) fn put_bytes(out: &mut Vec<u8>, field: u32, value: &[u8]) {
    encoding::encode_key(field, WireType::LengthDelimited, out);
    encoding::encode_varint(value.len() as u64, out);
    out.extend_from_slice(value);
}

/// Encodes an entry's envelope around encoded changes.
pub(super) fn encode_entry(header: &EntryHeader, changes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    put_entry(&mut out, header, changes);
    out
}

/// Appends an entry's encoding to a buffer: the same bytes as [`super::Entry::new`].
pub fn put_entry(out: &mut Vec<u8>, header: &EntryHeader, changes: &[u8]) {
    out.reserve(96 + header.node.len() + 9 * header.tables.len() + changes.len());
    let mut front = Front { bytes: [0; 64], len: 0 };
    if let Some(origin) = header.origin {
        let (high, low) = origin.log.halves();
        front.fixed64(tag::ORIGIN_LOG_HIGH, high);
        front.fixed64(tag::ORIGIN_LOG_LOW, low);
        front.fixed64(tag::ORIGIN_EPOCH, origin.epoch.0);
        front.varint(tag::ORIGIN_POSITION, origin.position.0);
    }
    front.varint(tag::LAMPORT, header.lamport.0);
    front.varint(tag::TIME, header.time.0 as u64);
    out.extend_from_slice(&front.bytes[..front.len]);
    if !header.node.is_empty() {
        put_bytes(out, tag::NODE, header.node.as_bytes());
    }
    if let Some(correlation) = &header.correlation {
        put_bytes(out, tag::CORRELATION, correlation.as_bytes());
    }
    if let Some(causation) = &header.causation {
        put_bytes(out, tag::CAUSATION, causation.as_bytes());
    }
    if let Some(idempotency) = &header.idempotency {
        put_bytes(out, tag::IDEMPOTENCY, idempotency.as_bytes());
    }
    if header.part > 0 {
        put_varint(out, tag::PART, u64::from(header.part));
    }
    if header.more {
        put_varint(out, tag::MORE, 1);
    }
    for table in &header.tables {
        put_fixed64(out, tag::TABLES, table.0);
    }
    put_bytes(out, tag::CHANGES, changes);
}

/// Reads an envelope's fields from its bytes, in place. Errors are plain texts, because a result that carries more is
/// slower to return than a number is to read.
struct Fields<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Fields<'a> {
    #[inline]
    fn varint(&mut self) -> Result<u64, &'static str> {
        let mut value = 0;
        for (i, &byte) in self.bytes[self.at..].iter().take(10).enumerate() {
            value |= u64::from(byte & 0x7f) << (7 * i);
            if byte < 0x80 {
                if i == 9 && byte > 1 {
                    break;
                }
                self.at += i + 1;
                return Ok(value);
            }
        }
        Err("a number does not end, or not within 64 bits")
    }

    #[inline]
    fn key(&mut self) -> Result<(u32, WireType), &'static str> {
        let key = self.varint()?;
        let wire = match key & 7 {
            0 => WireType::Varint,
            1 => WireType::SixtyFourBit,
            2 => WireType::LengthDelimited,
            3 => WireType::StartGroup,
            4 => WireType::EndGroup,
            5 => WireType::ThirtyTwoBit,
            _ => return Err("a field has an unknown wire type"),
        };
        match u32::try_from(key >> 3) {
            Ok(field) if field > 0 && key <= u64::from(u32::MAX) => Ok((field, wire)),
            _ => Err("a field has an impossible number"),
        }
    }

    #[inline]
    fn fixed(&mut self) -> Result<u64, &'static str> {
        let Some(bytes) = self.bytes[self.at..].first_chunk() else { return Err("it ends within a number") };
        self.at += 8;
        Ok(u64::from_le_bytes(*bytes))
    }

    /// A length-delimited field: where it is.
    #[inline]
    fn range(&mut self) -> Result<Range<usize>, &'static str> {
        let length = self.varint()?;
        if length > (self.bytes.len() - self.at) as u64 {
            return Err("a field announces more bytes than are left");
        }
        let start = self.at;
        self.at += length as usize;
        Ok(start..self.at)
    }

    #[inline]
    fn text(&mut self) -> Result<&'a str, &'static str> {
        let range = self.range()?;
        std::str::from_utf8(&self.bytes[range]).map_err(|_| "a text is not UTF-8")
    }

    fn pass_over(&mut self, field: u32, wire: WireType) -> Result<(), &'static str> {
        let mut rest = &self.bytes[self.at..];
        let skipped = encoding::skip_field(wire, field, &mut rest, DecodeContext::default());
        self.at = self.bytes.len() - rest.len();
        skipped.map_err(|_| "an unknown field is not readable")
    }
}

/// What is done with the fields of an envelope, one after the other.
trait Visit {
    fn number(&mut self, field: u32, value: u64);
    fn text(&mut self, field: u32, text: &str);
}

/// What of an envelope says how an entry is to be taken, read without putting anything on the heap.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Glance {
    /// As [`EntryHeader::part`].
    pub part: u32,
    /// As [`EntryHeader::more`].
    pub more: bool,
    /// The first of its tables.
    pub table: Fingerprint,
    /// How many tables it names.
    pub tables: usize,
}

impl Glance {
    /// What it is of an envelope that has been read.
    pub(super) fn of(header: &EntryHeader) -> Glance {
        let table = header.tables.first().copied().unwrap_or_default();
        Glance { part: header.part, more: header.more, table, tables: header.tables.len() }
    }
}

impl Visit for Glance {
    fn number(&mut self, field: u32, value: u64) {
        match field {
            tag::PART => self.part = value as u32,
            tag::MORE => self.more = value != 0,
            tag::TABLES => {
                if self.tables == 0 {
                    self.table = Fingerprint(value);
                }
                self.tables += 1;
            }
            _ => {}
        }
    }

    fn text(&mut self, _field: u32, _text: &str) {}
}

#[derive(Default)]
struct Collected {
    header: EntryHeader,
    log: (u64, u64),
    epoch: u64,
    position: u64,
}

impl Visit for Collected {
    fn number(&mut self, field: u32, value: u64) {
        match field {
            tag::ORIGIN_LOG_HIGH => self.log.0 = value,
            tag::ORIGIN_LOG_LOW => self.log.1 = value,
            tag::ORIGIN_EPOCH => self.epoch = value,
            tag::ORIGIN_POSITION => self.position = value,
            tag::LAMPORT => self.header.lamport = Lamport(value),
            tag::TIME => self.header.time = Timestamp(value as i64),
            tag::PART => self.header.part = value as u32,
            tag::MORE => self.header.more = value != 0,
            tag::TABLES => self.header.tables.push(Fingerprint(value)),
            _ => {}
        }
    }

    fn text(&mut self, field: u32, text: &str) {
        match field {
            tag::NODE => self.header.node = text.into(),
            tag::CORRELATION => self.header.correlation = Some(text.into()),
            tag::IDEMPOTENCY => self.header.idempotency = Some(text.into()),
            _ => self.header.causation = Some(text.into()),
        }
    }
}

/// Reads an entry's envelope and returns where its changes are. Unknown fields are passed over; they stay in the
/// entry's bytes.
fn visit_entry(bytes: &[u8], visit: &mut impl Visit) -> Result<Range<u32>, &'static str> {
    let mut fields = Fields { bytes, at: 0 };
    let mut changes = 0..0;
    let mut tables = 0;
    while fields.at < bytes.len() {
        let (field, wire) = fields.key()?;
        match (field, wire) {
            (tag::ORIGIN_LOG_HIGH..=tag::ORIGIN_EPOCH, WireType::SixtyFourBit) => visit.number(field, fields.fixed()?),
            (tag::ORIGIN_POSITION..=tag::TIME | tag::PART | tag::MORE, WireType::Varint) => {
                visit.number(field, fields.varint()?)
            }
            (tag::NODE..=tag::CAUSATION | tag::IDEMPOTENCY, WireType::LengthDelimited) => {
                visit.text(field, fields.text()?)
            }
            (tag::TABLES, WireType::SixtyFourBit) => {
                if tables == limits::ENTRY_TABLES_MAX {
                    return Err("it names too many tables");
                }
                tables += 1;
                visit.number(field, fields.fixed()?);
            }
            (tag::CHANGES, WireType::LengthDelimited) => changes = fields.range()?,
            _ => fields.pass_over(field, wire)?,
        }
    }
    let place = |at: usize| u32::try_from(at).map_err(|_| "it has more than 4 GiB");
    Ok(place(changes.start)?..place(changes.end)?)
}

/// Checks that [`decode_header`] can read the envelope, looks at it, and returns where the changes are.
pub(super) fn check_entry(bytes: &[u8]) -> Result<(Range<u32>, Glance), CodecError> {
    let mut glance = Glance::default();
    let changes = visit_entry(bytes, &mut glance).map_err(|why| malformed("an entry", why))?;
    Ok((changes, glance))
}

/// Reads an entry's envelope.
pub(super) fn decode_header(bytes: &[u8]) -> Result<EntryHeader, CodecError> {
    let mut collected = Collected::default();
    visit_entry(bytes, &mut collected).map_err(|why| malformed("an entry", why))?;
    let Collected { mut header, log, epoch, position } = collected;
    if position > 0 {
        let log = LogId::from_halves(log.0, log.1);
        header.origin = Some(Origin { log, epoch: Epoch(epoch), position: Position(position) });
    }
    Ok(header)
}
