//! An events table as a view: what it holds says how far it has come.
//!
//! The cursor is the table's greatest id. Where the source's ids come from a sequence they commit out of order, and the
//! cursor (the number of the last transaction) stands in a table of our own, written in the same commit.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;

use super::error::failed;
use super::write::{Part, Writer};
use crate::model::{Batch, Cursor, Epoch, LogId, Position};
use crate::view::{EventIds, EventsError, View, ViewError};

/// How a destination is written.
#[derive(Clone, Copy, Debug)]
pub struct SqliteEventsOptions {
    /// How the source's ids are given.
    pub ids: EventIds,
    /// Events that one transaction writes at most; a larger transaction of the source is written alone.
    pub events_per_write_max: usize,
}

/// An events table in a file that follows another.
pub struct SqliteEventsView {
    source: LogId,
    writer: Arc<Mutex<Writer>>,
    position: Position,
}

impl SqliteEventsView {
    /// Opens an existing file. `source` is the id of the source whose events are there.
    ///
    /// # Errors
    /// It is not there, is no database, cannot be written, or has no such table.
    pub async fn open(
        path: &Path,
        source: LogId,
        options: SqliteEventsOptions,
    ) -> Result<SqliteEventsView, EventsError> {
        let owned: PathBuf = path.to_path_buf();
        let opened = tokio::task::spawn_blocking(move || {
            Writer::open(&owned, source, options).map_err(|error| failed(&owned, "preparing to write events", &error))
        });
        let writer = opened.await.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))?;
        let position = writer.position();
        Ok(SqliteEventsView { source, writer: Arc::new(Mutex::new(writer)), position })
    }

    /// Does blocking work with the writer, beside the runtime.
    async fn work(
        &mut self,
        work: impl FnOnce(&mut Writer) -> Result<(), ViewError> + Send + 'static,
    ) -> Result<(), ViewError> {
        let writer = Arc::clone(&self.writer);
        let worked = tokio::task::spawn_blocking(move || {
            let mut writer = writer.lock().unwrap_or_else(PoisonError::into_inner);
            let outcome = work(&mut writer);
            (outcome, writer.position())
        });
        let (outcome, position) = worked.await.map_err(|error| ViewError::Failed(error.to_string()))?;
        self.position = position;
        outcome
    }
}

#[async_trait]
impl View for SqliteEventsView {
    async fn cursor(&mut self) -> Result<Option<Cursor>, ViewError> {
        Ok(Some(Cursor { log: self.source, epoch: Epoch(0), position: self.position }))
    }

    async fn apply(&mut self, batch: &Batch) -> Result<(), ViewError> {
        let parts: Vec<Part> = batch.entries.iter().map(Part::of).collect();
        let goes_on = batch.next.part > 0;
        self.work(move |writer| writer.write(parts, goes_on)).await
    }

    async fn caught_up(&mut self) -> Result<(), ViewError> {
        self.work(Writer::build_indexes).await
    }
}
