//! Changes read in place: rows as slices of the entry's bytes, because an apply that is behind reads a million a second.

use crate::model::{Kind, Op, Value};

/// One column's value, borrowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cell<'a> {
    pub kind: Kind,
    pub text: &'a [u8],
}

impl<'a> Cell<'a> {
    pub(super) fn of(value: &'a Value) -> Cell<'a> {
        Cell { kind: value.kind, text: &value.text }
    }

    pub(super) fn is_unchanged(&self) -> bool {
        self.kind == Kind::Unchanged
    }
}

/// What a change is; its rows stand in the reader.
#[derive(Clone, Copy, Debug)]
pub(super) struct Head {
    pub table: usize,
    pub op: Op,
    pub has_row: bool,
    pub has_old: bool,
}

/// Reads the changes of one entry, one after the other.
#[derive(Debug, Default)]
pub(super) struct Changes<'a> {
    rest: &'a [u8],
    /// The row after the change, if it has one.
    pub row: Vec<Cell<'a>>,
    /// The row before it, if it has one; [`Kind::Same`] is replaced by the new row's values.
    pub old: Vec<Cell<'a>>,
}

const CUT: &str = "a change is cut short";

fn varint(rest: &mut &[u8]) -> Result<u64, &'static str> {
    let mut value = 0;
    for (i, &byte) in rest.iter().take(10).enumerate() {
        value |= u64::from(byte & 0x7f) << (7 * i);
        if byte < 0x80 {
            *rest = &rest[i + 1..];
            return Ok(value);
        }
    }
    Err("a number of a change does not end")
}

fn bytes<'a>(rest: &mut &'a [u8]) -> Result<&'a [u8], &'static str> {
    let length = usize::try_from(varint(rest)?).unwrap_or(usize::MAX);
    if length > rest.len() {
        return Err(CUT);
    }
    let (found, after) = rest.split_at(length);
    *rest = after;
    Ok(found)
}

/// Passes over a field that this version does not know.
fn pass(rest: &mut &[u8], wire: u64) -> Result<(), &'static str> {
    let length = match wire {
        0 => return varint(rest).map(drop),
        2 => return bytes(rest).map(drop),
        1 => 8,
        5 => 4,
        _ => return Err("a change has an unknown wire type"),
    };
    *rest = rest.get(length..).ok_or(CUT)?;
    Ok(())
}

fn row<'a>(mut rest: &'a [u8], out: &mut Vec<Cell<'a>>) -> Result<(), &'static str> {
    const FEWER: &str = "a row has fewer texts than its kinds announce";
    out.clear();
    let mut next = 0;
    while !rest.is_empty() {
        let key = varint(&mut rest)?;
        match (key >> 3, key & 7) {
            (1, 2) => {
                for &code in bytes(&mut rest)? {
                    let kind = Kind::from_code(code).ok_or("a value is of an unknown kind: upgrade this node")?;
                    out.push(Cell { kind, text: &[] });
                }
            }
            (2, 2) => {
                let text = bytes(&mut rest)?;
                while out.get(next).is_some_and(|cell| !cell.kind.has_text()) {
                    next += 1;
                }
                out.get_mut(next).ok_or("a row has more texts than its kinds announce")?.text = text;
                next += 1;
            }
            (_, wire) => pass(&mut rest, wire)?,
        }
    }
    match out.get(next..).unwrap_or_default().iter().any(|cell| cell.kind.has_text()) {
        true => Err(FEWER),
        false => Ok(()),
    }
}

impl<'a> Changes<'a> {
    /// Of an entry's encoded changes.
    pub(super) fn of(bytes: &'a [u8]) -> Changes<'a> {
        Changes { rest: bytes, row: Vec::new(), old: Vec::new() }
    }

    /// The next change; `None` after the last.
    pub(super) fn next(&mut self) -> Result<Option<Head>, &'static str> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let mut change = bytes(&mut self.rest)?;
        let (mut table, mut op, mut has_row, mut has_old) = (0, 0, false, false);
        while !change.is_empty() {
            let key = varint(&mut change)?;
            match (key >> 3, key & 7) {
                (1, 0) => table = varint(&mut change)?,
                (2, 0) => op = varint(&mut change)?,
                (3, 2) => {
                    row(bytes(&mut change)?, &mut self.row)?;
                    has_row = true;
                }
                (4, 2) => {
                    row(bytes(&mut change)?, &mut self.old)?;
                    has_old = true;
                }
                (_, wire) => pass(&mut change, wire)?,
            }
        }
        let op = u32::try_from(op).ok().and_then(Op::from_code).ok_or("a change is of an unknown kind")?;
        let complete = match op {
            Op::Insert | Op::Update => has_row,
            Op::Delete => has_old,
            Op::Truncate | Op::Copied | Op::Cut => true,
        };
        if !complete {
            return Err("a change has no row");
        }
        if has_old && has_row {
            for (i, cell) in self.old.iter_mut().enumerate().filter(|(_, cell)| cell.kind == Kind::Same) {
                *cell = self.row.get(i).copied().unwrap_or(Cell { kind: Kind::Null, text: &[] });
            }
        }
        Ok(Some(Head { table: usize::try_from(table).unwrap_or(usize::MAX), op, has_row, has_old }))
    }
}

/// Whether an entry's rows of a table come from a database whose columns have one type each; `None` where they do not tell.
pub(super) fn is_typed(bytes: &[u8], table: usize) -> Option<bool> {
    let mut changes = Changes::of(bytes);
    while let Ok(Some(head)) = changes.next() {
        let row = if head.has_row { &changes.row } else { &changes.old };
        let told = row.iter().find_map(|cell| told_by(cell.kind));
        if let (Some(told), true) = (told, head.table == table && (head.has_row || head.has_old)) {
            return Some(told);
        }
    }
    None
}

/// Whether a value of that kind comes from a database whose columns have one type each.
pub(super) fn told_by(kind: Kind) -> Option<bool> {
    match kind {
        Kind::Typed => Some(true),
        Kind::Integer | Kind::Real | Kind::Text | Kind::Blob => Some(false),
        Kind::Null | Kind::Unchanged | Kind::Same => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Change, decode_changes, encode_changes};
    use bytes::Bytes;
    use proptest::prelude::*;

    fn value() -> impl Strategy<Value = Value> {
        prop_oneof![
            Just(Value::NULL),
            Just(Value::UNCHANGED),
            Just(Value::SAME),
            any::<Vec<u8>>().prop_map(|b| Value::new(Kind::Blob, b)),
            any::<String>().prop_map(|s| Value::new(Kind::Typed, s)),
        ]
    }

    fn rows() -> impl Strategy<Value = (Vec<Value>, Vec<Value>)> {
        (0..5usize).prop_flat_map(|n| (prop::collection::vec(value(), n), prop::collection::vec(value(), n)))
    }

    proptest! {
        #[test]
        fn what_is_read_in_place_is_what_the_model_decodes(rows in prop::collection::vec((0..9usize, 1..6u32, rows()), 0..6)) {
            let changes: Vec<Change> = rows.into_iter().map(|(table, op, (row, old))| {
                let op = Op::from_code(op).expect("1 to 5 are operations");
                Change { table, op, row: Some(row), old: Some(old) }
            }).collect();
            let bytes = encode_changes(&changes);
            let mut read = Changes::of(&bytes);
            for change in &changes {
                let head = read.next().expect("own encoding").expect("one more");
                prop_assert_eq!((head.table, head.op), (change.table, change.op));
                let row: Vec<Cell<'_>> = change.row.iter().flatten().map(Cell::of).collect();
                prop_assert_eq!(&read.row, &row);
                let old = change.old_resolved().expect("it has one");
                let old: Vec<Cell<'_>> = old.iter().map(Cell::of).collect();
                prop_assert_eq!(&read.old, &old);
            }
            prop_assert!(read.next().expect("own encoding").is_none());
        }

        #[test]
        fn foreign_bytes_are_an_error_where_they_are_one_to_the_model(bytes: Vec<u8>) {
            let mut read = Changes::of(&bytes);
            let mut readable = true;
            loop {
                match read.next() {
                    Ok(Some(_)) => {}
                    Ok(None) => break,
                    Err(_) => { readable = false; break; }
                }
            }
            if decode_changes(&Bytes::from(bytes.clone())).is_ok() {
                prop_assert!(readable, "{bytes:?}");
            }
        }
    }
}
