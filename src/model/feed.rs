//! Rows of feeds: a key, which may be missing, and any JSON value as the text that was sent.

use super::{Column, TableDef, TableName};

/// The names by which a feed's definition is known; no database column has them.
const COLUMNS: [(&str, &str); 2] = [("$key", "text"), ("$row", "json")];

/// One row of a feed, in place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FeedRow<'a> {
    /// Which of its entry's tables.
    pub table: usize,
    /// By it rows are ordered and found.
    pub key: Option<&'a str>,
    /// JSON.
    pub row: &'a str,
}

/// The definition of a feed's table.
pub fn feed_table(name: TableName) -> TableDef {
    let column = |(name, type_name): (&str, &str)| Column { name: name.into(), type_name: type_name.into(), key: 0 };
    TableDef::new(name, COLUMNS.into_iter().map(column).collect())
}

impl TableDef {
    /// Whether rows of it were appended to a feed.
    pub fn is_feed(&self) -> bool {
        let named = |(column, (name, type_name)): (&Column, (&str, &str))| {
            &*column.name == name && &*column.type_name == type_name
        };
        self.columns.len() == COLUMNS.len() && self.columns.iter().zip(COLUMNS).all(named)
    }
}

fn varint_len(value: usize) -> usize {
    (usize::BITS - (value | 1).leading_zeros()).div_ceil(7) as usize
}

fn put_varint(out: &mut Vec<u8>, value: usize) {
    let mut rest = value;
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

/// Adds a row to encoded changes: the same bytes as [`super::encode_changes`] writes for an insert.
pub fn put_feed_row(out: &mut Vec<u8>, feed: &FeedRow<'_>) {
    let text_len = |text: &str| 1 + varint_len(text.len()) + text.len();
    let row_len = 4 + feed.key.map_or(0, text_len) + text_len(feed.row);
    let table_len = if feed.table == 0 { 0 } else { 1 + varint_len(feed.table) };
    let length = table_len + 2 + 1 + varint_len(row_len) + row_len;
    out.reserve(length + 5);
    put_varint(out, length);
    if feed.table != 0 {
        out.push(0x08);
        put_varint(out, feed.table);
    }
    out.extend_from_slice(&[0x10, super::Op::Insert as u8, 0x1a]);
    put_varint(out, row_len);
    out.extend_from_slice(&[0x0a, 2, if feed.key.is_some() { b's' } else { b'n' }, b't']);
    for text in feed.key.into_iter().chain([feed.row]) {
        out.push(0x12);
        put_varint(out, text.len());
        out.extend_from_slice(text.as_bytes());
    }
}

/// Reads rows of feeds one after the other, without copying.
#[derive(Clone, Debug)]
pub struct FeedRows<'a> {
    rest: &'a [u8],
}

impl<'a> FeedRows<'a> {
    /// Of encoded changes.
    pub fn new(changes: &'a [u8]) -> FeedRows<'a> {
        FeedRows { rest: changes }
    }

    /// Whether there is one row only, if they are rows.
    pub fn is_one(&self) -> bool {
        let mut rows = self.clone();
        rows.varint() == Some(rows.rest.len())
    }

    fn varint(&mut self) -> Option<usize> {
        let mut value = 0usize;
        for (i, byte) in self.rest.iter().take(5).enumerate() {
            value |= usize::from(byte & 0x7f) << (7 * i);
            if *byte < 0x80 {
                self.rest = &self.rest[i + 1..];
                return Some(value);
            }
        }
        None
    }

    fn expect(&mut self, bytes: &[u8]) -> Option<()> {
        self.rest = self.rest.strip_prefix(bytes)?;
        Some(())
    }

    fn text(&mut self) -> Option<&'a str> {
        self.expect(&[0x12])?;
        let length = self.varint()?;
        let (text, rest) = self.rest.split_at_checked(length)?;
        self.rest = rest;
        std::str::from_utf8(text).ok()
    }

    fn row(&mut self) -> Option<FeedRow<'a>> {
        let length = self.varint()?;
        let end = self.rest.len().checked_sub(length)?;
        let table = match self.expect(&[0x08]) {
            Some(()) => self.varint()?,
            None => 0,
        };
        self.expect(&[0x10, super::Op::Insert as u8, 0x1a])?;
        self.varint()?;
        self.expect(&[0x0a, 2])?;
        let keyed = match self.expect(b"st") {
            Some(()) => true,
            None => {
                self.expect(b"nt")?;
                false
            }
        };
        let key = if keyed { Some(self.text()?) } else { None };
        let row = self.text()?;
        (self.rest.len() == end).then_some(FeedRow { table, key, row })
    }
}

impl<'a> Iterator for FeedRows<'a> {
    /// `None`: these are not (only) rows of feeds as [`put_feed_row`] writes them; decode them as changes.
    type Item = Option<FeedRow<'a>>;

    fn next(&mut self) -> Option<Option<FeedRow<'a>>> {
        if self.rest.is_empty() {
            return None;
        }
        let row = self.row();
        if row.is_none() {
            self.rest = &[];
        }
        Some(row)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Change, Kind, Op, Value, decode_changes, encode_changes};
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn rows_are_changes_and_read_back(rows in prop::collection::vec((0..300usize, any::<Option<String>>(), "\\PC{0,300}"), 0..6)) {
            let (mut bytes, mut changes) = (Vec::new(), Vec::new());
            for (table, key, row) in &rows {
                put_feed_row(&mut bytes, &FeedRow { table: *table, key: key.as_deref(), row });
                let key = key.clone().map_or(Value::NULL, |key| Value::new(Kind::Text, key));
                changes.push(Change { table: *table, op: Op::Insert, row: Some(vec![key, Value::new(Kind::Typed, row.clone())]), old: None });
            }
            prop_assert_eq!(&encode_changes(&changes)[..], &bytes[..]);
            prop_assert_eq!(decode_changes(&bytes.clone().into()).expect("own encoding"), changes);
            let read: Vec<_> = FeedRows::new(&bytes).map(|row| row.expect("own encoding")).collect();
            let given: Vec<_> = rows.iter().map(|(table, key, row)| FeedRow { table: *table, key: key.as_deref(), row }).collect();
            prop_assert_eq!(read, given);
            prop_assert_eq!(FeedRows::new(&bytes).is_one(), rows.len() == 1);
        }

        #[test]
        fn foreign_bytes_are_no_rows_and_no_panic(bytes: Vec<u8>) {
            FeedRows::new(&bytes).for_each(drop);
        }
    }

    #[test]
    fn a_feeds_table_is_known_again() {
        assert!(feed_table("orders".parse().expect("a name")).is_feed());
        assert!(!TableDef::new("orders".parse().expect("a name"), Vec::new()).is_feed());
    }
}
