//! Our own tables in a view's database: whose it is, how far it has come, what was passed over, and the latest rows.

use rusqlite::{Connection, OptionalExtension, Result, params};

use crate::model::{Cursor, Fingerprint, LogId, Timestamp};

/// `watershed_view` has one row. `build` is drawn for each build, so that whoever still has an older one open finds out.
pub(super) const TABLES: &str = "
CREATE TABLE watershed_view(
  id INTEGER PRIMARY KEY CHECK (id = 1), name TEXT NOT NULL, fingerprint TEXT NOT NULL, build INTEGER NOT NULL,
  file TEXT NOT NULL, definition TEXT NOT NULL);
CREATE TABLE watershed_view_cursor(log TEXT PRIMARY KEY, cursor TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE watershed_view_passed(cursor TEXT PRIMARY KEY, time TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE watershed_view_table(fingerprint TEXT PRIMARY KEY, definition BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE watershed_view_row(
  table_name TEXT NOT NULL, key BLOB NOT NULL, fingerprint TEXT NOT NULL, content BLOB NOT NULL,
  PRIMARY KEY (table_name, key)) WITHOUT ROWID;
";

/// Whose a build is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Meta {
    pub name: String,
    pub fingerprint: Fingerprint,
    pub build: i64,
    /// Where the definition stood, and what it was.
    pub file: String,
    pub definition: String,
}

/// What a database is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// Nothing is in it.
    Empty,
    /// A view.
    View(Meta),
    /// A database of somebody else.
    Foreign,
}

fn unreadable(what: String) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(0, rusqlite::types::Type::Text, what.into())
}

/// Looks at a database.
pub(super) fn found(conn: &Connection) -> Result<Found> {
    let sql = "SELECT count(*), count(*) FILTER (WHERE name = 'watershed_view') FROM sqlite_schema";
    let (all, ours): (i64, i64) = conn.query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?)))?;
    match (all, ours) {
        (0, _) => return Ok(Found::Empty),
        (_, 0) => return Ok(Found::Foreign),
        _ => {}
    }
    let sql = "SELECT name, fingerprint, build, file, definition FROM watershed_view WHERE id = 1";
    let meta = conn.query_row(sql, [], |row| {
        let fingerprint: String = row.get(1)?;
        let fingerprint = u64::from_str_radix(&fingerprint, 16);
        let fingerprint = fingerprint.map_err(|error| unreadable(format!("watershed_view: {error}")))?;
        Ok(Meta {
            name: row.get(0)?,
            fingerprint: Fingerprint(fingerprint),
            build: row.get(2)?,
            file: row.get(3)?,
            definition: row.get(4)?,
        })
    });
    Ok(meta.optional()?.map_or(Found::Foreign, Found::View))
}

/// Makes our tables, in the transaction that is open.
pub(super) fn install(conn: &Connection, meta: &Meta) -> Result<()> {
    conn.execute_batch(TABLES)?;
    conn.execute(
        "INSERT INTO watershed_view(id, name, fingerprint, build, file, definition) VALUES (1, ?1, ?2, ?3, ?4, ?5)",
        params![meta.name, meta.fingerprint.to_string(), meta.build, meta.file, meta.definition],
    )?;
    Ok(())
}

fn parsed(text: String) -> Result<Cursor> {
    text.parse().map_err(|error| unreadable(format!("watershed_view_cursor: {error}")))
}

/// Which build the database has, and how far it has come in that log.
pub(super) fn fence(conn: &Connection, log: LogId) -> Result<(i64, Option<Cursor>)> {
    let sql =
        "SELECT build, (SELECT cursor FROM watershed_view_cursor WHERE log = ?1) FROM watershed_view WHERE id = 1";
    let mut statement = conn.prepare_cached(sql)?;
    let (build, cursor): (i64, Option<String>) =
        statement.query_row([log.to_string()], |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok((build, cursor.map(parsed).transpose()?))
}

/// Stores how far a log was taken.
pub(super) fn set_cursor(conn: &Connection, cursor: Cursor) -> Result<()> {
    let sql = "INSERT INTO watershed_view_cursor(log, cursor) VALUES (?1, ?2)
               ON CONFLICT(log) DO UPDATE SET cursor = excluded.cursor";
    conn.prepare_cached(sql)?.execute([cursor.log.to_string(), cursor.to_string()])?;
    Ok(())
}

/// How far every partition has come, by log id.
pub(super) fn cursors(conn: &Connection) -> Result<Vec<Cursor>> {
    let mut statement = conn.prepare_cached("SELECT cursor FROM watershed_view_cursor ORDER BY log")?;
    statement.query_map([], |row| row.get(0))?.map(|text| parsed(text?)).collect()
}

/// Remembers that an entry was passed over.
pub(super) fn set_passed(conn: &Connection, cursor: Cursor) -> Result<()> {
    let sql = "INSERT OR IGNORE INTO watershed_view_passed(cursor, time) VALUES (?1, ?2)";
    conn.execute(sql, [cursor.to_string(), Timestamp::now().to_string()])?;
    Ok(())
}

/// What was ever passed over: cursors, and when.
pub(super) fn passed(conn: &Connection) -> Result<Vec<(Cursor, String)>> {
    let mut statement = conn.prepare("SELECT cursor, time FROM watershed_view_passed ORDER BY time, cursor")?;
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    rows.map(|row| row.and_then(|(cursor, time)| Ok((parsed(cursor)?, time)))).collect()
}

/// Takes over what an earlier build has passed over.
pub(super) fn keep_passed(conn: &Connection, cursor: Cursor, time: &str) -> Result<()> {
    let sql = "INSERT OR IGNORE INTO watershed_view_passed(cursor, time) VALUES (?1, ?2)";
    conn.execute(sql, [&cursor.to_string(), time])?;
    Ok(())
}
