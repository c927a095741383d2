//! What a log remembers besides its entries: epochs, origins, Lamport time and source cursors. No I/O.
//!
//! An append is admitted into a [`Delta`] and becomes part of the [`Ledger`] once it is durable, or is forgotten.

use std::collections::HashMap;
use std::sync::Arc;

use super::{AppendError, CursorRefused, MirrorStart};
use crate::model::{
    Catalog, Cursor, Entry, EntryHeader, Epoch, Fingerprint, Lamport, LinkId, LogId, Origin, Position, SourceCursor,
    TableDef, limits,
};

/// What has been stored of one epoch of an origin: `first ≤ every position stored ≤ last`, gaps allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct OriginRun {
    pub epoch: Epoch,
    pub first: Position,
    pub last: Position,
}

/// The state of a log at its durable tail.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Ledger {
    pub id: LogId,
    /// Epochs and the first position of each, oldest first; never empty in an open log.
    pub epochs: Vec<(Epoch, Position)>,
    pub tail: Position,
    pub lamport: Lamport,
    /// Per origin its epochs in order.
    pub origins: HashMap<LogId, Vec<OriginRun>>,
    pub cursors: HashMap<LinkId, SourceCursor>,
    /// The log is a mirror: positions and epochs are given elsewhere.
    pub mirror: bool,
}

impl Ledger {
    /// Of a mirror that has nothing yet.
    pub fn mirror(start: MirrorStart) -> Ledger {
        let MirrorStart { id, mut epochs, oldest, lamport } = start;
        epochs.retain(|(_, first)| *first <= oldest);
        let tail = Position(oldest.0.saturating_sub(1));
        Ledger { id, epochs, tail, lamport, mirror: true, ..Ledger::default() }
    }

    /// Begins an epoch after the tail.
    pub fn begin_epoch(&mut self, epoch: Epoch) {
        self.begin_epoch_at(epoch, self.tail.next());
    }

    fn begin_epoch_at(&mut self, epoch: Epoch, first: Position) {
        self.epochs.push((epoch, first));
        while self.epochs.len() > limits::LOG_EPOCHS_MAX {
            let empty = self.epochs.windows(2).position(|pair| pair[0].1 == pair[1].1);
            self.epochs.remove(empty.unwrap_or(0));
        }
    }

    /// The epoch that appends are made in.
    pub fn epoch(&self) -> Epoch {
        self.epochs.last().map(|(epoch, _)| *epoch).unwrap_or_default()
    }

    /// See [`super::Log::cursor_at`].
    pub fn cursor_at(&self, position: Position) -> Cursor {
        let position = position.min(self.tail);
        let after = self.epochs.partition_point(|(_, first)| *first <= position);
        let epoch = self.epochs.get(after.saturating_sub(1)).map(|(epoch, _)| *epoch).unwrap_or_default();
        Cursor { log: self.id, epoch, position }
    }

    /// See [`super::Log::check`].
    pub fn check(&self, cursor: Cursor) -> Result<(), CursorRefused> {
        if cursor.log != self.id {
            return Err(CursorRefused::OtherLog { expected: cursor.log, actual: self.id });
        }
        let Some(i) = self.epochs.iter().position(|(epoch, _)| *epoch == cursor.epoch) else {
            return Err(CursorRefused::UnknownEpoch(cursor.epoch));
        };
        let end = self.epochs.get(i + 1).map_or(self.tail, |(_, first)| Position(first.0.saturating_sub(1)));
        if cursor.position > end {
            return Err(CursorRefused::BeyondEpoch { position: cursor.position, end });
        }
        Ok(())
    }

    /// What an append changes, empty at first.
    pub fn delta(&self) -> Delta {
        Delta {
            tail: self.tail,
            lamport: self.lamport,
            epoch: self.epoch(),
            epochs: vec![],
            origins: vec![],
            cursors: vec![],
            tables: vec![],
            known: vec![],
        }
    }

    /// What was admitted is durable now. The new table definitions go to the catalog.
    pub fn commit(&mut self, delta: Delta, catalog: &Catalog) {
        self.tail = delta.tail;
        self.lamport = delta.lamport;
        for (epoch, first) in delta.epochs {
            self.begin_epoch_at(epoch, first);
        }
        self.origins.extend(delta.origins);
        self.cursors.extend(delta.cursors);
        for table in delta.tables {
            catalog.add(table);
        }
    }

    /// Notes an entry that is in the log. (It was admitted before it was written.)
    pub fn note(&mut self, position: Position, header: &EntryHeader) {
        self.tail = self.tail.max(position);
        self.lamport = self.lamport.max(header.lamport);
        if let Some(origin) = header.origin.filter(|origin| origin.log != self.id) {
            extend(self.origins.entry(origin.log).or_default(), origin);
        }
    }
}

/// Adds a position that is beyond all that are known of its origin.
fn extend(runs: &mut Vec<OriginRun>, origin: Origin) {
    match runs.last_mut() {
        Some(run) if run.epoch == origin.epoch => run.last = run.last.max(origin.position),
        _ => runs.push(OriginRun { epoch: origin.epoch, first: origin.position, last: origin.position }),
    }
    if runs.len() > limits::ORIGIN_EPOCHS_MAX {
        runs.remove(0);
    }
}

/// What appends that are not yet durable add to a ledger.
#[derive(Clone, Debug)]
pub(super) struct Delta {
    pub tail: Position,
    pub lamport: Lamport,
    /// In which the last one admitted was appended.
    pub epoch: Epoch,
    /// Begun by what was admitted, in a mirror.
    epochs: Vec<(Epoch, Position)>,
    origins: Vec<(LogId, Vec<OriginRun>)>,
    pub cursors: Vec<(LinkId, SourceCursor)>,
    /// Definitions that the log has not seen before.
    pub tables: Vec<Arc<TableDef>>,
    /// Fingerprints looked up lately, so that a run of entries of one table looks once.
    known: Vec<Fingerprint>,
}

impl Delta {
    /// Refuses what expects another tail.
    pub fn expect(&self, expected: Position) -> Result<(), AppendError> {
        match self.tail == expected {
            true => Ok(()),
            false => Err(AppendError::Moved { expected, actual: self.tail }),
        }
    }

    /// Takes the definitions of an append; returns those that are new to the log.
    pub fn admit_tables(&mut self, catalog: &Catalog, tables: &[Arc<TableDef>]) -> Vec<Arc<TableDef>> {
        let mut new = Vec::new();
        for table in tables {
            let pending = self.tables.iter().any(|known| known.fingerprint == table.fingerprint);
            if !pending && catalog.get(table.fingerprint).is_none() {
                self.tables.push(table.clone());
                new.push(table.clone());
            }
        }
        new
    }

    /// Refuses tables whose definition nobody has given, and more than an entry may name.
    pub fn require_tables(&mut self, catalog: &Catalog, tables: &[Fingerprint]) -> Result<(), AppendError> {
        // No reader takes more.
        if tables.len() > limits::ENTRY_TABLES_MAX {
            let (count, max) = (tables.len(), limits::ENTRY_TABLES_MAX);
            return Err(AppendError::Invalid(format!("an entry names {count} tables, more than {max}")));
        }
        for &table in tables {
            if self.known.contains(&table) {
                continue;
            }
            let pending = self.tables.iter().any(|known| known.fingerprint == table);
            if !pending && catalog.get(table).is_none() {
                return Err(AppendError::Invalid(format!("table {table} is named, but nobody has defined it")));
            }
            if self.known.len() >= 16 {
                self.known.clear();
            }
            self.known.push(table);
        }
        Ok(())
    }

    /// Refuses what a mirror does not take.
    pub fn require_original(ledger: &Ledger) -> Result<(), AppendError> {
        match ledger.mirror {
            true => {
                Err(AppendError::Invalid("the log is a mirror: it takes what its original has, nothing else".into()))
            }
            false => Ok(()),
        }
    }

    /// Takes an entry of the original at its place there. True when an epoch begins with it.
    pub fn mirror(
        &mut self,
        ledger: &Ledger,
        position: Position,
        epoch: Epoch,
        header: &EntryHeader,
    ) -> Result<bool, AppendError> {
        let invalid = |why: String| Err(AppendError::Invalid(why));
        if !ledger.mirror {
            return invalid("the log is no mirror: it gives positions itself".into());
        }
        if position != self.tail.next() {
            return Err(AppendError::Moved { expected: Position(position.0.saturating_sub(1)), actual: self.tail });
        }
        let Some(origin) = header.origin else { return invalid("a mirrored entry without origin".into()) };
        if header.lamport.0 > i64::MAX as u64 || position.0 > i64::MAX as u64 || origin.position.0 > i64::MAX as u64 {
            return invalid(format!("an entry of origin {origin} is beyond any time or position"));
        }
        if origin.log == ledger.id && (origin.position != position || origin.epoch != epoch) {
            return invalid(format!("the entry at {position} of epoch {epoch} says that it was logged at {origin}"));
        }
        let begins = epoch != self.epoch;
        if begins {
            if ledger.epochs.iter().chain(&self.epochs).any(|(known, _)| *known == epoch) {
                return invalid(format!("epoch {epoch} comes again at {position}"));
            }
            self.epochs.push((epoch, position));
            self.epoch = epoch;
        }
        if origin.log != ledger.id {
            extend(self.runs_of(ledger, origin.log), origin);
        }
        self.tail = position;
        self.lamport = self.lamport.max(header.lamport);
        Ok(begins)
    }

    /// What is known of an origin, by what is stored and what was admitted.
    fn runs_of(&mut self, ledger: &Ledger, log: LogId) -> &mut Vec<OriginRun> {
        let at = match self.origins.iter().position(|(known, _)| *known == log) {
            Some(at) => at,
            None => {
                let runs = ledger.origins.get(&log).cloned().unwrap_or_default();
                self.origins.push((log, runs));
                self.origins.len() - 1
            }
        };
        &mut self.origins[at].1
    }

    /// Gives a local draft its position, origin and Lamport time.
    pub fn stamp(&mut self, ledger: &Ledger, header: &mut EntryHeader) -> Position {
        self.tail = self.tail.next();
        self.lamport = Lamport(self.lamport.0 + 1);
        header.origin = Some(Origin { log: ledger.id, epoch: ledger.epoch(), position: self.tail });
        header.lamport = self.lamport;
        self.tail
    }

    /// Gives a relayed entry its position; `None` if it is stored already.
    pub fn relay(&mut self, ledger: &Ledger, header: &EntryHeader) -> Result<Option<Position>, AppendError> {
        let origin = header.origin.ok_or_else(|| AppendError::Invalid("a relayed entry without origin".into()))?;
        if header.lamport.0 > i64::MAX as u64 || origin.position.0 > i64::MAX as u64 {
            return Err(AppendError::Invalid(format!("an entry of origin {origin} is beyond any time or position")));
        }
        if origin.log == ledger.id {
            return match ledger.check(origin) {
                Ok(()) => Ok(None),
                Err(_) => Err(diverged(ledger.cursor_at(ledger.tail), origin)),
            };
        }
        let runs = self.runs_of(ledger, origin.log);
        if !is_new(runs, origin)? {
            return Ok(None);
        }
        extend(runs, origin);
        self.tail = self.tail.next();
        self.lamport = self.lamport.max(header.lamport);
        Ok(Some(self.tail))
    }

    /// How far a source has been read once this is durable; false if the log knows it already.
    pub fn store_cursor(&mut self, ledger: &Ledger, from: LinkId, upto: &SourceCursor) -> Result<bool, AppendError> {
        if upto.0.len() > limits::SOURCE_CURSOR_BYTES_MAX {
            let why = format!("a source cursor of {} bytes, at most {}", upto.0.len(), limits::SOURCE_CURSOR_BYTES_MAX);
            return Err(AppendError::Invalid(why));
        }
        let pending = self.cursors.iter_mut().find(|(link, _)| *link == from);
        Ok(match pending {
            Some((_, known)) if known == upto => false,
            Some((_, known)) => {
                *known = upto.clone();
                true
            }
            None if ledger.cursors.get(&from) == Some(upto) => false,
            None => {
                self.cursors.push((from, upto.clone()));
                true
            }
        })
    }

    /// The cursor of the last position admitted so far, and the Lamport time then.
    pub fn cursor(&self, ledger: &Ledger) -> (Cursor, Lamport) {
        let cursor = match self.tail > ledger.tail {
            true => Cursor { log: ledger.id, epoch: self.epoch, position: self.tail },
            false => ledger.cursor_at(ledger.tail),
        };
        (cursor, self.lamport)
    }
}

fn diverged(known: Cursor, sent: Cursor) -> AppendError {
    AppendError::Diverged { log: sent.log, known, sent }
}

/// Whether an origin is beyond what is known. A position that is not must lie within what its epoch may have: not
/// below the epochs before it, not above those after it.
fn is_new(runs: &[OriginRun], origin: Origin) -> Result<bool, AppendError> {
    let Some(last) = runs.last() else { return Ok(true) };
    let known = Cursor { log: origin.log, epoch: last.epoch, position: last.last };
    let found = runs.iter().position(|run| run.epoch == origin.epoch);
    if origin.position > last.last {
        let returns = found.is_some_and(|i| i + 1 < runs.len());
        return if returns { Err(diverged(known, origin)) } else { Ok(true) };
    }
    let Some(i) = found else { return Err(diverged(known, origin)) };
    let above_before = i == 0 || runs[i - 1].last < origin.position;
    let below_after = runs.get(i + 1).is_none_or(|next| origin.position < next.first);
    if above_before && below_after { Ok(false) } else { Err(diverged(known, origin)) }
}

/// Refuses what a log does not take as one whole entry.
pub(super) fn check_whole(entry: &Entry) -> Result<(), AppendError> {
    let header = entry.header();
    if header.more || header.part > 0 {
        return Err(AppendError::Invalid("a part of a large transaction was appended as a whole entry".into()));
    }
    check_size(entry.bytes().len())
}

/// Refuses what is larger than [`limits::ENTRY_BYTES_MAX`].
pub(super) fn check_size(bytes: usize) -> Result<(), AppendError> {
    match bytes > limits::ENTRY_BYTES_MAX {
        true => Err(AppendError::TooLarge { bytes, max: limits::ENTRY_BYTES_MAX }),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(epoch: u64, position: u64) -> Origin {
        Origin { log: LogId(9), epoch: Epoch(epoch), position: Position(position) }
    }

    #[test]
    fn an_older_epoch_of_an_origin_is_known_within_its_bounds_only() {
        let mut runs = Vec::new();
        for known in [origin(1, 3), origin(1, 8), origin(2, 11), origin(2, 20)] {
            assert!(is_new(&runs, known).expect("in order"));
            extend(&mut runs, known);
        }
        assert!(!is_new(&runs, origin(1, 5)).expect("stored before"));
        assert!(!is_new(&runs, origin(1, 9)).expect("filtered then"));
        assert!(!is_new(&runs, origin(2, 12)).expect("stored before"));
        assert!(is_new(&runs, origin(3, 21)).expect("a restart"));
        for wrong in [origin(1, 12), origin(2, 8), origin(3, 15), origin(1, 21)] {
            assert!(matches!(is_new(&runs, wrong), Err(AppendError::Diverged { .. })), "{wrong:?}");
        }
    }
}
