//! The peers that this node has met, kept in its data folder: a node re-created under an old name is noticed by it, and
//! what an absent peer still needs of the log is known.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use crate::model::{Cursor, LogId, Position};
use crate::peer::{Below, Role};

/// A peer that has been linked before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Known {
    /// Its log's id, 32 hex digits.
    pub log: String,
    /// `parent` or `child`.
    pub role: String,
    /// What it has acknowledged of our log (a position).
    pub acknowledged: u64,
    /// Up to there it has been sent nothing of our log: what it copies contains it.
    #[serde(default)]
    pub start: u64,
    /// Drawn whenever it starts anew on our log: it copies everything afresh. Never counted, because a book that was lost
    /// or a peer that was dropped would make a number come again.
    pub generation: u64,
    /// Paused by an operator.
    #[serde(default)]
    pub paused: bool,
    /// A child that is away and has been heard of from above: it is linked elsewhere.
    #[serde(default)]
    pub moved: bool,
    /// What was below it when that was last said.
    #[serde(default)]
    pub below: Vec<KnownBelow>,
}

/// A node below a child.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnownBelow {
    /// Its label.
    pub name: String,
    /// Its log's id, 32 hex digits.
    pub log: String,
    /// Its parent's label.
    pub parent: String,
}

impl Known {
    /// Its log's id.
    pub fn log(&self) -> LogId {
        self.log.parse().unwrap_or_default()
    }
}

/// The peers by name.
#[derive(Debug)]
pub struct Book {
    path: PathBuf,
    peers: Mutex<BTreeMap<String, Known>>,
}

impl Book {
    /// Opens `peers.json` in the data folder; a missing file is an empty book.
    pub fn open(data_dir: &std::path::Path) -> io::Result<Book> {
        let path = data_dir.join("peers.json");
        let peers = match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map_err(|e| io::Error::new(io::ErrorKind::InvalidData, format!("{}: {e}", path.display())))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => BTreeMap::new(),
            Err(error) => return Err(error),
        };
        Ok(Book { path, peers: Mutex::new(peers) })
    }

    fn peers(&self) -> MutexGuard<'_, BTreeMap<String, Known>> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is known of that name.
    pub fn get(&self, name: &str) -> Option<Known> {
        self.peers().get(name).cloned()
    }

    /// Everybody.
    pub fn all(&self) -> Vec<(String, Known)> {
        self.peers().iter().map(|(name, known)| (name.clone(), known.clone())).collect()
    }

    /// The last parent.
    pub fn parent(&self) -> Option<(String, Known)> {
        self.all().into_iter().find(|(_, known)| known.role == "parent")
    }

    /// The name of the peer with that log.
    pub fn name_of(&self, log: LogId) -> Option<String> {
        let text = log.to_string();
        self.peers().iter().find(|(_, known)| known.log == text).map(|(name, _)| name.clone())
    }

    /// Records a peer that has been admitted, before anything is sent to it. A child has one parent: a new one replaces
    /// the one before. True when it was not known; then everything is copied by it: its generation is drawn, so that it is
    /// none that the peer has ever copied under.
    pub fn meet(&self, name: &str, log: LogId, role: Role) -> io::Result<bool> {
        // Our role on the link tells theirs.
        let theirs = if role == Role::Child { "parent" } else { "child" };
        let mut peers = self.peers();
        if theirs == "parent" {
            peers.retain(|other, known| other == name || known.role != "parent");
        }
        let same = peers.get(name).is_some_and(|known| known.log == log.to_string() && known.role == theirs);
        if same {
            return Ok(false);
        }
        let generation = rand::random();
        let known = Known {
            log: log.to_string(),
            role: theirs.into(),
            acknowledged: 0,
            start: 0,
            generation,
            paused: false,
            moved: false,
            below: Vec::new(),
        };
        peers.insert(name.into(), known);
        self.save(&peers)?;
        Ok(true)
    }

    /// The peer starts anew on our log, at `from`; with a new generation.
    pub fn renew(&self, name: &str, from: Position) -> io::Result<()> {
        let mut peers = self.peers();
        if let Some(known) = peers.get_mut(name) {
            known.generation = rand::random();
            (known.acknowledged, known.start) = (from.0, from.0);
        }
        self.save(&peers)
    }

    /// Notes what is below a child that has linked; durable on return.
    pub fn saw(&self, name: &str, below: &[Below]) -> io::Result<()> {
        let below: Vec<KnownBelow> = below
            .iter()
            .map(|Below { node, parent, .. }| KnownBelow {
                name: node.name.to_string(),
                log: node.log.to_string(),
                parent: parent.to_string(),
            })
            .collect();
        let mut peers = self.peers();
        let Some(known) = peers.get_mut(name) else { return Ok(()) };
        if !known.moved && known.below == below {
            return Ok(());
        }
        (known.moved, known.below) = (false, below);
        self.save(&peers)
    }

    /// Notes that these logs are not below us any more; durable on return. A child stays a peer.
    pub fn forget_below(&self, gone: impl Fn(LogId) -> bool) -> io::Result<()> {
        let mut peers = self.peers();
        let mut changed = false;
        for known in peers.values_mut().filter(|known| known.role == "child") {
            let (before, moved) = (known.below.len(), known.moved);
            known.below.retain(|below| !gone(below.log.parse().unwrap_or_default()));
            known.moved |= gone(known.log());
            changed |= (before, moved) != (known.below.len(), known.moved);
        }
        if changed { self.save(&peers) } else { Ok(()) }
    }

    /// Notes what a peer has acknowledged; written with [`Book::flush`], because losing it only keeps entries longer.
    pub fn acknowledge(&self, name: &str, received: Cursor) {
        if let Some(known) = self.peers().get_mut(name) {
            known.acknowledged = known.acknowledged.max(received.position.0);
        }
    }

    /// Pauses or resumes the link with a peer; false when it is not known.
    pub fn pause(&self, name: &str, paused: bool) -> io::Result<bool> {
        let mut peers = self.peers();
        let Some(known) = peers.get_mut(name) else { return Ok(false) };
        known.paused = paused;
        self.save(&peers)?;
        Ok(true)
    }

    /// Forgets a peer; false when it is not known.
    pub fn forget(&self, name: &str) -> io::Result<bool> {
        let mut peers = self.peers();
        let found = peers.remove(name).is_some();
        self.save(&peers)?;
        Ok(found)
    }

    /// Writes what has been acknowledged.
    pub fn flush(&self) -> io::Result<()> {
        self.save(&self.peers())
    }

    fn save(&self, peers: &BTreeMap<String, Known>) -> io::Result<()> {
        let new = self.path.with_extension("json.new");
        let mut file = File::create(&new)?;
        serde_json::to_writer_pretty(&mut file, peers)?;
        file.write_all(b"\n")?;
        file.sync_all()?;
        fs::rename(&new, &self.path)?;
        File::open(self.path.parent().unwrap_or(&self.path))?.sync_all()
    }
}
