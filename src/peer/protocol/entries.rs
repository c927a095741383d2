//! Entries on a link: their bytes as stored, with the definitions that they need.

use std::sync::Arc;

use super::wire::{CursorWire, EntriesWire};
use super::{ProtocolError, bounded, in_field};
use crate::model::{Cursor, Entry, Epoch, LogId, Position, TableDef, decode_table, encode_table, limits};

/// Transactions in the sender's order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Entries {
    /// Definitions that these entries name and that have not travelled on this link before.
    pub tables: Vec<Arc<TableDef>>,
    /// Whole entries, or parts of a large one.
    pub entries: Vec<Entry>,
    /// Everything of the sender's log up to here is covered once these are received. `None`: more of the same
    /// stretch follows.
    pub upto: Option<Cursor>,
}

impl Entries {
    pub(super) fn to_wire(&self) -> EntriesWire {
        EntriesWire {
            tables: self.tables.iter().map(|table| encode_table(table).into()).collect(),
            entries: self.entries.iter().map(|entry| entry.bytes().clone()).collect(),
            upto: self.upto.map(cursor_to_wire),
        }
    }

    pub(super) fn from_wire(wire: EntriesWire) -> Result<Entries, ProtocolError> {
        bounded("entries.tables", wire.tables.len(), limits::OFFERS_MAX)?;
        let tables = wire.tables.iter().map(|table| decode_table(table).map(Arc::new));
        let tables = tables.collect::<Result<_, _>>().map_err(in_field("entries.tables"))?;
        let mut entries = Vec::with_capacity(wire.entries.len());
        for bytes in wire.entries {
            bounded("entries.entries", bytes.len(), limits::ENTRY_BYTES_MAX)?;
            entries.push(Entry::decode(bytes).map_err(in_field("entries.entries"))?);
        }
        Ok(Entries { tables, entries, upto: wire.upto.map(cursor_from_wire) })
    }
}

pub(super) fn cursor_to_wire(cursor: Cursor) -> CursorWire {
    let (log_high, log_low) = cursor.log.halves();
    CursorWire { log_high, log_low, epoch: cursor.epoch.0, position: cursor.position.0 }
}

pub(super) fn cursor_from_wire(wire: CursorWire) -> Cursor {
    let log = LogId::from_halves(wire.log_high, wire.log_low);
    Cursor { log, epoch: Epoch(wire.epoch), position: Position(wire.position) }
}
