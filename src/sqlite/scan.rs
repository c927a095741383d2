//! One table of one database as a stream of rows in an order that is the same in every database, with its digest.

use std::cmp::Ordering;

use rusqlite::types::ValueRef;
use rusqlite::{Result, Rows};
use sha2::{Digest, Sha256};

use super::connect::quote_ident as quote;
use crate::model::TableDef;

/// One value, with text as its bytes, which need not be UTF-8.
#[derive(Clone, Debug)]
pub(super) enum Cell {
    Null,
    Integer(i64),
    Real(f64),
    Text(Box<[u8]>),
    Blob(Box<[u8]>),
}

/// A row's values, in the order of the compared columns.
pub(super) type Scanned = Vec<Cell>;

/// `SELECT` of the columns, ordered by key (all columns where there is none) bytewise, whatever the collations are.
pub(super) fn ordered(def: &TableDef) -> String {
    let names: Vec<String> = def.columns.iter().map(|column| quote(&column.name)).collect();
    let keys = def.key_columns();
    let order: Vec<String> = match keys.is_empty() {
        // Numbers that are equal in different classes must not change places.
        true => names.iter().map(|name| format!("{name} COLLATE BINARY, typeof({name})")).collect(),
        false => keys.iter().map(|&i| format!("{} COLLATE BINARY", names[i])).collect(),
    };
    format!("SELECT {} FROM main.{} ORDER BY {}", names.join(","), quote(def.name.as_str()), order.join(","))
}

/// The rows of a running statement, counted and digested as they pass.
pub(super) struct Scan<'s> {
    rows: Rows<'s>,
    columns: usize,
    digest: Sha256,
    pub count: u64,
}

impl<'s> Scan<'s> {
    pub(super) fn new(rows: Rows<'s>, columns: usize) -> Scan<'s> {
        Scan { rows, columns, digest: Sha256::new(), count: 0 }
    }

    /// The next row; `None` at the end.
    pub(super) fn next(&mut self) -> Result<Option<Scanned>> {
        let Some(row) = self.rows.next()? else { return Ok(None) };
        self.count += 1;
        let mut values = Vec::with_capacity(self.columns);
        for i in 0..self.columns {
            let value = row.get_ref(i)?;
            feed(&mut self.digest, value);
            values.push(Cell::from(value));
        }
        Ok(Some(values))
    }

    /// SHA-256 over all rows that have passed, in their order.
    pub(super) fn digest(self) -> [u8; 32] {
        self.digest.finalize().into()
    }
}

impl Cell {
    /// As SQLite's value.
    pub(super) fn value(&self) -> ValueRef<'_> {
        match self {
            Cell::Null => ValueRef::Null,
            Cell::Integer(number) => ValueRef::Integer(*number),
            Cell::Real(number) => ValueRef::Real(*number),
            Cell::Text(text) => ValueRef::Text(text),
            Cell::Blob(blob) => ValueRef::Blob(blob),
        }
    }
}

impl From<ValueRef<'_>> for Cell {
    fn from(value: ValueRef<'_>) -> Cell {
        match value {
            ValueRef::Null => Cell::Null,
            ValueRef::Integer(number) => Cell::Integer(number),
            ValueRef::Real(number) => Cell::Real(number),
            ValueRef::Text(text) => Cell::Text(text.into()),
            ValueRef::Blob(blob) => Cell::Blob(blob.into()),
        }
    }
}

fn feed(digest: &mut Sha256, value: ValueRef<'_>) {
    let mut part = |class: u8, bytes: &[u8]| {
        let mut head = [class; 9];
        head[1..].copy_from_slice(&(bytes.len() as u64).to_le_bytes());
        digest.update(head);
        digest.update(bytes);
    };
    match value {
        ValueRef::Null => part(b'n', &[]),
        ValueRef::Integer(number) => part(b'i', &number.to_le_bytes()),
        ValueRef::Real(number) => part(b'r', &number.to_bits().to_le_bytes()),
        ValueRef::Text(text) => part(b's', text),
        ValueRef::Blob(blob) => part(b'b', blob),
    }
}

/// SQLite's order of values under the collation BINARY.
pub(super) fn compare(a: &Cell, b: &Cell) -> Ordering {
    let class = |value: &Cell| match value {
        Cell::Null => 0,
        Cell::Integer(_) | Cell::Real(_) => 1,
        Cell::Text(_) => 2,
        Cell::Blob(_) => 3,
    };
    match (a, b) {
        (Cell::Integer(a), Cell::Integer(b)) => a.cmp(b),
        (Cell::Real(a), Cell::Real(b)) => a.partial_cmp(b).unwrap_or(Ordering::Equal),
        (Cell::Integer(a), Cell::Real(b)) => mixed(*a, *b),
        (Cell::Real(a), Cell::Integer(b)) => mixed(*b, *a).reverse(),
        (Cell::Text(a), Cell::Text(b)) => a.cmp(b),
        (Cell::Blob(a), Cell::Blob(b)) => a.cmp(b),
        _ => class(a).cmp(&class(b)),
    }
}

/// An integer against a double, without rounding the integer.
fn mixed(integer: i64, real: f64) -> Ordering {
    if real < -9_223_372_036_854_775_808.0 {
        return Ordering::Greater;
    }
    if real >= 9_223_372_036_854_775_808.0 {
        return Ordering::Less;
    }
    let whole = real.trunc() as i64;
    integer.cmp(&whole).then(0.0f64.partial_cmp(&(real - real.trunc())).unwrap_or(Ordering::Equal))
}

/// Same class and same value; doubles by their bits.
pub(super) fn same(a: &Cell, b: &Cell) -> bool {
    match (a, b) {
        (Cell::Null, Cell::Null) => true,
        (Cell::Integer(a), Cell::Integer(b)) => a == b,
        (Cell::Real(a), Cell::Real(b)) => a.to_bits() == b.to_bits(),
        (Cell::Text(a), Cell::Text(b)) | (Cell::Blob(a), Cell::Blob(b)) => a == b,
        _ => false,
    }
}

/// The order of two rows in a scan: by the key's columns, or all (then by class, too) where there is no key.
pub(super) fn compare_rows(keys: &[usize], a: &Scanned, b: &Scanned) -> Ordering {
    if keys.is_empty() {
        let rank = |value: &Cell| matches!(value, Cell::Real(_));
        let pairs = a.iter().zip(b).map(|(a, b)| compare(a, b).then(rank(a).cmp(&rank(b))));
        return pairs.fold(Ordering::Equal, Ordering::then);
    }
    keys.iter().map(|&i| compare(&a[i], &b[i])).fold(Ordering::Equal, Ordering::then)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_ordered_as_sqlite_orders_them() {
        let values = [
            Cell::Null,
            Cell::Real(f64::NEG_INFINITY),
            Cell::Integer(i64::MIN),
            Cell::Integer(-1),
            Cell::Real(-0.5),
            Cell::Integer(0),
            Cell::Real(0.5),
            Cell::Integer(9_007_199_254_740_993),
            Cell::Real(9_007_199_254_740_994.0),
            Cell::Integer(i64::MAX),
            Cell::Real(1e300),
            Cell::Text(b"".as_slice().into()),
            Cell::Text(b"a".as_slice().into()),
            Cell::Blob(b"".as_slice().into()),
            Cell::Blob(b"\x01".as_slice().into()),
        ];
        for (i, a) in values.iter().enumerate() {
            for (j, b) in values.iter().enumerate() {
                assert_eq!(compare(a, b), i.cmp(&j), "{a:?} and {b:?}");
            }
        }
        assert_eq!(compare(&Cell::Integer(1), &Cell::Real(1.0)), Ordering::Equal);
        assert!(!same(&Cell::Integer(1), &Cell::Real(1.0)));
    }
}
