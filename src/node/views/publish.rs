//! A view's output as a log: what its store has kept of every change is appended there, once.
//!
//! The log itself says how far that has come: with every append it stores which transaction of the view's log was the last. What
//! the store still keeps of those is passed over, and what it keeps no more was appended.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::Serialize;
use sha2::{Digest, Sha256};
use tokio::sync::{OwnedMutexGuard, watch};
use tokio_util::sync::CancellationToken;

use super::following::RETRY;
use super::progress::Told;
use crate::log::{Append, AppendError, Draft, Log, Spool};
use crate::model::{
    Change, Cursor, EntryHeader, LinkId, LogId, Op, Position, TableDef, Timestamp, encode_changes, limits,
};
use crate::node::feeds::{Feed, joined};
use crate::node::shared::Shared;
use crate::view::{Cause, Outgoing, ViewError, ViewOutbox, Waiters, Waiting};

/// What stands behind whatever comes to the log of a view's output.
pub(super) fn link(view: &str) -> LinkId {
    let digest = Sha256::digest(format!("watershed view {view}").as_bytes());
    let number = digest.iter().take(16).fold(0, |number: u128, &byte| number << 8 | u128::from(byte));
    LinkId(LogId(number.max(1)))
}

/// How far a view's output has been published.
#[derive(Clone, Debug, Default, Serialize)]
pub struct PublishStatus {
    /// The log that it is.
    pub log: String,
    /// Everything that the view has as of there stands in that log; cursors of the view's own log.
    pub cursor: String,
    /// Transactions, or parts of large ones, that wait.
    pub waiting: u64,
    /// Why nothing is appended.
    pub error: Option<String>,
}

/// What is known of a view's output, over all builds.
pub(super) struct PublishBoard {
    log: Box<str>,
    state: Mutex<PublishStatus>,
    /// What waits: a view that has much of it waits, too.
    waiting: watch::Sender<u64>,
    /// One appends at a time, also where the one before was broken off: its append goes on.
    turn: Arc<tokio::sync::Mutex<()>>,
}

impl PublishBoard {
    pub(super) fn new(log: &str) -> PublishBoard {
        PublishBoard { log: log.into(), state: Mutex::default(), waiting: watch::Sender::new(0), turn: Arc::default() }
    }

    pub(super) fn status(&self) -> PublishStatus {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner).clone();
        PublishStatus { log: self.log.to_string(), waiting: *self.waiting.borrow(), ..state }
    }

    fn set(&self, change: impl FnOnce(&mut PublishStatus)) {
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Waits while the log has not taken what there is.
    pub(super) async fn room(&self, stop: &CancellationToken) {
        let mut waiting = self.waiting.subscribe();
        tokio::select! {
            () = stop.cancelled() => {}
            // Whoever publishes outlives whoever waits.
            _ = waiting.wait_for(|&waiting| waiting <= limits::VIEW_OUT_WAITING_MAX) => {}
        }
    }
}

/// Why nothing could be published.
enum Unpublished {
    Store(ViewError),
    Log(AppendError),
    Failed(String),
}

impl Unpublished {
    fn words(&self, log: &str) -> String {
        match self {
            Unpublished::Store(error) => format!("what waits cannot be read: {error}"),
            Unpublished::Log(error) => format!("the log {log} takes nothing: {error}"),
            Unpublished::Failed(why) => why.clone(),
        }
    }
}

impl From<ViewError> for Unpublished {
    fn from(error: ViewError) -> Unpublished {
        Unpublished::Store(error)
    }
}

impl From<AppendError> for Unpublished {
    fn from(error: AppendError) -> Unpublished {
        Unpublished::Log(error)
    }
}

/// Publishes what one build changes while it answers.
pub(super) struct Publisher {
    view: Box<str>,
    node: Box<str>,
    outbox: Arc<dyn ViewOutbox>,
    board: Arc<PublishBoard>,
    /// The log of the output.
    log: Arc<dyn Log>,
    /// The view's own.
    source: Arc<Feed>,
    folder: std::path::PathBuf,
    moved: watch::Receiver<u64>,
    /// What stands before it has been dealt with.
    after: u64,
}

impl Publisher {
    /// `None` while the log of its output is not there.
    pub(super) fn of(
        view: &str,
        board: &Arc<PublishBoard>,
        outbox: Arc<dyn ViewOutbox>,
        source: &Arc<Feed>,
        shared: &Shared,
        waiters: &Waiters,
    ) -> Option<Publisher> {
        let feed = shared.feeds.get(&board.log)?;
        Some(Publisher {
            view: view.into(),
            node: shared.name.clone(),
            outbox,
            board: board.clone(),
            log: feed.partitions.first()?.log.clone(),
            source: source.clone(),
            folder: shared.data_dir.clone(),
            moved: waiters.moved(),
            after: 0,
        })
    }

    /// Publishes until it is told to stop.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        let mut failed = 0;
        loop {
            self.moved.mark_unchanged();
            let wait = match self.once(&stop).await {
                Ok(true) => continue,
                Ok(false) => {
                    failed = 0;
                    limits::VIEW_LOOK_INTERVAL
                }
                Err(why) => {
                    failed += 1;
                    let words = why.words(&self.board.log);
                    if failed == 1 {
                        tracing::warn!("the view {} does not publish: {words}; it is tried again", self.view);
                    }
                    self.board.set(|state| state.error = Some(words));
                    RETRY.wait(failed, true, rand::random())
                }
            };
            if self.rests(&stop, wait, failed > 0).await {
                return;
            }
        }
    }

    /// Waits until there may be more; true: it is over.
    async fn rests(&mut self, stop: &CancellationToken, wait: Duration, failed: bool) -> bool {
        tokio::select! {
            () = stop.cancelled() => true,
            () = tokio::time::sleep(wait) => false,
            moved = self.moved.changed(), if !failed => moved.is_err(),
        }
    }

    /// Publishes what there is, for so long at most: before another build takes the place of this one.
    pub(super) async fn drain(mut self, patience: Duration) {
        let stop = CancellationToken::new();
        let all = async { while self.once(&stop).await.unwrap_or(false) {} };
        if tokio::time::timeout(patience, all).await.is_err() {
            tracing::info!("the view {} is replaced before all of its output is published", self.view);
        }
    }

    /// Appends some of what waits; false: there is nothing.
    async fn once(&mut self, stop: &CancellationToken) -> Result<bool, Unpublished> {
        if stop.is_cancelled() {
            return Ok(false);
        }
        if self.source.partition_with(self.log.id()).is_some() {
            let why = format!("the view would be derived from its own output: its log is the log {}", self.board.log);
            return Err(Unpublished::Failed(why));
        }
        let turn = self.board.turn.clone().lock_owned().await;
        let told = self.log.source_cursor(link(&self.view)).and_then(|told| Told::read(&told));
        let waiting = self.outbox.after(self.after, limits::VIEW_OUT_BYTES_AT_ONCE).await?;
        let (single, dealt) = (self.source.partitions.len() == 1, self.after);
        let Some(told) = told.filter(|told| told.goes_on_with(&waiting, single)) else {
            return self.begin(turn, told, &waiting, single).await;
        };
        self.board.waiting.send_replace(waiting.last.saturating_sub(dealt));
        let Some(last) = waiting.parts.last() else {
            let cursor = joined(&waiting.cursors);
            self.board.set(|state| (state.cursor, state.error) = (cursor, None));
            return Ok(false);
        };
        let last = last.number;
        let parts = waiting.parts.into_iter();
        let mut parts: Vec<Outgoing> = parts.filter(|part| !told.has(part, single)).collect();
        if parts.is_empty() {
            self.dealt_with(last);
            return Ok(true);
        }
        match parts.iter().position(|part| part.more) {
            Some(0) => self.large(turn, parts, waiting.lineage).await?,
            first => {
                parts.truncate(first.unwrap_or(parts.len()));
                self.small(turn, parts, waiting.lineage).await?;
            }
        }
        Ok(true)
    }

    fn dealt_with(&mut self, upto: u64) {
        self.after = self.after.max(upto);
        self.outbox.forget(self.after);
    }

    fn header(&self, cause: &Cause, tables: &[Arc<TableDef>]) -> EntryHeader {
        EntryHeader {
            time: cause.time,
            node: self.node.clone(),
            correlation: cause.correlation.clone(),
            causation: Some(cause.cursor.to_string().into()),
            tables: tables.iter().map(|table| table.fingerprint).collect(),
            ..EntryHeader::default()
        }
    }

    /// Appends whole transactions.
    async fn small(
        &mut self,
        turn: OwnedMutexGuard<()>,
        parts: Vec<Outgoing>,
        lineage: u64,
    ) -> Result<(), Unpublished> {
        let Some(last) = parts.last() else { return Ok(()) };
        let upto = Told { lineage, number: last.number, cursor: Some(last.cause.cursor) };
        let mut tables: Vec<Arc<TableDef>> = Vec::new();
        let mut drafts = Vec::with_capacity(parts.len());
        for part in parts {
            drafts.push(Draft::Local { header: self.header(&part.cause, &part.tables), changes: part.changes });
            tables.extend(part.tables);
        }
        tables.sort_by_key(|table| table.fingerprint);
        tables.dedup_by_key(|table| table.fingerprint);
        self.append(turn, tables, drafts, upto).await
    }

    /// Appends a transaction of many parts: those that have been read, and those behind them.
    async fn large(
        &mut self,
        turn: OwnedMutexGuard<()>,
        mut parts: Vec<Outgoing>,
        lineage: u64,
    ) -> Result<(), Unpublished> {
        let mut spool = Spool::new(&self.folder).map_err(spooling)?;
        let Some(first) = parts.first() else { return Ok(()) };
        let (tables, header) = (first.tables.clone(), self.header(&first.cause, &first.tables));
        loop {
            let mut number = 0;
            for part in parts {
                spool.push(&part.changes).map_err(spooling)?;
                number = part.number;
                if !part.more {
                    let upto = Told { lineage, number, cursor: Some(part.cause.cursor) };
                    let parts = spool.into_parts().map_err(spooling)?;
                    return self.append(turn, tables, vec![Draft::Large { header, parts }], upto).await;
                }
            }
            parts = self.outbox.after(number, limits::VIEW_OUT_BYTES_AT_ONCE).await?.parts;
            if parts.is_empty() {
                return Err(Unpublished::Failed(
                    "the last part of a transaction is missing in the view's store".into(),
                ));
            }
        }
    }

    /// The log has something of another store, or nothing yet: everything that there is takes the place of what it had, in one
    /// transaction.
    async fn begin(
        &mut self,
        turn: OwnedMutexGuard<()>,
        told: Option<Told>,
        waiting: &Waiting,
        single: bool,
    ) -> Result<bool, Unpublished> {
        let left = waiting.last.saturating_sub(self.after);
        if let Some(told) = told.filter(|_| single)
            && told.is_before(&waiting.cursors, |cursor| self.knows(cursor))
        {
            // All of it is in what this will begin with.
            self.dealt_with(waiting.last);
            self.board.waiting.send_replace(0);
            let why = "the view has not come again to where its output is";
            self.board.set(|state| state.error = Some(why.into()));
            return Ok(false);
        }
        self.board.waiting.send_replace(left);
        let mut whole = self.outbox.whole().await?;
        let (at, named) = (&whole.at, whole.tables.len());
        let mut tables = whole.tables.clone();
        for known in self.log.catalog().all() {
            if tables.iter().all(|table| table.name != known.name) {
                tables.push(known);
            }
        }
        let mut spool = Spool::new(&self.folder).map_err(spooling)?;
        let blank = *self.log.tail().borrow() == Position::ZERO;
        if !blank {
            let gone = |table| Change { table, op: Op::Truncate, row: None, old: None };
            spool.push(&encode_changes(&(0..tables.len()).map(gone).collect::<Vec<_>>())).map_err(spooling)?;
        }
        let cursor = at.cursors.iter().find(|cursor| self.source.partition_with(cursor.log).is_some());
        let upto = Told { lineage: at.lineage, number: at.last, cursor: cursor.copied() };
        let causation = Some(joined(&at.cursors)).filter(|text| (1..=limits::FEED_ID_BYTES_MAX).contains(&text.len()));
        let header = EntryHeader {
            time: Timestamp::now(),
            node: self.node.clone(),
            causation: causation.map(Into::into),
            ..EntryHeader::default()
        };
        loop {
            match whole.rows.recv().await {
                Some(Ok(Some(rows))) => spool.push(&rows).map_err(spooling)?,
                Some(Ok(None)) => break,
                Some(Err(error)) => return Err(error.into()),
                None => return Err(Unpublished::Failed("the view's rows were not read to their end".into())),
            }
        }
        tables.truncate(if blank { named } else { tables.len() });
        let header = EntryHeader { tables: tables.iter().map(|table| table.fingerprint).collect(), ..header };
        let drafts = match spool.bytes() {
            0 => Vec::new(),
            _ => vec![Draft::Large { header, parts: spool.into_parts().map_err(spooling)? }],
        };
        self.append(turn, tables, drafts, upto).await?;
        Ok(true)
    }

    /// Whether that is a place of the view's log.
    fn knows(&self, cursor: Cursor) -> bool {
        let partition = self.source.partition_with(cursor.log);
        partition.is_some_and(|number| self.source.partitions[number].log.check(cursor).is_ok())
    }

    /// Appends, and does not give up the turn before that has ended, whatever becomes of this.
    async fn append(
        &mut self,
        turn: OwnedMutexGuard<()>,
        tables: Vec<Arc<TableDef>>,
        drafts: Vec<Draft>,
        upto: Told,
    ) -> Result<(), Unpublished> {
        let append = Append { from: link(&self.view), tables, drafts, upto: Some(upto.written()) };
        let log = self.log.clone();
        let appending = tokio::spawn(async move {
            let done = log.append(append).await;
            drop(turn);
            done
        });
        let done = appending.await.map_err(|error| Unpublished::Failed(error.to_string()))?;
        done?;
        self.dealt_with(upto.number);
        let cursor = upto.cursor.map(|cursor| cursor.to_string()).unwrap_or_default();
        self.board.set(|state| (state.cursor, state.error) = (cursor, None));
        Ok(())
    }
}

fn spooling(error: std::io::Error) -> Unpublished {
    Unpublished::Failed(format!("what is to be published cannot be collected: {error}"))
}
