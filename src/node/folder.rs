//! A node's data folder: one process at a time, and what stands in it besides the logs.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::settings::{Exit, NodeError};
use crate::log::{Locked, lock_file};
use crate::model::SourceCursor;

/// A locked data folder; the lock goes with the value, or with the process.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    /// The token that commands on this machine use.
    pub admin_token: String,
    _lock: File,
}

impl Folder {
    /// Creates the folder where it is missing, locks it, and draws this run's admin token.
    pub fn open(path: &Path) -> Result<Folder, NodeError> {
        fs::create_dir_all(path).map_err(|error| unusable(path, &error))?;
        let lock = lock(path)?;
        let admin_token = format!("{:032x}", rand::random::<u128>());
        let folder = Folder { path: path.into(), admin_token, _lock: lock };
        folder.write_token().map_err(|error| unusable(path, &error))?;
        Ok(folder)
    }

    fn write_token(&self) -> std::io::Result<()> {
        self.write("admin.token", format!("{}\n", self.admin_token).as_bytes())
    }

    /// Leaves the certificate (DER) by which commands on this machine know the node.
    pub fn write_certificate(&self, certificate: &[u8]) -> std::io::Result<()> {
        self.write("admin.certificate", certificate)
    }

    fn write(&self, name: &str, content: &[u8]) -> std::io::Result<()> {
        let new = self.path.join(format!("{name}.new"));
        let _ = fs::remove_file(&new);
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?.write_all(content)?;
        fs::rename(new, self.path.join(name))
    }

    /// The folder cannot be used.
    pub fn unusable(&self, error: &std::io::Error) -> NodeError {
        unusable(&self.path, error)
    }

    /// Whether an operator has given up the database as of that cursor of the log.
    pub fn is_dropped(&self, cursor: &SourceCursor) -> bool {
        fs::read(dropped(&self.path)).is_ok_and(|bytes| bytes == cursor.0)
    }

    /// Notes that an operator has given up the database as of that cursor of the log; the folder must not be in use.
    pub fn drop_database(path: &Path, cursor: Option<&SourceCursor>) -> std::io::Result<()> {
        let Some(cursor) = cursor else { return Ok(()) };
        let mut file = File::create(dropped(path))?;
        file.write_all(&cursor.0)?;
        file.sync_all()
    }
}

impl Folder {
    /// Notes that an operator has paused capture, or that it goes on; kept over restarts.
    pub fn pause_capture(&self, paused: bool) -> std::io::Result<()> {
        let path = capture_paused(&self.path);
        match paused {
            true => File::create(path)?.sync_all()?,
            false if path.exists() => fs::remove_file(path)?,
            false => {}
        }
        File::open(&self.path)?.sync_all()
    }

    /// Whether an operator has paused capture.
    pub fn capture_is_paused(&self) -> bool {
        capture_paused(&self.path).exists()
    }
}

fn capture_paused(path: &Path) -> PathBuf {
    path.join("capture.paused")
}

fn dropped(path: &Path) -> PathBuf {
    path.join("database.dropped")
}

fn unusable(path: &Path, error: &std::io::Error) -> NodeError {
    NodeError::new(
        "WS-NODE-013",
        Exit::Failure,
        format!("the data folder {} cannot be used: {error}", path.display()),
        "a node keeps its log there",
        "correct [node] data_dir, or the folder's owner and permissions",
    )
}

/// Whether a process has the data folder: its node runs.
pub fn is_taken(path: &Path) -> bool {
    path.is_dir() && matches!(lock(path), Err(error) if error.exit == Exit::Locked)
}

/// Locks a data folder against every other process.
pub fn lock(path: &Path) -> Result<File, NodeError> {
    let file = path.join("node.lock");
    let opened = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&file);
    let mut lock = opened.map_err(|error| unusable(path, &error))?;
    match lock_file(&mut lock, true).map_err(|error| unusable(path, &error))? {
        Locked::Held => Ok(lock),
        Locked::Taken(holder) => Err(NodeError::new(
            "WS-NODE-014",
            Exit::Locked,
            match holder {
                Some(holder) => format!("the data folder {} is in use by process {holder}", path.display()),
                None => format!("the data folder {} is in use by another process", path.display()),
            },
            "two processes on one log would destroy it",
            "stop that process first, or give this node a data_dir of its own",
        )),
    }
}
