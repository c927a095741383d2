//! Whether the database is still the one that the log has read: never restored, replaced or trimmed by others.
//!
//! The log stores with each append a [`Place`]: the database's id, its mark, the number and checksum of the last change
//! read. The mark is drawn anew at every start and trim, and the one before is kept until the log has the new one.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use bytes::Bytes;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, OptionalExtension, Row};

use super::error::CaptureError;
use super::schema::{set_state, state};
use crate::model::{LogId, SourceCursor};

/// How far a database has been read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Place {
    /// Drawn when capture was installed.
    pub database: u128,
    /// As it was when the change was read.
    pub mark: u64,
    /// Inclusive: everything up to and including this change has been read.
    pub seq: i64,
    /// Over that change's row.
    pub check: u32,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sqlite1-{:032x}-{:016x}-{}-{:08x}", self.database, self.mark, self.seq, self.check)
    }
}

impl FromStr for Place {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let parse = || {
            let mut parts = text.strip_prefix("sqlite1-")?.split('-');
            let database = u128::from_str_radix(parts.next()?, 16).ok()?;
            let mark = u64::from_str_radix(parts.next()?, 16).ok()?;
            let seq = parts.next()?.parse().ok()?;
            let check = u32::from_str_radix(parts.next()?, 16).ok()?;
            Some(Place { database, mark, seq, check }).filter(|_| parts.next().is_none())
        };
        parse().ok_or_else(|| format!("not a place in a SQLite database: {:.80}", text.escape_debug()))
    }
}

impl From<Place> for SourceCursor {
    fn from(place: Place) -> Self {
        SourceCursor(Bytes::from(place.to_string()))
    }
}

impl TryFrom<&SourceCursor> for Place {
    type Error = String;
    fn try_from(cursor: &SourceCursor) -> Result<Self, String> {
        String::from_utf8_lossy(&cursor.0).parse()
    }
}

/// What the database says of itself.
#[derive(Clone, Debug)]
pub(crate) struct Facts {
    pub database: u128,
    pub log: String,
    pub mark: u64,
    pub mark_before: u64,
    /// Last change there is; 0 when there is none.
    pub newest: i64,
}

impl Facts {
    /// Reads them; `None` if capture is not (or only half) installed.
    pub(crate) fn read(conn: &Connection) -> rusqlite::Result<Option<Facts>> {
        let hex = |text: String| u64::from_str_radix(&text, 16).ok();
        let database = state(conn, "database")?.and_then(|text| u128::from_str_radix(&text, 16).ok());
        let (log, mark) = (state(conn, "log")?, state(conn, "mark")?.and_then(hex));
        let mark_before = state(conn, "mark_before")?.and_then(hex).unwrap_or_default();
        let newest = newest(conn)?;
        Ok(database.zip(log).zip(mark).map(|((database, log), mark)| Facts {
            database,
            log,
            mark,
            mark_before,
            newest,
        }))
    }

    /// The first facts, of a database that is captured from now on.
    pub(crate) fn draw(conn: &Connection, log: LogId) -> rusqlite::Result<Facts> {
        let database = rand::random::<u128>() | 1;
        set_state(conn, "database", &format!("{database:032x}"))?;
        set_state(conn, "log", &log.to_string())?;
        let mark = draw_mark(conn, 0)?;
        Ok(Facts { database, log: log.to_string(), mark, mark_before: 0, newest: newest(conn)? })
    }
}

/// Draws a new mark. `known` is the mark that the log is known to have.
pub(crate) fn draw_mark(conn: &Connection, known: u64) -> rusqlite::Result<u64> {
    let mark = rand::random::<u64>() | 1;
    set_state(conn, "mark", &format!("{mark:016x}"))?;
    set_state(conn, "mark_before", &format!("{known:016x}"))?;
    Ok(mark)
}

/// The last change there is; 0 when there is none.
pub(crate) fn newest(conn: &Connection) -> rusqlite::Result<i64> {
    let mut statement = conn.prepare_cached("SELECT coalesce(max(seq), 0) FROM watershed_changes")?;
    statement.query_row([], |row| row.get(0))
}

/// The first change there is; 0 when there is none.
pub(crate) fn oldest(conn: &Connection) -> rusqlite::Result<i64> {
    let mut statement = conn.prepare_cached("SELECT coalesce(min(seq), 0) FROM watershed_changes")?;
    statement.query_row([], |row| row.get(0))
}

/// Checks that the log's place is in this database's past, and that nothing after it is missing.
pub(crate) fn check(conn: &Connection, path: &Path, resume: Place, facts: &Facts) -> Result<(), CaptureError> {
    let fail = |error| CaptureError::sqlite(path, "comparing the log with the database", error);
    let restored = |why: &str| CaptureError::Restored {
        path: path.to_path_buf(),
        why: why.to_owned(),
        expected: resume.to_string(),
        found: Place { database: facts.database, mark: facts.mark, seq: facts.newest, check: 0 }.to_string(),
    };
    if facts.database != resume.database {
        return Err(restored("it is another database"));
    }
    if resume.seq > facts.newest {
        return Err(restored("changes that the log has are not in it"));
    }
    let oldest = oldest(conn).map_err(fail)?;
    let missing = "SELECT coalesce(max(seq) - min(seq) + 1 - count(*), 0) FROM watershed_changes WHERE seq >= ?1";
    let missing: i64 = conn.query_row(missing, [resume.seq.max(1)], |row| row.get(0)).map_err(fail)?;
    if oldest > resume.seq.max(1) || missing > 0 {
        return Err(CaptureError::Gap { path: path.to_path_buf(), read: resume.seq, oldest });
    }
    if resume.seq > 0 && checksum_at(conn, resume.seq).map_err(fail)? != Some(resume.check) {
        return Err(restored("the last change that the log has is another one in it"));
    }
    if resume.mark != facts.mark && resume.mark != facts.mark_before {
        return Err(restored("the log has never seen its mark"));
    }
    Ok(())
}

/// Over the row of that change; `None` if it is gone.
pub(crate) fn checksum_at(conn: &Connection, seq: i64) -> rusqlite::Result<Option<u32>> {
    let mut statement = conn.prepare("SELECT * FROM watershed_changes WHERE seq = ?1")?;
    let width = statement.column_count();
    statement.query_row([seq], |row| checksum(row, width)).optional()
}

/// Over a row of the change table. Trailing NULLs do not count, so it survives a widening.
pub(crate) fn checksum(row: &Row<'_>, width: usize) -> rusqlite::Result<u32> {
    let (mut sum, mut counted) = (0, 0);
    for index in 0..width {
        let value = row.get_ref(index)?;
        if value == ValueRef::Null {
            continue;
        }
        // The places of NULLs count through the numbers of the columns around them.
        sum = crc32c::crc32c_append(sum, &(index as u32 - counted).to_le_bytes());
        counted = index as u32;
        sum = match value {
            ValueRef::Null => sum,
            ValueRef::Integer(number) => crc32c::crc32c_append(sum, &number.to_le_bytes()),
            ValueRef::Real(number) => crc32c::crc32c_append(sum, &number.to_bits().to_le_bytes()),
            ValueRef::Text(bytes) | ValueRef::Blob(bytes) => crc32c::crc32c_append(sum, bytes),
        };
    }
    Ok(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_reads_back() {
        let place = Place { database: 7, mark: u64::MAX, seq: i64::MAX, check: 9 };
        assert_eq!(place.to_string().parse(), Ok(place));
        for text in ["", "sqlite1-", "sqlite1-0-0-0", "sqlite1-0-0-0-0-0", "é"] {
            assert!(text.parse::<Place>().is_err(), "{text}");
        }
    }
}
