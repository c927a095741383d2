//! One partition of a build: what is known of it, and the view that tells.

use std::borrow::Cow;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::following::LostAt;
use super::publish::PublishBoard;
use super::stops::Stops;
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
    /// Where it is to stand still; `None` while it is not led.
    pub stops: Option<Arc<Stops>>,
    /// Of its time it works so many hundredths.
    pub share: Option<u32>,
    /// Entries that it is not given.
    pub over: Arc<[Cursor]>,
    /// Where it stops.
    pub lost_at: Option<LostAt>,
    pub caught_up: Arc<Notify>,
    /// What it changes is published: it does not run away from that.
    pub out: Option<Arc<PublishBoard>>,
    pub stop: CancellationToken,
}

impl Part {
    /// The batch without what is passed over: its cursor goes over that.
    fn without<'b>(&self, batch: &'b Batch) -> Cow<'b, Batch> {
        let log = &self.board.log;
        let (over, id) = (self.over.iter(), log.id());
        let over: Vec<Position> = over.filter(|at| at.log == id).map(|at| at.position).collect();
        let is_over = |position: Position| {
            // Another entry may have come to stand there, in another epoch.
            over.contains(&position) && self.over.contains(&log.cursor_at(position))
        };
        if over.is_empty() || !batch.entries.iter().any(|logged| is_over(logged.position)) {
            return Cow::Borrowed(batch);
        }
        let entries = batch.entries.iter().filter(|logged| !is_over(logged.position)).cloned().collect();
        Cow::Owned(Batch { entries, ..batch.clone() })
    }

    /// What stands before the entry at which it stops is taken.
    async fn take_before(&mut self, batch: &Batch, lost_at: &LostAt) -> Result<(), ViewError> {
        let upto = Cursor { position: Position(lost_at.position.0.saturating_sub(1)), ..batch.upto };
        if self.board.position() < upto.position {
            self.inner.apply(&part_of(batch, upto)).await?;
            self.inner.flush().await?;
        }
        Err(ViewError::Entry { position: lost_at.position, why: lost_at.why.clone() })
    }

    fn noted<T>(&mut self, done: Result<T, ViewError>) -> Result<T, ViewError> {
        self.board.state().away = match &done {
            Err(error) if error.is_retryable() => Some(error.to_string()),
            _ => None,
        };
        done
    }

    /// Takes a batch; where that goes beyond the place at which the view is to stand still, up to there first.
    async fn take(&mut self, batch: &Batch) -> Result<(), ViewError> {
        let stand = self.stops.as_ref().and_then(|stops| stops.of(batch.upto.log));
        let Some(stand) = stand.filter(|stand| batch.upto.position > stand.at) else {
            return self.inner.apply(batch).await;
        };
        self.inner.flush().await?;
        let held = self.cursor().await?.map_or(Position::ZERO, |cursor| cursor.position);
        if held < stand.at {
            self.inner.apply(&part_of(batch, self.board.log.cursor_at(stand.at))).await?;
            self.inner.flush().await?;
            self.cursor().await?;
        }
        if held <= stand.at {
            tokio::select! {
                () = stand.still() => {}
                () = self.stop.cancelled() => {}
            }
        }
        // What it has by now is passed over.
        self.inner.apply(batch).await
    }
}

/// What of a batch stands at or before a cursor.
fn part_of(batch: &Batch, upto: Cursor) -> Batch {
    let entries = batch.entries.iter().filter(|logged| logged.position <= upto.position).cloned().collect();
    Batch { entries, upto, next: upto.position.into(), catalog: batch.catalog.clone() }
}

/// Whether a batch has something of the entry there, or goes over it.
fn reaches(batch: &Batch, lost_at: &LostAt) -> bool {
    batch.upto.position >= lost_at.position || batch.entries.iter().any(|logged| logged.position >= lost_at.position)
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
        if let Some(out) = &self.out {
            out.room(&self.stop).await;
        }
        let began = Instant::now();
        let batch = self.without(batch);
        // One that is behind came with the rows of tables.
        let ahead = |lost_at: &LostAt| lost_at.position > self.board.position() && reaches(&batch, lost_at);
        let done = match self.lost_at.clone().filter(ahead) {
            Some(lost_at) => self.take_before(&batch, &lost_at).await,
            None => self.take(&batch).await,
        };
        rest(self.share, began.elapsed(), &self.stop).await;
        self.noted(done)
    }

    fn works_here(&self) -> bool {
        self.inner.works_here()
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::memory::MemoryLog;
    use crate::log::{Append, Draft, Limit, Source};
    use crate::model::{EntryHeader, LinkId, LogId};

    /// Takes whatever it is given.
    struct Taking(Option<Cursor>);

    #[async_trait]
    impl View for Taking {
        async fn cursor(&mut self) -> Result<Option<Cursor>, ViewError> {
            Ok(self.0)
        }

        async fn apply(&mut self, batch: &Batch) -> Result<(), ViewError> {
            self.0 = Some(batch.upto);
            Ok(())
        }
    }

    /// How far a view at that place comes in five entries, where a state was lost at that one; and where it stops.
    async fn comes_to(at: u64, lost_at: u64) -> (Option<Cursor>, Option<Position>) {
        let log = Arc::new(MemoryLog::new());
        let draft = || Draft::Local { header: EntryHeader::default(), changes: Default::default() };
        let drafts = (0..5).map(|_| draft()).collect();
        let append = Append { from: LinkId::LOCAL, tables: Vec::new(), drafts, upto: None };
        log.append(append).await.expect("appended");
        let board = Arc::new(PartBoard::new(0, log.clone()));
        let cursor = Some(log.cursor_at(Position(at)));
        board.state().cursor = cursor;
        let mut part = Part {
            inner: Box::new(Taking(cursor)),
            board,
            waiters: None,
            stops: None,
            share: None,
            over: Arc::new([]),
            lost_at: Some(LostAt { log: LogId(1), position: Position(lost_at), why: "it panicked".into() }),
            caught_up: Arc::default(),
            out: None,
            stop: CancellationToken::new(),
        };
        let batch = log.read(Position(at).into(), Limit::default()).await.expect("read");
        let done = part.apply(&batch).await;
        (part.cursor().await.expect("a cursor"), done.err().and_then(|error| error.stops_at()))
    }

    #[tokio::test]
    async fn a_view_stops_before_the_entry_at_which_its_state_was_lost_unless_it_begins_behind_it() {
        for (at, lost_at, reached, stops_at) in [
            (0, 3, 2, Some(3)),
            (2, 3, 2, Some(3)),
            (0, 9, 5, None),
            // It was opened anew with the tables' rows of a later place.
            (3, 3, 5, None),
            (4, 1, 5, None),
        ] {
            let (cursor, stopped) = comes_to(at, lost_at).await;
            let reached = (Some(Position(reached)), stops_at.map(Position));
            assert_eq!((cursor.map(|cursor| cursor.position), stopped), reached, "at {at}, lost at {lost_at}");
        }
    }
}
