//! Digests and rows of an events table, to compare it with another.

use tokio_postgres::{Client, Error};

use super::inspect::stored;
use crate::view::{ChunkDigest, StoredEvent};

const RANGE: &str = "select id, ts, event::text from events where id between $1 and $2 order by id limit $3";
const DIGESTS: &str = "select (id - $1) / $3, count(*), bit_xor(hashtextextended( \
    id::text || ' ' || (extract(epoch from ts))::text || ' ' || event::text, 0)) \
    from events where id between $1 and $2 group by 1 order by 1";

/// Events with `first ≤ id ≤ last`, ids ascending, at most `limit` of them.
pub(super) async fn range(client: &Client, first: i64, last: i64, limit: u32) -> Result<Vec<StoredEvent>, Error> {
    let rows = client.query(RANGE, &[&first, &last, &i64::from(limit)]).await?;
    rows.iter().map(stored).collect()
}

/// Digests of the chunks of `width` ids that begin at `first`, up to `last` (inclusive), those with rows.
pub(super) async fn digests(client: &Client, first: i64, last: i64, width: i64) -> Result<Vec<ChunkDigest>, Error> {
    let rows = client.query(DIGESTS, &[&first, &last, &width]).await?;
    let chunk = |row: &tokio_postgres::Row| {
        let (index, count): (i64, i64) = (row.try_get(0)?, row.try_get(1)?);
        let start = first + index * width;
        let end = last.min(start + (width - 1));
        Ok(ChunkDigest { first: start, last: end, count: count.unsigned_abs(), digest: row.try_get(2)? })
    };
    rows.iter().map(chunk).collect()
}
