//! One batch under way while the next one is read from the log, and its rows out of it.

use std::sync::Arc;

use async_trait::async_trait;
use tokio::task::JoinHandle;

use super::part::Part;
use super::store::Shared;
use crate::model::{Batch, Cursor, LogId, limits};
use crate::view::{Program, Ready, View, ViewError, blocking};

/// A part, its batch, and how it went.
struct Landed {
    part: Part,
    batch: Batch,
    ready: Ready,
    done: Result<(), ViewError>,
}

/// A [`Part`] that takes large batches on a thread of their own. What goes wrong is said at the next call, and a batch that
/// may be taken later is taken then, before any other.
pub(super) struct Flown {
    /// None while a batch is under way.
    part: Option<Part>,
    flight: Option<JoinHandle<Landed>>,
    again: Option<Batch>,
    /// Reads the rows of a batch while the one before it is under way.
    reader: Program,
    /// Its room.
    ready: Ready,
    /// The cursor when no batch was under way.
    seen: Option<Cursor>,
    /// A batch has failed for good: what comes next is not known before the cursor is asked for.
    failed: bool,
}

impl Flown {
    pub(super) fn open(shared: Arc<Shared>, log: LogId) -> Result<Flown, ViewError> {
        let part = Part::open(shared, log)?;
        let (reader, ready) = (part.reader(), Ready::default());
        Ok(Flown { seen: part.held(), part: Some(part), flight: None, again: None, reader, ready, failed: false })
    }

    fn part(&mut self) -> Result<Part, ViewError> {
        self.part.take().ok_or_else(|| ViewError::Lost("the thread that applies has ended badly".into()))
    }

    fn take_off(&mut self, batch: Batch, ready: Ready) -> Result<(), ViewError> {
        let mut part = self.part()?;
        self.flight = Some(tokio::task::spawn_blocking(move || {
            let done = part.take(&batch, &ready);
            Landed { part, batch, ready, done }
        }));
        Ok(())
    }

    /// Waits until nothing is under way.
    async fn land(&mut self) -> Result<(), ViewError> {
        loop {
            if let Some(flight) = &mut self.flight {
                let landed = flight.await;
                self.flight = None;
                let Landed { part, batch, ready, done } = landed.map_err(|error| ViewError::Lost(error.to_string()))?;
                self.seen = part.held();
                self.part = Some(part);
                self.ready = ready;
                if let Err(error) = done {
                    self.failed = !error.is_retryable();
                    self.again = error.is_retryable().then_some(batch);
                    return Err(error);
                }
            }
            match self.again.take() {
                Some(batch) => self.take_off(batch, Ready::default())?,
                None => return Ok(()),
            }
        }
    }
}

#[async_trait]
impl View for Flown {
    async fn cursor(&mut self) -> Result<Option<Cursor>, ViewError> {
        if self.flight.is_none() {
            let mut part = self.part()?;
            let read = blocking(|| part.read());
            self.part = Some(part);
            self.seen = read?;
            self.failed = false;
        }
        Ok(self.seen)
    }

    async fn apply(&mut self, batch: &Batch) -> Result<(), ViewError> {
        let flies = batch.entries.len() >= limits::VIEW_FLOWN_ENTRIES;
        let mut ready = std::mem::take(&mut self.ready);
        match flies {
            true => blocking(|| self.reader.read(batch, &mut ready)),
            false => ready.clear(),
        }
        self.land().await?;
        if self.failed {
            return Err(ViewError::Lost("a batch has failed: read again from the cursor".into()));
        }
        if flies {
            return self.take_off(batch.clone(), ready);
        }
        let mut part = self.part()?;
        let done = blocking(|| part.take(batch, &ready));
        self.seen = part.held();
        self.part = Some(part);
        done
    }

    async fn flush(&mut self) -> Result<(), ViewError> {
        self.land().await
    }

    async fn caught_up(&mut self) -> Result<(), ViewError> {
        self.land().await
    }
}
