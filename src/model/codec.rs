//! Protobuf bytes of changes and table definitions; `docs/FORMAT.md` specifies them. Envelopes of entries stand in
//! `envelope`.

use bytes::{Buf, Bytes};
use prost::Message;
use prost::encoding::{self, DecodeContext, WireType};
use thiserror::Error;

use super::value::Kind;
use super::{Change, Column, IndexColumn, Op, Row, TableDef, TableIndex, Value, limits};

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

pub(super) fn malformed(what: &'static str, why: impl ToString) -> CodecError {
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
    #[prost(message, repeated, tag = "3")]
    indexes: Vec<IndexMessage>,
}

#[derive(Clone, PartialEq, Message)]
struct IndexMessage {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(bool, tag = "2")]
    unique: bool,
    #[prost(string, tag = "3")]
    method: String,
    #[prost(message, repeated, tag = "4")]
    columns: Vec<IndexColumnMessage>,
    #[prost(uint32, repeated, tag = "5")]
    included: Vec<u32>,
    #[prost(string, tag = "6")]
    definition: String,
}

#[derive(Clone, PartialEq, Message)]
struct IndexColumnMessage {
    #[prost(uint32, tag = "1")]
    column: u32,
    #[prost(bool, tag = "2")]
    descending: bool,
    #[prost(bool, tag = "3")]
    nulls_first: bool,
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
            Op::Truncate | Op::Copied | Op::Cut => true,
        };
        if !complete {
            return Err(malformed("a change", format!("{} without its row", op.name())));
        }
        changes.push(Change { table: message.table as usize, op, row, old });
    }
    Ok(changes)
}

/// The table index and operation of every change, without reading the rows.
pub fn scan_ops(bytes: &[u8]) -> Result<Vec<(usize, Op)>, CodecError> {
    let mut rest = bytes;
    let mut ops = Vec::new();
    while rest.has_remaining() {
        let length = encoding::decode_varint(&mut rest).map_err(|e| malformed("a change", e))?;
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        if length > rest.len() {
            return Err(malformed("a change", format!("{length} bytes announced, {} left", rest.len())));
        }
        let (mut change, after) = rest.split_at(length);
        rest = after;
        let (mut table, mut op) = (0, 0);
        while change.has_remaining() {
            let (field, wire) = encoding::decode_key(&mut change).map_err(|e| malformed("a change", e))?;
            match (field, wire) {
                (1, WireType::Varint) => {
                    table = encoding::decode_varint(&mut change).map_err(|e| malformed("a change", e))?
                }
                (2, WireType::Varint) => {
                    op = encoding::decode_varint(&mut change).map_err(|e| malformed("a change", e))?
                }
                _ => encoding::skip_field(wire, field, &mut change, DecodeContext::default())
                    .map_err(|e| malformed("a change", e))?,
            }
        }
        let code = u32::try_from(op).unwrap_or(u32::MAX);
        let op = Op::from_code(code).ok_or(CodecError::UnknownKind { what: "a change", kind: code })?;
        ops.push((usize::try_from(table).unwrap_or(usize::MAX), op));
    }
    Ok(ops)
}

/// Encodes a table definition.
pub fn encode_table(table: &TableDef) -> Vec<u8> {
    let columns = table.columns.iter().map(|column| ColumnMessage {
        name: column.name.to_string(),
        type_name: column.type_name.to_string(),
        key: u32::from(column.key),
    });
    let indexes = table.indexes.iter().map(index_message);
    TableMessage { name: table.name.to_string(), columns: columns.collect(), indexes: indexes.collect() }
        .encode_to_vec()
}

fn index_message(index: &TableIndex) -> IndexMessage {
    let columns = index.columns.iter().map(|of| IndexColumnMessage {
        column: of.column as u32,
        descending: of.descending,
        nulls_first: of.nulls_first,
    });
    IndexMessage {
        name: index.name.to_string(),
        unique: index.unique,
        method: index.method.to_string(),
        columns: columns.collect(),
        included: index.included.iter().map(|&column| column as u32).collect(),
        definition: index.definition.to_string(),
    }
}

/// Of a definition with so many columns; `None` for one that is not made here: its name or its method is no name, it has too many
/// columns, or names one that the table does not have. A table is no less a table without it.
fn index_from(message: IndexMessage, width: usize) -> Option<TableIndex> {
    let is_name = |name: &str| name.len() <= limits::NAME_BYTES_MAX && !name.chars().any(char::is_control);
    let is_named = is_name(&message.name) && !message.name.is_empty() && is_name(&message.method);
    if !is_named || message.columns.len() + message.included.len() > limits::INDEX_COLUMNS_MAX {
        return None;
    }
    let column = |column: u32| usize::try_from(column).ok().filter(|column| *column < width);
    let columns = message.columns.iter().map(|of| {
        Some(IndexColumn { column: column(of.column)?, descending: of.descending, nulls_first: of.nulls_first })
    });
    Some(TableIndex {
        columns: columns.collect::<Option<_>>()?,
        included: message.included.iter().map(|&of| column(of)).collect::<Option<_>>()?,
        name: message.name.into(),
        unique: message.unique,
        method: message.method.into(),
        definition: TableIndex::shown(&message.definition),
    })
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
    let def = TableDef::new(name, columns.collect());
    let width = def.columns.len();
    let indexes = message.indexes.into_iter().filter_map(|index| index_from(index, width));
    let indexes = indexes.take(limits::TABLE_INDEXES_MAX).collect();
    Ok(def.with_indexes(indexes))
}

#[cfg(test)]
mod tests {
    use super::super::entry::EntryHeader;
    use super::super::envelope::put_bytes;
    use super::super::{Entry, Epoch, Fingerprint, Lamport, LogId, Origin, Position, Timestamp};
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
            let bytes = encode_changes(&changes);
            let ops: Vec<_> = changes.iter().map(|change| (change.table, change.op)).collect();
            prop_assert_eq!(scan_ops(&bytes).expect("own encoding"), ops);
            prop_assert_eq!(decode_changes(&bytes).expect("own encoding"), changes);
        }

        #[test]
        fn entries_read_back_as_written(
            position in 0..u64::MAX, lamport: u64, time: i64, node: String, part: u32, more: bool,
            correlation: Option<String>, tables: Vec<u64>, changes: Vec<u8>,
        ) {
            let origin = (position > 0).then_some(Origin { log: LogId(7 << 70), epoch: Epoch(3), position: Position(position) });
            let header = EntryHeader {
                origin, lamport: Lamport(lamport), time: Timestamp(time), node: node.into(), part, more,
                idempotency: correlation.clone().map(Into::into), correlation: correlation.map(Into::into), causation: None,
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
            let _ = scan_ops(&bytes);
            let _ = decode_table(&bytes);
            if let Ok(entry) = Entry::decode(bytes) {
                let _ = (entry.header(), entry.changes());
            }
        }
    }

    fn indexed(index: TableIndex) -> TableDef {
        let column = |name: &str| Column { name: name.into(), type_name: "text".into(), key: 0 };
        TableDef::new("t".parse().expect("a name"), vec![column("a"), column("b")]).with_indexes(vec![index])
    }

    #[test]
    fn definitions_read_back_with_their_indexes_and_have_the_same_fingerprint() {
        let index = TableIndex {
            name: "odd \" name".into(),
            unique: true,
            method: "btree".into(),
            columns: vec![IndexColumn { column: 1, descending: true, nulls_first: true }],
            included: vec![0],
            definition: "CREATE …".into(),
        };
        let def = indexed(index);
        let decoded = decode_table(&encode_table(&def)).expect("own encoding");
        assert_eq!(decoded, def);
        assert_eq!(decoded.fingerprint, TableDef::new(def.name.clone(), def.columns.clone()).fingerprint);
    }

    #[test]
    fn indexes_that_are_none_are_left_out_and_the_table_stays() {
        let of = |column: usize| IndexColumn { column, descending: false, nulls_first: false };
        let plain = TableIndex { name: "i".into(), columns: vec![of(0)], ..TableIndex::default() };
        assert!(decode_table(&encode_table(&indexed(plain.clone()))).is_ok());
        for bad in [
            TableIndex { columns: vec![of(2)], ..plain.clone() },
            TableIndex { included: vec![usize::from(u16::MAX)], ..plain.clone() },
            TableIndex { columns: vec![of(0); 33], ..plain.clone() },
            TableIndex { name: "".into(), ..plain.clone() },
            TableIndex { name: "a\0b".into(), ..plain.clone() },
            TableIndex { name: "n".repeat(256).into(), ..plain.clone() },
            TableIndex { method: "x\n".into(), ..plain.clone() },
        ] {
            let decoded = decode_table(&encode_table(&indexed(bad.clone()))).expect("the table is one");
            assert!(decoded.indexes.is_empty() && decoded.columns == indexed(bad.clone()).columns, "{bad:?}");
        }
        let mut many = TableMessage { name: "t".into(), ..TableMessage::default() };
        many.columns.push(ColumnMessage { name: "a".into(), ..ColumnMessage::default() });
        many.indexes = vec![index_message(&plain); limits::TABLE_INDEXES_MAX + 1];
        assert_eq!(decode_table(&many.encode_to_vec()).expect("a table").indexes.len(), limits::TABLE_INDEXES_MAX);
        let long = TableIndex { definition: "d".repeat(5000).into(), ..plain };
        let decoded = decode_table(&encode_table(&indexed(long))).expect("words are shortened");
        assert_eq!(decoded.indexes[0].definition.len(), limits::INDEX_TEXT_BYTES_MAX);
    }

    #[test]
    fn unknown_fields_are_ignored_and_stay_in_the_bytes() {
        let mut bytes = Entry::new(EntryHeader::default(), Bytes::from_static(b"")).bytes().to_vec();
        put_bytes(&mut bytes, 99, b"from the future");
        let entry = Entry::decode(bytes.clone().into()).expect("unknown fields are tolerated");
        assert_eq!(entry.bytes(), &bytes);
    }
}
