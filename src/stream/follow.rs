//! The one loop that moves transactions from a source to a view.

use std::time::Duration;

use thiserror::Error;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::sieve::{Sieve, SieveError, Sieved};
use crate::log::{Limit, Source, SourceError};
use crate::model::{Batch, Cursor, Logged, Position, ReadFrom};
use crate::view::{View, ViewError};

/// Between attempts when a view's store is busy.
const RETRY_DELAY: Duration = Duration::from_millis(50);

/// The stream has ended before it was told to.
#[derive(Debug, Error)]
pub enum FollowError {
    /// Reading the source failed.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The view cannot go on.
    #[error(transparent)]
    View(#[from] ViewError),
    /// A filter failed; nothing of that entry was passed on.
    #[error(transparent)]
    Sieve(#[from] SieveError),
    /// The view's cursor counts in another log than the source.
    #[error("the view is at {view}, which is not a cursor of log {source_id}")]
    OtherLog {
        /// The view's cursor.
        view: Cursor,
        /// The source.
        source_id: crate::model::LogId,
    },
}

/// What one step did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// There was something to read, and the view has taken it.
    Moved,
    /// The view is at the source's tail.
    CaughtUp,
}

/// A stream that is taken step by step, for those who do something between the steps.
#[derive(Debug)]
pub struct Follower {
    from: ReadFrom,
}

impl Follower {
    /// Starts where the view is.
    pub async fn start(source: &dyn Source, view: &mut dyn View) -> Result<Follower, FollowError> {
        let cursor = view.cursor().await?;
        if let Some(view) = cursor.filter(|cursor| cursor.log != source.id()) {
            return Err(FollowError::OtherLog { view, source_id: source.id() });
        }
        Ok(Follower { from: cursor.map_or(Position::ZERO, |cursor| cursor.position).into() })
    }

    /// Reads once and gives the view what was read; on an error nothing has moved.
    pub async fn step(
        &mut self,
        source: &dyn Source,
        sieve: Option<&Sieve>,
        view: &mut dyn View,
    ) -> Result<Step, FollowError> {
        let batch = source.read(self.from, Limit::default()).await?;
        if batch.next == self.from {
            return Ok(Step::CaughtUp);
        }
        let batch = match sieve {
            Some(sieve) => sieved(batch, sieve)?,
            None => batch,
        };
        view.apply(&batch).await?;
        self.from = batch.next;
        Ok(Step::Moved)
    }
}

/// The batch with only what passes; its cursor covers the rest.
fn sieved(batch: Batch, sieve: &Sieve) -> Result<Batch, SieveError> {
    let mut entries = Vec::with_capacity(batch.entries.len());
    for logged in batch.entries {
        match sieve.entry(&logged.entry, &batch.catalog)? {
            Sieved::Nothing => {}
            Sieved::Whole => entries.push(logged),
            Sieved::Narrowed(entry, tables) => {
                for table in tables {
                    batch.catalog.add(table);
                }
                entries.push(Logged { entry: *entry, ..logged });
            }
        }
    }
    Ok(Batch { entries, ..batch })
}

/// Moves transactions from `source` to `view` until told to stop: reads after the view's cursor, lets `sieve` hold back
/// what may not pass, and has the view take each batch with its cursor. `progress` shows the view's cursor. Retryable
/// trouble is waited out.
pub async fn follow(
    source: &dyn Source,
    sieve: Option<&Sieve>,
    view: &mut dyn View,
    progress: &watch::Sender<Cursor>,
    stop: &CancellationToken,
) -> Result<(), FollowError> {
    let mut tail = source.tail();
    let mut follower = Follower::start(source, view).await?;
    while !stop.is_cancelled() {
        tail.mark_unchanged();
        let wait = match follower.step(source, sieve, view).await {
            Ok(Step::Moved) => {
                if let Some(cursor) = view.cursor().await? {
                    progress.send_replace(cursor);
                }
                continue;
            }
            Ok(Step::CaughtUp) => None,
            Err(FollowError::View(error)) if error.is_retryable() => Some(RETRY_DELAY),
            Err(error) => return Err(error),
        };
        tokio::select! {
            _ = stop.cancelled() => {}
            _ = tokio::time::sleep(wait.unwrap_or_default()), if wait.is_some() => {}
            changed = tail.changed(), if wait.is_none() => if changed.is_err() { return Ok(()) },
        }
    }
    Ok(())
}
