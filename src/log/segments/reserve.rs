//! Preallocated files: a full disk is met here, before anything of it is in use.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use super::segment::Segment;
use super::storage::{Storage, StoredFile};
use super::writer::failed;
use crate::log::AppendError;

/// A file that is being filled with zeroes, or waits to become the next segment.
const RESERVE: &str = "reserve.new";
/// A file that becomes a segment larger than usual.
const LARGE: &str = "large.new";
static ZEROES: [u8; 1 << 16] = [0; 1 << 16];

/// The next segment, prepared in the background.
pub(super) struct Reserve {
    storage: Arc<dyn Storage>,
    segment_bytes: u64,
    ready: Mutex<Option<Arc<dyn StoredFile>>>,
}

impl Reserve {
    pub fn new(storage: Arc<dyn Storage>, segment_bytes: u64) -> Reserve {
        Reserve { storage, segment_bytes, ready: Mutex::new(None) }
    }

    /// Prepares the next segment if there is none in reserve. Whoever needs one meanwhile waits.
    pub fn fill(&self) -> io::Result<()> {
        let mut ready = self.ready.lock().unwrap_or_else(PoisonError::into_inner);
        if ready.is_none() {
            *ready = Some(preallocate(self.storage.as_ref(), RESERVE, self.segment_bytes)?);
        }
        Ok(())
    }

    /// Makes the reserve (or a new file, where `needed` bytes are more than it has) a segment: `begin` writes the header,
    /// given the file's length. After an error nothing has changed.
    pub fn take(
        &self,
        needed: u64,
        begin: impl FnOnce(&dyn StoredFile, u64) -> io::Result<Segment>,
    ) -> Result<(Arc<dyn StoredFile>, Segment), AppendError> {
        let mut ready = self.ready.lock().unwrap_or_else(PoisonError::into_inner);
        let capacity = needed.max(self.segment_bytes);
        let storage = self.storage.as_ref();
        let full = |error: io::Error| match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                AppendError::DiskFull { place: storage.place(), needed: capacity }
            }
            _ => failed(error),
        };
        let (name, file) = match (capacity > self.segment_bytes, ready.take()) {
            (false, Some(file)) => (RESERVE, file),
            (false, None) => (RESERVE, preallocate(storage, RESERVE, capacity).map_err(full)?),
            (true, kept) => {
                *ready = kept;
                (LARGE, preallocate(storage, LARGE, capacity).map_err(full)?)
            }
        };
        let segment = begin(file.as_ref(), capacity).and_then(|segment| {
            storage.rename(name, &segment.name)?;
            storage.sync()?;
            Ok(segment)
        });
        Ok((file, segment.map_err(failed)?))
    }
}

/// A new file of zeroes that are really on disk. After an error there is none.
fn preallocate(storage: &dyn Storage, name: &str, bytes: u64) -> io::Result<Arc<dyn StoredFile>> {
    let fill = || {
        let file = storage.create(name)?;
        let mut offset = 0;
        while offset < bytes {
            let chunk = (bytes - offset).min(ZEROES.len() as u64);
            file.write_at(&ZEROES[..chunk as usize], offset)?;
            offset += chunk;
        }
        file.sync_data()?;
        storage.sync()?;
        Ok(file)
    };
    let file = fill();
    if file.is_err() {
        let _ = storage.remove(name);
    }
    file
}

/// Removes what a crash has left half made.
pub(super) fn sweep(storage: &dyn Storage) -> io::Result<()> {
    for name in storage.list()? {
        if name == RESERVE || name == LARGE {
            storage.remove(&name)?;
        }
    }
    Ok(())
}
