//! What tells that there are new events: a thread that looks whether the database has changed.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use rusqlite::Connection;
use tokio::sync::watch;

use super::error::failed;
use crate::model::{Position, limits};
use crate::sqlite::connect::{Access, connect};
use crate::sqlite::error::is_busy;
use crate::sqlite::identity::FileId;
use crate::view::EventsError;

/// Keeps the tail while it lives.
pub(super) struct Watch {
    tail: watch::Receiver<Position>,
    broken: Arc<Mutex<Option<String>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

struct Look {
    path: PathBuf,
    file: FileId,
    conn: Connection,
    data_version: Option<i64>,
    tail: watch::Sender<Position>,
    stop: Arc<AtomicBool>,
}

impl Watch {
    /// Looks for the first time, and goes on until it is dropped.
    pub(super) fn start(path: &Path, file: FileId) -> Result<Watch, EventsError> {
        let looking = |error| failed(path, "looking for events", &error);
        let conn = connect(path, Access::Read, limits::CAPTURE_BUSY_TIMEOUT).map_err(looking)?;
        let (sender, tail) = watch::channel(Position::ZERO);
        let (stop, broken) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(None)));
        let mut look =
            Look { path: path.to_path_buf(), file, conn, data_version: None, tail: sender, stop: Arc::clone(&stop) };
        look.once().map_err(looking)?;
        let told = Arc::clone(&broken);
        let watching = std::thread::Builder::new().name("events-watch".into()).spawn(move || {
            if let Err(why) = look.on() {
                *told.lock().unwrap_or_else(PoisonError::into_inner) = Some(why);
                // Wakes who waits for the tail, to find what is broken.
                look.tail.send_modify(|_| {});
            }
        });
        let lost = |error| looking(rusqlite::Error::ToSqlConversionFailure(Box::new(error)));
        Ok(Watch { tail, broken, stop, thread: Some(watching.map_err(lost)?) })
    }

    pub(super) fn tail(&self) -> watch::Receiver<Position> {
        self.tail.clone()
    }

    /// Why no further event will be seen.
    pub(super) fn broken(&self) -> Option<String> {
        self.broken.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            let _ = thread.join();
        }
    }
}

impl Look {
    /// Until it is stopped (`Ok`) or cannot go on.
    fn on(&mut self) -> Result<(), String> {
        let (mut moved, mut checked) = (Instant::now(), Instant::now());
        while !self.stop.load(Ordering::Relaxed) {
            match self.once() {
                Ok(true) => moved = Instant::now(),
                Ok(false) => {}
                Err(error) if is_busy(&error) => {}
                Err(error) => return Err(format!("{}: looking for events: {error}", self.path.display())),
            }
            if checked.elapsed() >= limits::CAPTURE_FILE_INTERVAL {
                checked = Instant::now();
                if FileId::of(&self.path).ok() != Some(self.file) {
                    return Err(format!("{} was replaced or removed", self.path.display()));
                }
            }
            let quiet = moved.elapsed() >= limits::CAPTURE_QUIET_AFTER;
            std::thread::park_timeout(match quiet {
                true => limits::CAPTURE_QUIET_INTERVAL,
                false => limits::CAPTURE_POLL_INTERVAL,
            });
        }
        Ok(())
    }

    /// Whether the database has changed; then the tail is what it is now.
    fn once(&mut self) -> rusqlite::Result<bool> {
        let version = self.conn.prepare_cached("PRAGMA data_version")?.query_row([], |row| row.get(0))?;
        if self.data_version == Some(version) {
            return Ok(false);
        }
        let newest = "SELECT coalesce(max(id), 0) FROM events";
        let newest: i64 = self.conn.prepare_cached(newest)?.query_row([], |row| row.get(0))?;
        self.data_version = Some(version);
        let position = Position(newest.max(0) as u64);
        self.tail.send_if_modified(|tail| std::mem::replace(tail, position) != position);
        Ok(true)
    }
}
