//! Changes from the bytes of the server's message to those of the log, in one step: the same bytes as
//! [`crate::model::encode_changes`] would make of them.

use crate::model::{Kind, Op, Row};
use crate::postgres::replication::pgoutput::{Tuple, TupleValue};

/// What is known of a row before its change.
#[derive(Clone, Copy, Debug)]
pub(super) enum Before<'a> {
    /// Nothing.
    Unknown,
    /// Its key; the other values are not told.
    Key(&'a Tuple),
    /// All of it.
    Whole(&'a Tuple),
}

fn varint_len(value: usize) -> usize {
    (((value | 1).ilog2() + 7) / 7) as usize
}

fn put_varint(out: &mut Vec<u8>, mut value: usize) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// A length-delimited field with a number below 16.
fn field_len(bytes: usize) -> usize {
    1 + varint_len(bytes) + bytes
}

fn put_start(out: &mut Vec<u8>, field: u8, bytes: usize) {
    out.push(field << 3 | 2);
    put_varint(out, bytes);
}

/// The bytes of a row's message; a row without columns has none.
fn row_len<'a>(columns: usize, texts: impl Iterator<Item = Option<&'a [u8]>>) -> usize {
    let texts: usize = texts.flatten().map(|text| field_len(text.len())).sum();
    texts + if columns == 0 { 0 } else { field_len(columns) }
}

fn put_row<'a>(
    out: &mut Vec<u8>,
    columns: usize,
    kinds: impl Iterator<Item = Kind>,
    texts: impl Iterator<Item = Option<&'a [u8]>>,
) {
    if columns > 0 {
        put_start(out, 1, columns);
        out.extend(kinds.map(|kind| kind as u8));
    }
    for text in texts.flatten() {
        put_start(out, 2, text.len());
        out.extend_from_slice(text);
    }
}

fn kind_of(value: TupleValue<'_>) -> Kind {
    match value {
        TupleValue::Null => Kind::Null,
        TupleValue::Unchanged => Kind::Unchanged,
        TupleValue::Text(_) => Kind::Typed,
    }
}

fn text_of(value: TupleValue<'_>) -> Option<&[u8]> {
    match value {
        TupleValue::Text(text) => Some(text),
        _ => None,
    }
}

/// The values of a new row: what was not sent is taken from the whole old row, where there is one.
fn filled<'a>(new: &'a Tuple, before: Before<'a>) -> impl Iterator<Item = TupleValue<'a>> + Clone {
    let mut old = match before {
        Before::Whole(old) => Some(old.values()),
        _ => None,
    };
    new.values().map(move |value| match (value, old.as_mut().and_then(Iterator::next)) {
        (TupleValue::Unchanged, Some(known)) => known,
        (value, _) => value,
    })
}

/// The values of an old row: of a key only what belongs to it, of a whole row only what differs from the new one.
fn told<'a>(
    old: &'a Tuple,
    before: Before<'a>,
    new: Option<&'a Tuple>,
    key: &'a [bool],
) -> impl Iterator<Item = (Kind, Option<&'a [u8]>)> + Clone {
    let whole = matches!(before, Before::Whole(_));
    let mut new = new.filter(|_| whole).map(Tuple::values);
    old.values().enumerate().map(move |(place, value)| {
        let same = match (new.as_mut().and_then(Iterator::next), value) {
            (Some(TupleValue::Unchanged), _) => true,
            (Some(TupleValue::Text(new)), TupleValue::Text(old)) => new == old,
            (Some(TupleValue::Null), TupleValue::Null) => true,
            _ => false,
        };
        match () {
            () if same => (Kind::Same, None),
            () if !whole && !key.get(place).copied().unwrap_or(false) => (Kind::Unchanged, None),
            () => (kind_of(value), text_of(value)),
        }
    })
}

/// Appends one change of a row. `key` says for every column whether it belongs to the key that old rows have.
pub(super) fn put_change(
    out: &mut Vec<u8>,
    table: usize,
    op: Op,
    new: Option<&Tuple>,
    before: Before<'_>,
    key: &[bool],
) {
    let old = match before {
        Before::Unknown => None,
        Before::Key(old) | Before::Whole(old) => Some(old),
    };
    let new_len = new.map(|new| row_len(new.columns(), filled(new, before).map(text_of)));
    let old_len = old.map(|old| row_len(old.columns(), told(old, before, new, key).map(|(_, text)| text)));
    put_head(out, table, op, new_len, old_len);
    if let (Some(new), Some(length)) = (new, new_len) {
        put_start(out, 3, length);
        let values = filled(new, before);
        put_row(out, new.columns(), values.clone().map(kind_of), values.map(text_of));
    }
    if let (Some(old), Some(length)) = (old, old_len) {
        put_start(out, 4, length);
        let values = told(old, before, new, key);
        put_row(out, old.columns(), values.clone().map(|(kind, _)| kind), values.map(|(_, text)| text));
    }
}

/// The length of a change and what stands before its rows.
fn put_head(out: &mut Vec<u8>, table: usize, op: Op, new_len: Option<usize>, old_len: Option<usize>) {
    let table_len = if table == 0 { 0 } else { 1 + varint_len(table) };
    let rows = new_len.map_or(0, field_len) + old_len.map_or(0, field_len);
    out.reserve(rows + 24);
    put_varint(out, table_len + 2 + rows);
    if table > 0 {
        out.push(1 << 3);
        put_varint(out, table);
    }
    out.extend_from_slice(&[2 << 3, op as u8]);
}

/// Appends a change of a table as a whole.
pub(super) fn put_table_change(out: &mut Vec<u8>, table: usize, op: Op) {
    put_head(out, table, op, None, None);
}

/// Appends a change whose rows are at hand as values.
pub(super) fn put_rows(out: &mut Vec<u8>, table: usize, op: Op, new: Option<&Row>, old: Option<&Row>) {
    let texts = |row: &Row| row.iter().map(|value| value.kind.has_text().then(|| value.text.len())).collect::<Vec<_>>();
    let len = |row: &Row| {
        let texts: usize = texts(row).into_iter().flatten().map(field_len).sum();
        texts + if row.is_empty() { 0 } else { field_len(row.len()) }
    };
    put_head(out, table, op, new.map(len), old.map(len));
    for (field, row) in [(3, new), (4, old)] {
        let Some(row) = row else { continue };
        put_start(out, field, len(row));
        let texts = row.iter().map(|value| value.kind.has_text().then_some(&value.text[..]));
        put_row(out, row.len(), row.iter().map(|value| value.kind), texts);
    }
}

#[cfg(test)]
mod tests {
    use bytes::{BufMut, Bytes, BytesMut};
    use proptest::prelude::*;

    use super::*;
    use crate::model::{Change, Value, encode_changes};
    use crate::postgres::replication::pgoutput::{Decoder, Message, Old};

    /// An update of relation 1 as the server sends it, taken apart by the decoder.
    fn update(old: Option<(u8, &[Option<Option<String>>])>, new: &[Option<Option<String>>]) -> (Option<Old>, Tuple) {
        let mut bytes = BytesMut::new();
        bytes.put_u8(b'U');
        bytes.put_u32(1);
        let rows = old.into_iter().chain([(b'N', new)]);
        for (kind, row) in rows {
            bytes.put_u8(kind);
            bytes.put_u16(row.len() as u16);
            for value in row {
                match value {
                    None => bytes.put_u8(b'u'),
                    Some(None) => bytes.put_u8(b'n'),
                    Some(Some(text)) => {
                        bytes.put_u8(b't');
                        bytes.put_u32(text.len() as u32);
                        bytes.put_slice(text.as_bytes());
                    }
                }
            }
        }
        match Decoder::new().decode(&Bytes::from(bytes)).expect("a message").message {
            Message::Update { old, new, .. } => (old, new),
            other => panic!("{other:?}"),
        }
    }

    fn row() -> impl Strategy<Value = Vec<Option<Option<String>>>> {
        prop::collection::vec(
            prop_oneof![Just(None), Just(Some(None)), "[a-c]{0,2}".prop_map(|text| Some(Some(text)))],
            4,
        )
    }

    fn value(told: &Option<Option<String>>) -> Value {
        match told {
            None => Value::UNCHANGED,
            Some(None) => Value::NULL,
            Some(Some(text)) => Value::new(Kind::Typed, text.clone().into_bytes()),
        }
    }

    proptest! {
        #[test]
        fn changes_are_the_bytes_that_the_model_makes(table in 0..300usize, new in row(), old in row(), kind in 0..3u8, key: [bool; 4]) {
            let old: Vec<_> = old.into_iter().map(|value| value.or(Some(None))).collect();
            let told = match kind { 0 => None, 1 => Some((b'K', &old[..])), _ => Some((b'O', &old[..])) };
            let (was, is) = update(told, &new);
            let before = match &was {
                None => Before::Unknown,
                Some(Old::Key(tuple)) => Before::Key(tuple),
                Some(Old::Row(tuple)) => Before::Whole(tuple),
            };
            let filled: Row = match kind {
                2 => new.iter().zip(&old).map(|(new, old)| value(if new.is_none() { old } else { new })).collect(),
                _ => new.iter().map(value).collect(),
            };
            let expected_old: Option<Row> = match kind {
                0 => None,
                1 => Some(old.iter().zip(key).map(|(old, is_key)| if is_key { value(old) } else { Value::UNCHANGED }).collect()),
                _ => Some(old.iter().zip(&filled).map(|(old, new)| if value(old) == *new { Value::SAME } else { value(old) }).collect()),
            };
            let mut bytes = Vec::new();
            put_change(&mut bytes, table, Op::Update, Some(&is), before, &key);
            let change = Change { table, op: Op::Update, row: Some(filled.clone()), old: expected_old.clone() };
            prop_assert_eq!(&bytes, &encode_changes(std::slice::from_ref(&change)));
            bytes.clear();
            put_rows(&mut bytes, table, Op::Update, Some(&filled), expected_old.as_ref());
            prop_assert_eq!(&bytes, &encode_changes(&[change]));
            bytes.clear();
            put_table_change(&mut bytes, table, Op::Truncate);
            prop_assert_eq!(&bytes, &encode_changes(&[Change { table, op: Op::Truncate, row: None, old: None }]));
        }
    }
}
