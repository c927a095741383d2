//! An events table as a view: what it holds says how far it has come.
//!
//! The cursor is the table's greatest id. Where ids come from a sequence they commit out of order, and the cursor (the
//! number of the last transaction) stands in a table of our own, written in the same commit.

use std::time::Duration;

use async_trait::async_trait;

use super::indexes::Indexes;
use super::write::Writer;
use crate::model::{Batch, Cursor, Epoch, LogId, Position, limits};
use crate::postgres::{Endpoint, PgError, Session};
use crate::view::{EventIds, View, ViewError};

/// For the writing session. A commit that the server loses in a crash is read again, because the cursor is lost with
/// it: so it need not be waited for until it is on disk. The greatest id is looked up in the index, also by a plan that
/// was made while the table was empty, to which all plans looked equal.
const SETTINGS: &str = "SET synchronous_commit = off; SET enable_seqscan = off; SET enable_bitmapscan = off; SET statement_timeout = 0; SET lock_timeout = 0; \
     SET idle_in_transaction_session_timeout = 0; SET idle_session_timeout = 0; SET jit = off; \
     SET default_transaction_isolation = 'read committed'";

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
    session: Session,
    writer: Writer,
    indexes: Indexes,
    position: Position,
}

impl PgEventsView {
    /// Opens a connection. `source` is the id of the source whose events are there.
    ///
    /// # Errors
    /// The server cannot be reached, or there is no such table.
    pub async fn open(endpoint: &Endpoint, source: LogId, options: PgEventsOptions) -> Result<PgEventsView, PgError> {
        let session = endpoint.connect(options.connect_limit).await?;
        let failed = |e| endpoint.failed("preparing to write events", e);
        session.client.batch_execute(SETTINGS).await.map_err(failed)?;
        let writer = Writer::new(&session, options).await?;
        let position = writer.position(&session).await?;
        let indexes = Indexes::look(&session).await?;
        Ok(PgEventsView { source, session, writer, indexes, position })
    }

    /// Builds the indexes that were put off, if any.
    ///
    /// # Errors
    /// The server fails; what was built stays, the rest is built next time.
    pub async fn finish_indexes(&mut self) -> Result<(), PgError> {
        self.indexes.build(&self.session).await
    }

    async fn take(&mut self, batch: &Batch) -> Result<(), ViewError> {
        if !self.writer.is_open() {
            // Few at a time: the copying is over, though the source never rests.
            let bytes: usize = batch.entries.iter().map(|logged| logged.entry.bytes().len()).sum();
            match batch.next.part == 0 && bytes < limits::EVENTS_INDEXES_LATER_BYTES_MIN {
                true => self.indexes.build(&self.session).await?,
                false if self.position == Position::ZERO => self.indexes.put_off(&self.session).await?,
                false => {}
            }
        }
        self.position = self.writer.write(&self.session, self.position, batch).await?;
        Ok(())
    }
}

#[async_trait]
impl View for PgEventsView {
    async fn cursor(&mut self) -> Result<Option<Cursor>, ViewError> {
        Ok(Some(Cursor { log: self.source, epoch: Epoch(0), position: self.position }))
    }

    async fn apply(&mut self, batch: &Batch) -> Result<(), ViewError> {
        self.take(batch).await
    }

    async fn caught_up(&mut self) -> Result<(), ViewError> {
        Ok(self.indexes.build(&self.session).await?)
    }
}
