//! A source filled with the events of a copy.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use rusqlite::{Connection, OptionalExtension};

use super::error::{failed, name};
use crate::model::limits;
use crate::sqlite::connect::{Access, connect};
use crate::view::{EventsError, EventsRestore, StoredEvent, Trouble};

/// Writes the events of a copy into a source, all in one transaction: a restore that was killed left nothing. While it
/// runs those who append wait.
pub struct SqliteEventsRestore(Arc<File>);

struct File {
    path: PathBuf,
    conn: Mutex<Connection>,
}

const FOUND: &str = "SELECT coalesce(max(id), 0) FROM events";
const NEXT: &str = "SELECT id FROM id";
const INSERT: &str = "INSERT INTO events (id, ts, event) VALUES (?1, ?2, ?3)";
/// The trigger `next_id` does the same, where it is there.
const SET_NEXT: &str = "UPDATE id SET id = ?1 + 1 WHERE id <= ?1";

impl SqliteEventsRestore {
    /// Opens an existing file.
    ///
    /// # Errors
    /// It is not there, or no SQLite database.
    pub fn open(path: &Path) -> Result<SqliteEventsRestore, EventsError> {
        let conn = connect(path, Access::Write, limits::DATABASE_BUSY_TIMEOUT);
        let conn = Mutex::new(conn.map_err(|error| failed(path, "opening", &error))?);
        Ok(SqliteEventsRestore(Arc::new(File { path: path.to_path_buf(), conn })))
    }

    /// Does blocking work beside the runtime.
    async fn ask<T: Send + 'static>(
        &self,
        work: impl FnOnce(&File, &Connection) -> Result<T, EventsError> + Send + 'static,
    ) -> Result<T, EventsError> {
        let file = Arc::clone(&self.0);
        let asked = tokio::task::spawn_blocking(move || {
            let conn = file.conn.lock().unwrap_or_else(PoisonError::into_inner);
            work(&file, &conn)
        });
        asked.await.expect("restoring does not panic, and its runtime waits for it")
    }
}

impl File {
    fn failed(&self) -> impl Fn(rusqlite::Error) -> EventsError + '_ {
        |error| failed(&self.path, "restoring events", &error)
    }

    /// The last event and the next id.
    fn look(&self, conn: &Connection) -> Result<(i64, i64), EventsError> {
        let found = conn.query_row(FOUND, [], |row| row.get(0)).map_err(self.failed())?;
        let next = conn.query_row(NEXT, [], |row| row.get(0)).optional().map_err(self.failed())?;
        Ok((found, next.unwrap_or(1)))
    }

    fn changed(&self, why: String) -> EventsError {
        EventsError {
            code: "WS-SQLITE-031",
            trouble: Trouble::Operator,
            what: format!("{}: the source is not as it was, or gave ids that have no events", name(&self.path)),
            why,
            fix: "stop whoever appends to it; or restore into a new source: `watershed events init --role source`"
                .into(),
        }
    }
}

#[async_trait]
impl EventsRestore for SqliteEventsRestore {
    async fn begin(&mut self, after: i64, _last: i64) -> Result<(), EventsError> {
        let begin = move |file: &File, conn: &Connection| {
            conn.execute_batch("BEGIN IMMEDIATE").map_err(file.failed())?;
            let (found, next) = file.look(conn)?;
            if found != after || next > after.saturating_add(1) {
                let why = format!("its last event was {after}; now it is {found}, and the next id is {next}");
                return Err(file.changed(why));
            }
            Ok(())
        };
        self.ask(begin).await
    }

    async fn put(&mut self, events: Vec<StoredEvent>) -> Result<(), EventsError> {
        let put = move |file: &File, conn: &Connection| {
            let mut insert = conn.prepare_cached(INSERT).map_err(file.failed())?;
            for event in events {
                let text = std::str::from_utf8(&event.json);
                let text = text.map_err(|error| file.changed(format!("event {} is not text: {error}", event.id)))?;
                insert.execute((event.id, event.time.to_string(), text)).map_err(file.failed())?;
            }
            Ok(())
        };
        self.ask(put).await
    }

    async fn commit(&mut self) -> Result<(), EventsError> {
        self.ask(|file, conn| conn.execute_batch("COMMIT").map_err(file.failed())).await
    }

    async fn open_after(&mut self, last: i64) -> Result<i64, EventsError> {
        let open = move |file: &File, conn: &Connection| {
            conn.execute_batch("BEGIN IMMEDIATE").map_err(file.failed())?;
            conn.execute(SET_NEXT, [last]).map_err(file.failed())?;
            let (found, next) = file.look(conn)?;
            conn.execute_batch("COMMIT").map_err(file.failed())?;
            match found < last || next <= last {
                true => Err(file.changed(format!("its last event is {found}, expected {last}; the next id is {next}"))),
                false => Ok(next),
            }
        };
        self.ask(open).await
    }
}
