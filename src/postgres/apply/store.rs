//! Our own tables in the database: the cursor, lanes, and followed tables, in the schema `watershed`.

use std::collections::BTreeMap;

use bytes::Bytes;
use tokio_postgres::{Client, Error};

use crate::model::{
    Change, Cursor, Fingerprint, LinkId, Op, Position, Row, TableName, Timestamp, decode_changes, encode_changes,
};
use crate::view::{Lane, LaneState, Settled};

/// The cursor is one row; a lane is a row per table; a followed table a row per peer and table; `evicted` has rows that were
/// in the way of others while their table was copied; `index_later` has indexes that are built after a copy.
const TABLES: &str = "
CREATE SCHEMA IF NOT EXISTS watershed;
CREATE TABLE IF NOT EXISTS watershed.cursor (one boolean PRIMARY KEY DEFAULT true CHECK (one), cursor text NOT NULL);
CREATE TABLE IF NOT EXISTS watershed.lane (
  table_name text PRIMARY KEY, after bigint NOT NULL, state text NOT NULL, peer text, done bytea, rows bigint,
  received bigint, settled bigint, position bigint, error text, since bigint);
CREATE TABLE IF NOT EXISTS watershed.follows (
  peer text NOT NULL, table_name text NOT NULL, under text NOT NULL, PRIMARY KEY (peer, table_name));
CREATE TABLE IF NOT EXISTS watershed.evicted (
  table_name text NOT NULL, key bytea NOT NULL, content text NOT NULL, PRIMARY KEY (table_name, key));
CREATE TABLE IF NOT EXISTS watershed.index_later (
  name text PRIMARY KEY, table_name text NOT NULL, definition text NOT NULL);
";

const THERE: &str = "
SELECT count(*) FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = 'watershed' AND c.relname IN ('cursor', 'lane', 'follows', 'evicted', 'index_later')";

/// Creates what is missing; an up-to-date database is not written.
pub(super) async fn install(client: &Client) -> Result<(), Error> {
    let there: i64 = client.query_one(THERE, &[]).await?.get(0);
    if there < 5 {
        // Capture makes the schema too, perhaps at the same moment: then it is there at the second attempt.
        if let Err(error) = client.batch_execute(TABLES).await {
            let raced = error.code().is_some_and(|code| matches!(code.code(), "23505" | "42P06" | "42P07"));
            if !raced {
                return Err(error);
            }
            client.batch_execute(TABLES).await?;
        }
    }
    Ok(())
}

/// The stored cursor's text.
pub(super) async fn cursor(client: &Client) -> Result<Option<String>, Error> {
    let row = client.query_opt("SELECT cursor FROM watershed.cursor", &[]).await?;
    Ok(row.map(|row| row.get(0)))
}

/// The text of an optional cursor as it is compared.
pub(super) fn text(cursor: Option<Cursor>) -> Option<String> {
    cursor.map(|cursor| cursor.to_string())
}

fn key_bytes(key: &Row) -> Bytes {
    encode_changes(&[Change { table: 0, op: Op::Insert, row: Some(key.clone()), old: None }])
}

fn key_row(bytes: Vec<u8>) -> Option<Row> {
    decode_changes(&bytes.into()).ok()?.pop()?.row
}

fn peer_text(peer: LinkId) -> String {
    peer.0.to_string()
}

/// A lane's row as columns, whatever its state.
#[derive(Default)]
struct Columns {
    state: &'static str,
    peer: Option<String>,
    done: Option<Vec<u8>>,
    rows: Option<i64>,
    received: Option<i64>,
    settled: Option<i64>,
    position: Option<i64>,
    error: Option<String>,
    since: Option<i64>,
}

impl Columns {
    fn of(state: &LaneState) -> Columns {
        match state {
            LaneState::Copying { from, done, rows, received } => Columns {
                state: "copying",
                peer: Some(peer_text(*from)),
                done: done.as_ref().map(|key| key_bytes(key).to_vec()),
                rows: Some(rows.cast_signed()),
                received: Some(received.0.cast_signed()),
                ..Columns::default()
            },
            LaneState::Replaying { settled } => Columns {
                state: "replaying",
                peer: settled.map(|settled| peer_text(settled.from)),
                settled: settled.map(|settled| settled.upto.0.cast_signed()),
                received: settled.map(|settled| settled.cut.0.cast_signed()),
                ..Columns::default()
            },
            LaneState::Parked { position, error, since, before } => {
                let before = before.as_deref().map(Columns::of).unwrap_or_default();
                Columns {
                    state: match before.state {
                        "copying" => "parked copying",
                        "replaying" => "parked replaying",
                        _ => "parked",
                    },
                    position: Some(position.0.cast_signed()),
                    error: Some(error.replace('\0', "\u{fffd}")),
                    since: Some(since.0),
                    ..before
                }
            }
            LaneState::Paused => Columns { state: "paused", ..Columns::default() },
        }
    }
}

/// Adds or replaces a lane.
pub(super) async fn put_lane(client: &Client, lane: &Lane) -> Result<(), Error> {
    let columns = Columns::of(&lane.state);
    let sql = "
        INSERT INTO watershed.lane (table_name, after, state, peer, done, rows, received, settled, position, error, since)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
        ON CONFLICT (table_name) DO UPDATE SET after = excluded.after, state = excluded.state, peer = excluded.peer,
          done = excluded.done, rows = excluded.rows, received = excluded.received, settled = excluded.settled,
          position = excluded.position, error = excluded.error, since = excluded.since";
    client
        .execute(
            sql,
            &[
                &lane.table.as_str(),
                &lane.after.0.cast_signed(),
                &columns.state,
                &columns.peer,
                &columns.done,
                &columns.rows,
                &columns.received,
                &columns.settled,
                &columns.position,
                &columns.error,
                &columns.since,
            ],
        )
        .await
        .map(drop)
}

/// All lanes, by table name; the inner error says which row is not readable.
pub(super) async fn lanes(client: &Client) -> Result<Result<BTreeMap<TableName, Lane>, String>, Error> {
    let sql = "SELECT table_name, after, state, peer, done, rows, received, settled, position, error, since FROM watershed.lane";
    let mut lanes = BTreeMap::new();
    for row in client.query(sql, &[]).await? {
        let name: String = row.get(0);
        let Some(lane) = lane(&row) else {
            return Ok(Err(format!("watershed.lane: the row of {name:?} is not readable")));
        };
        lanes.insert(lane.table.clone(), lane);
    }
    Ok(Ok(lanes))
}

fn lane(row: &tokio_postgres::Row) -> Option<Lane> {
    let number = |i: usize| row.get::<_, Option<i64>>(i).map(i64::cast_unsigned);
    let table: TableName = row.get::<_, &str>(0).parse().ok()?;
    let peer = match row.get::<_, Option<&str>>(3) {
        Some(text) => Some(LinkId(text.parse().ok()?)),
        None => None,
    };
    let copying = || {
        let done = row.get::<_, Option<Vec<u8>>>(4).and_then(key_row);
        let (rows, received) = (number(5).unwrap_or(0), Position(number(6).unwrap_or(0)));
        Some(LaneState::Copying { from: peer?, done, rows, received })
    };
    // Where a copy's cut is stands where copies have what was received before them.
    let cut = || Position(number(6).unwrap_or(0));
    let settled = || peer.zip(number(7)).map(|(from, upto)| Settled { from, upto: Position(upto), cut: cut() });
    let replaying = || LaneState::Replaying { settled: settled() };
    let parked = |before: Option<LaneState>| LaneState::Parked {
        position: Position(number(8).unwrap_or(0)),
        error: row.get::<_, Option<String>>(9).unwrap_or_default(),
        since: Timestamp(row.get::<_, Option<i64>>(10).unwrap_or(0)),
        before: before.map(Box::new),
    };
    let state = match row.get::<_, &str>(2) {
        "copying" => copying()?,
        "replaying" => replaying(),
        "parked" => parked(None),
        "parked copying" => parked(Some(copying()?)),
        "parked replaying" => parked(Some(replaying())),
        "paused" => LaneState::Paused,
        _ => return None,
    };
    Some(Lane { table, after: Position(row.get::<_, i64>(1).cast_unsigned()), state })
}

/// Forgets the rows of a table that were in the way of others.
pub(super) async fn forget_evicted(client: &Client, table: &TableName) -> Result<(), Error> {
    client.execute("DELETE FROM watershed.evicted WHERE table_name = $1", &[&table.as_str()]).await.map(drop)
}

/// Removes a lane.
pub(super) async fn drop_lane(client: &Client, table: &TableName) -> Result<(), Error> {
    forget_evicted(client, table).await?;
    client.execute("DELETE FROM watershed.lane WHERE table_name = $1", &[&table.as_str()]).await.map(drop)
}

/// Removes all lanes.
pub(super) async fn drop_lanes(client: &Client) -> Result<(), Error> {
    client.batch_execute("DELETE FROM watershed.evicted; DELETE FROM watershed.lane").await
}

/// Forgets the cursor.
pub(super) async fn drop_cursor(client: &Client) -> Result<(), Error> {
    client.execute("DELETE FROM watershed.cursor", &[]).await.map(drop)
}

/// The tables that follow that peer, by name.
pub(super) async fn followed(client: &Client, from: LinkId) -> Result<Vec<(TableName, Fingerprint)>, Error> {
    let sql = "SELECT table_name, under FROM watershed.follows WHERE peer = $1 ORDER BY table_name COLLATE \"C\"";
    let rows = client.query(sql, &[&peer_text(from)]).await?;
    // What is not readable is copied again.
    let read = |row: &tokio_postgres::Row| {
        let under = u64::from_str_radix(row.get(1), 16).ok()?;
        Some((row.get::<_, &str>(0).parse().ok()?, Fingerprint(under)))
    };
    Ok(rows.iter().filter_map(read).collect())
}

/// Records or forgets that a table follows that peer.
pub(super) async fn set_followed(
    client: &Client,
    from: LinkId,
    table: &TableName,
    under: Option<Fingerprint>,
) -> Result<(), Error> {
    let (peer, table) = (peer_text(from), table.as_str());
    match under {
        Some(under) => {
            let sql = "INSERT INTO watershed.follows (peer, table_name, under) VALUES ($1, $2, $3)
                       ON CONFLICT (peer, table_name) DO UPDATE SET under = excluded.under";
            client.execute(sql, &[&peer, &table, &under.to_string()]).await?
        }
        None => {
            let sql = "DELETE FROM watershed.follows WHERE peer = $1 AND table_name = $2";
            client.execute(sql, &[&peer, &table]).await?
        }
    };
    Ok(())
}

/// Forgets whom the table follows.
pub(super) async fn unfollow(client: &Client, table: &TableName) -> Result<(), Error> {
    client.execute("DELETE FROM watershed.follows WHERE table_name = $1", &[&table.as_str()]).await.map(drop)
}
