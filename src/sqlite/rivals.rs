//! Rows that `REPLACE` may have removed without a trigger firing: see [`super::triggers`].

use std::collections::{HashMap, VecDeque};

use super::schema::op;
use crate::model::{Kind, Row, Value, limits};

/// A row that shared a unique key with one that was about to be written.
struct Rival {
    /// Was about to be written.
    new: Row,
    /// Would be in its way.
    row: Row,
    /// Shares a key other than the rowid's alias.
    by_key: bool,
}

/// The rivals of each definition that stand in the present transactions.
#[derive(Default)]
pub(crate) struct Rivals {
    waiting: HashMap<i64, VecDeque<Rival>>,
}

/// What of a definition matters here.
pub(crate) struct Keys<'a> {
    pub definition: i64,
    pub key: &'a [usize],
    pub alias: Option<usize>,
}

impl Rivals {
    /// Whether there are any for that definition.
    pub(crate) fn any(&self, definition: i64) -> bool {
        self.waiting.get(&definition).is_some_and(|waiting| !waiting.is_empty())
    }

    /// Notes a rival. The oldest is forgotten where there are too many: its statement is long over.
    pub(crate) fn note(&mut self, definition: i64, code: i64, new: Row, row: Row) {
        let waiting = self.waiting.entry(definition).or_default();
        if waiting.len() == limits::CAPTURE_RIVALS_MAX {
            waiting.pop_front();
        }
        waiting.push_back(Rival { new, row, by_key: code == op::RIVAL });
    }

    /// A row was deleted or updated by itself: it is nobody's rival any more.
    pub(crate) fn touched(&mut self, keys: &Keys<'_>, row: &Row) {
        if let Some(waiting) = self.waiting.get_mut(&keys.definition) {
            waiting.retain(|rival| !same_key(keys.key, &rival.row, row));
        }
    }

    /// A row was written: the rivals that it had are gone. Gives each once.
    pub(crate) fn replaced_by(&mut self, keys: &Keys<'_>, row: &Row) -> Vec<Row> {
        let Some(waiting) = self.waiting.get_mut(&keys.definition) else { return Vec::new() };
        let mut gone: Vec<Row> = Vec::new();
        waiting.retain(|rival| {
            if !is_written(rival, row, keys.alias) {
                return true;
            }
            if gone.iter().all(|gone| !same_key(keys.key, gone, &rival.row)) {
                gone.push(rival.row.clone());
            }
            false
        });
        waiting.retain(|rival| gone.iter().all(|gone| !same_key(keys.key, gone, &rival.row)));
        gone
    }
}

/// Whether two rows have the same key, to the byte.
pub(crate) fn same_key(key: &[usize], one: &Row, other: &Row) -> bool {
    key.iter().all(|&index| one.get(index) == other.get(index))
}

/// Whether the row written is the one that was about to be: it may have got a rowid, and defaults for NULLs.
fn is_written(rival: &Rival, row: &Row, alias: Option<usize>) -> bool {
    rival.new.iter().zip(row).enumerate().all(|(index, (before, after))| {
        let undecided = rival.by_key && Some(index) == alias && &*before.text == b"-1";
        undecided || before.kind == Kind::Null || before == after || same_number(before, after)
    })
}

fn same_number(one: &Value, other: &Value) -> bool {
    let number = |value: &Value| match value.kind {
        Kind::Integer | Kind::Real => std::str::from_utf8(&value.text).ok()?.parse::<f64>().ok(),
        _ => None,
    };
    one.kind != other.kind && number(one).is_some_and(|one| number(other) == Some(one))
}
