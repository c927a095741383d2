//! The store of a machine: state and cursors in memory, and now and then in a file.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, TryLockError};

use async_trait::async_trait;
use sha2::{Digest, Sha256};
use tokio::sync::{Mutex, Semaphore};

use super::super::{Answer, AskError, Bounds, Question, StateDigest, View, ViewError, ViewStore, blocking};
use super::part::MachinePart;
use super::saved::{self, Head, Kept};
use super::{KeptDigests, Machine};
use crate::model::{Cursor, Fingerprint, LogId, Position, TableName, limits};

/// Where a machine's state is kept, and of what it is made.
#[derive(Clone, Debug)]
pub struct MachineOptions {
    /// The file of its state; without one it is built from the log at every start.
    pub path: Option<PathBuf>,
    /// A folder on a disk, for the parts of large transactions.
    pub spool_dir: PathBuf,
    /// Tables whose changes it is given; none means all.
    pub tables: Vec<TableName>,
    /// Its digests at agreed positions are kept, so that replicas can be compared. It takes a [`Machine::digest`] every
    /// [`crate::model::limits::MACHINE_DIGEST_EVERY`] positions.
    pub compared: bool,
}

impl MachineOptions {
    /// For all tables, in memory only, not compared; parts of large transactions in that folder.
    pub fn in_memory(spool_dir: impl Into<PathBuf>) -> MachineOptions {
        MachineOptions { path: None, spool_dir: spool_dir.into(), tables: Vec::new(), compared: false }
    }
}

/// With what a store began.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// There was no state.
    Nothing,
    /// A state of this definition.
    State,
    /// A state of another definition: this one is built from the log.
    OtherDefinition(Fingerprint),
    /// A state that is not whole, and why: it is built from the log.
    Damaged(String),
}

/// State and cursors, which change together.
pub(super) struct Held<M> {
    pub machine: M,
    pub cursors: BTreeMap<LogId, Cursor>,
    pub digests: Option<KeptDigests>,
    /// The state is of no more use, and why.
    pub broken: Option<String>,
    /// Goes up with every change.
    pub version: u64,
}

/// What the store and its parts share.
pub(super) struct Core<M> {
    held: RwLock<Held<M>>,
    pub options: MachineOptions,
    definition: Fingerprint,
    found: Found,
    text: String,
    /// What stands in the file; one writes it at a time.
    saved: Mutex<Saved>,
    /// One for each question that is being answered.
    places: Arc<Semaphore>,
}

/// The file of a state.
struct Saved {
    path: Option<PathBuf>,
    /// The version that is in it; `None`: it is not known.
    version: Option<u64>,
}

/// A machine as a view: [`ViewStore`] over any [`Machine`].
///
/// What was applied is in memory, and durable when [`ViewStore::persist`] has returned: after a crash it goes on from the
/// state saved last, with the cursors that stand in it, and comes to the same state.
pub struct MachineStore<M>(Arc<Core<M>>);

impl<M> Clone for MachineStore<M> {
    fn clone(&self) -> Self {
        MachineStore(self.0.clone())
    }
}

impl<M> Core<M> {
    pub(super) fn read(&self) -> RwLockReadGuard<'_, Held<M>> {
        // While a large state is saved others wait for long: not on a thread that other tasks need.
        self.read_now().unwrap_or_else(|| blocking(|| self.held.read().unwrap_or_else(PoisonError::into_inner)))
    }

    /// If it can be read at once.
    fn read_now(&self) -> Option<RwLockReadGuard<'_, Held<M>>> {
        match self.held.try_read() {
            Ok(held) => Some(held),
            // Whoever panics while changing the state leaves `broken` behind.
            Err(TryLockError::Poisoned(held)) => Some(held.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    pub(super) fn write(&self) -> RwLockWriteGuard<'_, Held<M>> {
        match self.held.try_write() {
            Ok(held) => held,
            Err(TryLockError::Poisoned(held)) => held.into_inner(),
            Err(TryLockError::WouldBlock) => blocking(|| self.held.write().unwrap_or_else(PoisonError::into_inner)),
        }
    }
}

impl<M: Machine> MachineStore<M> {
    /// Opens the state in the file, or begins with a new machine where there is none that is whole and of this definition.
    /// Blocks.
    ///
    /// # Errors
    /// The file is there and cannot be read.
    pub fn open(new: impl Fn() -> M, options: MachineOptions) -> Result<MachineStore<M>, ViewError> {
        let machine = new();
        let text = machine.definition();
        let definition = fingerprint(&text, &options.tables);
        let fresh = |machine| Held {
            machine,
            cursors: BTreeMap::new(),
            digests: options.compared.then(KeptDigests::default),
            broken: None,
            version: 0,
        };
        let kept = options.path.as_ref().map_or(Ok(Kept::Nothing), |path| saved::read(path)).map_err(unreadable)?;
        let mut held = fresh(machine);
        let found = match kept {
            Kept::Nothing => Found::Nothing,
            Kept::Damaged(why) => Found::Damaged(why),
            Kept::State(head, _) if head.definition != definition => Found::OtherDefinition(head.definition),
            Kept::State(head, mut state) => match held.machine.load(&mut *state) {
                Ok(()) => {
                    held.cursors = head.cursors.into_iter().map(|cursor| (cursor.log, cursor)).collect();
                    held.digests = held.digests.map(|_| head.digests);
                    Found::State
                }
                Err(error) => {
                    held = fresh(new());
                    Found::Damaged(error.to_string())
                }
            },
        };
        if let (Found::Damaged(why), Some(path)) = (&found, &options.path) {
            let path = path.display();
            tracing::warn!("error[WS-VIEW-070]: the state in {path} is damaged: {why}; it is built again from the log");
        }
        let version = (found == Found::State).then_some(held.version);
        let saved = Mutex::new(Saved { path: options.path.clone(), version });
        let places = Arc::new(Semaphore::new(limits::VIEW_READERS_MAX));
        let held = RwLock::new(held);
        Ok(MachineStore(Arc::new(Core { held, options, definition, found, text, saved, places })))
    }

    /// Has its state stand in another file from now on; it is there, durably, on return.
    ///
    /// # Errors
    /// It cannot be written there; then it stays where it was.
    pub async fn move_to(&self, path: PathBuf) -> Result<(), ViewError> {
        let mut saved = self.0.saved.lock().await;
        let version = self.0.clone().save_to(path.clone(), None).await?;
        *saved = Saved { path: Some(path), version: Some(version) };
        Ok(())
    }

    /// The definition and text that stand in a file, if a whole state does. Blocks.
    ///
    /// # Errors
    /// The file is there and cannot be read.
    pub(super) fn look(path: &Path) -> Result<Option<(Fingerprint, String)>, ViewError> {
        match saved::read(path).map_err(unreadable)? {
            Kept::State(head, _) => Ok(Some((head.definition, head.text))),
            Kept::Nothing | Kept::Damaged(_) => Ok(None),
        }
    }

    /// With what it began.
    pub fn found(&self) -> &Found {
        &self.0.found
    }

    /// Whether its state is of no more use: the machine panicked, or a transaction could be read halfway only.
    pub fn is_broken(&self) -> bool {
        self.0.read().broken.is_some()
    }

    /// Has a look at the machine.
    pub fn with<T>(&self, look: impl FnOnce(&M) -> T) -> T {
        look(&self.0.read().machine)
    }
}

/// Over everything that decides what the state is.
fn fingerprint(definition: &str, tables: &[TableName]) -> Fingerprint {
    let mut hash = Sha256::new();
    for part in std::iter::once(definition).chain(tables.iter().map(TableName::as_str)) {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    let mut first = [0; 8];
    first.copy_from_slice(&hash.finalize()[..8]);
    Fingerprint(u64::from_be_bytes(first))
}

fn unreadable(error: std::io::Error) -> ViewError {
    ViewError::Failed(format!("the state of the view cannot be read: {error}"))
}

fn ended(error: tokio::task::JoinError) -> String {
    format!("the view's state could not be looked at: {error}")
}

impl<M: Machine> Core<M> {
    fn ask(&self, held: &Held<M>, question: &Question, bounds: &Bounds) -> Result<Answer, AskError> {
        if let Some(why) = &held.broken {
            return Err(AskError::Failed(why.clone()));
        }
        let rows = held.machine.ask(question, bounds)?;
        Ok(Answer {
            columns: rows.columns,
            rows: rows.rows,
            cursors: held.cursors.values().copied().collect(),
            definition: self.definition,
        })
    }

    fn digest(&self) -> Result<StateDigest, ViewError> {
        let held = self.read();
        match &held.broken {
            Some(why) => Err(ViewError::Failed(why.clone())),
            None => Ok(StateDigest {
                digest: held.machine.digest(),
                rows: held.machine.rows(),
                cursors: held.cursors.values().copied().collect(),
            }),
        }
    }

    /// Writes the state to a file, unless it is of that version; returns the version that stands there. Meanwhile the state
    /// can be read, and nothing is applied until it is written (not: durable).
    fn save(&self, path: &Path, known: Option<u64>) -> Result<u64, ViewError> {
        let failed = |error| ViewError::Retry(format!("the state of the view could not be saved: {error}"));
        let (pending, version) = {
            let held = self.read();
            if let Some(why) = &held.broken {
                return Err(ViewError::Failed(why.clone()));
            }
            if known == Some(held.version) {
                return Ok(held.version);
            }
            let head = Head {
                definition: self.definition,
                text: self.text.clone(),
                cursors: held.cursors.values().copied().collect(),
                digests: held.digests.clone().unwrap_or_default(),
            };
            (saved::write(path, &head, |out| held.machine.save(out)).map_err(failed)?, held.version)
        };
        pending.finish().map_err(failed)?;
        Ok(version)
    }

    async fn save_to(self: Arc<Self>, path: PathBuf, known: Option<u64>) -> Result<u64, ViewError> {
        let done = tokio::task::spawn_blocking(move || self.save(&path, known)).await;
        done.unwrap_or_else(|error| Err(ViewError::Failed(ended(error))))
    }
}

#[async_trait]
impl<M: Machine> ViewStore for MachineStore<M> {
    fn definition(&self) -> Fingerprint {
        self.0.definition
    }

    async fn part(&self, log: LogId) -> Result<Box<dyn View>, ViewError> {
        Ok(Box::new(MachinePart::new(self.0.clone(), log)))
    }

    async fn cursors(&self) -> Result<Vec<Cursor>, ViewError> {
        Ok(self.0.read().cursors.values().copied().collect())
    }

    async fn ask(&self, question: &Question, bounds: &Bounds) -> Result<Answer, AskError> {
        if let Question::Row { .. } = question
            && let Some(held) = self.0.read_now()
        {
            return self.0.ask(&held, question, bounds);
        }
        let (core, question, bounds) = (self.0.clone(), question.clone(), *bounds);
        let place = tokio::time::timeout(bounds.time, core.places.clone().acquire_owned()).await;
        let place = place.map_err(|_| AskError::Slow(bounds.time))?;
        // The work keeps the place until it has ended, also where nobody waits for it any more.
        let asked = tokio::task::spawn_blocking(move || {
            let _place = place;
            core.ask(&core.read(), &question, &bounds)
        });
        let asked = tokio::time::timeout(2 * bounds.time, asked).await.map_err(|_| AskError::Slow(bounds.time))?;
        asked.unwrap_or_else(|error| Err(AskError::Failed(ended(error))))
    }

    async fn digest(&self) -> Result<StateDigest, ViewError> {
        let core = self.0.clone();
        let summed = tokio::task::spawn_blocking(move || core.digest());
        summed.await.unwrap_or_else(|error| Err(ViewError::Failed(ended(error))))
    }

    async fn pass_over(&self, at: Cursor) -> Result<(), ViewError> {
        {
            let mut held = self.0.write();
            if let Some(why) = &held.broken {
                return Err(ViewError::Failed(why.clone()));
            }
            let found = held.cursors.get(&at.log).copied();
            let next = found.map_or(Position::ZERO, |cursor| cursor.position).next();
            if at.position != next {
                let why = format!("position {} cannot be passed over: the next one is {next}", at.position);
                return Err(ViewError::Failed(why));
            }
            held.cursors.insert(at.log, at);
            held.version += 1;
        }
        self.persist().await
    }

    async fn persist(&self) -> Result<(), ViewError> {
        let mut saved = self.0.saved.lock().await;
        if let Some(path) = saved.path.clone() {
            saved.version = Some(self.0.clone().save_to(path, saved.version).await?);
        }
        Ok(())
    }

    fn is_broken(&self) -> bool {
        MachineStore::is_broken(self)
    }

    fn kept_digests(&self) -> Option<KeptDigests> {
        self.0.read().digests.clone()
    }
}
