//! Events written with their cursor, in one commit.

use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{Connection, ErrorCode, ToSql};

use super::indexes::Indexes;
use super::view::SqliteEventsOptions;
use crate::model::{
    CodecError, Cursor, Epoch, Event, EventTime, LogId, Logged, Position, events_table, limits, scan_events,
};
use crate::sqlite::connect::{Access, connect};
use crate::sqlite::error::is_busy;
use crate::sqlite::identity::FileId;
use crate::view::{EventIds, ViewError};

/// A commit that is lost in a crash of the machine is read again, because the cursor is lost with it: so it need not be
/// waited for until it is on disk. (<https://sqlite.org/pragma.html#pragma_synchronous>: in WAL mode nothing is damaged.)
const SETTINGS: &str = "PRAGMA synchronous = NORMAL; PRAGMA cache_size = -16384";
const NEWEST: &str = "SELECT coalesce(max(id), 0) FROM events";
const INSERT: &str = "INSERT INTO events (id, ts, event) VALUES (?1, ?2, ?3)";
const CURSOR_TABLE: &str = "CREATE TABLE IF NOT EXISTS watershed_events_cursor \
     (one INTEGER PRIMARY KEY CHECK (one = 1), \"transaction\" INTEGER NOT NULL)";
const CURSOR: &str = "SELECT coalesce(max(\"transaction\"), 0) FROM watershed_events_cursor";
const ADVANCE: &str = "INSERT INTO watershed_events_cursor VALUES (1, ?1) \
     ON CONFLICT (one) DO UPDATE SET \"transaction\" = excluded.\"transaction\"";

/// An entry's events, or those of one part.
pub(super) struct Part {
    position: Position,
    more: bool,
    changes: Bytes,
}

impl Part {
    pub(super) fn of(logged: &Logged) -> Part {
        let more = logged.entry.header().more;
        Part { position: logged.position, more, changes: logged.entry.changes_bytes().clone() }
    }
}

/// Writes events into one destination. All calls block.
pub(super) struct Writer {
    path: PathBuf,
    file: FileId,
    source: LogId,
    options: SqliteEventsOptions,
    conn: Connection,
    indexes: Indexes,
    position: Position,
    /// Whether a transaction has been begun whose end has not come.
    open: bool,
}

/// What goes wrong while entries become rows.
enum WriteError {
    Codec(CodecError),
    Sqlite(rusqlite::Error),
    Moved(Position),
    File(io::Error),
    Replaced,
}

impl From<CodecError> for WriteError {
    fn from(error: CodecError) -> Self {
        WriteError::Codec(error)
    }
}

impl From<rusqlite::Error> for WriteError {
    fn from(error: rusqlite::Error) -> Self {
        WriteError::Sqlite(error)
    }
}

/// A text that need not be looked at.
struct Text<'a>(&'a [u8]);

impl ToSql for Text<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(ValueRef::Text(self.0)))
    }
}

impl Writer {
    pub(super) fn open(path: &Path, source: LogId, options: SqliteEventsOptions) -> rusqlite::Result<Writer> {
        let conn = connect(path, Access::Write, limits::DATABASE_BUSY_TIMEOUT)?;
        conn.execute_batch(SETTINGS)?;
        let file = FileId::of(path).map_err(|error| rusqlite::Error::ToSqlConversionFailure(Box::new(error)))?;
        if options.ids == EventIds::Sequence {
            conn.execute_batch(CURSOR_TABLE)?;
        }
        conn.prepare_cached(INSERT)?;
        let indexes = Indexes::look(&conn)?;
        let mut writer = Writer {
            path: path.to_path_buf(),
            file,
            source,
            options,
            conn,
            indexes,
            position: Position::ZERO,
            open: false,
        };
        writer.position = writer.stored_position()?;
        Ok(writer)
    }

    /// How far the table had come after the last commit.
    pub(super) fn position(&self) -> Position {
        self.position
    }

    fn stored_position(&self) -> rusqlite::Result<Position> {
        let sql = if self.options.ids == EventIds::Table { NEWEST } else { CURSOR };
        let position: i64 = self.conn.prepare_cached(sql)?.query_row([], |row| row.get(0))?;
        Ok(Position(position.max(0) as u64))
    }

    /// Writes parts in transactions of at most so many events as the options say; what is at or below the cursor is
    /// there already. `goes_on`: the last part is not the last of its transaction.
    pub(super) fn write(&mut self, parts: Vec<Part>, goes_on: bool) -> Result<(), ViewError> {
        let begun_before = self.open;
        if !self.open {
            let bytes: usize = parts.iter().map(|part| part.changes.len()).sum();
            let is_much = goes_on || bytes >= limits::EVENTS_INDEXES_LATER_BYTES_MIN;
            match is_much {
                // Few at a time: the copying is over, though the source never rests.
                false => self.build_indexes()?,
                true if self.position == Position::ZERO => {
                    self.indexes.put_off(&mut self.conn, &self.path).map_err(|error| self.view_error(error.into()))?;
                }
                true => {}
            }
        }
        let written = self.write_parts(&parts);
        written.map_err(|error| {
            if !self.conn.is_autocommit() {
                let _ = self.conn.execute_batch("ROLLBACK");
            }
            self.open = false;
            let error = self.view_error(error);
            match error {
                // What came with earlier batches is gone with it, so that it must be read again.
                ViewError::Retry(why) if begun_before => ViewError::Lost(why),
                error => error,
            }
        })
    }

    /// Builds the indexes that were put off, if any.
    pub(super) fn build_indexes(&mut self) -> Result<(), ViewError> {
        if self.open {
            return Ok(());
        }
        self.indexes.build(&mut self.conn, &self.path).map_err(|error| self.view_error(error.into()))
    }

    fn write_parts(&mut self, parts: &[Part]) -> Result<(), WriteError> {
        let mut rows = 0;
        let mut last = self.position;
        for part in parts {
            if !self.open && part.position <= self.position {
                continue;
            }
            let own = count(&part.changes)?;
            let is_alone = part.more || rows + own > self.options.events_per_write_max;
            if rows > 0 && is_alone && !self.open {
                self.commit(last)?;
                rows = 0;
            }
            if self.conn.is_autocommit() {
                self.begin()?;
            }
            self.insert(&part.changes)?;
            (rows, last) = (rows + own, part.position);
            if self.open && !part.more {
                self.commit(last)?;
                rows = 0;
            }
            self.open = part.more;
        }
        match self.open || self.conn.is_autocommit() {
            true => Ok(()),
            false => self.commit(last),
        }
    }

    /// Begins a transaction, and compares the cursor under its lock.
    fn begin(&mut self) -> Result<(), WriteError> {
        // A file that was moved away would take everything, and nobody would ever see it.
        if FileId::of(&self.path).map_err(WriteError::File)? != self.file {
            return Err(WriteError::Replaced);
        }
        self.conn.execute_batch("BEGIN IMMEDIATE")?;
        let found = self.stored_position()?;
        if found != self.position {
            return Err(WriteError::Moved(found));
        }
        Ok(())
    }

    fn insert(&self, changes: &[u8]) -> Result<(), WriteError> {
        let mut insert = self.conn.prepare_cached(INSERT)?;
        let mut time = Vec::with_capacity(EventTime::TEXT_BYTES_MAX);
        scan_events(changes, |event: Event<'_>| {
            time.clear();
            event.time.put_text(&mut time);
            insert.execute((event.id, Text(&time), Text(event.json)))?;
            Ok(())
        })
    }

    fn commit(&mut self, to: Position) -> Result<(), WriteError> {
        if self.options.ids == EventIds::Sequence {
            self.conn.prepare_cached(ADVANCE)?.execute([to.0 as i64])?;
        }
        self.conn.execute_batch("COMMIT")?;
        self.position = to;
        Ok(())
    }

    fn view_error(&self, error: WriteError) -> ViewError {
        let cursor = |position| Some(Cursor { log: self.source, epoch: Epoch(0), position });
        let name = self.path.display();
        match error {
            WriteError::Codec(error) => ViewError::Failed(error.to_string()),
            WriteError::Moved(found) => ViewError::Fenced { expected: cursor(self.position), found: cursor(found) },
            WriteError::File(error) => ViewError::Lost(format!("{name}: {error}")),
            WriteError::Replaced => ViewError::Lost(format!("{name} was replaced by another file")),
            WriteError::Sqlite(error) if is_busy(&error) => {
                ViewError::Retry(format!("{name} is locked by another process: {error}"))
            }
            WriteError::Sqlite(error) => match error.sqlite_error_code() {
                Some(ErrorCode::DiskFull | ErrorCode::SystemIoFailure | ErrorCode::OutOfMemory) => {
                    ViewError::Retry(format!("{name} cannot be written: {error}"))
                }
                Some(ErrorCode::ConstraintViolation) => ViewError::Table {
                    table: events_table().name.clone(),
                    position: self.position,
                    why: format!("after it, an event has no place in {name}: {error}"),
                },
                _ => ViewError::Failed(format!("{name}: writing events failed: {error}")),
            },
        }
    }
}

/// Events in encoded changes.
fn count(changes: &[u8]) -> Result<usize, CodecError> {
    let mut rows = 0;
    scan_events(changes, |_| -> Result<(), CodecError> {
        rows += 1;
        Ok(())
    })?;
    Ok(rows)
}
