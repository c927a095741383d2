//! What operators have had a view pass over: noted before it happens, and shown for ever.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use super::quarantine::Quarantine;
use crate::model::{Fingerprint, Timestamp};
use crate::node::feeds::write_durably;
use crate::node::settings::{Exit, NodeError};

/// An entry that a view has passed over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PassedOver {
    /// Of the log.
    pub partition: usize,
    /// Where the entry stands, as a cursor.
    pub cursor: String,
    /// Its position.
    pub position: u64,
    /// When that was ordered (RFC 3339).
    pub time: String,
    /// The definition that failed on it.
    pub definition: String,
    /// What it failed with.
    pub error: String,
}

/// The note of one view.
#[derive(Debug)]
pub(super) struct Record {
    /// Whether the view is known to be wrong.
    pub quarantine: Quarantine,
    path: PathBuf,
    all: Mutex<Vec<PassedOver>>,
}

impl PassedOver {
    /// Now.
    pub(super) fn new(
        partition: usize,
        cursor: crate::model::Cursor,
        definition: Fingerprint,
        error: String,
    ) -> PassedOver {
        PassedOver {
            partition,
            cursor: cursor.to_string(),
            position: cursor.position.0,
            time: Timestamp::now().to_string(),
            definition: definition.to_string(),
            error,
        }
    }
}

impl Record {
    /// Reads what is noted. Blocks.
    pub(super) fn open(dir: &Path, name: &str) -> Result<Record, NodeError> {
        let path = dir.join(format!("{name}.passed.json"));
        let failed = |error: &dyn std::fmt::Display| {
            NodeError::new(
                "WS-VIEW-030",
                Exit::Operator,
                format!("{} cannot be read: {error}", path.display()),
                "it says what operators have had the view pass over",
                "put it back from a backup; or remove it, and build the view afresh: `watershed view rebuild NAME`",
            )
        };
        let all = match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| failed(&error))?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(failed(&error)),
        };
        Ok(Record { quarantine: Quarantine::open(dir, name), path, all: Mutex::new(all) })
    }

    /// All of them, oldest first.
    pub(super) fn all(&self) -> Vec<PassedOver> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Notes one; durable on return. Blocks.
    pub(super) fn add(&self, one: PassedOver) -> std::io::Result<()> {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        let mut more = all.clone();
        more.push(one);
        if let Some(folder) = self.path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        write_durably(&self.path, &serde_json::to_vec(&more).map_err(std::io::Error::other)?)?;
        *all = more;
        Ok(())
    }
}
