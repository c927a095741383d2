//! Protobuf bytes of entries, changes and table definitions; `docs/FORMAT.md` specifies them.
//!
//! Envelopes are written and read by hand over `prost`'s primitives, because every append and every read passes
//! through them; the rest is derived.

use std::ops::Range;

use bytes::{Buf, Bytes};
use prost::Message;
use prost::encoding::{self, DecodeContext, WireType};
use thiserror::Error;

use super::entry::EntryHeader;
use super::value::Kind;
use super::{
    Change, Column, Epoch, Fingerprint, Lamport, LogId, Op, Origin, Position, Row, TableDef, Timestamp, Value, limits,
};

/// Foreign bytes are not what they should be.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum CodecError {
    /// Not protobuf, cut short, or a field of another type.
    #[error("{what} is not readable: {why}")]
    Malformed {
        /// Which message.
        what: &'static str,
        /// What the decoder said.
        why: String,
    },
    /// Readable, but of a kind that this version does not know.
    #[error("{what} has the unknown kind {kind}: it was written by a newer version; upgrade this node")]
    UnknownKind {
        /// Which message.
        what: &'static str,
        /// The code found.
        kind: u32,
    },
}

fn malformed(what: &'static str, why: impl ToString) -> CodecError {
    CodecError::Malformed { what, why: why.to_string() }
}

#[derive(Clone, PartialEq, Message)]
struct RowMessage {
    /// One [`Kind`] code per column.
    #[prost(bytes = "bytes", tag = "1")]
    kinds: Bytes,
    /// The text of those columns whose kind has one.
    #[prost(bytes = "bytes", repeated, tag = "2")]
    texts: Vec<Bytes>,
}

#[derive(Clone, PartialEq, Message)]
struct ChangeMessage {
    #[prost(uint32, tag = "1")]
    table: u32,
    #[prost(uint32, tag = "2")]
    op: u32,
    #[prost(message, optional, tag = "3")]
    row: Option<RowMessage>,
    #[prost(message, optional, tag = "4")]
    old: Option<RowMessage>,
}

#[derive(Clone, PartialEq, Message)]
struct ColumnMessage {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    type_name: String,
    #[prost(uint32, tag = "3")]
    key: u32,
}

#[derive(Clone, PartialEq, Message)]
struct TableMessage {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, repeated, tag = "2")]
    columns: Vec<ColumnMessage>,
}

fn row_message(row: &Row) -> RowMessage {
    let kinds: Vec<u8> = row.iter().map(|value| value.kind as u8).collect();
    let texts = row.iter().filter(|value| value.kind.has_text()).map(|value| value.text.clone()).collect();
    RowMessage { kinds: kinds.into(), texts }
}

fn row_from(message: RowMessage) -> Result<Row, CodecError> {
    let mut texts = message.texts.into_iter();
    let mut row = Vec::with_capacity(message.kinds.len());
    for &code in &message.kinds {
        let kind = Kind::from_code(code).ok_or(CodecError::UnknownKind { what: "a value", kind: u32::from(code) })?;
        let text = match kind.has_text() {
            true => texts.next().ok_or_else(|| malformed("a row", "fewer texts than its kinds announce"))?,
            false => Bytes::new(),
        };
        row.push(Value { kind, text });
    }
    if texts.next().is_some() {
        return Err(malformed("a row", "more texts than its kinds announce"));
    }
    Ok(row)
}

/// Encodes changes, one after the other; concatenating two encodings encodes both lists.
pub fn encode_changes(changes: &[Change]) -> Bytes {
    let mut out = Vec::new();
    for change in changes {
        let message = ChangeMessage {
            table: change.table as u32,
            op: change.op as u32,
            row: change.row.as_ref().map(row_message),
            old: change.old.as_ref().map(row_message),
        };
        encoding::encode_varint(message.encoded_len() as u64, &mut out);
        message.encode_raw(&mut out);
    }
    out.into()
}

/// Decodes what [`encode_changes`] wrote. Values share the given buffer.
pub fn decode_changes(bytes: &Bytes) -> Result<Vec<Change>, CodecError> {
    let mut rest = bytes.clone();
    let mut changes = Vec::new();
    while rest.has_remaining() {
        let length = encoding::decode_varint(&mut rest).map_err(|e| malformed("a change", e))?;
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        if length > rest.len() {
            return Err(malformed("a change", format!("{length} bytes announced, {} left", rest.len())));
        }
        let message = ChangeMessage::decode(rest.split_to(length)).map_err(|e| malformed("a change", e))?;
        let op = Op::from_code(message.op).ok_or(CodecError::UnknownKind { what: "a change", kind: message.op })?;
        let row = message.row.map(row_from).transpose()?;
        let old = message.old.map(row_from).transpose()?;
        let complete = match op {
            Op::Insert | Op::Update => row.is_some(),
            Op::Delete => old.is_some(),
            Op::Truncate | Op::Copied => true,
        };
        if !complete {
            return Err(malformed("a change", format!("{} without its row", op.name())));
        }
        changes.push(Change { table: message.table as usize, op, row, old });
    }
    Ok(changes)
}

/// Encodes a table definition.
pub fn encode_table(table: &TableDef) -> Vec<u8> {
    let columns = table.columns.iter().map(|column| ColumnMessage {
        name: column.name.to_string(),
        type_name: column.type_name.to_string(),
        key: u32::from(column.key),
    });
    TableMessage { name: table.name.to_string(), columns: columns.collect() }.encode_to_vec()
}

/// Decodes a table definition and computes its fingerprint.
pub fn decode_table(bytes: &[u8]) -> Result<TableDef, CodecError> {
    let message = TableMessage::decode(bytes).map_err(|e| malformed("a table definition", e))?;
    if message.columns.len() > limits::COLUMNS_MAX {
        return Err(malformed(
            "a table definition",
            format!("{} columns, at most {}", message.columns.len(), limits::COLUMNS_MAX),
        ));
    }
    let name = message.name.parse().map_err(|e| malformed("a table definition", e))?;
    let columns = message.columns.into_iter().map(|column| Column {
        name: column.name.into(),
        type_name: column.type_name.into(),
        key: column.key.min(u32::from(u16::MAX)) as u16,
    });
    Ok(TableDef::new(name, columns.collect()))
}

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

fn put_bytes(out: &mut Vec<u8>, field: u32, value: &[u8]) {
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

    fn skip(&mut self, field: u32, wire: WireType) -> Result<(), &'static str> {
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

/// For checking only.
struct Nothing;

impl Visit for Nothing {
    fn number(&mut self, _field: u32, _value: u64) {}
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
            (tag::NODE..=tag::CAUSATION, WireType::LengthDelimited) => visit.text(field, fields.text()?),
            (tag::TABLES, WireType::SixtyFourBit) => {
                if tables == limits::ENTRY_TABLES_MAX {
                    return Err("it names too many tables");
                }
                tables += 1;
                visit.number(field, fields.fixed()?);
            }
            (tag::CHANGES, WireType::LengthDelimited) => changes = fields.range()?,
            _ => fields.skip(field, wire)?,
        }
    }
    let place = |at: usize| u32::try_from(at).map_err(|_| "it has more than 4 GiB");
    Ok(place(changes.start)?..place(changes.end)?)
}

/// Checks that [`decode_header`] can read the envelope, and returns where the changes are.
pub(super) fn check_entry(bytes: &[u8]) -> Result<Range<u32>, CodecError> {
    visit_entry(bytes, &mut Nothing).map_err(|why| malformed("an entry", why))
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

#[cfg(test)]
mod tests {
    use super::super::Entry;
    use super::*;
    use proptest::prelude::*;

    fn value() -> impl Strategy<Value = Value> {
        prop_oneof![
            Just(Value::NULL),
            Just(Value::UNCHANGED),
            Just(Value::SAME),
            any::<Vec<u8>>().prop_map(|b| Value::new(Kind::Blob, b)),
            any::<i64>().prop_map(|i| Value::new(Kind::Integer, i.to_string())),
            any::<String>().prop_map(|s| Value::new(Kind::Typed, s)),
        ]
    }

    fn change() -> impl Strategy<Value = Change> {
        (0..9usize, 1..6u32, prop::collection::vec(value(), 0..6), prop::collection::vec(value(), 0..6)).prop_map(
            |(table, op, row, old)| {
                let op = Op::from_code(op).expect("1 to 5 are operations");
                Change { table, op, row: Some(row), old: Some(old) }
            },
        )
    }

    proptest! {
        #[test]
        fn changes_read_back_as_written(changes in prop::collection::vec(change(), 0..8)) {
            prop_assert_eq!(decode_changes(&encode_changes(&changes)).expect("own encoding"), changes);
        }

        #[test]
        fn entries_read_back_as_written(
            position in 0..u64::MAX, lamport: u64, time: i64, node: String, part: u32, more: bool,
            correlation: Option<String>, tables: Vec<u64>, changes: Vec<u8>,
        ) {
            let origin = (position > 0).then_some(Origin { log: LogId(7 << 70), epoch: Epoch(3), position: Position(position) });
            let header = EntryHeader {
                origin, lamport: Lamport(lamport), time: Timestamp(time), node: node.into(), part, more,
                correlation: correlation.map(Into::into), causation: None,
                tables: tables.into_iter().map(Fingerprint).collect(),
            };
            let entry = Entry::new(header, changes.into());
            let decoded = Entry::decode(entry.bytes().clone()).expect("own encoding");
            prop_assert_eq!(decoded.header(), entry.header());
            prop_assert_eq!(decoded.changes_bytes(), entry.changes_bytes());
            prop_assert_eq!(decoded, entry);
        }

        #[test]
        fn foreign_bytes_are_an_error_never_a_panic(bytes: Vec<u8>) {
            let bytes = Bytes::from(bytes);
            let _ = decode_changes(&bytes);
            let _ = decode_table(&bytes);
            if let Ok(entry) = Entry::decode(bytes) {
                let _ = (entry.header(), entry.changes());
            }
        }
    }

    #[test]
    fn unknown_fields_are_ignored_and_stay_in_the_bytes() {
        let mut bytes = Entry::new(EntryHeader::default(), Bytes::from_static(b"")).bytes().to_vec();
        put_bytes(&mut bytes, 99, b"from the future");
        let entry = Entry::decode(bytes.clone().into()).expect("unknown fields are tolerated");
        assert_eq!(entry.bytes(), &bytes);
    }
}
