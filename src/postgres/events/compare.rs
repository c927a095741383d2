//! Digests and rows of an events table, to compare it with another.

use tokio_postgres::{Client, Error};

use super::inspect::stored;
use crate::model::limits;
use crate::view::{ChunkDigest, StoredEvent};

/// Every digit of time and event is in the text; the hash is of 64 bits. `extract` gives exact numbers, whatever the
/// session's time zone and date style.
const DIGESTS: &str = "select (id - $1) / $3, count(*), bit_xor(hashtextextended( \
    extract(epoch from ts)::text || ' ' || event::text, id)) \
    from events where id between $1 and $2 group by 1 order by 1";
const TORN: &str = "select id from (select id, ts, lag(ts) over w as ts_before, operation, \
    lag(operation) over w as operation_before from (select id, ts, event #>> '{testingStats,dbOperationId}' as operation \
        from events where id between $1 and $2) as stamped window w as (order by id)) as neighbours \
    where operation = operation_before and ts <> ts_before order by id limit $3";

/// Events with `first ≤ id ≤ last`, ids ascending: at most `limit` of them, and fewer when they take more than
/// [`limits::EVENTS_RANGE_BYTES`], but at least one if there is one.
pub(super) async fn range(client: &Client, first: i64, last: i64, limit: u32) -> Result<Vec<StoredEvent>, Error> {
    let cursor = format!(
        "begin transaction read only; declare events_range no scroll cursor for \
         select id, ts, event::text from events where id between {first} and {last} order by id"
    );
    let read = async {
        client.batch_execute(&cursor).await?;
        fetch(client, limit as usize).await
    };
    let read = read.await;
    // Nothing was written; a connection that fails here fails again where it is used next.
    let ended = client.batch_execute("rollback").await;
    let events = read?;
    ended.map(|()| events)
}

/// A few rows at first, because each may be large; then as many as have room at the size of those seen.
async fn fetch(client: &Client, limit: usize) -> Result<Vec<StoredEvent>, Error> {
    let (mut events, mut bytes) = (Vec::new(), 0);
    let mut rows_max = limits::EVENTS_RANGE_ROWS_FIRST.min(limit);
    while rows_max > 0 && bytes < limits::EVENTS_RANGE_BYTES {
        let rows = client.query(&format!("fetch forward {rows_max} from events_range"), &[]).await?;
        for row in &rows {
            let event = stored(row)?;
            bytes += event.json.len();
            events.push(event);
        }
        if rows.len() < rows_max {
            break;
        }
        let room = limits::EVENTS_RANGE_BYTES.saturating_sub(bytes) / (bytes / events.len()).max(1);
        rows_max = room.clamp(1, rows_max.saturating_mul(32)).min(limit - events.len());
    }
    Ok(events)
}

/// Digests of the chunks of `width` ids that begin at `first`, up to `last` (inclusive), those with rows.
pub(super) async fn digests(client: &Client, first: i64, last: i64, width: i64) -> Result<Vec<ChunkDigest>, Error> {
    let rows = client.query(DIGESTS, &[&first, &last, &width]).await?;
    let chunk = |row: &tokio_postgres::Row| {
        let (index, count): (i64, i64) = (row.try_get(0)?, row.try_get(1)?);
        let start = first + index * width;
        let end = last.min(start.saturating_add(width - 1));
        Ok(ChunkDigest { first: start, last: end, count: count.unsigned_abs(), digest: row.try_get(2)? })
    };
    rows.iter().map(chunk).collect()
}

/// Ids of events whose time differs from that of their neighbour before them, though both bear one stamp.
pub(super) async fn torn(client: &Client, first: i64, last: i64, limit: u32) -> Result<Vec<i64>, Error> {
    let rows = client.query(TORN, &[&first, &last, &i64::from(limit)]).await?;
    rows.iter().map(|row| row.try_get(0)).collect()
}
