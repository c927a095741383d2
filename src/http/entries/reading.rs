//! What is sent to one reader.

mod shared;
mod writing;

use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use futures_util::future::select_all;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::{Instant, timeout_at};

use super::wanted::Wanted;
use crate::log::{Limit, Log, SourceError};
use crate::model::{Batch, Catalog, Logged, Position, ReadFrom, limits};
use crate::node::Node;
use crate::node::feeds::{Feed, joined};
use crate::stream::{Sieve, Sieved};

/// Between pings on an event stream.
const PING_INTERVAL: Duration = Duration::from_secs(10);
/// A reader that asks for fewer entries than this is not read for in large pieces.
const MANY: u64 = 2_000;

/// How entries are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// A line each, until the limit or the tail.
    Lines,
    /// Server-sent events, for ever.
    Events,
    /// Messages of a WebSocket, for ever; here lines.
    Messages,
}

/// One partition that is read.
pub struct Part {
    number: usize,
    log: Arc<dyn Log>,
    from: ReadFrom,
    tail: watch::Receiver<Position>,
    ahead: Option<Ahead>,
}

/// What has been read and not been formatted yet.
struct Ahead {
    entries: std::vec::IntoIter<Logged>,
    catalog: Arc<Catalog>,
    next: ReadFrom,
}

impl From<Batch> for Ahead {
    fn from(batch: Batch) -> Ahead {
        Ahead { entries: batch.entries.into_iter(), catalog: batch.catalog, next: batch.next }
    }
}

impl Part {
    /// From after a position on.
    pub fn new(number: usize, log: Arc<dyn Log>, after: Position) -> Part {
        let mut tail = log.tail();
        tail.mark_changed();
        Part { number, log, from: after.into(), tail, ahead: None }
    }
}

/// One reader's place.
pub struct Reading {
    node: Arc<Node>,
    feed: Arc<Feed>,
    parts: Vec<Part>,
    turn: usize,
    wanted: Wanted,
    form: Form,
    left: u64,
    deadline: Option<Instant>,
    ready: Option<Bytes>,
    /// Bytes of entries that have been looked at.
    scanned: usize,
    sent: bool,
    /// The reader has been told that it has everything.
    told: bool,
    done: bool,
    /// What may leave, and the definitions under which it does.
    sieve: Option<(Sieve, Arc<Catalog>)>,
    /// It catches up, in large pieces.
    large: Option<OwnedSemaphorePermit>,
}

/// Reading stops.
#[derive(Debug)]
pub enum ReadError {
    /// The log.
    Source(SourceError),
    /// A filter fails on that entry.
    Withheld(Position),
}

impl From<SourceError> for ReadError {
    fn from(error: SourceError) -> ReadError {
        ReadError::Source(error)
    }
}

impl Reading {
    /// Of these parts.
    pub fn new(
        node: Arc<Node>,
        feed: Arc<Feed>,
        parts: Vec<Part>,
        wanted: Wanted,
        form: Form,
        left: u64,
        deadline: Option<Instant>,
    ) -> Reading {
        Reading {
            node,
            feed,
            parts,
            turn: 0,
            wanted,
            form,
            left,
            deadline,
            ready: None,
            scanned: 0,
            sent: false,
            told: false,
            done: false,
            sieve: None,
            large: None,
        }
    }

    /// Only what passes leaves; `None`: everything.
    pub fn through(mut self, sieve: Option<Sieve>) -> Reading {
        self.sieve = sieve.map(|sieve| (sieve, Arc::default()));
        self
    }

    /// Of an answer that is going to be empty: where the reader is all the same, behind what is not for it.
    pub fn passed_over(&self) -> Option<String> {
        let at_tail = || self.parts.iter().all(|part| part.from.after == *part.tail.borrow());
        let ended = || self.done || (self.deadline.is_none() && at_tail());
        (self.form == Form::Lines && self.ready.is_none() && ended()).then(|| self.here())
    }

    /// The cursors of all parts.
    fn here(&self) -> String {
        joined(&self.parts.iter().map(|part| part.log.cursor_at(part.from.after)).collect::<Vec<_>>())
    }

    /// What of an entry passes the sieve, with the definitions for it.
    fn sieved(&self, logged: &Logged, catalog: &Arc<Catalog>) -> Result<Option<(Logged, Arc<Catalog>)>, ReadError> {
        let Some((sieve, own)) = &self.sieve else { return Ok(None) };
        let sieved = sieve.entry(&logged.entry, catalog).map_err(|error| {
            tracing::warn!(
                "error[WS-SEND-015]: a reader of main stops before position {}: {error} / do: correct [send.feed]",
                logged.position
            );
            ReadError::Withheld(logged.position)
        })?;
        let entry = match sieved {
            Sieved::Nothing => return Ok(None),
            Sieved::Whole => {
                for table in logged.entry.header().tables.iter().filter_map(|table| catalog.get(*table)) {
                    own.add(table);
                }
                logged.entry.clone()
            }
            Sieved::Narrowed(entry, _) if entry.changes_bytes().is_empty() => return Ok(None),
            Sieved::Narrowed(entry, tables) => {
                for table in tables {
                    own.add(table);
                }
                *entry
            }
        };
        Ok(Some((Logged { entry, ..*logged }, own.clone())))
    }

    /// The log's name.
    pub fn log(&self) -> &str {
        &self.feed.name
    }

    /// Looks whether every place asked for is there. Who reads lines hears before them if nothing is for it so far.
    pub async fn begin(&mut self) -> Result<(), ReadError> {
        if self.is_shared() {
            self.ready = self.stretch().await?;
            return Ok(());
        }
        let mut out = String::new();
        loop {
            let mut moved = false;
            for _ in 0..self.parts.len() {
                match self.fill(&mut out).await {
                    Ok(more) => moved |= more,
                    // What stands before it is sent; then it is met again.
                    Err(ReadError::Withheld(_)) if !out.is_empty() => break,
                    Err(failed) => return Err(failed),
                }
            }
            if self.form != Form::Lines || !moved || !out.is_empty() || self.left == 0 {
                break;
            }
            if self.scanned >= limits::FEED_SCAN_BYTES_MAX {
                self.done = true;
                break;
            }
            tokio::task::yield_now().await;
        }
        self.ready = (!out.is_empty()).then(|| out.into());
        Ok(())
    }

    /// Reads on in a part; `None`: nothing more is there.
    async fn read(&mut self, turn: usize) -> Result<Option<Ahead>, ReadError> {
        let part = &mut self.parts[turn];
        let tail = *part.tail.borrow_and_update();
        let behind = tail.0.saturating_sub(part.from.after.0);
        if self.large.is_none() && behind.min(self.left) > MANY {
            self.large = self.node.shared.feeds.large_reads.clone().try_acquire_owned().ok();
        }
        let mut limit = Limit::default();
        if self.large.is_none() {
            limit.bytes = limits::FEED_PIECE_BYTES;
        }
        if self.wanted.is_everything() {
            limit.entries = usize::try_from(self.left).unwrap_or(usize::MAX).clamp(1, limit.entries);
        }
        let batch = part.log.read(part.from, limit).await?;
        if batch.next == part.from {
            self.large = None;
            return Ok(None);
        }
        Ok(Some(batch.into()))
    }

    /// Formats what comes next of the part whose turn it is, up to a piece; true when there was something.
    async fn fill(&mut self, out: &mut String) -> Result<bool, ReadError> {
        let turn = self.turn;
        self.turn = (turn + 1) % self.parts.len();
        let ahead = match self.parts[turn].ahead.take() {
            Some(ahead) => Some(ahead),
            None => self.read(turn).await?,
        };
        let Some(mut ahead) = ahead else { return Ok(false) };
        let (log, number) = (self.parts[turn].log.clone(), self.parts[turn].number);
        while self.left > 0
            && out.len() < limits::FEED_PIECE_BYTES
            && let Some(logged) = ahead.entries.next()
        {
            let leaves = match self.sieve.is_some() {
                true => self.sieved(&logged, &ahead.catalog)?,
                false => None,
            };
            self.scanned += logged.entry.bytes().len();
            // After a part of a large transaction nothing of it has been seen whole.
            self.parts[turn].from = Position(logged.position.0 - u64::from(logged.entry.header().more)).into();
            // What a reader asks by is what it gets, never what is withheld from it.
            let (logged, catalog) = match &leaves {
                Some((logged, catalog)) => (logged, catalog),
                None if self.sieve.is_some() => continue,
                None => (&logged, &ahead.catalog),
            };
            if self.wanted.wants(logged, catalog) {
                self.left -= 1;
                self.write(out, logged, &log, number, catalog);
            }
        }
        if ahead.entries.len() > 0 {
            self.parts[turn].ahead = Some(ahead);
        } else {
            self.parts[turn].from = ahead.next;
        }
        Ok(true)
    }

    /// The next piece of the answer.
    pub async fn next(&mut self) -> Option<Bytes> {
        if let Some(ready) = self.ready.take() {
            self.sent = true;
            return Some(ready);
        }
        if self.is_shared() {
            return self.next_shared().await;
        }
        let mut out = String::new();
        let began = Instant::now();
        loop {
            if self.done || self.left == 0 || out.len() >= limits::FEED_PIECE_BYTES {
                return self.piece(out);
            }
            let mut moved = false;
            for _ in 0..self.parts.len() {
                match self.fill(&mut out).await {
                    Ok(more) => moved |= more,
                    Err(failed) => {
                        self.done = true;
                        self.fail(&mut out, &failed);
                        return self.piece(out);
                    }
                }
                if out.len() >= limits::FEED_PIECE_BYTES {
                    break;
                }
            }
            if moved && out.is_empty() {
                // Nothing of what was read is for this reader: others have their turn, and it hears how far it has come.
                tokio::task::yield_now().await;
                if self.node.shared.stop.is_cancelled() {
                    return None;
                }
                if self.form != Form::Lines && began.elapsed() >= PING_INTERVAL {
                    return self.note("ping");
                }
                continue;
            }
            if moved && out.len() < limits::FEED_PIECE_BYTES / 2 {
                continue;
            }
            if moved || !out.is_empty() {
                return self.piece(out);
            }
            if let Some(told) = self.at_tail().await {
                return told;
            }
        }
    }

    fn piece(&mut self, out: String) -> Option<Bytes> {
        self.sent |= !out.is_empty();
        (!out.is_empty()).then(|| out.into())
    }

    /// Nothing more is there: what is told, or the end, or (outer `None`) on it goes.
    async fn at_tail(&mut self) -> Option<Option<Bytes>> {
        let live = self.form != Form::Lines;
        if live && !std::mem::replace(&mut self.told, true) {
            return Some(self.note("current"));
        }
        let until = match (live, self.deadline) {
            (true, Some(deadline)) => deadline.min(Instant::now() + PING_INTERVAL),
            (true, None) => Instant::now() + PING_INTERVAL,
            // A long poll ends with the first answer.
            (false, Some(deadline)) if !self.sent => deadline,
            (false, _) => return Some(None),
        };
        let stop = self.node.shared.stop.clone();
        let changed = {
            let moved = select_all(self.parts.iter_mut().map(|part| Box::pin(part.tail.changed())));
            tokio::select! {
                () = stop.cancelled() => return Some(None),
                changed = timeout_at(until, moved) => changed.map(|(moved, ..)| moved),
            }
        };
        match changed {
            Ok(Ok(())) => None,
            Ok(Err(_)) => Some(None),
            Err(_) if live && self.deadline.is_none_or(|deadline| Instant::now() < deadline) => Some(self.note("ping")),
            Err(_) => Some(None),
        }
    }
}
