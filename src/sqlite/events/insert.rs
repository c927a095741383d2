//! Events appended as `insert_events` does it.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use rusqlite::{Connection, OptionalExtension, TransactionBehavior};

use super::error::{failed, name};
use crate::model::{EventTime, limits};
use crate::sqlite::connect::{Access, connect};
use crate::view::{EventsError, EventsInsert, Trouble};

/// Appends events to a source in a file. Clones share one connection, and wait for each other: a file has one writer.
#[derive(Clone)]
pub struct SqliteEventsInsert {
    path: Arc<PathBuf>,
    conn: Arc<Mutex<Connection>>,
}

const TAKE_IDS: &str = "UPDATE id SET id = id + ?1 RETURNING id";
const INSERT: &str = "INSERT INTO events (id, ts, event) VALUES (?1, ?2, ?3)";
/// From 1970 to 2000.
const EPOCH_US: i64 = 946_684_800_000_000;

fn now() -> EventTime {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    EventTime(i64::try_from(since.as_micros()).unwrap_or(i64::MAX - 1) - EPOCH_US)
}

impl SqliteEventsInsert {
    /// Opens an existing file.
    ///
    /// # Errors
    /// It is not there, or no SQLite database.
    pub fn open(path: &Path) -> Result<SqliteEventsInsert, EventsError> {
        let conn = connect(path, Access::Write, limits::DATABASE_BUSY_TIMEOUT);
        let conn = conn.map_err(|error| failed(path, "opening", &error))?;
        Ok(SqliteEventsInsert { path: Arc::new(path.to_path_buf()), conn: Arc::new(Mutex::new(conn)) })
    }

    fn insert_now(&self, events: &[String]) -> Result<u64, EventsError> {
        let refused = |error| failed(&self.path, "inserting events", &error);
        let count = i64::try_from(events.len()).expect("a vector's length fits");
        let mut conn = self.conn.lock().unwrap_or_else(PoisonError::into_inner);
        let transaction = conn.transaction_with_behavior(TransactionBehavior::Immediate).map_err(refused)?;
        // After the lock: SQLite commits in this order, so times do not go back.
        let mut time = Vec::with_capacity(EventTime::TEXT_BYTES_MAX);
        now().put_text(&mut time);
        let time = String::from_utf8(time).expect("a time prints in ASCII");
        {
            let mut take = transaction.prepare_cached(TAKE_IDS).map_err(refused)?;
            let next = take.query_row([count], |row| row.get::<_, i64>(0)).optional().map_err(refused)?;
            let first = next.ok_or_else(|| self.no_next_id())? - count;
            let mut insert = transaction.prepare_cached(INSERT).map_err(refused)?;
            for (id, event) in (first..).zip(events) {
                insert.execute((id, &time, event)).map_err(refused)?;
            }
        }
        transaction.commit().map_err(refused)?;
        Ok(count.unsigned_abs())
    }

    fn no_next_id(&self) -> EventsError {
        EventsError {
            code: "WS-SQLITE-030",
            trouble: Trouble::Invalid,
            what: format!("{}: no events can be appended", name(&self.path)),
            why: "the table id has no row with the next id".into(),
            fix: "make the objects of a source: `watershed events init --role source`".into(),
        }
    }
}

#[async_trait]
impl EventsInsert for SqliteEventsInsert {
    async fn insert(&mut self, events: &[String]) -> Result<u64, EventsError> {
        if events.is_empty() {
            return Ok(0);
        }
        let (own, events) = (self.clone(), events.to_vec());
        let inserted = tokio::task::spawn_blocking(move || own.insert_now(&events)).await;
        inserted.expect("inserting does not panic, and its runtime waits for it")
    }
}
