//! Changes as operations in arrays: which statement, and its parameters.

use super::array::Array;
use super::raw::{Cell, Head};
use super::shape::{Code, Mode, Shape};
use super::target::{Class, Field, Target};
use crate::model::{Kind, Op};

/// Every statement that writes single rows, by its number.
pub(super) type Codes = Vec<Code>;

/// Operations that one call of a loop at the server carries out.
#[derive(Debug)]
pub(super) struct Ops {
    pub codes: Vec<u32>,
    pub values: Array,
    /// The codes in it, each once.
    pub kinds: Vec<u32>,
}

impl Ops {
    pub(super) fn new() -> Ops {
        Ops { codes: Vec::new(), values: Array::texts(), kinds: Vec::new() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.codes.is_empty()
    }

    /// About what it takes as a message.
    pub(super) fn bytes(&self) -> usize {
        self.values.bytes() + 8 * self.codes.len()
    }

    fn code(&mut self, code: u32) {
        self.codes.push(code);
        if !self.kinds.contains(&code) {
            self.kinds.push(code);
        }
    }
}

/// A value as the text that the column's input takes.
///
/// # Errors
/// The value is of a kind that the column cannot keep.
pub(super) fn put_value(array: &mut Array, field: &Field, cell: Cell<'_>) -> Result<(), String> {
    match (cell.kind, field.class) {
        (Kind::Null, _) => array.null(),
        (Kind::Typed | Kind::Integer | Kind::Real, _) => array.put(cell.text),
        (Kind::Text, Class::Bytes) => return Err(format!("column {}: a text is no {}", field.name, field.cast)),
        (Kind::Text, _) => array.put(cell.text),
        (Kind::Blob, Class::Bytes) => array.hex(cell.text),
        (Kind::Blob, _) => return Err(format!("column {}: a blob is no {}", field.name, field.cast)),
        (Kind::Unchanged | Kind::Same, _) => return Err(format!("column {} has no value", field.name)),
    }
    Ok(())
}

/// Turns changes of one target into operations.
pub(super) struct Encoder<'a> {
    pub codes: &'a mut Codes,
    pub ops: &'a mut Ops,
    pub mode: Mode,
}

type Done = Result<(), String>;

impl Encoder<'_> {
    /// One change; an error is the table's trouble.
    pub(super) fn change<'c>(
        &mut self,
        target: &mut Target,
        head: Head,
        row: &mut [Cell<'c>],
        old: &mut [Cell<'c>],
    ) -> Done {
        let old = if head.has_old { Some(old) } else { None };
        match (head.op, old) {
            (Op::Insert, _) => self.put(target, row),
            (Op::Update, old) => self.update(target, row, old),
            (Op::Delete, Some(old)) => self.delete(target, old),
            (Op::Truncate, _) => self.push(target, Shape::Truncate, &[], &[]),
            (Op::Copied | Op::Cut, _) => Ok(()),
            (Op::Delete, None) => Err("delete without its row".to_owned()),
        }
    }

    /// Inserts the row, or overwrites the row of its key.
    pub(super) fn put(&mut self, target: &mut Target, row: &[Cell<'_>]) -> Done {
        check(target, row)?;
        self.push(target, Shape::Put, row, &[])
    }

    /// Deletes the row of that key; that it is missing is no error.
    pub(super) fn delete(&mut self, target: &mut Target, old: &[Cell<'_>]) -> Done {
        check(target, old)?;
        match target.key.is_empty() {
            true if !target.is_whole(old) => Err(NOT_WHOLE.to_owned()),
            true => self.push(target, Shape::DeleteEqual, &[], old),
            false => self.push(target, Shape::Delete, &[], old),
        }
    }

    fn update<'c>(&mut self, target: &mut Target, row: &mut [Cell<'c>], old: Option<&mut [Cell<'c>]>) -> Done {
        let moved = match old {
            None => return self.update_by(target, row, row, false),
            Some(old) => {
                check_width(target, row)?;
                check_width(target, old)?;
                if target.key.is_empty() {
                    if !target.is_whole(old) {
                        return Err(NOT_WHOLE.to_owned());
                    }
                    return self.push(target, Shape::UpdateEqual, row, old);
                }
                let moved = fill_key(target, row, old);
                (moved, old)
            }
        };
        self.update_by(target, row, moved.1, moved.0)
    }

    /// Updates the row of that key, which is the new row's unless it `moved`.
    pub(super) fn update_by(&mut self, target: &mut Target, row: &[Cell<'_>], key: &[Cell<'_>], moved: bool) -> Done {
        check(target, row)?;
        check(target, key)?;
        if target.key.is_empty() {
            return Err("the table has no key, and the old row is not known".to_owned());
        }
        if moved {
            return self.push(target, Shape::Move, row, key);
        }
        let whole = target.is_whole(row);
        let only_key = target.written.iter().all(|i| target.key.contains(i) || row[*i].is_unchanged());
        match (only_key, whole, self.mode) {
            (true, false, _) => Ok(()),
            (true, true, _) | (false, true, Mode::Convergent) => self.push(target, Shape::Put, row, &[]),
            _ => self.push(target, Shape::Update, row, key),
        }
    }

    fn push(&mut self, target: &mut Target, shape: Shape, row: &[Cell<'_>], old: &[Cell<'_>]) -> Done {
        let whole = row.is_empty() || target.is_whole(row);
        let known = shape as usize * 2 + usize::from(self.mode == Mode::Convergent);
        let present: Vec<bool> = match whole {
            true => Vec::new(),
            false => row.iter().map(|cell| !cell.is_unchanged()).collect(),
        };
        let code = match target.whole[known] {
            Some(code) if whole => code,
            _ => match target.codes.get(&(shape, self.mode, present.clone())) {
                Some(code) => *code,
                None => {
                    let code = self.codes.len() as u32;
                    self.codes.push(target.code(shape, self.mode, &present));
                    target.codes.insert((shape, self.mode, present), code);
                    if whole {
                        target.whole[known] = Some(code);
                    }
                    code
                }
            },
        };
        if !row.is_empty() {
            let skip_key = shape == Shape::Update;
            for &i in &target.written {
                let passed = row[i].is_unchanged() || skip_key && target.key.contains(&i);
                if !passed {
                    put_value(&mut self.ops.values, &target.columns[i], row[i])?;
                }
            }
        }
        for &i in target.finds(shape) {
            put_value(&mut self.ops.values, &target.columns[i], old[i])?;
        }
        self.ops.code(code);
        Ok(())
    }
}

const NOT_WHOLE: &str = "the table has no key, and the old row is not whole";

fn check_width(target: &Target, row: &[Cell<'_>]) -> Done {
    match row.len() == target.def.columns.len() {
        true => Ok(()),
        false => Err(format!("the row has {} values, its definition {} columns", row.len(), target.def.columns.len())),
    }
}

fn check(target: &Target, row: &[Cell<'_>]) -> Done {
    check_width(target, row)?;
    match target.key.iter().any(|&i| row[i].kind == Kind::Null) {
        true => Err("a column of the row's key is NULL".to_owned()),
        false => Ok(()),
    }
}

/// Completes the keys of the new and the old row from each other, and says whether they differ.
pub(super) fn fill_key<'a>(target: &Target, row: &mut [Cell<'a>], old: &mut [Cell<'a>]) -> bool {
    for &i in &target.key {
        match (old[i].is_unchanged(), row[i].is_unchanged()) {
            (true, _) => old[i] = row[i],
            (false, true) => row[i] = old[i],
            _ => {}
        }
    }
    target.key.iter().any(|&i| old[i] != row[i])
}
