//! Changes: what happened to one row, or to a table as a whole.

use super::value::Kind;
use super::{Row, Value};

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Op {
    /// A row was added; `row` is set.
    Insert = 1,
    /// A row was changed; `row` is set, `old` where the source gives it.
    Update = 2,
    /// A row was removed; `old` is set (whole, or its key only).
    Delete = 3,
    /// All rows were removed.
    Truncate = 4,
    /// The table's content was replaced outside of the log (first copy, restored file, rebuilt table): who follows
    /// it copies it afresh. No rows.
    Copied = 5,
    /// Nothing has changed: what a copy of the table contains stands before this entry, and nothing that stands after it.
    /// No rows.
    Cut = 6,
}

impl Op {
    /// The lower-case name used in JSON and configuration.
    pub fn name(self) -> &'static str {
        match self {
            Op::Insert => "insert",
            Op::Update => "update",
            Op::Delete => "delete",
            Op::Truncate => "truncate",
            Op::Copied => "copied",
            Op::Cut => "cut",
        }
    }

    /// The operation with that code.
    pub fn from_code(code: u32) -> Option<Op> {
        Some(match code {
            1 => Op::Insert,
            2 => Op::Update,
            3 => Op::Delete,
            4 => Op::Truncate,
            5 => Op::Copied,
            6 => Op::Cut,
            _ => return None,
        })
    }
}

/// One change in one table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Index into the entry's list of tables.
    pub table: usize,
    /// What happened.
    pub op: Op,
    /// The row after the change; for insert and update.
    pub row: Option<Row>,
    /// The row before it; for delete always, for update where the source gives it or the key changed. In an
    /// update's old row [`Kind::Same`] stands for the new row's value.
    pub old: Option<Row>,
}

impl Change {
    /// The old row with [`Kind::Same`] replaced by the new row's values.
    pub fn old_resolved(&self) -> Option<Row> {
        let old = self.old.as_ref()?;
        let resolved = old.iter().enumerate().map(|(i, value)| match (value.kind, &self.row) {
            (Kind::Same, Some(row)) => row.get(i).cloned().unwrap_or(Value::NULL),
            _ => value.clone(),
        });
        Some(resolved.collect())
    }
}
