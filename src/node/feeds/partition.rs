//! One partition of a feed: a log of its own.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use super::requests::Requests;
use crate::log::segments::SegmentLog;
use crate::log::{Log, SourceError};
use crate::model::{Position, ReadFrom, TableDef, TableName, feed_table, limits};

/// A partition.
pub struct Partition {
    /// Its log.
    pub log: Arc<dyn Log>,
    /// The same, where it is the feed's own to trim and close.
    pub(super) segments: Option<Arc<SegmentLog>>,
    pub(super) requests: Arc<Mutex<Requests>>,
    /// Those that rows have been taken for.
    tables: RwLock<HashMap<TableName, Arc<TableDef>>>,
}

impl Partition {
    /// Of an open log, from whose end the idempotency keys are read.
    pub(super) fn new(log: Arc<dyn Log>, segments: Option<Arc<SegmentLog>>) -> Partition {
        let known = log.catalog().all().into_iter().filter(|table| table.is_feed());
        let tables = known.map(|table| (table.name.clone(), table)).collect();
        Partition { log, segments, requests: Arc::default(), tables: RwLock::new(tables) }
    }

    /// Reads what idempotency keys stand at the log's end.
    pub(super) async fn remember(&self) -> Result<(), SourceError> {
        let info = self.log.info();
        let first = info.tail.0.saturating_sub(limits::FEED_REQUESTS_WINDOW).max(info.oldest.0.saturating_sub(1));
        let mut from = ReadFrom::from(Position(first));
        loop {
            let batch = self.log.read(from, crate::log::Limit::default()).await?;
            if batch.next == from {
                return Ok(());
            }
            let mut requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
            for logged in &batch.entries {
                if let Some(key) = &logged.entry.header().idempotency {
                    requests.done(key, super::requests::digest(logged.entry.changes_bytes()), logged.position);
                }
            }
            from = batch.next;
        }
    }

    /// The definition of a table of rows; `None`: it is new, and there are [`limits::FEED_TABLES_MAX`]. One that is new has its
    /// place as long as `new` lives, and for good once its rows are in the log.
    pub(super) fn table<'a>(&'a self, name: &TableName, new: &mut NewTables<'a>) -> Option<Arc<TableDef>> {
        if let Some(table) = self.tables.read().unwrap_or_else(PoisonError::into_inner).get(name) {
            return Some(table.clone());
        }
        let table = Arc::new(feed_table(name.clone()));
        let catalog = self.log.catalog();
        let mut tables = self.tables.write().unwrap_or_else(PoisonError::into_inner);
        // Those of a mirror came otherwise.
        let full = tables.len().max(catalog.len()) >= limits::FEED_TABLES_MAX;
        if let Some(known) = tables.get(name) {
            return Some(known.clone());
        }
        if full && catalog.get(table.fingerprint).is_none() {
            return None;
        }
        tables.insert(name.clone(), table.clone());
        new.0.push((self, table.clone()));
        Some(table)
    }
}

/// Tables that a call has named for the first time. What does not come into the log gives its place back.
#[derive(Default)]
pub(super) struct NewTables<'a>(Vec<(&'a Partition, Arc<TableDef>)>);

impl Drop for NewTables<'_> {
    fn drop(&mut self) {
        for (partition, table) in &self.0 {
            if partition.log.catalog().get(table.fingerprint).is_none() {
                partition.tables.write().unwrap_or_else(PoisonError::into_inner).remove(&table.name);
            }
        }
    }
}
