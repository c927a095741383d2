//! How far each destination has come, for people, logs and metrics.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use serde::Serialize;

use crate::model::{Batch, Cursor, Position, limits};
use crate::view::{EventsError, View, ViewError};

/// What a destination's stream is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Its databases are being reached and looked at.
    #[default]
    Connecting,
    /// There are events that it does not have.
    Copying,
    /// It has every event, and waits for the next.
    Current,
    /// It failed, and will be tried again.
    Waiting,
    /// It failed, and is not tried again.
    Failed,
    /// It was told to stop.
    Stopped,
}

/// A destination, now.
#[derive(Clone, Debug, Serialize)]
pub struct DestinationStatus {
    /// Its URL without a password.
    pub name: String,
    /// What it is doing.
    pub state: Phase,
    /// Whether it has everything, or lacks it for no longer than a moment.
    pub current: bool,
    /// How far it has come: the greatest id (or, where ids come from a sequence, the number of the transaction).
    pub position: u64,
    /// How far the source has come, as far as is known.
    pub tail: u64,
    /// Positions between the two.
    pub behind: u64,
    /// For how long there has been something that it does not have; 0 when it has everything.
    pub lag_seconds: f64,
    /// Events written since the process started.
    pub events: u64,
    /// Batches written since the process started.
    pub batches: u64,
    /// How often it was tried again.
    pub retries: u64,
    /// Its last failure, until it has been overcome.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl DestinationStatus {
    /// Whether its stream stands.
    pub fn is_up(&self) -> bool {
        matches!(self.state, Phase::Current | Phase::Copying)
    }
}

/// All destinations of one source.
#[derive(Debug)]
pub struct Overview {
    /// The source's URL without a password.
    pub source: String,
    /// In the order of the configuration.
    pub destinations: Vec<Arc<Progress>>,
}

impl Overview {
    /// Everybody's status.
    pub fn status(&self) -> Vec<DestinationStatus> {
        self.destinations.iter().map(|progress| progress.status()).collect()
    }
}

/// How far one destination has come.
#[derive(Debug)]
pub struct Progress {
    name: String,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    phase: Phase,
    position: u64,
    tail: u64,
    /// Where the source was when the stream began: until that is reached, the destination is not current.
    begun_at: u64,
    /// Where the source was when; those that the destination has not reached.
    tails: VecDeque<(u64, Instant)>,
    events: u64,
    /// Events of a transaction that is not whole.
    pending: u64,
    batches: u64,
    retries: u64,
    error: Option<String>,
}

impl Inner {
    fn see_tail(&mut self, tail: Position) {
        self.tail = tail.0;
        let last = self.tails.back().copied();
        let later = last.is_none_or(|(known, at)| tail.0 > known && at.elapsed() >= limits::EVENTS_LAG_INTERVAL);
        if tail.0 > self.position && later && self.tails.len() < limits::EVENTS_LAG_SAMPLES {
            self.tails.push_back((tail.0, Instant::now()));
        }
    }

    fn reach(&mut self, position: Position) {
        self.position = position.0;
        self.tail = self.tail.max(position.0);
        while self.tails.front().is_some_and(|(tail, _)| *tail <= position.0) {
            self.tails.pop_front();
        }
    }
}

impl Progress {
    pub(super) fn new(name: String) -> Progress {
        Progress { name, inner: Mutex::default() }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Its URL without a password.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How it stands.
    pub fn status(&self) -> DestinationStatus {
        let inner = self.inner();
        let lag = inner.tails.front().map_or(Duration::ZERO, |(_, at)| at.elapsed());
        let follows = matches!(inner.phase, Phase::Current | Phase::Copying);
        DestinationStatus {
            name: self.name.clone(),
            state: inner.phase,
            current: follows && inner.position >= inner.begun_at && lag < limits::EVENTS_CURRENT_LAG,
            position: inner.position,
            tail: inner.tail,
            behind: inner.tail.saturating_sub(inner.position),
            lag_seconds: lag.as_secs_f64(),
            events: inner.events,
            batches: inner.batches,
            retries: inner.retries,
            error: inner.error.clone(),
        }
    }

    pub(super) fn set(&self, phase: Phase) {
        let mut inner = self.inner();
        inner.phase = phase;
        inner.pending = 0;
    }

    pub(super) fn fail(&self, error: &EventsError, again: bool) {
        let mut inner = self.inner();
        (inner.phase, inner.pending) = (if again { Phase::Waiting } else { Phase::Failed }, 0);
        inner.retries += u64::from(again);
        inner.error = Some(error.to_string());
    }

    pub(super) fn see_tail(&self, tail: Position) {
        self.inner().see_tail(tail);
    }

    /// The stream stands, and goes on from there.
    pub(super) fn begin(&self, position: Position, tail: Position) {
        let mut inner = self.inner();
        (inner.phase, inner.error, inner.pending) = (Phase::Copying, None, 0);
        inner.begun_at = tail.0;
        inner.reach(position);
        inner.see_tail(tail);
    }

    fn applied(&self, events: u64, upto: Position, whole: bool) {
        let mut inner = self.inner();
        inner.pending += events;
        inner.batches += 1;
        if whole {
            inner.events += std::mem::take(&mut inner.pending);
        }
        inner.reach(upto);
        if inner.tail > inner.position {
            inner.phase = Phase::Copying;
        }
    }

    /// The source had nothing more; true when that is news.
    fn caught_up(&self) -> bool {
        let mut inner = self.inner();
        inner.tails.clear();
        std::mem::replace(&mut inner.phase, Phase::Current) != Phase::Current
    }
}

/// A view whose progress is seen.
pub(super) struct Seen<'a> {
    pub(super) view: Box<dyn View>,
    pub(super) progress: &'a Progress,
    /// Oldest first.
    pub(super) given: VecDeque<Given>,
    /// Whether it was said that the destination is current.
    pub(super) told: bool,
}

/// Encoded changes in a text of them: each is preceded by its length.
fn count_changes(mut changes: &[u8]) -> u64 {
    let mut count = 0;
    while let Ok(length) = prost::encoding::decode_varint(&mut changes) {
        let Some(rest) = changes.get(usize::try_from(length).unwrap_or(usize::MAX)..) else { break };
        (changes, count) = (rest, count + 1);
    }
    count
}

/// What the view was given and has not shown yet.
pub(super) struct Given {
    events: u64,
    upto: Position,
    whole: bool,
    since: Instant,
}

impl Seen<'_> {
    /// Counts what is there by now.
    async fn look(&mut self) -> Result<(), ViewError> {
        let at = self.view.cursor().await?.map(|cursor| cursor.position).unwrap_or_default();
        while let Some(given) = self.given.pop_front_if(|given| given.upto <= at) {
            let Given { events, upto, whole, since } = given;
            self.progress.applied(events, upto, whole);
            tracing::debug!(
                "{}: {events} events up to {upto}, in {:.1?}",
                self.progress.name(),
                round(since.elapsed())
            );
        }
        Ok(())
    }
}

#[async_trait]
impl View for Seen<'_> {
    async fn cursor(&mut self) -> Result<Option<Cursor>, ViewError> {
        self.view.cursor().await
    }

    async fn apply(&mut self, batch: &Batch) -> Result<(), ViewError> {
        let since = Instant::now();
        self.view.apply(batch).await?;
        let events = batch.entries.iter().map(|logged| count_changes(logged.entry.changes_bytes())).sum();
        self.given.push_back(Given { events, upto: batch.upto.position, whole: batch.next.part == 0, since });
        self.look().await
    }

    async fn flush(&mut self) -> Result<(), ViewError> {
        self.view.flush().await?;
        self.look().await
    }

    async fn caught_up(&mut self) -> Result<(), ViewError> {
        // What is there is shown before indexes are built.
        self.flush().await?;
        self.view.caught_up().await?;
        if self.progress.caught_up() && !std::mem::replace(&mut self.told, true) {
            tracing::info!("{} is current, at {}", self.progress.name(), self.progress.status().position);
        }
        Ok(())
    }
}

fn round(time: Duration) -> Duration {
    Duration::from_micros(time.as_micros() as u64)
}
