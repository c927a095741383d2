//! Many transactions as their net effect: per table and key what is removed, what is updated and what is new.
//!
//! Only what has the same result as one change after the other is merged. A table for which that is not certain (rows
//! without a key, a key moved onto a row that is there, an update of a row that was removed) is left to be done in order:
//! tables do not depend on each other where no trigger and no foreign key works.

use std::borrow::Cow;
use std::collections::HashMap;

use super::ops::fill_key;
use super::raw::{Cell, Head};
use super::target::Target;
use crate::model::{Kind, Op};

/// What becomes of the row of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It is there no more.
    Gone,
    /// It is new.
    New,
    /// It was there; those of its values that are known are set. Where all are known it is made if it is missing.
    Changed,
}

/// The row of one key.
#[derive(Clone, Copy, Debug)]
pub(super) struct NetRow {
    /// Where its values begin.
    at: usize,
    pub fate: Fate,
    /// A row that was there before has been removed first.
    pub removed: bool,
}

/// The net effect on one table.
#[derive(Debug, Default)]
pub(super) struct Net<'a> {
    width: usize,
    rows: Vec<NetRow>,
    keys: HashMap<Cow<'a, [u8]>, u32>,
    /// The values of all rows, one row after the other.
    cells: Vec<Cell<'a>>,
    /// Everything that was there before is removed first.
    pub truncated: bool,
    /// It has to be done in order.
    pub in_order: bool,
}

/// The bytes of a row's key.
fn key_of<'a>(target: &Target, row: &[Cell<'a>]) -> Cow<'a, [u8]> {
    if let [only] = target.key.as_slice() {
        return Cow::Borrowed(row[*only].text);
    }
    let mut key = Vec::with_capacity(16 * target.key.len());
    for &i in &target.key {
        key.extend_from_slice(&(row[i].text.len() as u32).to_le_bytes());
        key.extend_from_slice(row[i].text);
    }
    Cow::Owned(key)
}

impl<'a> Net<'a> {
    /// Of a table with so many columns.
    pub(super) fn of(width: usize) -> Net<'a> {
        Net { width, ..Net::default() }
    }

    /// Each row with its values.
    pub(super) fn rows(&self) -> impl Iterator<Item = (NetRow, &[Cell<'a>])> {
        self.rows.iter().map(|row| (*row, &self.cells[row.at..row.at + self.width]))
    }

    /// Whether nothing is to be done.
    pub(super) fn is_empty(&self) -> bool {
        self.rows.is_empty() && !self.truncated
    }

    /// Takes a change in; what is not certain to come to the same is left to be done in order.
    pub(super) fn change(&mut self, target: &Target, head: Head, row: &mut [Cell<'a>], old: &mut [Cell<'a>]) {
        if !self.in_order && self.take(target, head, row, old).is_none() {
            self.in_order = true;
        }
    }

    fn take(&mut self, target: &Target, head: Head, row: &mut [Cell<'a>], old: &mut [Cell<'a>]) -> Option<()> {
        let fits = |row: &[Cell<'_>]| row.len() == self.width && target.key.iter().all(|&i| row[i].kind != Kind::Null);
        match head.op {
            Op::Copied | Op::Cut => Some(()),
            Op::Truncate => {
                self.rows.clear();
                self.keys.clear();
                self.cells.clear();
                self.truncated = true;
                Some(())
            }
            Op::Insert if target.key.is_empty() => {
                let fits = fits(row) && target.is_whole(row);
                fits.then(|| {
                    self.append(row, Fate::New, false);
                })
            }
            _ if target.key.is_empty() => None,
            Op::Insert if fits(row) && target.is_whole(row) => {
                self.put(target, row, Fate::New);
                Some(())
            }
            Op::Insert => None,
            Op::Delete => {
                if !fits(old) || target.key.iter().any(|&i| old[i].is_unchanged()) {
                    return None;
                }
                self.remove(target, old);
                Some(())
            }
            Op::Update if head.has_old => {
                if row.len() != self.width || old.len() != self.width {
                    return None;
                }
                let moved = fill_key(target, row, old);
                let fits =
                    |row: &[Cell<'_>]| target.key.iter().all(|&i| row[i].kind != Kind::Null && !row[i].is_unchanged());
                match (fits(row) && fits(old), moved) {
                    (false, _) => None,
                    (true, false) => self.update(target, row),
                    (true, true) => self.shift(target, row, old),
                }
            }
            Op::Update if fits(row) => self.update(target, row),
            Op::Update => None,
        }
    }

    fn append(&mut self, row: &[Cell<'a>], fate: Fate, removed: bool) -> u32 {
        let at = self.cells.len();
        self.cells.extend_from_slice(row);
        self.rows.push(NetRow { at, fate, removed });
        self.rows.len() as u32 - 1
    }

    /// The row of that key, as it now is: all its values are given.
    fn put(&mut self, target: &Target, row: &[Cell<'a>], fate: Fate) {
        let key = key_of(target, row);
        match self.keys.get(&key) {
            None => {
                let number = self.append(row, fate, false);
                self.keys.insert(key, number);
            }
            Some(&number) => {
                let known = &mut self.rows[number as usize];
                // A row that was updated before it is written as a whole stays one that was there.
                match known.fate {
                    Fate::Gone => (known.fate, known.removed) = (Fate::New, true),
                    Fate::New | Fate::Changed => {}
                }
                self.cells[known.at..known.at + self.width].copy_from_slice(row);
            }
        }
    }

    fn remove(&mut self, target: &Target, old: &[Cell<'a>]) {
        let key = key_of(target, old);
        match self.keys.get(&key) {
            None => {
                let number = self.append(old, Fate::Gone, false);
                self.keys.insert(key, number);
            }
            Some(&number) => self.rows[number as usize].fate = Fate::Gone,
        }
    }

    /// Sets the values that are known.
    fn update(&mut self, target: &Target, row: &[Cell<'a>]) -> Option<()> {
        if target.has_pinned() {
            return None;
        }
        let whole = target.is_whole(row);
        let key = key_of(target, row);
        let Some(&number) = self.keys.get(&key) else {
            // What was truncated has no row to update.
            if self.truncated && !whole {
                return None;
            }
            let number = self.append(row, if self.truncated { Fate::New } else { Fate::Changed }, false);
            self.keys.insert(key, number);
            return Some(());
        };
        let known = &mut self.rows[number as usize];
        if known.fate == Fate::Gone {
            if !whole {
                return None;
            }
            (known.fate, known.removed) = (Fate::New, true);
        }
        for (known, new) in self.cells[known.at..known.at + self.width].iter_mut().zip(row) {
            if !new.is_unchanged() {
                *known = *new;
            }
        }
        Some(())
    }

    /// The row of the old key goes, and one of the new key comes.
    fn shift(&mut self, target: &Target, row: &mut [Cell<'a>], old: &[Cell<'a>]) -> Option<()> {
        // A row that goes and comes loses what only this database knows of it; and one that overwrites shows no conflict.
        if target.extra || target.upsert {
            return None;
        }
        let before = self.keys.get(&key_of(target, old)).map(|&number| self.rows[number as usize]);
        match before {
            Some(known) if known.fate != Fate::Gone => {
                for (new, known) in row.iter_mut().zip(&self.cells[known.at..known.at + self.width]) {
                    if new.is_unchanged() {
                        *new = *known;
                    }
                }
            }
            // It is not there; in order it would be made, or miss.
            Some(_) => return None,
            None if self.truncated => return None,
            None => {}
        }
        if !target.is_whole(row) {
            return None;
        }
        match self.keys.get(&key_of(target, row)).map(|&number| self.rows[number as usize].fate) {
            Some(Fate::New | Fate::Changed) => return None,
            Some(Fate::Gone) | None => {}
        }
        self.remove(target, old);
        self.put(target, row, Fate::New);
        Some(())
    }
}
