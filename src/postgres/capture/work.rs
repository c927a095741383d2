//! One transaction while its changes come.

use std::io;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

use super::encode::{Before, put_change, put_rows, put_table_change};
use super::overflow::Overflow;
use super::relations::Known;
use crate::log::Draft;
use crate::model::{EntryHeader, Fingerprint, Op, Row, TableDef, Timestamp, limits};
use crate::postgres::replication::pgoutput::Tuple;

/// What is gathered in memory before it goes on to the file.
const PIECE_BYTES: usize = 64 << 10;

/// What an application said of its transaction, and in which subtransaction.
#[derive(Clone, Debug)]
pub(super) struct Ids {
    pub subxid: Option<u32>,
    pub correlation: Option<Box<str>>,
    pub causation: Option<Box<str>>,
}

/// A transaction under construction.
#[derive(Default)]
pub(super) struct Work {
    /// It was applied by us: the log has it.
    pub is_ours: bool,
    pub time: Timestamp,
    tables: Vec<Arc<TableDef>>,
    bytes: Vec<u8>,
    overflow: Option<Overflow>,
    changes: u64,
    ids: Vec<Ids>,
    /// It may yet be undone, in part or as a whole.
    is_streamed: bool,
    /// Tables with rows whose key changed and whose values could not be read.
    lacking: Vec<Arc<TableDef>>,
}

impl Work {
    /// One whose end is not known.
    pub fn streamed() -> Work {
        Work { is_streamed: true, ..Work::default() }
    }

    /// For the next transaction; keeps its buffers.
    pub fn restart(&mut self, time: Timestamp) {
        let (mut bytes, mut tables) = (std::mem::take(&mut self.bytes), std::mem::take(&mut self.tables));
        bytes.clear();
        tables.clear();
        *self = Work { time, bytes, tables, ..Work::default() };
    }

    /// How many changes it has.
    pub fn changes(&self) -> u64 {
        self.changes
    }

    fn table(&mut self, def: &Arc<TableDef>) -> usize {
        let known =
            self.tables.iter().rposition(|table| Arc::ptr_eq(table, def) || table.fingerprint == def.fingerprint);
        known.unwrap_or_else(|| {
            self.tables.push(Arc::clone(def));
            self.tables.len() - 1
        })
    }

    /// Adds a change of a row; gives back how many bytes it takes.
    pub fn change(&mut self, known: &Known, op: Op, new: Option<&Tuple>, before: Before<'_>) -> usize {
        let table = self.table(&known.def);
        let start = self.bytes.len();
        put_change(&mut self.bytes, table, op, new, before, &known.key);
        self.changes += 1;
        self.bytes.len() - start
    }

    /// Adds a change of a row whose values are at hand; gives back how many bytes it takes.
    pub fn rows(&mut self, known: &Known, op: Op, new: Option<&Row>, old: Option<&Row>) -> usize {
        let table = self.table(&known.def);
        let start = self.bytes.len();
        put_rows(&mut self.bytes, table, op, new, old);
        self.changes += 1;
        self.bytes.len() - start
    }

    /// A row of that table moved without all of its values.
    pub fn lacks(&mut self, table: &Arc<TableDef>) {
        if self.lacking.iter().all(|known| known.name != table.name) {
            self.lacking.push(Arc::clone(table));
        }
    }

    /// The tables of [`Work::lacks`], once.
    pub fn take_lacking(&mut self) -> Vec<Arc<TableDef>> {
        std::mem::take(&mut self.lacking)
    }

    /// Adds a change of a table as a whole.
    pub fn whole(&mut self, def: &Arc<TableDef>, op: Op) {
        let table = self.table(def);
        put_table_change(&mut self.bytes, table, op);
        self.changes += 1;
    }

    /// What follows is of that subtransaction.
    pub fn within(&mut self, subxid: u32, dir: &Path) -> io::Result<()> {
        if self.overflow.as_ref().is_some_and(|overflow| overflow.is_at(subxid)) {
            return Ok(());
        }
        let overflow = match &mut self.overflow {
            Some(overflow) => overflow,
            none => none.insert(Overflow::new(dir)?),
        };
        overflow.push(&self.bytes)?;
        self.bytes.clear();
        overflow.mark(subxid, self.changes);
        Ok(())
    }

    /// An application's ids; the last ones count.
    pub fn say(&mut self, ids: Ids) {
        self.ids.push(ids);
        // Of one subtransaction only the last ones can count.
        if let [.., before, last] = &self.ids[..]
            && before.subxid == last.subxid
        {
            let at = self.ids.len() - 2;
            self.ids.remove(at);
        }
    }

    /// A subtransaction is undone.
    pub fn undo(&mut self, subxid: u32) -> io::Result<()> {
        self.ids.retain(|ids| ids.subxid != Some(subxid));
        let Some(overflow) = &mut self.overflow else { return Ok(()) };
        overflow.push(&self.bytes)?;
        self.bytes.clear();
        if let Some(changes) = overflow.undo(subxid)? {
            self.changes = changes;
        }
        Ok(())
    }

    /// Call it before a change whose values have so many bytes: a large one does not share its part with those before it,
    /// because together they could be larger than an entry.
    pub fn make_room(&mut self, bytes: usize, dir: &Path) -> io::Result<()> {
        match self.bytes.is_empty() || self.bytes.len() + bytes <= limits::PART_BYTES_TARGET {
            true => Ok(()),
            false => self.spill(dir),
        }
    }

    /// Call it after each change: what is too much for memory goes to the file.
    pub fn settle(&mut self, dir: &Path) -> io::Result<()> {
        let most = if self.is_streamed || self.overflow.is_some() { PIECE_BYTES } else { limits::PART_BYTES_TARGET };
        match self.bytes.len() < most {
            true => Ok(()),
            false => self.spill(dir),
        }
    }

    fn spill(&mut self, dir: &Path) -> io::Result<()> {
        let overflow = match &mut self.overflow {
            Some(overflow) => overflow,
            none => none.insert(Overflow::new(dir)?),
        };
        overflow.push(&self.bytes)?;
        self.bytes.clear();
        self.bytes.shrink_to(limits::PART_BYTES_TARGET);
        Ok(())
    }

    /// What stands around the changes.
    fn header(&self, node: &str) -> EntryHeader {
        let tables: Vec<Fingerprint> = self.tables.iter().map(|table| table.fingerprint).collect();
        let ids = self.ids.last();
        EntryHeader {
            time: self.time,
            node: node.into(),
            correlation: ids.and_then(|ids| ids.correlation.clone()),
            causation: ids.and_then(|ids| ids.causation.clone()),
            tables,
            ..EntryHeader::default()
        }
    }

    /// The tables that it names.
    pub fn tables(&self) -> &[Arc<TableDef>] {
        &self.tables
    }

    /// The transaction as the log takes it; `small` takes the changes of one that fits in memory.
    pub fn finish(&mut self, node: &str, small: impl FnOnce(EntryHeader, &[u8])) -> io::Result<Option<Draft>> {
        let header = self.header(node);
        let Some(mut overflow) = self.overflow.take() else {
            small(header, &self.bytes);
            return Ok(None);
        };
        overflow.push(&self.bytes)?;
        self.bytes.clear();
        if overflow.bytes() > limits::PART_BYTES_TARGET as u64 {
            return Ok(Some(Draft::Large { header, parts: overflow.into_parts()? }));
        }
        let mut parts = overflow.into_parts()?;
        let mut bytes = Vec::new();
        while let Some(part) = parts.next()? {
            bytes.extend_from_slice(&part);
        }
        small(header, &bytes);
        Ok(None)
    }
}

/// Encoded changes of transactions that are complete.
#[derive(Default)]
pub(super) struct Done {
    bytes: Vec<u8>,
    drafts: Vec<Finished>,
    tables: Vec<Arc<TableDef>>,
    /// How many changes.
    pub changes: u64,
}

enum Finished {
    Small(EntryHeader, usize),
    Large(Draft),
}

impl Done {
    /// Adds a transaction that has ended.
    pub fn add(&mut self, work: &mut Work, node: &str) -> io::Result<()> {
        if work.changes() == 0 {
            return Ok(());
        }
        for table in work.tables() {
            if !self.tables.iter().any(|known| Arc::ptr_eq(known, table) || known.fingerprint == table.fingerprint) {
                self.tables.push(Arc::clone(table));
            }
        }
        let (bytes, drafts) = (&mut self.bytes, &mut self.drafts);
        let large = work.finish(node, |header, changes| {
            bytes.extend_from_slice(changes);
            drafts.push(Finished::Small(header, bytes.len()));
        })?;
        self.drafts.extend(large.map(Finished::Large));
        self.changes += work.changes();
        Ok(())
    }

    /// Whether there is nothing to give.
    pub fn is_empty(&self) -> bool {
        self.drafts.is_empty()
    }

    /// Whether there is enough to give.
    pub fn is_full(&self) -> bool {
        self.bytes.len() >= limits::CAPTURE_GIVE_BYTES
            || self.drafts.len() >= limits::CAPTURE_GIVE_ENTRIES
            || matches!(self.drafts.last(), Some(Finished::Large(_)))
    }

    /// Everything so far: drafts, tables, how many changes.
    pub fn give(&mut self) -> (Vec<Draft>, Vec<Arc<TableDef>>, u64) {
        let Done { bytes, drafts, tables, changes } = std::mem::take(self);
        let bytes = Bytes::from(bytes);
        let mut start = 0;
        let drafts = drafts.into_iter().map(|finished| match finished {
            Finished::Small(header, end) => {
                let changes = bytes.slice(start..end);
                start = end;
                Draft::Local { header, changes }
            }
            Finished::Large(draft) => draft,
        });
        (drafts.collect(), tables, changes)
    }
}
