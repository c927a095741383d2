//! An events table as a source.
//!
//! An entry is what one transaction appended: neighbours with one `ts`. Its position is its greatest id. SQLite has one
//! writer at a time, so ids commit in their order, and a read sees whole transactions only.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use rusqlite::Connection;
use sha2::{Digest, Sha256};
use tokio::sync::watch;

use super::error::failed;
use super::gather::Gathering;
use super::inspect::event_of;
use super::watch::Watch;
use crate::log::{Limit, Source, SourceError};
use crate::model::{Batch, Catalog, Cursor, Epoch, EventTime, LogId, Position, ReadFrom, events_table, limits};
use crate::sqlite::connect::{Access, connect};
use crate::sqlite::error::is_busy;
use crate::sqlite::identity::FileId;
use crate::view::EventsError;

const AFTER: &str = "SELECT id, ts, event FROM events WHERE id > ?1 ORDER BY id";

/// An events table in a file, read in the order of its ids.
pub struct SqliteEventsSource {
    id: LogId,
    catalog: Arc<Catalog>,
    watch: Watch,
    reader: Arc<Mutex<Reader>>,
}

struct Reader {
    path: PathBuf,
    file: FileId,
    conn: Connection,
    /// Where the last read that ended in the middle of a transaction goes on, and the event before it.
    rest: Option<(ReadFrom, (i64, EventTime))>,
}

impl SqliteEventsSource {
    /// Opens an existing file twice: to read it, and (on a thread of its own) to see when it changes.
    ///
    /// # Errors
    /// It is not there, is no database, or has no such table.
    pub async fn open(path: &Path) -> Result<SqliteEventsSource, EventsError> {
        let owned = path.to_path_buf();
        let opened = tokio::task::spawn_blocking(move || SqliteEventsSource::open_blocking(&owned));
        opened.await.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
    }

    fn open_blocking(path: &Path) -> Result<SqliteEventsSource, EventsError> {
        let opening = |error| failed(path, "opening", &error);
        let conn = connect(path, Access::Read, limits::DATABASE_BUSY_TIMEOUT).map_err(opening)?;
        let lost = |error| opening(rusqlite::Error::ToSqlConversionFailure(Box::new(error)));
        let file = FileId::of(path).map_err(lost)?;
        conn.prepare_cached(AFTER).map_err(|error| failed(path, "preparing to read events", &error))?;
        let reader = Reader { path: path.to_path_buf(), file, conn, rest: None };
        let watch = Watch::start(path, file)?;
        let catalog = Arc::new(Catalog::default());
        catalog.add(events_table());
        Ok(SqliteEventsSource { id: id_of(path, file), catalog, watch, reader: Arc::new(Mutex::new(reader)) })
    }
}

/// The same whenever the same file is opened, however its path is written.
fn id_of(path: &Path, file: FileId) -> LogId {
    let absolute = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf());
    let digest = Sha256::digest(format!("{file:?} {}", absolute.display()));
    let (front, _) = digest.split_first_chunk::<16>().expect("a digest has 32 bytes");
    LogId(u128::from_be_bytes(*front) | 1)
}

impl Reader {
    fn read(&mut self, from: ReadFrom, limit: Limit) -> Result<Gathering, SourceError> {
        match FileId::of(&self.path) {
            Ok(file) if file == self.file => {}
            Ok(_) => return Err(SourceError::Io(io::Error::other(format!("{:?} was replaced", self.path)))),
            Err(error) => return Err(SourceError::Io(error)),
        }
        let before = match (from.part, self.rest.take()) {
            (0, _) => (from.after.0 as i64, EventTime::default()),
            (_, Some((at, before))) if at == from => before,
            (parts, _) => self.after_parts(from.after, parts)?,
        };
        let gathering = self.gather(from, before, limit)?;
        if gathering.next.part > 0 {
            self.rest = Some((gathering.next, gathering.put));
        }
        Ok(gathering)
    }

    /// The last event of so many parts of the transaction after `after`.
    fn after_parts(&self, after: Position, parts: u32) -> Result<(i64, EventTime), SourceError> {
        let (mut from, mut before) = (ReadFrom::from(after), (after.0 as i64, EventTime::default()));
        for part in 1..=parts {
            let gathering = self.gather(from, before, Limit { bytes: 1, entries: 1 })?;
            if gathering.next != (ReadFrom { after, part }) {
                let why = format!("the transaction after {after} has no part {part} any more");
                return Err(SourceError::Io(io::Error::other(why)));
            }
            (from, before) = (gathering.next, gathering.put);
        }
        Ok(before)
    }

    fn gather(&self, from: ReadFrom, before: (i64, EventTime), limit: Limit) -> Result<Gathering, SourceError> {
        let mut gathering = Gathering::new(from, before, limit);
        let mut statement = self.conn.prepare_cached(AFTER).map_err(|error| self.failed(error))?;
        let mut rows = statement.query([before.0]).map_err(|error| self.failed(error))?;
        while let Some(row) = rows.next().map_err(|error| self.failed(error))? {
            let event = event_of(row).map_err(|error| self.failed(error))?;
            let event = event.map_err(|why| SourceError::Damaged {
                place: self.path.display().to_string(),
                offset: row.get::<_, i64>(0).unwrap_or_default() as u64,
                why,
            })?;
            if !gathering.add(event) {
                return Ok(gathering);
            }
        }
        gathering.close();
        Ok(gathering)
    }

    fn failed(&self, error: rusqlite::Error) -> SourceError {
        let doing = if is_busy(&error) { "locked while reading events" } else { "reading events" };
        SourceError::Io(io::Error::other(format!("{}: {doing}: {error}", self.path.display())))
    }
}

#[async_trait]
impl Source for SqliteEventsSource {
    fn id(&self) -> LogId {
        self.id
    }

    fn tail(&self) -> watch::Receiver<Position> {
        self.watch.tail()
    }

    fn catalog(&self) -> Arc<Catalog> {
        Arc::clone(&self.catalog)
    }

    async fn read(&self, from: ReadFrom, limit: Limit) -> Result<Batch, SourceError> {
        if let Some(broken) = self.watch.broken() {
            return Err(SourceError::Io(io::Error::other(broken)));
        }
        let reader = Arc::clone(&self.reader);
        let read = tokio::task::spawn_blocking(move || {
            let gathered = reader.lock().unwrap_or_else(PoisonError::into_inner).read(from, limit)?;
            Ok((gathered.next, gathered.finish()))
        });
        let (next, entries) = read.await.unwrap_or_else(|error| Err(SourceError::Io(io::Error::other(error))))?;
        let upto = Cursor { log: self.id, epoch: Epoch(0), position: next.after };
        Ok(Batch { entries, upto, next, catalog: Arc::clone(&self.catalog) })
    }

    async fn release(&self, _upto: Position) -> Result<(), SourceError> {
        Ok(())
    }
}
