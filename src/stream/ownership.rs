//! Law 6: a row has one writing node.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use thiserror::Error;

use super::expression::{Expression, Scope};
use crate::log::{Draft, Parts};
use crate::model::{Catalog, Change, CodecError, Entry, EntryHeader, Op, Row, TableDef, TableName, encode_changes};

/// Who may write a table's rows.
#[derive(Debug)]
pub enum Owner {
    /// These nodes, any row.
    Nodes(Vec<Box<str>>),
    /// The node that the expression gives for the row.
    By(Box<Expression>),
}

/// The owners of tables.
#[derive(Debug, Default)]
pub struct Ownership {
    owners: HashMap<TableName, Owner>,
}

/// A write by a node that does not own the row. It is left out; the rest of its transaction flows.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("{op} in {table} by {writer} refused: the row's owner is {owner}")]
pub struct Refused {
    /// The table.
    pub table: TableName,
    /// The operation's name.
    pub op: &'static str,
    /// Who wrote.
    pub writer: Box<str>,
    /// Who may write, or why nobody may.
    pub owner: String,
}

/// Told of every refused write.
pub type OnRefused = Arc<dyn Fn(Refused) + Send + Sync>;

impl Ownership {
    /// Rules by table.
    pub fn new(owners: HashMap<TableName, Owner>) -> Ownership {
        Ownership { owners }
    }

    /// The table's rule.
    pub fn of(&self, table: &TableName) -> Option<&Owner> {
        self.owners.get(table)
    }

    /// Whether each row of the table has one owner: of several nodes that own a table, which wrote a row is not known.
    pub fn is_one(&self, table: &TableName) -> bool {
        match self.of(table) {
            Some(Owner::By(_)) => true,
            Some(Owner::Nodes(nodes)) => nodes.len() == 1,
            None => false,
        }
    }

    /// Whether any owner is told by an expression.
    pub fn has_expressions(&self) -> bool {
        self.owners.values().any(|owner| matches!(owner, Owner::By(_)))
    }

    /// Whether whose a row is depends on that column.
    pub fn looks_at(&self, table: &TableName, column: &str) -> bool {
        matches!(self.of(table), Some(Owner::By(expression)) if expression.looks_at(column))
    }

    /// Whether that node owns the row; `None` where the table has no owner. An expression that fails or gives null owns
    /// nothing.
    pub fn owns(&self, table: &TableDef, row: &Row, node: &str) -> Option<bool> {
        Some(match self.of(&table.name)? {
            Owner::Nodes(nodes) => nodes.iter().any(|owner| &**owner == node),
            Owner::By(expression) => owner_by(expression, table, row).as_deref() == Ok(node),
        })
    }

    /// Whether `writer` may make that change: it owns the row before and after it.
    pub fn check(&self, table: &TableDef, change: &Change, writer: &str) -> Result<(), Refused> {
        let refused = |owner: String| {
            let (table, op) = (table.name.clone(), change.op.name());
            Err(Refused { table, op, writer: writer.into(), owner })
        };
        match self.of(&table.name) {
            None => Ok(()),
            _ if matches!(change.op, Op::Copied | Op::Cut) => Ok(()),
            Some(Owner::Nodes(nodes)) if nodes.iter().any(|owner| &**owner == writer) => Ok(()),
            Some(Owner::Nodes(nodes)) => refused(nodes.join(" or ")),
            Some(Owner::By(_)) if change.op == Op::Truncate => refused("more than one node".into()),
            Some(Owner::By(expression)) => {
                for row in [change.old_resolved().as_ref(), change.row.as_ref()].into_iter().flatten() {
                    match owner_by(expression, table, row) {
                        Ok(owner) if owner == writer => {}
                        Ok(owner) => return refused(owner),
                        Err(why) => return refused(why),
                    }
                }
                Ok(())
            }
        }
    }

    /// Leaves out of a draft what `writer` may not write.
    pub fn guard(
        self: &Arc<Self>,
        draft: Draft,
        tables: &[Arc<TableDef>],
        catalog: &Arc<Catalog>,
        told: &OnRefused,
    ) -> Result<Draft, CodecError> {
        if self.owners.is_empty() {
            return Ok(draft);
        }
        let header = match &draft {
            Draft::Local { header, .. } | Draft::Large { header, .. } => header,
            Draft::Relayed(entry) => entry.header(),
            Draft::Expect(_) | Draft::Mirrored { .. } => return Ok(draft),
        };
        let find = |fingerprint| {
            let given = tables.iter().find(|table| table.fingerprint == fingerprint).cloned();
            given.or_else(|| catalog.get(fingerprint))
        };
        let defs: Vec<Option<Arc<TableDef>>> = header.tables.iter().map(|fingerprint| find(*fingerprint)).collect();
        if !defs.iter().flatten().any(|table| self.owners.contains_key(&table.name)) {
            return Ok(draft);
        }
        let keep = |header: &EntryHeader, bytes: &Bytes| -> Result<Option<Bytes>, CodecError> {
            self.keep(&defs, &header.node, bytes, told)
        };
        Ok(match draft {
            Draft::Local { header, changes } => {
                let changes = keep(&header, &changes)?.unwrap_or(changes);
                Draft::Local { header, changes }
            }
            Draft::Relayed(entry) => match keep(entry.header(), entry.changes_bytes())? {
                Some(changes) => Draft::Relayed(Entry::new(entry.header().clone(), changes)),
                None => Draft::Relayed(entry),
            },
            Draft::Expect(_) | Draft::Mirrored { .. } => draft,
            Draft::Large { header, parts } => {
                let (writer, told) = (header.node.clone(), told.clone());
                let guarded = GuardedParts { ownership: self.clone(), defs, writer, parts, told };
                Draft::Large { header, parts: Box::new(guarded) }
            }
        })
    }

    /// The changes that may stay, re-encoded; `None` when all may.
    fn keep(
        &self,
        defs: &[Option<Arc<TableDef>>],
        writer: &str,
        bytes: &Bytes,
        told: &OnRefused,
    ) -> Result<Option<Bytes>, CodecError> {
        let changes = crate::model::decode_changes(bytes)?;
        let total = changes.len();
        let allowed = |change: &Change| match defs.get(change.table).and_then(Option::as_ref) {
            Some(table) => self.check(table, change, writer).map_err(|refused| told(refused)).is_ok(),
            None => true,
        };
        let kept: Vec<Change> = changes.into_iter().filter(allowed).collect();
        Ok((kept.len() < total).then(|| encode_changes(&kept)))
    }
}

/// The owner that the expression gives, or why it gives none.
fn owner_by(expression: &Expression, table: &TableDef, row: &Row) -> Result<String, String> {
    let scope = Scope { table, row: Some(row), old: None, origin: "", destination: "" };
    match expression.text(&scope) {
        Ok(Some(owner)) => Ok(owner),
        Ok(None) => Err(format!("nobody ({} is null)", expression.source())),
        Err(error) => Err(format!("not known ({error})")),
    }
}

/// Parts of a large transaction, with refused changes left out.
struct GuardedParts {
    ownership: Arc<Ownership>,
    defs: Vec<Option<Arc<TableDef>>>,
    writer: Box<str>,
    parts: Box<dyn Parts>,
    told: OnRefused,
}

impl Parts for GuardedParts {
    fn next(&mut self) -> io::Result<Option<Bytes>> {
        let Some(bytes) = self.parts.next()? else { return Ok(None) };
        let kept = self.ownership.keep(&self.defs, &self.writer, &bytes, &self.told).map_err(io::Error::other)?;
        Ok(Some(kept.unwrap_or(bytes)))
    }
}
