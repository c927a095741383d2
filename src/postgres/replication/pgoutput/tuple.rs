//! A row as it is sent.

use bytes::Bytes;

use crate::model::{Kind, Row, Value};

/// A row's values, in the order of the relation's columns. It keeps the block that was read with it alive: copy what is to
/// stay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tuple {
    columns: u16,
    /// For each column a kind and, for texts, a length and the text: checked.
    bytes: Bytes,
}

/// One value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TupleValue<'a> {
    /// SQL NULL; or, in an old row that is only a key, no part of it.
    Null,
    /// Not sent, because it is stored apart and was not changed.
    Unchanged,
    /// In PostgreSQL's representation; UTF-8, unless the database's encoding is `SQL_ASCII`.
    Text(&'a [u8]),
}

impl Tuple {
    pub(super) fn new(columns: u16, bytes: Bytes) -> Tuple {
        Tuple { columns, bytes }
    }

    /// How many values.
    pub fn columns(&self) -> usize {
        usize::from(self.columns)
    }

    /// The values in order.
    pub fn values(&self) -> Values<'_> {
        Values { left: self.columns(), rest: &self.bytes }
    }

    /// All the bytes that values take.
    pub fn size(&self) -> usize {
        self.bytes.len()
    }

    /// A text of [`Tuple::values`] as bytes that are shared, not copied.
    ///
    /// # Panics
    /// The text is of another row.
    pub fn share(&self, text: &[u8]) -> Bytes {
        self.bytes.slice_ref(text)
    }

    /// The values as the model has them, their texts shared.
    pub fn row(&self) -> Row {
        let value = |value| match value {
            TupleValue::Null => Value::NULL,
            TupleValue::Unchanged => Value::UNCHANGED,
            TupleValue::Text(text) => Value { kind: Kind::Typed, text: self.share(text) },
        };
        self.values().map(value).collect()
    }
}

/// The values of a row, in order.
#[derive(Clone, Debug)]
pub struct Values<'a> {
    left: usize,
    rest: &'a [u8],
}

impl<'a> Iterator for Values<'a> {
    type Item = TupleValue<'a>;

    fn next(&mut self) -> Option<TupleValue<'a>> {
        self.left = self.left.checked_sub(1)?;
        let (kind, rest) = self.rest.split_first()?;
        self.rest = rest;
        match kind {
            b'n' => Some(TupleValue::Null),
            b'u' => Some(TupleValue::Unchanged),
            _ => {
                let (length, rest) = self.rest.split_first_chunk()?;
                let (text, rest) = rest.split_at_checked(u32::from_be_bytes(*length) as usize)?;
                self.rest = rest;
                Some(TupleValue::Text(text))
            }
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl ExactSizeIterator for Values<'_> {}
