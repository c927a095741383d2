//! Digests and rows of an events table, to compare it with another.

use std::ops::ControlFlow;

use rusqlite::Connection;
use sha2::{Digest, Sha256};

use super::inspect::File;
use crate::model::limits;
use crate::view::{ChunkDigest, EventsError, StoredEvent};

const RANGE: &str = "SELECT id, ts, event FROM events WHERE id BETWEEN ?1 AND ?2 ORDER BY id LIMIT ?3";
const TORN: &str = "SELECT id FROM (SELECT id, ts, lag(ts) OVER w AS ts_before, operation, \
    lag(operation) OVER w AS operation_before FROM (SELECT id, ts, \
        json_extract(CASE WHEN json_valid(event) THEN event END, '$.testingStats.dbOperationId') AS operation \
        FROM events WHERE id BETWEEN ?1 AND ?2) WINDOW w AS (ORDER BY id)) \
    WHERE operation = operation_before AND ts <> ts_before ORDER BY id LIMIT ?3";

/// Calls `take` with events in the order of their ids.
fn each(
    file: &File,
    conn: &Connection,
    (first, last, limit): (i64, i64, i64),
    mut take: impl FnMut(StoredEvent) -> ControlFlow<()>,
) -> Result<(), EventsError> {
    let mut statement = conn.prepare_cached(RANGE).map_err(file.failed("reading events"))?;
    let mut rows = statement.query((first, last, limit)).map_err(file.failed("reading events"))?;
    while let Some(row) = rows.next().map_err(file.failed("reading events"))? {
        if take(file.event(row)?).is_break() {
            break;
        }
    }
    Ok(())
}

/// Events with `first ≤ id ≤ last`, ids ascending: at most `limit` of them, and fewer when they take more than
/// [`limits::EVENTS_RANGE_BYTES`], but at least one if there is one.
pub(super) fn range(
    file: &File,
    conn: &Connection,
    first: i64,
    last: i64,
    limit: u32,
) -> Result<Vec<StoredEvent>, EventsError> {
    let (mut events, mut bytes) = (Vec::new(), 0);
    each(file, conn, (first, last, i64::from(limit)), |event| {
        bytes += event.json.len();
        events.push(event);
        if bytes < limits::EVENTS_RANGE_BYTES { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })?;
    Ok(events)
}

/// Digests of the chunks of `width` ids that begin at `first`, up to `last` (inclusive), those with rows.
pub(super) fn digests(
    file: &File,
    conn: &Connection,
    first: i64,
    last: i64,
    width: i64,
) -> Result<Vec<ChunkDigest>, EventsError> {
    let mut chunks: Vec<ChunkDigest> = Vec::new();
    each(file, conn, (first, last, -1), |event| {
        let start = first + (event.id - first) / width * width;
        let hash = Sha256::new().chain_update(event.id.to_le_bytes()).chain_update(event.time.0.to_le_bytes());
        let hash: [u8; 32] = hash.chain_update(&event.json).finalize().into();
        let digest = i64::from_le_bytes(hash[..8].try_into().expect("eight bytes"));
        match chunks.last_mut().filter(|chunk| chunk.first == start) {
            Some(chunk) => (chunk.count, chunk.digest) = (chunk.count + 1, chunk.digest.wrapping_add(digest)),
            None => chunks.push(ChunkDigest {
                first: start,
                last: last.min(start.saturating_add(width - 1)),
                count: 1,
                digest,
            }),
        }
        ControlFlow::Continue(())
    })?;
    Ok(chunks)
}

/// Ids of events whose time differs from that of their neighbour before them, though both bear one stamp.
pub(super) fn torn(file: &File, conn: &Connection, first: i64, last: i64, limit: u32) -> Result<Vec<i64>, EventsError> {
    let failed = file.failed("comparing times");
    let mut statement = conn.prepare_cached(TORN).map_err(&failed)?;
    let ids = statement.query_map((first, last, limit), |row| row.get(0)).map_err(&failed)?;
    ids.collect::<Result<_, _>>().map_err(failed)
}
