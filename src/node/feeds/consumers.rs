//! Named readers: how far each has come, kept for them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::spec::write_durably;
use crate::model::{Cursor, LogId, Position, Timestamp, limits};
use crate::node::settings::{Exit, NodeError};

/// A named reader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Consumer {
    /// How far it has come, a cursor for each partition that it has read.
    pub cursors: Vec<Cursor>,
    /// When that was said.
    pub updated: Timestamp,
}

#[derive(Serialize, Deserialize)]
struct Stored {
    cursor: String,
    updated: i64,
}

/// A consumer cannot be changed.
#[derive(Debug, Error)]
pub enum ConsumerError {
    /// It is not where the caller expects it.
    #[error("the consumer is at {}", .0.as_deref().unwrap_or("no place: it does not exist"))]
    Moved(Option<String>),
    /// There are too many.
    #[error("there are {} consumers, and a log has no more", limits::FEED_CONSUMERS_MAX)]
    TooMany,
    /// It cannot be written.
    #[error("it cannot be written: {0}")]
    Io(#[from] std::io::Error),
}

/// The consumers of one log; durable.
pub struct Consumers {
    path: PathBuf,
    logs: Vec<LogId>,
    all: Mutex<BTreeMap<Box<str>, Consumer>>,
}

/// Cursors as one text: `,` between them.
pub fn joined(cursors: &[Cursor]) -> String {
    let mut out = String::with_capacity(cursors.len() * 72);
    for cursor in cursors {
        if !out.is_empty() {
            out.push(',');
        }
        cursor.put(&mut out);
    }
    out
}

impl Consumers {
    /// Reads what is noted.
    pub(super) fn open(path: &Path, logs: Vec<LogId>) -> Result<Consumers, NodeError> {
        let failed = |error: &dyn std::fmt::Display| {
            NodeError::new(
                "WS-FEED-006",
                Exit::Operator,
                format!("{} cannot be read: {error}", path.display()),
                "it says how far named readers have come",
                "put it back from a backup; or remove it: the readers begin where they say themselves",
            )
        };
        let stored: BTreeMap<Box<str>, Stored> = match std::fs::read(path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| failed(&error))?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => BTreeMap::new(),
            Err(error) => return Err(failed(&error)),
        };
        let mut all = BTreeMap::new();
        for (name, one) in stored {
            let cursors: Result<Vec<Cursor>, _> = one.cursor.split(',').map(str::parse).collect();
            let cursors = cursors.map_err(|error| failed(&error))?;
            all.insert(name, Consumer { cursors, updated: Timestamp(one.updated) });
        }
        Ok(Consumers { path: path.into(), logs, all: Mutex::new(all) })
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Box<str>, Consumer>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All of them, by name.
    pub fn all(&self) -> Vec<(Box<str>, Consumer)> {
        self.lock().iter().map(|(name, consumer)| (name.clone(), consumer.clone())).collect()
    }

    /// The one of that name.
    pub fn get(&self, name: &str) -> Option<Consumer> {
        self.lock().get(name).cloned()
    }

    /// Sets, or with `None` forgets, where a consumer is; durable on return. Blocks. `expected` makes it a condition where it
    /// has been: its cursors' text, or `Some(None)` for a consumer that does not exist.
    ///
    /// # Errors
    /// See [`ConsumerError`]; nothing is changed then.
    pub fn set(
        &self,
        name: &str,
        cursors: Option<Vec<Cursor>>,
        expected: Option<Option<String>>,
    ) -> Result<bool, ConsumerError> {
        let mut all = self.lock();
        let now = all.get(name).map(|consumer| joined(&consumer.cursors));
        if expected.is_some_and(|expected| expected != now) {
            return Err(ConsumerError::Moved(now));
        }
        let mut changed = all.clone();
        match cursors {
            Some(cursors) => {
                changed.insert(name.into(), Consumer { cursors, updated: Timestamp::now() });
            }
            None => {
                changed.remove(name);
            }
        }
        if changed.len() > limits::FEED_CONSUMERS_MAX {
            return Err(ConsumerError::TooMany);
        }
        let stored: BTreeMap<&str, Stored> = changed
            .iter()
            .map(|(name, one)| (&**name, Stored { cursor: joined(&one.cursors), updated: one.updated.0 }))
            .collect();
        if let Some(folder) = self.path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        write_durably(&self.path, &serde_json::to_vec(&stored).map_err(std::io::Error::other)?)?;
        *all = changed;
        Ok(now.is_some())
    }

    /// What each still needs what comes after, of that log. Of a partition that a consumer has not named it has read nothing.
    pub fn needs(&self, log: LogId) -> Vec<(Box<str>, Position)> {
        if !self.logs.contains(&log) {
            return Vec::new();
        }
        let of = |consumer: &Consumer| {
            let read = consumer.cursors.iter().find(|cursor| cursor.log == log);
            read.map_or(Position::ZERO, |cursor| cursor.position)
        };
        self.lock().iter().map(|(name, consumer)| (name.clone(), of(consumer))).collect()
    }
}
