//! Messages of first copies on the wire. Rows travel as encoded changes: one insert per row.

use std::sync::Arc;

use bytes::Bytes;

use super::entries::{cursor_from_wire, cursor_to_wire};
use super::wire::{CopyChunkWire, CopyRefusedWire, CopyRequestWire, Kind};
use super::{ProtocolError, bad, bounded, in_field};
use crate::model::{
    Change, Fingerprint, Op, Position, Row, TableName, decode_changes, decode_table, encode_changes, encode_table,
    limits,
};
use crate::peer::host::CopyMessage;
use crate::peer::refusal::printable;
use crate::view::CopyLines;

fn insert(row: &Row) -> Change {
    Change { table: 0, op: Op::Insert, row: Some(row.clone()), old: None }
}

fn rows_to_wire(rows: &[Row]) -> Bytes {
    encode_changes(&rows.iter().map(insert).collect::<Vec<_>>())
}

fn row_to_wire(row: &Option<Row>) -> Option<Bytes> {
    row.as_ref().map(|row| encode_changes(&[insert(row)]))
}

fn rows_from_wire(field: &'static str, bytes: &Bytes) -> Result<Vec<Row>, ProtocolError> {
    let changes = decode_changes(bytes).map_err(in_field(field))?;
    bounded(field, changes.len(), limits::COPY_CHUNK_ROWS_MAX)?;
    let row = |change: Change| match (change.op, change.row) {
        (Op::Insert, Some(row)) => Ok(row),
        (op, _) => Err(bad(field, format!("{} instead of a row", op.name()))),
    };
    changes.into_iter().map(row).collect()
}

fn row_from_wire(field: &'static str, bytes: Option<Bytes>) -> Result<Option<Row>, ProtocolError> {
    let Some(bytes) = bytes else { return Ok(None) };
    let mut rows = rows_from_wire(field, &bytes)?;
    match (rows.pop(), rows.is_empty()) {
        (Some(row), true) => Ok(Some(row)),
        _ => Err(bad(field, "not exactly one row")),
    }
}

fn table_name(field: &'static str, text: &str) -> Result<TableName, ProtocolError> {
    text.parse().map_err(|error| bad(field, error))
}

pub(super) fn to_wire(copy: &CopyMessage) -> Kind {
    match copy {
        CopyMessage::Request { table, after, received } => Kind::CopyRequest(CopyRequestWire {
            table: table.to_string(),
            after: row_to_wire(after),
            received: received.map(cursor_to_wire),
        }),
        CopyMessage::Chunk { table, after, upto, rows, lines, left, settled, under, cut } => {
            Kind::CopyChunk(CopyChunkWire {
                table: encode_table(table).into(),
                after: row_to_wire(after),
                upto: row_to_wire(upto),
                rows: rows_to_wire(rows),
                left: *left,
                settled: settled.map(|position| position.0),
                under: under.0,
                lines: lines.as_ref().map(|lines| lines.bytes.clone()),
                line_count: lines.as_ref().map_or(0, |lines| lines.rows as u64),
                cut: cut.as_ref().map(|cut| cut.to_string()),
            })
        }
        CopyMessage::Refused { table, why } => {
            let why = why.chars().take(limits::FAILURE_BYTES_MAX / 4).collect();
            Kind::CopyRefused(CopyRefusedWire { table: table.to_string(), why })
        }
    }
}

pub(super) fn request_from_wire(wire: CopyRequestWire) -> Result<CopyMessage, ProtocolError> {
    Ok(CopyMessage::Request {
        table: table_name("copy_request.table", &wire.table)?,
        after: row_from_wire("copy_request.after", wire.after)?,
        received: wire.received.map(cursor_from_wire),
    })
}

pub(super) fn chunk_from_wire(wire: CopyChunkWire) -> Result<CopyMessage, ProtocolError> {
    let table = Arc::new(decode_table(&wire.table).map_err(in_field("copy_chunk.table"))?);
    let rows = rows_from_wire("copy_chunk.rows", &wire.rows)?;
    if let Some(row) = rows.iter().find(|row| row.len() != table.columns.len()) {
        let why = format!("a row of {} values in a table of {} columns", row.len(), table.columns.len());
        return Err(bad("copy_chunk.rows", why));
    }
    let count = usize::try_from(wire.line_count).unwrap_or(usize::MAX);
    bounded("copy_chunk.line_count", count, limits::COPY_CHUNK_ROWS_MAX)?;
    let cut = wire.cut.map(String::into_boxed_str);
    bounded("copy_chunk.cut", cut.as_ref().map_or(0, |cut| cut.len()), limits::NAME_BYTES_MAX)?;
    Ok(CopyMessage::Chunk {
        table,
        after: row_from_wire("copy_chunk.after", wire.after)?,
        upto: row_from_wire("copy_chunk.upto", wire.upto)?,
        rows,
        lines: wire.lines.map(|bytes| CopyLines { bytes, rows: count }),
        left: wire.left,
        settled: wire.settled.map(Position),
        under: Fingerprint(wire.under),
        cut,
    })
}

pub(super) fn refused_from_wire(wire: CopyRefusedWire) -> Result<CopyMessage, ProtocolError> {
    let table = table_name("copy_refused.table", &wire.table)?;
    Ok(CopyMessage::Refused { table, why: printable(&wire.why) })
}
