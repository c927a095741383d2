//! The node's tables as they are at one position of its log, for who begins to follow it there.
//!
//! What a snapshot of the database contains is known: of what was committed here, exactly what stands before the snapshot's
//! place in the log; of what was received, what had been applied. What was received before the place and not applied yet is
//! added behind the rows.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use bytes::Bytes;

use super::database::Database;
use super::serving::settled;
use super::shared::Shared;
use super::store::Store;
use crate::log::Limit;
use crate::model::{
    Batch, Catalog, Change, Cursor, Entry, EntryHeader, Fingerprint, LinkId, Logged, Op, Position, ReadFrom, TableDef,
    TableName, Timestamp, encode_changes, limits, scan_ops,
};
use crate::sqlite::Held;
use crate::view::Snapshot;

/// Tables at a position.
pub(in crate::node) struct Present {
    snapshot: Snapshot,
    /// What was received and is not in the snapshot.
    rest: std::vec::IntoIter<Bytes>,
    /// Every part of a transaction names the same ones.
    tables: Vec<Fingerprint>,
    catalog: Arc<Catalog>,
    at: Cursor,
    node: Box<str>,
    part: u32,
    is_over: bool,
}

/// What stands between what was applied and the snapshot's place.
struct Between {
    at: Position,
    /// The changes of each, with their tables.
    entries: Vec<Vec<(Fingerprint, Change)>>,
    catalog: Arc<Catalog>,
}

/// Reads all rows of tables of the node's database; at least one, and all of them captured.
///
/// # Errors
/// Words: why they cannot be read. Most pass by themselves: it is to be tried again.
pub(in crate::node) async fn present(shared: &Shared, tables: &[TableName]) -> Result<Present, String> {
    let database = shared.database.as_ref().ok_or("the node has no database")?;
    whole(database, tables)?;
    let dir = &shared.data_dir;
    let (snapshot, cursor, between) = match &database.store {
        Store::Sqlite(path) => {
            let held = tokio::task::block_in_place(|| Held::new(path)).map_err(|error| error.to_string())?;
            // While nobody writes, everything that was committed comes into the log.
            let at = tokio::time::timeout(limits::PRESENT_HOLD_MAX, settled(shared)).await;
            let at = at.map_err(|_| "capture is not current; the snapshot is taken again")??;
            let stop = || shared.stop.is_cancelled();
            let taken = tokio::task::block_in_place(|| held.snapshot(tables, dir, &stop));
            let (snapshot, cursor) = taken.map_err(|error| error.to_string())?;
            let between = between(shared, tables, cursor, |position, _| position >= at).await?;
            let between = between.unwrap_or(Between { at, entries: Vec::new(), catalog: Arc::default() });
            (snapshot, cursor, Between { at, ..between })
        }
        Store::Postgres(endpoint) => {
            let marked = crate::postgres::snapshot(endpoint, tables, dir).await?;
            settled(shared).await?;
            let is_cut = |_, logged: &Logged| {
                let header = logged.entry.header();
                logged.from == LinkId::LOCAL && header.causation.as_deref() == Some(&*marked.cut)
            };
            let between = between(shared, tables, marked.cursor, is_cut).await?;
            let between = between.ok_or("the place of the snapshot is not in the log; it is taken again")?;
            (marked.snapshot, marked.cursor, between)
        }
    };
    tracing::debug!(?cursor, at = %between.at, rows = snapshot.rows(), "a snapshot of {} tables", tables.len());
    // What was set aside meanwhile is not in the rows, and will not come with the log.
    whole(database, tables)?;
    for table in snapshot.tables() {
        between.catalog.add(table.clone());
    }
    let mut named: Vec<Fingerprint> = snapshot.tables().iter().map(|table| table.fingerprint).collect();
    let mut number = |(table, change): (Fingerprint, Change)| {
        let known = named.iter().position(|known| *known == table);
        let table = known.unwrap_or_else(|| {
            named.push(table);
            named.len() - 1
        });
        Change { table, ..change }
    };
    let entries = between.entries.into_iter();
    let rest: Vec<Bytes> =
        entries.map(|changes| encode_changes(&changes.into_iter().map(&mut number).collect::<Vec<_>>())).collect();
    Ok(Present {
        snapshot,
        rest: rest.into_iter(),
        tables: named,
        catalog: between.catalog,
        at: shared.log.cursor_at(between.at),
        node: shared.name.clone(),
        part: 0,
        is_over: false,
    })
}

/// Whether all rows of the tables move with the node's own place in the log.
fn whole(database: &Database, tables: &[TableName]) -> Result<(), String> {
    match database.state.borrow().lanes.iter().find(|lane| tables.contains(&lane.table)) {
        Some(lane) => {
            Err(format!("the table {} is not whole here yet: it is being copied, or it is parked", lane.table))
        }
        None => Ok(()),
    }
}

/// What was received for those tables behind `cursor`, up to the entry that `is_end` knows, or up to the tail.
async fn between(
    shared: &Shared,
    tables: &[TableName],
    cursor: Option<Cursor>,
    is_end: impl Fn(Position, &Logged) -> bool,
) -> Result<Option<Between>, String> {
    let (oldest, tail) = (shared.log.info().oldest, *shared.log.tail().borrow());
    let after = cursor.map_or(Position::ZERO, |cursor| cursor.position).max(Position(oldest.0.saturating_sub(1)));
    let (mut next, mut bytes) = (ReadFrom::from(after), 0);
    let mut found = Between { at: after, entries: Vec::new(), catalog: Arc::default() };
    while next.after < tail {
        let batch = shared.log.read(next, Limit::default()).await.map_err(|error| error.to_string())?;
        for logged in &batch.entries {
            let header = logged.entry.header();
            let defs: HashMap<Fingerprint, Arc<TableDef>> =
                header.tables.iter().filter_map(|print| Some((*print, batch.catalog.get(*print)?))).collect();
            let is_named = defs.values().any(|def| tables.contains(&def.name));
            if is_named && logged.from != LinkId::LOCAL {
                if header.part > 0 || header.more || is_replacing(logged)? {
                    return Err("much has arrived for the tables meanwhile; the snapshot is taken again".into());
                }
                for def in defs.into_values() {
                    found.catalog.add(def);
                }
                let changes = logged.entry.changes().map_err(|error| error.to_string())?.into_iter();
                let named = changes.filter_map(|change| Some((*header.tables.get(change.table)?, change)));
                let is_ours =
                    |print: &Fingerprint| found.catalog.get(*print).is_some_and(|def| tables.contains(&def.name));
                let ours: Vec<_> = named.filter(|(print, _)| is_ours(print)).collect();
                found.entries.push(ours);
                bytes += logged.entry.changes_bytes().len();
            }
            if bytes > limits::PRESENT_BYTES_MAX {
                return Err("too much has arrived for the tables meanwhile; the snapshot is taken again".into());
            }
            if is_end(logged.position, logged) {
                found.at = logged.position;
                return Ok(Some(found));
            }
        }
        if batch.next == next {
            break;
        }
        next = batch.next;
    }
    Ok(None)
}

/// Whether it says that the rows of a table are other ones.
fn is_replacing(logged: &Logged) -> Result<bool, String> {
    let ops = scan_ops(logged.entry.changes_bytes()).map_err(|error| error.to_string())?;
    Ok(ops.iter().any(|(_, op)| *op == Op::Copied))
}

impl Present {
    /// The position, with the epoch that it was appended in.
    pub(in crate::node) fn at(&self) -> Cursor {
        self.at
    }

    /// How many rows there are.
    pub(in crate::node) fn rows(&self) -> u64 {
        self.snapshot.rows()
    }

    /// The next rows, as parts of one large transaction at [`Present::at`]; `None` after the last. Only with the last one a
    /// view's cursor moves.
    ///
    /// # Errors
    /// The file with the rows cannot be read.
    pub(in crate::node) fn next(&mut self) -> io::Result<Option<Batch>> {
        if self.is_over {
            return Ok(None);
        }
        let changes = match self.snapshot.piece()? {
            Some(changes) => Some(changes),
            None => self.rest.next(),
        };
        // Nothing is behind the last of them.
        self.is_over = changes.is_none();
        let before = Position(self.at.position.0.saturating_sub(1));
        let header = EntryHeader {
            origin: None,
            lamport: Default::default(),
            time: Timestamp::now(),
            node: self.node.clone(),
            correlation: None,
            causation: None,
            idempotency: None,
            part: self.part,
            more: !self.is_over,
            tables: self.tables.clone(),
        };
        self.part += 1;
        let (upto, next) = match self.is_over {
            true => (self.at, self.at.position.into()),
            false => (Cursor { position: Position::ZERO, ..self.at }, ReadFrom { after: before, part: self.part }),
        };
        let entry = Entry::new(header, changes.unwrap_or_default());
        let logged = Logged { position: self.at.position, from: LinkId::LOCAL, entry };
        Ok(Some(Batch { entries: vec![logged], upto, next, catalog: self.catalog.clone() }))
    }
}
