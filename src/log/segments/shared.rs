//! What the writer, the readers and the background worker of one log share.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};

use tokio::sync::watch;

use super::Retention;
use super::queue::Queue;
use super::read::Buffers;
use super::reserve::Reserve;
use super::segment::Segment;
use super::storage::Storage;
use super::worker::Wake;
use super::writer::Writer;
use crate::log::ledger::{Delta, Ledger};
use crate::model::{Catalog, Position};

pub(super) struct Shared {
    pub storage: Arc<dyn Storage>,
    pub fsync: bool,
    pub retain: RwLock<Retention>,
    /// Nothing up to and including this position is given any more, though segments may still have it.
    pub hidden: AtomicU64,
    pub catalog: Arc<Catalog>,
    /// The log's state at the durable tail.
    pub state: RwLock<Ledger>,
    /// Oldest first, never empty.
    pub segments: RwLock<Vec<Arc<Segment>>>,
    pub tail: watch::Sender<Position>,
    pub queue: Queue,
    /// Nothing may be changed.
    pub read_only: bool,
    /// `None` once the log is closed, and where it is read-only.
    pub writer: Mutex<Option<Writer>>,
    pub reserve: Reserve,
    pub buffers: Buffers,
    pub worker: Wake,
    /// Nobody known needs positions up to and including this one.
    pub released: AtomicU64,
    pub torn_bytes: u64,
    pub closed: AtomicBool,
}

impl Shared {
    /// Must not be held while something is published.
    pub fn ledger(&self) -> RwLockReadGuard<'_, Ledger> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn writer(&self) -> MutexGuard<'_, Option<Writer>> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn segments(&self) -> RwLockReadGuard<'_, Vec<Arc<Segment>>> {
        self.segments.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn with_segments<R>(&self, f: impl FnOnce(&mut Vec<Arc<Segment>>) -> R) -> R {
        f(&mut self.segments.write().unwrap_or_else(PoisonError::into_inner))
    }

    /// What was written is durable: readers may see it.
    pub fn publish(&self, delta: Delta) {
        let tail = {
            let mut ledger = self.state.write().unwrap_or_else(PoisonError::into_inner);
            ledger.commit(delta, &self.catalog);
            ledger.tail
        };
        self.tail.send_if_modified(|known| std::mem::replace(known, tail) != tail);
    }

    /// See [`Shared::hidden`].
    pub fn hidden(&self) -> Position {
        Position(self.hidden.load(Ordering::Relaxed))
    }

    /// How long entries are kept.
    pub fn retention(&self) -> Retention {
        *self.retain.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn add_segment(&self, segment: Arc<Segment>) {
        self.with_segments(|segments| segments.push(segment));
    }

    /// Removes the segments after that one, the last first, so that a crash leaves no hole.
    pub fn remove_after(&self, last: &Arc<Segment>) -> io::Result<()> {
        loop {
            let Some(newest) = self.segments().last().cloned() else { return Ok(()) };
            if Arc::ptr_eq(&newest, last) {
                return Ok(());
            }
            match self.storage.remove(&newest.name) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                _ => self.storage.sync()?,
            }
            self.with_segments(|segments| segments.pop());
        }
    }

    /// The first position that can be read whole.
    pub fn oldest(&self) -> Position {
        let segments = self.segments();
        let (base, part) = segments.first().map(|first| first.base).unwrap_or_default();
        let there = if part > 0 { base.next() } else { base };
        there.max(self.hidden().next())
    }
}
