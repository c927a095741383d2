//! Our own tables in the database: the cursor, lanes, followed tables and the origin row.

use std::collections::BTreeMap;

use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension, Result, params};

use crate::model::{
    Change, Cursor, Fingerprint, LinkId, Op, Position, Row, TableName, Timestamp, decode_changes, encode_changes,
};
use crate::view::{Lane, LaneState, Settled};

/// In SQL that an old SQLite reads, because every writer parses it. The cursor is one row; a lane is a row per table; a followed
/// table a row per peer and table; `watershed_evicted` has rows that were in the way of others while their table was copied.
const TABLES: &str = "
CREATE TABLE IF NOT EXISTS watershed_cursor(id INTEGER PRIMARY KEY CHECK (id = 1), cursor TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS watershed_lane(
  table_name TEXT PRIMARY KEY, after INTEGER NOT NULL, state TEXT NOT NULL, peer TEXT, done BLOB, rows INTEGER,
  position INTEGER, error TEXT, since INTEGER);
CREATE TABLE IF NOT EXISTS watershed_followed(
  peer TEXT NOT NULL, table_name TEXT NOT NULL, under TEXT NOT NULL, PRIMARY KEY (peer, table_name)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS watershed_origin(id INTEGER PRIMARY KEY);
CREATE TABLE IF NOT EXISTS watershed_evicted(
  table_name TEXT NOT NULL, key BLOB NOT NULL, content BLOB NOT NULL, PRIMARY KEY (table_name, key)) WITHOUT ROWID;
";

/// Creates what is missing; an up-to-date database is not written.
pub(super) fn install(conn: &Connection) -> Result<()> {
    let names = "'watershed_cursor','watershed_lane','watershed_followed','watershed_origin','watershed_evicted'";
    let sql = format!("SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name IN ({names})");
    let there: i64 = conn.query_row(&sql, [], |row| row.get(0))?;
    if there < 5 {
        conn.execute_batch(&format!("BEGIN IMMEDIATE; {TABLES} COMMIT"))?;
    }
    Ok(())
}

fn unreadable(column: usize, what: &str) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(column, rusqlite::types::Type::Text, what.to_owned().into())
}

/// The cursor of what the database contains; `None` in a database that has followed no log.
pub(crate) fn cursor(conn: &Connection) -> Result<Option<Cursor>> {
    let mut statement = conn.prepare_cached("SELECT cursor FROM watershed_cursor WHERE id = 1")?;
    let text: Option<String> = statement.query_row([], |row| row.get(0)).optional()?;
    text.map(|text| text.parse().map_err(|e| unreadable(0, &format!("watershed_cursor: {e}")))).transpose()
}

/// Stores or forgets the cursor.
pub(super) fn set_cursor(conn: &Connection, cursor: Option<Cursor>) -> Result<()> {
    match cursor {
        Some(cursor) => conn
            .prepare_cached(
                "INSERT INTO watershed_cursor(id, cursor) VALUES (1, ?1) ON CONFLICT(id) DO UPDATE SET cursor = ?1",
            )?
            .execute([cursor.to_string()])?,
        None => conn.execute("DELETE FROM watershed_cursor", [])?,
    };
    Ok(())
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

/// All lanes, by table name.
pub(super) fn lanes(conn: &Connection) -> Result<BTreeMap<TableName, Lane>> {
    let mut statement = conn.prepare_cached(
        "SELECT table_name, after, state, peer, done, rows, position, error, since FROM watershed_lane",
    )?;
    let mut rows = statement.query([])?;
    let mut lanes = BTreeMap::new();
    while let Some(row) = rows.next()? {
        let name: String = row.get(0)?;
        let table: TableName = name.parse().map_err(|_| unreadable(0, "watershed_lane: not a table name"))?;
        let peer: Option<String> = row.get(3)?;
        let peer = peer
            .map(|text| text.parse().map(LinkId).map_err(|_| unreadable(3, "watershed_lane: not a log id")))
            .transpose()?;
        let position = row.get::<_, Option<i64>>(6)?.map(i64::cast_unsigned);
        let done: Option<Vec<u8>> = row.get(4)?;
        let state: String = row.get(2)?;
        // A copying lane's received position, and a replaying lane's cut, stand behind the word: `position` is taken when it
        // is parked.
        let (state, number) = match state.rsplit_once(' ') {
            Some((word, number)) if number.bytes().all(|byte| byte.is_ascii_digit()) => {
                let number = number.parse().map_err(|_| unreadable(2, "watershed_lane: not a position"))?;
                (word.to_owned(), Position(number))
            }
            _ => (state, Position::ZERO),
        };
        let state = match (state.as_str(), peer) {
            ("copying", Some(from)) => LaneState::Copying {
                from,
                done: done.and_then(key_row),
                rows: row.get::<_, Option<i64>>(5)?.map_or(0, i64::cast_unsigned),
                received: number,
            },
            ("replaying", peer) => {
                let settled = peer.zip(position.map(Position));
                LaneState::Replaying { settled: settled.map(|(from, upto)| Settled { from, upto, cut: number }) }
            }
            ("parked" | "parked copying" | "parked replaying", peer) => {
                let rows = row.get::<_, Option<i64>>(5)?.map_or(0, i64::cast_unsigned);
                let before = match (state.as_str(), peer) {
                    ("parked copying", Some(from)) => {
                        Some(LaneState::Copying { from, done: done.and_then(key_row), rows, received: number })
                    }
                    ("parked replaying", Some(from)) => {
                        let settled = Settled { from, upto: Position(rows), cut: number };
                        Some(LaneState::Replaying { settled: Some(settled) })
                    }
                    _ => None,
                };
                LaneState::Parked {
                    position: Position(position.unwrap_or(0)),
                    error: row.get::<_, Option<String>>(7)?.unwrap_or_default(),
                    since: Timestamp(row.get::<_, Option<i64>>(8)?.unwrap_or(0)),
                    before: before.map(Box::new),
                }
            }
            ("paused", _) => LaneState::Paused,
            (other, _) => return Err(unreadable(2, &format!("watershed_lane: unknown state {other:?}"))),
        };
        let after = Position(row.get::<_, i64>(1)?.cast_unsigned());
        lanes.insert(table.clone(), Lane { table, after, state });
    }
    Ok(lanes)
}

/// Adds or replaces a lane.
pub(super) fn put_lane(conn: &Connection, lane: &Lane) -> Result<()> {
    let mut peer = None;
    let (mut done, mut count, mut position, mut error, mut since) = (None, None, None, None, None);
    let state = match &lane.state {
        LaneState::Copying { from, done: key, rows, received } => {
            (peer, done, count) = (Some(peer_text(*from)), key.as_ref().map(key_bytes), Some(rows.cast_signed()));
            format!("copying {received}")
        }
        LaneState::Replaying { settled } => {
            (peer, position) = (settled.map(|s| peer_text(s.from)), settled.map(|s| s.upto.0.cast_signed()));
            settled.map_or("replaying".to_owned(), |settled| format!("replaying {}", settled.cut))
        }
        LaneState::Parked { position: at, error: why, since: when, before } => {
            (position, error, since) = (Some(at.0.cast_signed()), Some(why.as_str()), Some(when.0));
            match before.as_deref() {
                Some(LaneState::Copying { from, done: key, rows, received }) => {
                    (peer, done, count) =
                        (Some(peer_text(*from)), key.as_ref().map(key_bytes), Some(rows.cast_signed()));
                    format!("parked copying {received}")
                }
                // `position` is taken, so the settled position stands where copies count their rows.
                Some(LaneState::Replaying { settled: Some(Settled { from, upto, cut }) }) => {
                    (peer, count) = (Some(peer_text(*from)), Some(upto.0.cast_signed()));
                    format!("parked replaying {cut}")
                }
                _ => "parked".to_owned(),
            }
        }
        LaneState::Paused => "paused".to_owned(),
    };
    conn.prepare_cached("INSERT OR REPLACE INTO watershed_lane VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)")?.execute(
        params![
            lane.table.as_str(),
            lane.after.0.cast_signed(),
            state,
            peer,
            done.as_deref(),
            count,
            position,
            error,
            since
        ],
    )?;
    Ok(())
}

/// Removes a lane.
pub(super) fn drop_lane(conn: &Connection, table: &TableName) -> Result<()> {
    super::evicted::forget(conn, table)?;
    conn.prepare_cached("DELETE FROM watershed_lane WHERE table_name = ?1")?.execute([table.as_str()])?;
    Ok(())
}

/// Removes all lanes.
pub(super) fn drop_lanes(conn: &Connection) -> Result<()> {
    conn.execute_batch("DELETE FROM watershed_evicted; DELETE FROM watershed_lane")
}

/// The tables that follow that peer, by name.
pub(super) fn followed(conn: &Connection, from: LinkId) -> Result<Vec<(TableName, Fingerprint)>> {
    let mut statement =
        conn.prepare_cached("SELECT table_name, under FROM watershed_followed WHERE peer = ?1 ORDER BY 1")?;
    let rows = statement.query_map([peer_text(from)], |row| {
        let name: String = row.get(0)?;
        let under: String = row.get(1)?;
        let name = name.parse().map_err(|_| unreadable(0, "watershed_followed: not a table name"))?;
        let under =
            u64::from_str_radix(&under, 16).map_err(|_| unreadable(1, "watershed_followed: not a fingerprint"))?;
        Ok((name, Fingerprint(under)))
    })?;
    rows.collect()
}

/// Records or forgets that a table follows that peer.
pub(super) fn set_followed(
    conn: &Connection,
    from: LinkId,
    table: &TableName,
    under: Option<Fingerprint>,
) -> Result<()> {
    match under {
        Some(under) => conn.execute(
            "INSERT OR REPLACE INTO watershed_followed VALUES (?1, ?2, ?3)",
            params![peer_text(from), table.as_str(), under.to_string()],
        )?,
        None => conn.execute(
            "DELETE FROM watershed_followed WHERE peer = ?1 AND table_name = ?2",
            params![peer_text(from), table.as_str()],
        )?,
    };
    Ok(())
}

/// Forgets whom the table follows.
pub(super) fn unfollow(conn: &Connection, table: &TableName) -> Result<()> {
    conn.execute("DELETE FROM watershed_followed WHERE table_name = ?1", [table.as_str()]).map(drop)
}

/// Makes our capture triggers stand aside (or no longer) for what this transaction writes.
pub(super) fn set_origin(conn: &Connection, received: bool) -> Result<()> {
    let sql = match received {
        true => "INSERT OR REPLACE INTO watershed_origin(id) VALUES (1)",
        false => "DELETE FROM watershed_origin",
    };
    conn.prepare_cached(sql)?.execute([])?;
    Ok(())
}
