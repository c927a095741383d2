//! The stream to one destination: reached, looked at, followed; and tried again.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::endpoint::Endpoint;
use super::progress::{Phase, Progress, Seen};
use super::validate;
use crate::log::{Limit, Source};
use crate::model::{Cursor, limits};
use crate::peer::Retry;
use crate::stream::{FollowError, follow};
use crate::view::{EventIds, EventsError, EventsTable, StoredEvent, Trouble, View, ViewError};

/// What all streams share.
pub(super) struct Plan {
    pub source: Endpoint,
    pub max_events_per_write: u32,
    /// What each stream reads at once: all of them share the process's memory.
    pub batch_bytes: usize,
    pub connect_timeout: Duration,
    pub exit_on_error: bool,
    /// Which databases they are: the source's first, then those of the destinations that have been reached.
    pub identities: Mutex<Vec<Option<String>>>,
}

/// One destination's stream.
pub(super) struct Worker<'a> {
    pub plan: &'a Plan,
    pub index: usize,
    pub endpoint: &'a Endpoint,
    pub progress: &'a Progress,
    /// How the source's ids are given, once this destination has been found to be its copy.
    pub checked: Option<EventIds>,
    /// Whether to look at both ends again before going on.
    pub again: bool,
}

impl Worker<'_> {
    /// Follows until told to stop.
    ///
    /// # Errors
    /// Something that trying again does not mend, or, with `exit_on_error`, anything.
    pub(super) async fn run(&mut self, stop: &CancellationToken) -> Result<(), EventsError> {
        let retry = Retry::default();
        let mut failed = 0;
        loop {
            let before = self.progress.status();
            let Err(error) = self.session(stop).await else { break };
            if stop.is_cancelled() {
                tracing::debug!("{}: while stopping: {error}", self.endpoint);
                break;
            }
            let again = error.is_retryable() && !self.plan.exit_on_error;
            self.progress.fail(&error, again);
            if !again {
                tracing::error!("{} is no longer copied to: {error}", self.endpoint);
                return Err(error);
            }
            let moved = self.progress.status().batches > before.batches;
            failed = if moved { 1 } else { failed + 1 };
            self.again = true;
            let wait = retry.wait(failed, true, rand::random());
            tracing::warn!("{}: tried again in {wait:.1?}: {error}", self.endpoint);
            tokio::select! {
                _ = stop.cancelled() => break,
                _ = tokio::time::sleep(wait) => {}
            }
        }
        self.progress.set(Phase::Stopped);
        Ok(())
    }

    async fn session(&mut self, stop: &CancellationToken) -> Result<(), EventsError> {
        self.progress.set(Phase::Connecting);
        let opened = tokio::select! {
            opened = self.open() => opened,
            _ = stop.cancelled() => return Ok(()),
        };
        let (source, mut view) = opened?;
        let at = cursor(&mut *view).await.map_err(|error| self.ended(error.into()))?;
        let tail = source.tail();
        self.progress.begin(at.position, *tail.borrow());
        let mut seen = Seen { view, progress: self.progress, given: VecDeque::new(), told: false };
        let limit = Limit { bytes: self.plan.batch_bytes, entries: self.plan.max_events_per_write as usize };
        let (cursors, _) = watch::channel(at);
        let looking = async {
            let mut tick = tokio::time::interval(limits::EVENTS_LAG_INTERVAL);
            loop {
                tick.tick().await;
                self.progress.see_tail(*tail.borrow());
            }
        };
        let followed = tokio::select! {
            followed = follow(&*source, None, &mut seen, limit, &cursors, stop) => followed,
            never = looking => never,
        };
        match followed {
            Ok(()) => Ok(()),
            Err(error) if error.is_retryable() => Err(self.ended(error)),
            // The server's words are not all: what stands against copying now says what to do.
            Err(error) => {
                let found = self.check().await.err().filter(|found| !found.is_retryable());
                Err(found.unwrap_or_else(|| self.ended(error)))
            }
        }
    }

    fn ended(&self, error: FollowError) -> EventsError {
        let what = format!("the stream from {} to {} broke", self.plan.source, self.endpoint);
        let (code, trouble, why, fix) = match &error {
            FollowError::View(ViewError::Fenced { expected, found }) => {
                let position = |cursor: &Option<Cursor>| cursor.map_or(0, |cursor| cursor.position.0);
                let (expected, found) = (position(expected), position(found));
                let why = format!("another process writes it too: it was at {expected}, and is at {found}");
                let fix = "stop the other process, if there is one; together they are slower, and nothing worse";
                ("WS-EVENTS-041", Trouble::Unreachable, why, fix)
            }
            error if error.is_retryable() => {
                ("WS-EVENTS-042", Trouble::Unreachable, error.to_string(), "nothing: it is tried again")
            }
            error => {
                let fix = "mend what it says, and start again: nothing is lost";
                ("WS-EVENTS-043", Trouble::Failure, error.to_string(), fix)
            }
        };
        EventsError { code, trouble, what, why, fix: fix.into() }
    }

    /// Opens both ends, after having looked at them as far as is needed.
    async fn open(&mut self) -> Result<(Box<dyn Source>, Box<dyn View>), EventsError> {
        let ids = match self.checked {
            Some(ids) => {
                if std::mem::take(&mut self.again) {
                    self.check_briefly(ids).await.inspect_err(|_| self.again = true)?;
                }
                ids
            }
            None => self.check().await?,
        };
        self.checked = Some(ids);
        let (timeout, max) = (self.plan.connect_timeout, self.plan.max_events_per_write);
        let source = self.plan.source.source(ids, timeout).await?;
        let view = self.endpoint.view(source.id(), ids, max, timeout).await?;
        Ok((source, view))
    }

    async fn tables(&self) -> Result<(Box<dyn EventsTable>, Box<dyn EventsTable>), EventsError> {
        let timeout = self.plan.connect_timeout;
        let destination = self.endpoint.table(timeout).await?;
        Ok((self.plan.source.table(timeout).await?, destination))
    }

    /// Everything that may stand against copying; the first thing that does.
    async fn check(&self) -> Result<EventIds, EventsError> {
        let (mut source, mut destination) = self.tables().await?;
        let facts = destination.facts().await?;
        let there = source.facts().await?;
        let mut errors = self.doubles(&there.identity, &facts.identity);
        errors.extend(validate::source(source.name(), &there));
        errors.extend(validate::destination(destination.name(), &facts, source.name(), &there));
        if let Some(error) = errors.into_iter().next() {
            return Err(error);
        }
        validate::probe(&mut *source, &mut *destination, facts.max_id).await?;
        Ok(there.ids.unwrap_or_default())
    }

    /// Whether this destination is a database that is there already. Servers that started again are known anew.
    fn doubles(&self, source: &str, own: &str) -> Vec<EventsError> {
        let mut identities = self.plan.identities.lock().unwrap_or_else(PoisonError::into_inner);
        identities[0] = Some(source.to_string());
        identities[self.index + 1] = Some(own.to_string());
        let earlier = identities[..=self.index].iter().position(|known| known.as_deref() == Some(own));
        earlier
            .map(|at| match at {
                0 => validate::double(self.progress.name(), &self.plan.source.to_string()),
                at => validate::double(self.progress.name(), &format!("destination {at}")),
            })
            .into_iter()
            .collect()
    }

    /// After a break: whether both ends still have the same first event and the same last one.
    async fn check_briefly(&self, ids: EventIds) -> Result<(), EventsError> {
        let (mut source, mut destination) = self.tables().await?;
        let first: Vec<StoredEvent> = destination.range(i64::MIN, i64::MAX, 1).await?;
        let mut known: Vec<i64> = first.iter().map(|event| event.id).collect();
        if ids == EventIds::Table {
            known.push(i64::try_from(self.progress.status().position).unwrap_or(i64::MAX));
        }
        validate::compare(&mut *source, &mut *destination, &known).await.map(drop)
    }
}

async fn cursor(view: &mut dyn View) -> Result<Cursor, ViewError> {
    Ok(view.cursor().await?.unwrap_or_default())
}
