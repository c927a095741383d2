//! Storage in memory that loses what was not synced, tears and reorders pages, and fails when told to.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::log::segments::{Lock, Storage, StoredFile};

/// Pages reach the medium whole or not at all, in any order.
const PAGE: usize = 512;

/// What goes wrong next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A sync fails; some of what was written reaches the medium, and the system forgets which.
    Sync,
    /// A write stops half-way.
    ShortWrite,
}

/// A folder that exists in memory only. Cloning gives another handle to the same folder.
#[derive(Clone, Default)]
pub struct FaultyStorage {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    locked: Arc<AtomicBool>,
}

#[derive(Default)]
struct State {
    names: BTreeMap<String, Arc<Mutex<Content>>>,
    durable_names: BTreeMap<String, Arc<Mutex<Content>>>,
    /// Since the folder was synced.
    unsynced: Vec<BTreeMap<String, Arc<Mutex<Content>>>>,
    faults: Vec<Fault>,
    /// Bytes that files may still grow; `None` for any number.
    room: Option<u64>,
    seed: u64,
}

#[derive(Clone, Default)]
struct Content {
    seen: Vec<u8>,
    durable: Vec<u8>,
    /// Pages written since the last sync.
    dirty: BTreeSet<usize>,
}

struct FaultyFile {
    shared: Arc<Shared>,
    content: Arc<Mutex<Content>>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// xorshift: the same seed gives the same damage.
fn draw(seed: &mut u64) -> u64 {
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    *seed
}

impl FaultyStorage {
    /// An empty folder that keeps everything.
    pub fn new() -> FaultyStorage {
        FaultyStorage::default()
    }

    /// The next operations of those kinds fail, each once.
    pub fn inject(&self, fault: Fault, seed: u64) {
        let mut state = locked(&self.shared.state);
        state.faults.push(fault);
        state.seed = seed | 1;
    }

    /// Bytes that files may still grow before the disk is full.
    pub fn set_room(&self, bytes: Option<u64>) {
        locked(&self.shared.state).room = bytes;
    }

    /// The folder as it may be found after the power has failed now. Whoever has this one open goes on with it in vain.
    pub fn crash(&self, seed: u64) -> FaultyStorage {
        let mut seed = seed | 1;
        let state = locked(&self.shared.state);
        let kept = draw(&mut seed) as usize % (state.unsynced.len() + 1);
        let names = if kept == 0 { &state.durable_names } else { &state.unsynced[kept - 1] };
        let mut files = BTreeMap::new();
        for (name, content) in names {
            let mut content = locked(content).clone();
            if draw(&mut seed).is_multiple_of(2) && content.durable.len() < content.seen.len() {
                content.durable.resize(content.seen.len(), 0);
            }
            for page in std::mem::take(&mut content.dirty) {
                if draw(&mut seed).is_multiple_of(2) {
                    content.keep(page);
                }
            }
            files.insert(name.clone(), content.durable);
        }
        FaultyStorage::with_files(files)
    }

    /// A folder with those files, all durable.
    pub fn with_files(files: BTreeMap<String, Vec<u8>>) -> FaultyStorage {
        let content = |bytes: Vec<u8>| Content { seen: bytes.clone(), durable: bytes, dirty: BTreeSet::new() };
        let names: BTreeMap<_, _> =
            files.into_iter().map(|(name, bytes)| (name, Arc::new(Mutex::new(content(bytes))))).collect();
        let storage = FaultyStorage::default();
        let mut state = locked(&storage.shared.state);
        state.durable_names = names.clone();
        state.names = names;
        drop(state);
        storage
    }

    /// All files as a process sees them.
    pub fn files(&self) -> BTreeMap<String, Vec<u8>> {
        let state = locked(&self.shared.state);
        state.names.iter().map(|(name, content)| (name.clone(), locked(content).seen.clone())).collect()
    }
}

impl Content {
    /// One page reaches the medium.
    fn keep(&mut self, page: usize) {
        let (start, end) = (page * PAGE, ((page + 1) * PAGE).min(self.seen.len()));
        if start >= end {
            return;
        }
        if self.durable.len() < end {
            self.durable.resize(end, 0);
        }
        self.durable[start..end].copy_from_slice(&self.seen[start..end]);
    }

    fn write(&mut self, bytes: &[u8], offset: usize) {
        let end = offset + bytes.len();
        if self.seen.len() < end {
            self.seen.resize(end, 0);
        }
        self.seen[offset..end].copy_from_slice(bytes);
        self.dirty.extend(offset / PAGE..end.div_ceil(PAGE));
    }
}

impl Shared {
    /// Whether that fault is due now; then a random number goes with it.
    fn fault(&self, fault: Fault) -> Option<u64> {
        let mut state = locked(&self.state);
        let at = state.faults.iter().position(|known| *known == fault)?;
        state.faults.remove(at);
        Some(draw(&mut state.seed))
    }
}

impl StoredFile for FaultyFile {
    fn len(&self) -> io::Result<u64> {
        Ok(locked(&self.content).seen.len() as u64)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let content = locked(&self.content);
        let start = offset as usize;
        let Some(bytes) = content.seen.get(start..start + buffer.len()) else {
            return Err(io::ErrorKind::UnexpectedEof.into());
        };
        buffer.copy_from_slice(bytes);
        Ok(())
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let short = self.shared.fault(Fault::ShortWrite);
        let mut state = locked(&self.shared.state);
        let mut content = locked(&self.content);
        let grows = (offset + bytes.len() as u64).saturating_sub(content.seen.len() as u64);
        if let Some(room) = &mut state.room {
            if *room < grows {
                return Err(io::ErrorKind::StorageFull.into());
            }
            *room -= grows;
        }
        if let Some(random) = short {
            let part = random as usize % bytes.len().max(1);
            content.write(&bytes[..part], offset as usize);
            return Err(io::Error::other("the write stopped half-way"));
        }
        content.write(bytes, offset as usize);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let fails = self.shared.fault(Fault::Sync);
        let mut content = locked(&self.content);
        let dirty = std::mem::take(&mut content.dirty);
        let mut seed = fails.unwrap_or_default() | 1;
        for page in dirty {
            if fails.is_none() || draw(&mut seed).is_multiple_of(2) {
                content.keep(page);
            }
        }
        match fails {
            Some(_) => Err(io::Error::other("the sync failed")),
            None => Ok(()),
        }
    }
}

impl FaultyStorage {
    fn file(&self, content: Arc<Mutex<Content>>) -> Arc<dyn StoredFile> {
        Arc::new(FaultyFile { shared: self.shared.clone(), content })
    }

    fn change<R>(&self, f: impl FnOnce(&mut State) -> io::Result<R>) -> io::Result<R> {
        let mut state = locked(&self.shared.state);
        let result = f(&mut state)?;
        let names = state.names.clone();
        state.unsynced.push(names);
        Ok(result)
    }
}

impl Storage for FaultyStorage {
    fn list(&self) -> io::Result<Vec<String>> {
        Ok(locked(&self.shared.state).names.keys().cloned().collect())
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn StoredFile>> {
        let content = Arc::new(Mutex::new(Content::default()));
        self.change(|state| {
            state.names.insert(name.into(), content.clone());
            Ok(())
        })?;
        Ok(self.file(content))
    }

    fn open(&self, name: &str, _writable: bool) -> io::Result<Arc<dyn StoredFile>> {
        let content = locked(&self.shared.state).names.get(name).cloned();
        Ok(self.file(content.ok_or(io::ErrorKind::NotFound)?))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.change(|state| {
            let content = state.names.remove(from).ok_or(io::ErrorKind::NotFound)?;
            state.names.insert(to.into(), content);
            Ok(())
        })
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.change(|state| {
            let gone = state.names.remove(name).ok_or(io::ErrorKind::NotFound)?;
            if let Some(room) = &mut state.room {
                *room += locked(&gone).seen.len() as u64;
            }
            Ok(())
        })
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = locked(&self.shared.state);
        state.durable_names = state.names.clone();
        state.unsynced.clear();
        Ok(())
    }

    fn lock(&self, _exclusive: bool) -> io::Result<Lock> {
        struct Guard(Arc<AtomicBool>);
        impl Drop for Guard {
            fn drop(&mut self) {
                self.0.store(false, Ordering::SeqCst);
            }
        }
        match self.shared.locked.swap(true, Ordering::SeqCst) {
            true => Ok(Lock::Taken(None)),
            false => Ok(Lock::Held(Box::new(Guard(self.shared.locked.clone())))),
        }
    }

    fn place(&self) -> String {
        "memory".into()
    }
}
