//! One partition of a build: what is known of it, and the view that tells.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::log::Log;
use crate::model::{Batch, Cursor, Position};
use crate::view::{View, ViewError, Waiters};

/// How a partition ended that is not followed any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// It was told to.
    Stopped,
    /// The view cannot take the entry at that position.
    Failed { position: Position, why: String },
    /// What comes next is not in the log any more.
    Trimmed { asked: Position, oldest: Position },
    /// The view's cursor is not valid in the log.
    Parted(String),
    /// The store has to be opened anew.
    Lost(String),
    /// The rows of a table are other ones: the view is built anew from what they are now.
    Replaced(String),
}

#[derive(Clone, Debug, Default)]
pub(super) struct PartState {
    /// How far it has come; `None` before anything has been committed, or where that is not known yet.
    pub cursor: Option<Cursor>,
    /// The store has said where it is.
    pub known: bool,
    /// Why it does not go on now, though it will be tried again.
    pub away: Option<String>,
    /// Why it does not go on.
    pub end: Option<End>,
}

/// What is known of a partition.
pub(super) struct PartBoard {
    pub number: usize,
    pub log: Arc<dyn Log>,
    state: Mutex<PartState>,
}

impl PartBoard {
    pub(super) fn new(number: usize, log: Arc<dyn Log>) -> PartBoard {
        PartBoard { number, log, state: Mutex::default() }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, PartState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How far it has come.
    pub(super) fn position(&self) -> Position {
        self.state().cursor.map_or(Position::ZERO, |cursor| cursor.position)
    }

    pub(super) fn tail(&self) -> Position {
        *self.log.tail().borrow()
    }
}

/// A view that tells how far it has come, and does not take all the time for itself.
pub(super) struct Part {
    pub inner: Box<dyn View>,
    pub board: Arc<PartBoard>,
    /// Who waits for it; `None` while it is being built.
    pub waiters: Option<Arc<Waiters>>,
    /// Of its time it works so many hundredths.
    pub share: Option<u32>,
    pub caught_up: Arc<Notify>,
    pub stop: CancellationToken,
}

impl Part {
    fn noted<T>(&mut self, done: Result<T, ViewError>) -> Result<T, ViewError> {
        self.board.state().away = match &done {
            Err(error) if error.is_retryable() => Some(error.to_string()),
            _ => None,
        };
        done
    }
}

/// After work, so that of all the time only that share is worked, in hundredths.
async fn rest(share: Option<u32>, worked: Duration, stop: &CancellationToken) {
    let Some(share) = share.filter(|share| (1..100).contains(share)) else { return };
    tokio::select! {
        () = stop.cancelled() => {}
        () = tokio::time::sleep(worked * (100 - share) / share) => {}
    }
}

#[async_trait]
impl View for Part {
    async fn cursor(&mut self) -> Result<Option<Cursor>, ViewError> {
        let cursor = self.inner.cursor().await?;
        {
            let mut state = self.board.state();
            (state.cursor, state.known) = (cursor, true);
        }
        if let (Some(cursor), Some(waiters)) = (cursor, &self.waiters) {
            waiters.reached(cursor);
        }
        Ok(cursor)
    }

    async fn apply(&mut self, batch: &Batch) -> Result<(), ViewError> {
        let began = Instant::now();
        let done = self.inner.apply(batch).await;
        rest(self.share, began.elapsed(), &self.stop).await;
        self.noted(done)
    }

    async fn flush(&mut self) -> Result<(), ViewError> {
        let done = self.inner.flush().await;
        self.noted(done)
    }

    async fn caught_up(&mut self) -> Result<(), ViewError> {
        let done = self.inner.caught_up().await;
        self.caught_up.notify_one();
        self.noted(done)
    }
}
