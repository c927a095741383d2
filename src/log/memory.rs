//! A log in memory: for tests and for scratch data. It keeps every law but durability.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::watch;

use super::ledger::{Delta, Ledger, check_size, check_whole};
use super::{Append, AppendError, CursorRefused, Draft, Limit, Log, LogInfo, Parts, Source, SourceError};
use crate::model::{
    Batch, Catalog, Cursor, Entry, EntryHeader, Epoch, Lamport, LinkId, LogId, Logged, Position, ReadFrom, SourceCursor,
};

/// A log that lives as long as the process. "Durable" means appended.
pub struct MemoryLog {
    id: LogId,
    state: Mutex<State>,
    catalog: Arc<Catalog>,
    tail: watch::Sender<Position>,
}

struct State {
    ledger: Ledger,
    /// Everything after `trimmed`, parts singly.
    entries: Vec<Logged>,
    trimmed: Position,
    bytes: u64,
    closed: bool,
}

impl Default for MemoryLog {
    fn default() -> Self {
        MemoryLog::new()
    }
}

impl MemoryLog {
    /// An empty log with an id and an epoch of its own.
    pub fn new() -> MemoryLog {
        let mut ledger = Ledger { id: LogId::draw(), ..Ledger::default() };
        ledger.begin_epoch(Epoch::draw());
        let id = ledger.id;
        let state = State { ledger, entries: Vec::new(), trimmed: Position::ZERO, bytes: 0, closed: false };
        MemoryLog { id, state: Mutex::new(state), catalog: Arc::default(), tail: watch::Sender::new(Position::ZERO) }
    }

    /// Removes entries up to and including `upto`, whether they are needed or not.
    pub fn trim(&self, upto: Position) {
        let mut state = self.state();
        let upto = upto.min(state.ledger.tail).max(state.trimmed);
        let first = state.entries.partition_point(|logged| logged.position <= upto);
        let gone: u64 = state.entries.drain(..first).map(|logged| logged.entry.bytes().len() as u64).sum();
        state.bytes -= gone;
        state.trimmed = upto;
    }

    /// Goes on in a new epoch, as a log does that has been closed and opened again.
    pub fn reopen(&self) {
        let mut state = self.state();
        state.ledger.begin_epoch(Epoch::draw());
        state.closed = false;
    }

    /// From here on appends and reads are refused.
    pub fn close(&self) {
        self.state().closed = true;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Admits one draft and adds its entry, or the parts of it.
fn take(
    draft: Draft,
    from: LinkId,
    ledger: &Ledger,
    delta: &mut Delta,
    catalog: &Catalog,
    out: &mut Vec<Logged>,
) -> Result<(), AppendError> {
    match draft {
        Draft::Expect(expected) => delta.expect(expected)?,
        Draft::Mirrored { position, epoch, entry } => {
            check_whole(&entry)?;
            delta.require_tables(catalog, &entry.header().tables)?;
            delta.mirror(ledger, position, epoch, entry.header())?;
            out.push(Logged { position, from, entry });
        }
        Draft::Local { mut header, changes } => {
            delta.require_tables(catalog, &header.tables)?;
            (header.part, header.more) = (0, false);
            let position = delta.stamp(ledger, &mut header);
            let entry = Entry::new(header, changes);
            check_size(entry.bytes().len())?;
            out.push(Logged { position, from, entry });
        }
        Draft::Relayed(entry) => {
            check_whole(&entry)?;
            delta.require_tables(catalog, &entry.header().tables)?;
            if let Some(position) = delta.relay(ledger, entry.header())? {
                out.push(Logged { position, from, entry });
            }
        }
        Draft::Large { mut header, mut parts } => {
            delta.require_tables(catalog, &header.tables)?;
            let position = match header.origin {
                None => delta.stamp(ledger, &mut header),
                Some(_) => match delta.relay(ledger, &header)? {
                    Some(position) => position,
                    None => return Ok(()),
                },
            };
            take_parts(header, parts.as_mut(), |entry| out.push(Logged { position, from, entry }))?;
        }
    }
    Ok(())
}

fn take_parts(header: EntryHeader, parts: &mut dyn Parts, mut push: impl FnMut(Entry)) -> Result<(), AppendError> {
    let mut read = || parts.next().map_err(|e| AppendError::Invalid(format!("a part cannot be read: {e}")));
    let mut next = read()?.ok_or_else(|| AppendError::Invalid("a large transaction without parts".into()))?;
    for part in 0.. {
        let after: Option<Bytes> = read()?;
        let entry = Entry::new(EntryHeader { part, more: after.is_some(), ..header.clone() }, next);
        check_size(entry.bytes().len())?;
        push(entry);
        match after {
            Some(after) => next = after,
            None => break,
        }
    }
    Ok(())
}

#[async_trait]
impl Source for MemoryLog {
    fn id(&self) -> LogId {
        self.id
    }

    fn tail(&self) -> watch::Receiver<Position> {
        self.tail.subscribe()
    }

    fn catalog(&self) -> Arc<Catalog> {
        self.catalog.clone()
    }

    async fn read(&self, from: ReadFrom, limit: Limit) -> Result<Batch, SourceError> {
        let state = self.state();
        if state.closed {
            return Err(SourceError::Closed);
        }
        let tail = state.ledger.tail;
        if from.after > tail || (from.after == tail && from.part > 0) {
            return Err(SourceError::Beyond { asked: from.after, tail });
        }
        if from.after < state.trimmed {
            return Err(SourceError::Trimmed { asked: from.after.next(), oldest: state.trimmed.next() });
        }
        let asked = (from.after.next(), from.part);
        let first = state.entries.partition_point(|logged| (logged.position, logged.entry.header().part) < asked);
        let mut bytes = 0;
        let mut next = from;
        let mut entries = Vec::new();
        for logged in &state.entries[first..] {
            let header = logged.entry.header();
            bytes += logged.entry.bytes().len();
            if !entries.is_empty() && (bytes > limit.bytes || entries.len() >= limit.entries) {
                break;
            }
            next = match header.more {
                true => ReadFrom { after: Position(logged.position.0 - 1), part: header.part + 1 },
                false => logged.position.into(),
            };
            entries.push(logged.clone());
        }
        let upto = state.ledger.cursor_at(next.after);
        Ok(Batch { entries, upto, next, catalog: self.catalog.clone() })
    }

    async fn release(&self, _upto: Position) -> Result<(), SourceError> {
        Ok(())
    }
}

#[async_trait]
impl Log for MemoryLog {
    async fn append_stamped(&self, append: Append) -> Result<(Cursor, Lamport), AppendError> {
        let mut state = self.state();
        if state.closed {
            return Err(AppendError::Closed);
        }
        let Append { from, tables, drafts, upto } = append;
        let mut delta = state.ledger.delta();
        delta.admit_tables(&self.catalog, &tables);
        let mut entries = Vec::new();
        for draft in drafts {
            take(draft, from, &state.ledger, &mut delta, &self.catalog, &mut entries)?;
        }
        if let Some(upto) = upto {
            delta.store_cursor(&state.ledger, from, &upto)?;
        }
        let cursor = delta.cursor(&state.ledger);
        state.bytes += entries.iter().map(|logged| logged.entry.bytes().len() as u64).sum::<u64>();
        state.entries.append(&mut entries);
        state.ledger.commit(delta, &self.catalog);
        self.tail.send_replace(state.ledger.tail);
        Ok(cursor)
    }

    fn source_cursor(&self, from: LinkId) -> Option<SourceCursor> {
        self.state().ledger.cursors.get(&from).cloned()
    }

    fn check(&self, cursor: Cursor) -> Result<(), CursorRefused> {
        self.state().ledger.check(cursor)
    }

    fn cursor_at(&self, position: Position) -> Cursor {
        self.state().ledger.cursor_at(position)
    }

    fn info(&self) -> LogInfo {
        let state = self.state();
        LogInfo {
            id: self.id,
            epochs: state.ledger.epochs.clone(),
            oldest: state.trimmed.next(),
            tail: state.ledger.tail,
            bytes: state.bytes,
            torn_bytes: 0,
            lamport: state.ledger.lamport,
        }
    }
}
