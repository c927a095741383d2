//! An events table as a view: what it holds says how far it has come.
//!
//! The cursor is the table's greatest id. Where ids come from a sequence they commit out of order, and the cursor (the
//! number of the last transaction) stands in a table of our own, written in the same commit.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::indexes::Indexes;
use super::pen::Pen;
use super::write::Writer;
use crate::model::{Batch, Cursor, Epoch, LogId, limits};
use crate::postgres::{Endpoint, PgError};
use crate::view::{EventIds, View, ViewError};

/// How a destination is written.
#[derive(Clone, Copy, Debug)]
pub struct PgEventsOptions {
    /// How the source's ids are given.
    pub ids: EventIds,
    /// Events that one transaction writes at most; a larger transaction of the source is written alone.
    pub events_per_write_max: usize,
    /// How long connecting may take.
    pub connect_limit: Duration,
}

/// An events table that follows another.
pub struct PgEventsView {
    source: LogId,
    pen: Arc<Pen>,
    writer: Writer,
    indexes: Indexes,
}

impl PgEventsView {
    /// Opens a connection. `source` is the id of the source whose events are there.
    ///
    /// # Errors
    /// The server cannot be reached, or there is no such table.
    pub async fn open(endpoint: &Endpoint, source: LogId, options: PgEventsOptions) -> Result<PgEventsView, PgError> {
        let pen = Arc::new(Pen::open(endpoint, options.ids, options.connect_limit).await?);
        let writer = Writer::new(pen.clone(), options).await?;
        let indexes = Indexes::look(&pen.session).await?;
        Ok(PgEventsView { source, pen, writer, indexes })
    }

    /// Builds the indexes that were put off, if any.
    ///
    /// # Errors
    /// The server fails; what was built stays, the rest is built next time.
    pub async fn finish_indexes(&mut self) -> Result<(), PgError> {
        self.indexes.build(&self.pen.session).await
    }
}

#[async_trait]
impl View for PgEventsView {
    async fn cursor(&mut self) -> Result<Option<Cursor>, ViewError> {
        Ok(Some(Cursor { log: self.source, epoch: Epoch(0), position: self.writer.position().await? }))
    }

    async fn apply(&mut self, batch: &Batch) -> Result<(), ViewError> {
        if !self.writer.is_open() {
            // Few at a time: the copying is over, though the source never rests.
            let bytes: usize = batch.entries.iter().map(|logged| logged.entry.bytes().len()).sum();
            if batch.next.part == 0 && bytes < limits::EVENTS_INDEXES_LATER_BYTES_MIN {
                self.writer.flush().await?;
                self.indexes.build(&self.pen.session).await?;
            } else if self.writer.is_empty() {
                self.indexes.put_off(&self.pen.session).await?;
            }
        }
        self.writer.write(batch).await
    }

    async fn flush(&mut self) -> Result<(), ViewError> {
        self.writer.flush().await
    }

    async fn caught_up(&mut self) -> Result<(), ViewError> {
        self.writer.flush().await?;
        Ok(self.indexes.build(&self.pen.session).await?)
    }
}
