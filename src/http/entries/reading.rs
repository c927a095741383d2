//! What is sent to one reader.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use futures_util::future::select_all;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use crate::log::{Limit, Log, SourceError};
use crate::model::{
    Catalog, Change, Cursor, FeedRows, Kind, LinkId, Logged, Position, ReadFrom, TableDef, TableName, Timestamp,
};
use crate::node::Node;
use crate::node::entry_json::write_entry;
use crate::node::feeds::{Feed, joined};
use crate::stream::{Expression, Scope, Sieve, Sieved};

/// Between pings on an event stream.
const PING_INTERVAL: Duration = Duration::from_secs(10);
/// What one piece of an answer has, about, in bytes.
const PIECE_BYTES: usize = 64 << 10;

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

/// Which entries a reader wants: those with at least one such change.
pub struct Wanted {
    /// Of one of these tables.
    pub tables: Option<Vec<TableName>>,
    /// With that key.
    pub key: Option<String>,
    /// With that correlation id.
    pub correlation: Option<String>,
    /// For which it is true.
    pub expression: Option<Expression>,
    /// Not older.
    pub since: Option<Timestamp>,
}

/// One partition that is read.
pub struct Part {
    number: usize,
    log: Arc<dyn Log>,
    from: ReadFrom,
    tail: watch::Receiver<Position>,
}

impl Part {
    /// From after a position on.
    pub fn new(number: usize, log: Arc<dyn Log>, after: Position) -> Part {
        let mut tail = log.tail();
        tail.mark_changed();
        Part { number, log, from: after.into(), tail }
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
    ready: Option<String>,
    sent: bool,
    /// The reader has been told that it has everything.
    told: bool,
    done: bool,
    /// What may leave, and the definitions under which it does.
    sieve: Option<(Sieve, Arc<Catalog>)>,
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
        let (turn, ready, sent, told, done) = (0, None, false, false, false);
        Reading { node, feed, parts, turn, wanted, form, left, deadline, ready, sent, told, done, sieve: None }
    }

    /// Only what passes leaves; `None`: everything.
    pub fn through(mut self, sieve: Option<Sieve>) -> Reading {
        self.sieve = sieve.map(|sieve| (sieve, Arc::default()));
        self
    }

    /// Of an answer that is going to be empty: where the reader is all the same, behind what is not for it.
    pub fn passed_over(&self) -> Option<String> {
        let ended = self.form == Form::Lines && self.deadline.is_none() && self.ready.is_none();
        let at_tail = || self.parts.iter().all(|part| part.from.after == *part.tail.borrow());
        (ended && at_tail()).then(|| self.here())
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

    /// Looks whether every place asked for is there.
    pub async fn begin(&mut self) -> Result<(), ReadError> {
        let mut out = String::new();
        for _ in 0..self.parts.len() {
            match self.fill(&mut out).await {
                Ok(_) => {}
                // What stands before it is sent; then it is met again.
                Err(ReadError::Withheld(_)) if !out.is_empty() => break,
                Err(failed) => return Err(failed),
            }
        }
        self.ready = (!out.is_empty()).then_some(out);
        Ok(())
    }

    /// Reads once from the part whose turn it is; true when there was something to read.
    async fn fill(&mut self, out: &mut String) -> Result<bool, ReadError> {
        let turn = self.turn;
        self.turn = (turn + 1) % self.parts.len();
        let part = &mut self.parts[turn];
        part.tail.mark_unchanged();
        let entries = usize::try_from(self.left).unwrap_or(usize::MAX).clamp(1, Limit::default().entries);
        let limit = match self.wanted.is_everything() {
            true => Limit { entries, bytes: PIECE_BYTES },
            false => Limit::default(),
        };
        let batch = part.log.read(part.from, limit).await?;
        let moved = batch.next != part.from;
        let (log, number) = (part.log.clone(), part.number);
        for logged in &batch.entries {
            if self.left == 0 {
                break;
            }
            let leaves = match self.sieve.is_some() {
                true => self.sieved(logged, &batch.catalog)?,
                false => None,
            };
            self.parts[turn].from = logged.position.into();
            // What a reader asks by is what it gets, never what is withheld from it.
            let (logged, catalog) = match &leaves {
                Some((logged, catalog)) => (logged, catalog),
                None if self.sieve.is_some() => continue,
                None => (logged, &batch.catalog),
            };
            if self.wanted.wants(logged, catalog) {
                self.left -= 1;
                self.write(out, logged, &log, number, catalog);
            }
        }
        if self.left > 0 {
            self.parts[turn].from = batch.next;
        }
        Ok(moved)
    }

    fn write(&self, out: &mut String, logged: &Logged, log: &Arc<dyn Log>, number: usize, catalog: &Catalog) {
        // After a part of a large transaction nothing of it has been seen whole.
        let seen = Position(logged.position.0 - u64::from(logged.entry.header().more));
        let cursor = log.cursor_at(seen);
        let from = match logged.from {
            LinkId::LOCAL => None,
            LinkId(log) => Some(self.node.shared.book.name_of(log).unwrap_or_else(|| log.to_string())),
        };
        if self.form == Form::Events {
            out.push_str(&format!("id: {}\ndata: ", self.place(cursor)));
        }
        let start = out.len();
        if let Err(error) = write_entry(out, logged, cursor, from.as_deref(), catalog) {
            let why = serde_json::Value::from(error.to_string());
            out.push_str(&format!("{{\"position\":{},\"cursor\":\"{cursor}\",\"error\":{why}}}", logged.position));
        }
        if self.feed.partitions.len() > 1 && out[start..].starts_with('{') {
            out.insert_str(start + 1, &format!("\"partition\":{number},"));
        }
        out.push_str(if self.form == Form::Events { "\n\n" } else { "\n" });
    }

    /// Where the reader is after an entry: a cursor for each part.
    fn place(&self, cursor: Cursor) -> String {
        if self.parts.len() == 1 {
            return cursor.to_string();
        }
        let at = |part: &Part| if part.log.id() == cursor.log { cursor } else { part.log.cursor_at(part.from.after) };
        joined(&self.parts.iter().map(at).collect::<Vec<_>>())
    }

    /// The next piece of the answer.
    pub async fn next(&mut self) -> Option<Bytes> {
        let mut out = self.ready.take().unwrap_or_default();
        let began = Instant::now();
        loop {
            if self.done || self.left == 0 || out.len() >= PIECE_BYTES {
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
            if moved && out.len() < PIECE_BYTES / 2 {
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

    /// An event that is no entry, with the tail.
    fn note(&self, name: &str) -> Option<Bytes> {
        let tail: u64 = self.parts.iter().map(|part| part.tail.borrow().0).sum();
        // Where the reader is, also behind what is not for it.
        let here = self.here();
        Some(match self.form {
            Form::Messages => format!("{{\"event\":\"{name}\",\"tail\":{tail},\"cursor\":\"{here}\"}}\n").into(),
            _ => format!("id: {here}\nevent: {name}\ndata: {{\"tail\":{tail},\"cursor\":\"{here}\"}}\n\n").into(),
        })
    }

    fn fail(&self, out: &mut String, failed: &ReadError) {
        let message = match failed {
            ReadError::Source(failed) => failed.to_string(),
            ReadError::Withheld(position) => format!("the filter for readers fails at position {position}"),
        };
        let body = serde_json::json!({ "code": "WS-HTTP-022", "message": message });
        match self.form {
            Form::Events => out.push_str(&format!("event: error\ndata: {body}\n\n")),
            _ => out.push_str(&format!("{body}\n")),
        }
    }
}

impl Wanted {
    fn is_everything(&self) -> bool {
        self.tables.is_none()
            && self.key.is_none()
            && self.correlation.is_none()
            && self.expression.is_none()
            && self.since.is_none()
    }

    fn wants(&self, logged: &Logged, catalog: &Catalog) -> bool {
        if self.is_everything() {
            return true;
        }
        let header = logged.entry.header();
        if self.since.is_some_and(|since| header.time < since) {
            return false;
        }
        if self.correlation.is_some() && header.correlation.as_deref() != self.correlation.as_deref() {
            return false;
        }
        let tables: Vec<Option<Arc<TableDef>>> = header.tables.iter().map(|print| catalog.get(*print)).collect();
        let named = |table: &TableDef| self.tables.as_ref().is_none_or(|names| names.contains(&table.name));
        if !tables.iter().flatten().any(|table| named(table)) {
            return self.tables.is_none() && self.key.is_none() && self.expression.is_none();
        }
        if self.key.is_none() && self.expression.is_none() {
            return true;
        }
        for row in FeedRows::new(logged.entry.changes_bytes()) {
            let Some(row) = row else { return self.wants_changes(logged, &tables) };
            let Some(table) = tables.get(row.table).and_then(Option::as_ref).filter(|table| named(table)) else {
                continue;
            };
            if !table.is_feed() {
                return self.wants_changes(logged, &tables);
            }
            let keyed = self.key.is_none() || row.key == self.key.as_deref();
            if keyed
                && self.passes(|expression| {
                    let row = serde_json::from_str(row.row).unwrap_or_default();
                    expression.test_json(table, &header.node, &row)
                })
            {
                return true;
            }
        }
        false
    }

    /// A row on which the expression fails does not pass: rows of a log differ in what they have.
    fn passes(&self, test: impl FnOnce(&Expression) -> Result<bool, crate::stream::ExpressionError>) -> bool {
        self.expression.as_ref().is_none_or(|expression| test(expression).unwrap_or(false))
    }

    fn wants_changes(&self, logged: &Logged, tables: &[Option<Arc<TableDef>>]) -> bool {
        let named = |table: &&Arc<TableDef>| self.tables.as_ref().is_none_or(|names| names.contains(&table.name));
        let Ok(changes) = logged.entry.changes() else { return true };
        changes.iter().any(|change| {
            let Some(table) = tables.get(change.table).and_then(Option::as_ref).filter(named) else { return false };
            let keyed = self.key.as_deref().is_none_or(|key| has_key(table, change, key));
            keyed
                && self.passes(|expression| {
                    let (row, old, origin) = (change.row.as_ref(), change.old.as_ref(), &logged.entry.header().node);
                    expression.test(&Scope { table, row: row.or(old), old, origin, destination: "" })
                })
        })
    }
}

/// Whether a change is of the row with that key; keys of several columns are written with `,` between them.
fn has_key(table: &TableDef, change: &Change, key: &str) -> bool {
    let rows = [change.row.as_ref(), change.old.as_ref()];
    rows.into_iter().flatten().any(|row| {
        let columns = table.key_columns();
        let texts: Vec<_> = columns
            .iter()
            .filter_map(|column| row.get(*column))
            .filter(|value| !matches!(value.kind, Kind::Unchanged | Kind::Same))
            .map(|value| String::from_utf8_lossy(&value.text))
            .collect();
        !columns.is_empty() && texts.len() == columns.len() && texts.join(",") == key
    })
}
