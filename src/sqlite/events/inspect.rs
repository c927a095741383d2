//! What an events table is: columns, objects, counts, the first event.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use rusqlite::{Connection, OptionalExtension, Row};

use super::compare;
use super::error::{failed, name, not_an_event, other_columns};
use crate::model::{Event, EventTime, limits};
use crate::sqlite::connect::{Access, connect};
use crate::sqlite::identity::FileId;
use crate::view::{ChunkDigest, EventIds, EventsError, EventsFacts, EventsTable, StoredEvent, Trouble};

/// An events table that is asked, over a connection of its own. It never writes.
pub struct SqliteEventsTable {
    shown: String,
    file: File,
}

/// The connection, for work that may take its time.
#[derive(Clone)]
pub(super) struct File {
    path: PathBuf,
    conn: Arc<Mutex<Connection>>,
}

const COUNTS: &str = "SELECT count(*), coalesce(max(id), 0) FROM events";
const FIRST: &str = "SELECT id, ts, event FROM events ORDER BY id LIMIT 1";
const BY_ID: &str = "SELECT id, ts, event FROM events WHERE id = ?1";
const OBJECTS: &str = "SELECT DISTINCT name FROM sqlite_schema WHERE (type = 'table' AND name = 'id') \
    OR (type = 'trigger' AND tbl_name = 'events' AND (name LIKE 'check_sql_command%' OR name = 'next_id')) ORDER BY name";
/// What a source has, besides `id`.
const SOURCE_OBJECTS: [&str; 3] = ["id", "check_sql_command_update", "check_sql_command_delete"];
/// Whether ids are the rows' own numbers or under a unique index of theirs alone.
const KEY: &str = "SELECT EXISTS (SELECT 1 FROM pragma_table_info('events') WHERE name = 'id' AND pk = 1) \
    AND NOT EXISTS (SELECT 1 FROM pragma_table_info('events') WHERE pk > 1) \
    OR EXISTS (SELECT 1 FROM pragma_index_list('events') AS l WHERE l.\"unique\" = 1 AND l.partial = 0 AND \
        (SELECT group_concat(name) FROM pragma_index_info(l.name)) = 'id')";

/// The event in a row of `id, ts, event`, borrowed; the inner error says what it is not.
pub(super) fn event_of<'a>(row: &'a Row<'_>) -> rusqlite::Result<Result<Event<'a>, String>> {
    let id: i64 = match row.get_ref(0)?.as_i64() {
        Ok(id) => id,
        Err(_) => return Ok(Err(format!("its id is {:?}", row.get_ref(0)?))),
    };
    let (Ok(time), Ok(json)) = (row.get_ref(1)?.as_bytes(), row.get_ref(2)?.as_bytes()) else {
        return Ok(Err(format!("id {id}: ts and event are texts")));
    };
    let event = EventTime::parse(time).map(|time| Event { id, time, json });
    Ok(event.map_err(|error| format!("id {id}: {error}")))
}

/// The same, owned.
pub(super) fn stored(row: &Row<'_>) -> rusqlite::Result<Result<StoredEvent, String>> {
    let event = event_of(row)?;
    Ok(event.map(|event| StoredEvent { id: event.id, time: event.time, json: event.json.into() }))
}

impl File {
    /// An error of SQLite, with what was tried.
    pub(super) fn failed(&self, doing: &'static str) -> impl Fn(rusqlite::Error) -> EventsError + '_ {
        move |error| failed(&self.path, doing, &error)
    }

    /// A row as an event.
    pub(super) fn event(&self, row: &Row<'_>) -> Result<StoredEvent, EventsError> {
        let stored = stored(row).map_err(self.failed("reading events"))?;
        stored.map_err(|why| not_an_event(&self.path, why))
    }

    /// Does blocking work with the connection, beside the runtime.
    async fn ask<T: Send + 'static>(
        &self,
        work: impl FnOnce(&File, &Connection) -> Result<T, EventsError> + Send + 'static,
    ) -> Result<T, EventsError> {
        let file = self.clone();
        let asked = tokio::task::spawn_blocking(move || {
            let conn = file.conn.lock().unwrap_or_else(PoisonError::into_inner);
            let transaction = conn.unchecked_transaction().map_err(file.failed("beginning"))?;
            work(&file, &transaction)
        });
        asked.await.unwrap_or_else(|error| Err(broken(&self.path, &error)))
    }

    fn check_shape(&self, conn: &Connection) -> Result<(), EventsError> {
        let failed = self.failed("looking at the table events");
        let sql = "SELECT name || ' ' || upper(type) FROM pragma_table_info('events') ORDER BY name";
        let mut statement = conn.prepare(sql).map_err(&failed)?;
        let columns = statement.query_map([], |row| row.get(0)).map_err(&failed)?;
        let columns: Vec<String> = columns.collect::<Result<_, _>>().map_err(&failed)?;
        let [event, id, ts] = &columns[..] else {
            // A table that is not there has no columns; SQLite's own words are better.
            conn.query_row(COUNTS, [], |_| Ok(())).map_err(failed)?;
            let why = format!("expected event, id and ts; found {}", columns.join(", "));
            return Err(other_columns(&self.path, why));
        };
        // Texts must stay what they are: any other affinity would make a number of an event that is one.
        // (sqlite.org/datatype3.html#determination_of_column_affinity)
        let text = |column: &str, name: &str| {
            let kind = column.strip_prefix(name).unwrap_or_default();
            !kind.contains("INT") && ["CHAR", "CLOB", "TEXT"].iter().any(|part| kind.contains(part))
        };
        let whole = id.strip_prefix("id ").is_some_and(|kind| kind.contains("INT"));
        if !whole || !text(ts, "ts ") || !text(event, "event ") {
            let why = format!("expected id INTEGER, ts TEXT and event TEXT; found {}", columns.join(", "));
            return Err(other_columns(&self.path, why));
        }
        Ok(())
    }

    fn objects(&self, conn: &Connection, facts: &mut EventsFacts) -> Result<(), EventsError> {
        let failed = self.failed("looking at the table events");
        let mut statement = conn.prepare(OBJECTS).map_err(&failed)?;
        let names = statement.query_map([], |row| row.get(0)).map_err(&failed)?;
        facts.source_objects = names.collect::<Result<_, _>>().map_err(&failed)?;
        let has = |wanted: &str| facts.source_objects.iter().any(|name| name == wanted);
        facts.ids = has("id").then_some(EventIds::Table);
        facts.missing_objects = SOURCE_OBJECTS.iter().filter(|name| !has(name)).map(ToString::to_string).collect();
        Ok(())
    }

    fn facts(&self, conn: &Connection) -> Result<EventsFacts, EventsError> {
        let failed = self.failed("looking at the table events");
        self.check_shape(conn)?;
        let id = FileId::of(&self.path).map_err(|error| broken(&self.path, &error))?;
        let mut facts = EventsFacts { identity: format!("sqlite:{id:?}"), ..EventsFacts::default() };
        facts.insert_refused = writable(&self.path).err();
        facts.has_key = conn.query_row(KEY, [], |row| row.get(0)).map_err(&failed)?;
        self.objects(conn, &mut facts)?;
        let counts = conn.query_row(COUNTS, [], |row| Ok((row.get(0)?, row.get(1)?)));
        (facts.count, facts.max_id) = counts.map_err(&failed)?;
        let first = conn.query_row(FIRST, [], stored).optional().map_err(failed)?;
        facts.first = first.transpose().map_err(|why| not_an_event(&self.path, why))?;
        Ok(facts)
    }
}

/// Whether this user may write the file and its folder (for the journal); nothing is changed.
fn writable(path: &Path) -> Result<(), String> {
    let file = std::fs::OpenOptions::new().append(true).open(path);
    file.map(drop).map_err(|error| format!("the file cannot be written: {error}"))
}

fn broken(path: &Path, error: &dyn std::fmt::Display) -> EventsError {
    EventsError {
        code: "WS-SQLITE-019",
        trouble: Trouble::Failure,
        what: format!("{}: the table events cannot be looked at", name(path)),
        why: error.to_string(),
        fix: "report it".into(),
    }
}

impl SqliteEventsTable {
    /// Opens an existing file.
    ///
    /// # Errors
    /// It is not there, or no SQLite database.
    pub async fn open(path: &Path) -> Result<SqliteEventsTable, EventsError> {
        let owned = path.to_path_buf();
        let opened = tokio::task::spawn_blocking(move || {
            connect(&owned, Access::Read, limits::DATABASE_BUSY_TIMEOUT)
                .map_err(|error| failed(&owned, "opening", &error))
        });
        let conn = opened.await.unwrap_or_else(|error| Err(broken(path, &error)))?;
        let file = File { path: path.to_path_buf(), conn: Arc::new(Mutex::new(conn)) };
        Ok(SqliteEventsTable { shown: name(path), file })
    }
}

#[async_trait]
impl EventsTable for SqliteEventsTable {
    fn name(&self) -> &str {
        &self.shown
    }

    fn digest_kind(&self) -> &str {
        "sqlite"
    }

    async fn facts(&mut self) -> Result<EventsFacts, EventsError> {
        self.file.ask(File::facts).await
    }

    async fn events(&mut self, ids: &[i64]) -> Result<Vec<StoredEvent>, EventsError> {
        let mut ids = ids.to_vec();
        ids.sort_unstable();
        ids.dedup();
        let read = move |file: &File, conn: &Connection| {
            let mut statement = conn.prepare_cached(BY_ID).map_err(file.failed("reading events"))?;
            let mut events = Vec::new();
            for id in ids {
                let mut rows = statement.query([id]).map_err(file.failed("reading events"))?;
                while let Some(row) = rows.next().map_err(file.failed("reading events"))? {
                    events.push(file.event(row)?);
                }
            }
            Ok(events)
        };
        self.file.ask(read).await
    }

    async fn range(&mut self, first: i64, last: i64, limit: u32) -> Result<Vec<StoredEvent>, EventsError> {
        self.file.ask(move |file, conn| compare::range(file, conn, first, last, limit)).await
    }

    async fn digests(&mut self, first: i64, last: i64, width: i64) -> Result<Vec<ChunkDigest>, EventsError> {
        self.file.ask(move |file, conn| compare::digests(file, conn, first, last, width)).await
    }

    async fn torn(&mut self, first: i64, last: i64, limit: u32) -> Result<Vec<i64>, EventsError> {
        self.file.ask(move |file, conn| compare::torn(file, conn, first, last, limit)).await
    }
}
