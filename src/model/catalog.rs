//! The table definitions that a log, a link or a database has seen, by fingerprint.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use super::{Fingerprint, TableDef};

/// Definitions by fingerprint. Definitions are only ever added: a fingerprint means the same for ever.
#[derive(Debug, Default)]
pub struct Catalog {
    tables: RwLock<HashMap<Fingerprint, Arc<TableDef>>>,
}

impl Catalog {
    /// The definition with that fingerprint.
    pub fn get(&self, fingerprint: Fingerprint) -> Option<Arc<TableDef>> {
        self.tables.read().unwrap_or_else(PoisonError::into_inner).get(&fingerprint).cloned()
    }

    /// Adds a definition; false if it was there.
    pub fn add(&self, table: Arc<TableDef>) -> bool {
        let mut tables = self.tables.write().unwrap_or_else(PoisonError::into_inner);
        tables.insert(table.fingerprint, table).is_none()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.tables.read().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All definitions, in no order.
    pub fn all(&self) -> Vec<Arc<TableDef>> {
        self.tables.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }
}
