//! Selection and filters together, over whole entries, for one destination.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use sha2::{Digest, Sha256};
use thiserror::Error;

use super::filter::{Destination, Filter, FilterError, Verdict};
use super::selection::Selection;
use crate::model::{Catalog, Change, CodecError, Entry, EntryHeader, Fingerprint, Op, Row, TableDef, encode_changes};

/// Lets through what a destination may have. Nothing leaves unless selected (law 7).
pub struct Sieve {
    to: Destination,
    selection: Selection,
    filters: Vec<Arc<dyn Filter>>,
    plans: Mutex<HashMap<Fingerprint, Plan>>,
}

/// What to do with a table's changes.
#[derive(Clone)]
enum Plan {
    Unselected,
    Whole,
    /// Filtered, leaving under the second definition.
    Filtered(Arc<TableDef>, Arc<TableDef>),
}

/// What is left of an entry.
#[derive(Debug)]
pub enum Sieved {
    /// Nothing: the cursor passes over it.
    Nothing,
    /// Everything, byte by byte.
    Whole,
    /// Some of it, with the definitions that it names.
    Narrowed(Box<Entry>, Vec<Arc<TableDef>>),
}

/// An entry cannot be sieved; nothing of it may leave.
#[derive(Debug, Error)]
pub enum SieveError {
    /// A filter failed.
    #[error(transparent)]
    Filter(#[from] FilterError),
    /// The entry's bytes.
    #[error(transparent)]
    Codec(#[from] CodecError),
    /// The entry names a table whose definition is not known.
    #[error("an entry names the unknown table {0}")]
    UnknownTable(Fingerprint),
}

impl Sieve {
    /// For one destination.
    pub fn new(to: Destination, selection: Selection, filters: Vec<Arc<dyn Filter>>) -> Sieve {
        Sieve { to, selection, filters, plans: Mutex::default() }
    }

    /// The tables that may leave at all.
    pub fn selection(&self) -> &Selection {
        &self.selection
    }

    /// The definition under which the table leaves; `None` when it does not.
    pub fn table(&self, table: &Arc<TableDef>) -> Result<Option<Arc<TableDef>>, FilterError> {
        Ok(match self.plan(table)? {
            Plan::Unselected => None,
            Plan::Whole => Some(table.clone()),
            Plan::Filtered(_, out) => Some(out),
        })
    }

    /// Whether the table leaves, and all of its rows do as they are.
    pub fn passes_whole(&self, table: &Arc<TableDef>) -> Result<bool, FilterError> {
        Ok(matches!(self.plan(table)?, Plan::Whole))
    }

    /// Changes when the table would leave in another way than before.
    pub fn under(&self, table: &TableDef) -> Fingerprint {
        let mut hash = Sha256::new();
        hash.update(table.fingerprint.0.to_le_bytes());
        for filter in &self.filters {
            hash.update(filter.describe(table).unwrap_or_default());
            hash.update([0]);
        }
        let mut first = [0; 8];
        first.copy_from_slice(&hash.finalize()[..8]);
        Fingerprint(u64::from_be_bytes(first))
    }

    fn plan(&self, table: &Arc<TableDef>) -> Result<Plan, FilterError> {
        if let Some(plan) = self.plans.lock().unwrap_or_else(PoisonError::into_inner).get(&table.fingerprint) {
            return Ok(plan.clone());
        }
        let plan = if !self.selection.matches(&table.name) {
            Plan::Unselected
        } else if self.filters.iter().all(|filter| filter.describe(table).is_none()) {
            Plan::Whole
        } else {
            let mut out = table.clone();
            for filter in &self.filters {
                out = filter.table(&self.to, &out)?;
            }
            Plan::Filtered(table.clone(), out)
        };
        self.plans.lock().unwrap_or_else(PoisonError::into_inner).insert(table.fingerprint, plan.clone());
        Ok(plan)
    }

    /// What of the entry may leave.
    pub fn entry(&self, entry: &Entry, catalog: &Catalog) -> Result<Sieved, SieveError> {
        let header = entry.header();
        let mut plans = Vec::with_capacity(header.tables.len());
        for fingerprint in &header.tables {
            let known = self.plans.lock().unwrap_or_else(PoisonError::into_inner).get(fingerprint).cloned();
            plans.push(match known {
                Some(plan) => plan,
                None => self.plan(&catalog.get(*fingerprint).ok_or(SieveError::UnknownTable(*fingerprint))?)?,
            });
        }
        if plans.iter().all(|plan| matches!(plan, Plan::Unselected)) {
            return Ok(Sieved::Nothing);
        }
        if plans.iter().all(|plan| matches!(plan, Plan::Whole)) {
            return Ok(Sieved::Whole);
        }
        self.narrow(entry, &plans, catalog)
    }

    fn narrow(&self, entry: &Entry, plans: &[Plan], catalog: &Catalog) -> Result<Sieved, SieveError> {
        let header = entry.header();
        // Every part of a large transaction names the same tables, so all of them are narrowed alike.
        let mut places = Vec::with_capacity(plans.len());
        let mut tables = Vec::new();
        for (plan, fingerprint) in plans.iter().zip(&header.tables) {
            let out = match plan {
                Plan::Unselected => None,
                Plan::Whole => Some(catalog.get(*fingerprint).ok_or(SieveError::UnknownTable(*fingerprint))?),
                Plan::Filtered(_, out) => Some(out.clone()),
            };
            places.push(out.as_ref().map(|_| tables.len()));
            tables.extend(out);
        }
        let mut kept = Vec::new();
        for change in entry.changes()? {
            let Some(Some(place)) = places.get(change.table).copied() else { continue };
            let passed = match &plans[change.table] {
                Plan::Filtered(table, _) => self.change(table, &header.node, change)?,
                _ => Some(change),
            };
            kept.extend(passed.map(|change| Change { table: place, ..change }));
        }
        if kept.is_empty() && header.part == 0 && !header.more {
            return Ok(Sieved::Nothing);
        }
        let header = EntryHeader { tables: tables.iter().map(|table| table.fingerprint).collect(), ..header.clone() };
        Ok(Sieved::Narrowed(Box::new(Entry::new(header, encode_changes(&kept))), tables))
    }

    fn change(&self, table: &Arc<TableDef>, origin: &str, change: Change) -> Result<Option<Change>, FilterError> {
        let (mut table, mut change) = (table.clone(), change);
        for filter in &self.filters {
            change = match filter.filter(&self.to, &table, origin, change)? {
                Verdict::Pass(change) | Verdict::Narrowed(change) | Verdict::AsDelete(change) => change,
                Verdict::Drop => return Ok(None),
            };
            table = filter.table(&self.to, &table)?;
        }
        Ok(Some(change))
    }

    /// A row of a first copy, as it may leave: like an insert.
    pub fn row(&self, table: &Arc<TableDef>, row: Row) -> Result<Option<Row>, FilterError> {
        match self.plan(table)? {
            Plan::Unselected => Ok(None),
            Plan::Whole => Ok(Some(row)),
            Plan::Filtered(table, _) => {
                let insert = Change { table: 0, op: Op::Insert, row: Some(row), old: None };
                Ok(self.change(&table, "", insert)?.and_then(|change| change.row))
            }
        }
    }
}
