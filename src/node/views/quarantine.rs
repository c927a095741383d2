//! A view that is known to be wrong: a replica of a machine that has parted from the others.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::node::feeds::write_durably;

/// Whether a view is in quarantine, and why; noted, so that a restart does not make it right.
#[derive(Debug)]
pub(super) struct Quarantine {
    path: PathBuf,
    why: Mutex<Option<String>>,
}

impl Quarantine {
    /// Reads the note. Blocks.
    pub(super) fn open(dir: &Path, name: &str) -> Quarantine {
        let path = dir.join(format!("{name}.quarantined"));
        let why = match std::fs::read(&path) {
            Ok(text) => Some(String::from_utf8_lossy(&text).into_owned()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            // There is a note.
            Err(error) => Some(format!("{} cannot be read: {error}", path.display())),
        };
        Quarantine { path, why: Mutex::new(why) }
    }

    fn held(&self) -> MutexGuard<'_, Option<String>> {
        self.why.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why it is in quarantine; `None`: it is not.
    pub(super) fn why(&self) -> Option<String> {
        self.held().clone()
    }

    /// Puts it there; false if it was. It holds also where it cannot be noted. Blocks.
    pub(super) fn begin(&self, why: &str) -> bool {
        let mut held = self.held();
        if held.is_some() {
            return false;
        }
        *held = Some(why.into());
        let folder = self.path.parent().map_or(Ok(()), std::fs::create_dir_all);
        if let Err(error) = folder.and_then(|()| write_durably(&self.path, why.as_bytes())) {
            tracing::error!("{} cannot be written: {error}; the quarantine ends with the process", self.path.display());
        }
        true
    }

    /// It has been built afresh. Blocks.
    pub(super) fn end(&self) {
        let mut held = self.held();
        if held.take().is_some()
            && let Err(error) = std::fs::remove_file(&self.path)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::error!(
                "{} cannot be removed: {error}; the quarantine comes back with a restart",
                self.path.display()
            );
        }
    }
}
