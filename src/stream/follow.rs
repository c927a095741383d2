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

impl FollowError {
    /// Whether source and view, opened anew, may go on.
    pub fn is_retryable(&self) -> bool {
        match self {
            FollowError::Source(SourceError::Io(_)) => true,
            FollowError::View(error) => {
                matches!(error, ViewError::Retry(_) | ViewError::Lost(_) | ViewError::Fenced { .. })
            }
            _ => false,
        }
    }
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
/// what may not pass, and has the view take each batch with its cursor. While the view takes one batch the next is read
/// (at most `limit` each). `progress` shows the view's cursor. A busy store is waited for.
///
/// # Errors
/// The source or the view cannot go on; what was applied stays, and following again goes on from there.
pub async fn follow(
    source: &dyn Source,
    sieve: Option<&Sieve>,
    view: &mut dyn View,
    limit: Limit,
    progress: &watch::Sender<Cursor>,
    stop: &CancellationToken,
) -> Result<(), FollowError> {
    let mut tail = source.tail();
    let mut from = Follower::start(source, view).await?.from;
    let mut ahead = None;
    while !stop.is_cancelled() {
        let batch = match ahead.take() {
            Some(batch) => batch,
            None => {
                tail.mark_unchanged();
                source.read(from, limit).await?
            }
        };
        if batch.next == from {
            patiently(stop, view, Work::CaughtUp).await?;
            if let Some(cursor) = view.cursor().await? {
                progress.send_replace(cursor);
            }
            tokio::select! {
                _ = stop.cancelled() => {}
                changed = tail.changed() => if changed.is_err() { return Ok(()) },
            }
            continue;
        }
        let next = batch.next;
        // Only what is certainly there is read ahead, so that an idle stream asks its source once.
        let more = next.part > 0 || next.after < *tail.borrow_and_update();
        let batch = match sieve {
            Some(sieve) => sieved(batch, sieve)?,
            None => batch,
        };
        let works_here = view.works_here();
        let apply = async {
            patiently(stop, view, Work::Apply(&batch)).await?;
            if let Some(cursor) = view.cursor().await? {
                progress.send_replace(cursor);
            }
            Ok::<(), FollowError>(())
        };
        let read = async {
            match (more, works_here) {
                (true, true) => source.read_ahead(next, limit).await.map(Some),
                (true, false) => source.read(next, limit).await.map(Some),
                (false, _) => Ok(None),
            }
        };
        // Whoever does not wait for the other one begins first.
        let (applied, read) = match works_here {
            true => {
                let (read, applied) = tokio::join!(read, apply);
                (applied, read)
            }
            false => tokio::join!(apply, read),
        };
        applied?;
        from = next;
        ahead = read?;
    }
    patiently(stop, view, Work::Flush).await?;
    Ok(())
}

/// What a view is to do.
#[derive(Clone, Copy)]
enum Work<'b> {
    Apply(&'b Batch),
    Flush,
    CaughtUp,
}

/// Has the view do something, again and again while its store is busy, until told to stop.
async fn patiently(stop: &CancellationToken, view: &mut dyn View, work: Work<'_>) -> Result<(), ViewError> {
    loop {
        let done = match work {
            Work::Apply(batch) => view.apply(batch).await,
            Work::Flush => view.flush().await,
            Work::CaughtUp => view.caught_up().await,
        };
        match done {
            Err(error) if error.is_retryable() && !stop.is_cancelled() => {}
            done => return done,
        }
        tokio::select! {
            _ = stop.cancelled() => {}
            _ = tokio::time::sleep(RETRY_DELAY) => {}
        }
    }
}
