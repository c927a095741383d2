//! The seam between the log and its medium: a folder of files. Tests put storage here that lies and fails.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::log::{Locked, lock_file};

/// The file that one process holds locked; its text is that process's id.
const LOCK: &str = "LOCK";

/// A folder.
///
/// To be correct, an implementation keeps what has been created, renamed or removed once `sync` has returned, in any
/// case in the order of the calls or not at all; what happened since may be there or not after a crash.
pub trait Storage: Send + Sync {
    /// The names of all files, in no order.
    fn list(&self) -> io::Result<Vec<String>>;
    /// A new, empty file for writing and reading; what had that name is emptied.
    fn create(&self, name: &str) -> io::Result<Arc<dyn StoredFile>>;
    /// A file that is there.
    fn open(&self, name: &str, writable: bool) -> io::Result<Arc<dyn StoredFile>>;
    /// Replaces what has the new name.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Files that are open stay readable.
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Makes creations, renames and removals durable.
    fn sync(&self) -> io::Result<()>;
    /// Locks the folder against other processes (and other openings in this one) until the guard is dropped.
    fn lock(&self, exclusive: bool) -> io::Result<Lock>;
    /// The folder, for messages.
    fn place(&self) -> String;
}

/// A file. Writes are durable once `sync_data` has returned; before, any part of them may be lost or torn.
pub trait StoredFile: Send + Sync {
    /// Its length in bytes.
    fn len(&self) -> io::Result<u64>;
    /// Whether it has no bytes.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
    /// Fills the buffer from that offset, or fails.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;
    /// Writes all of it at that offset; writing beyond the end makes the file longer.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// Makes what was written durable. After an error nothing is known of what was written since the last success.
    fn sync_data(&self) -> io::Result<()>;
}

/// What came of an attempt to lock a folder.
pub enum Lock {
    /// Held until dropped.
    Held(Box<dyn Send + Sync>),
    /// Somebody else holds it; their process id, where it is known.
    Taken(Option<u32>),
}

/// A folder of the operating system.
pub struct FolderStorage {
    dir: PathBuf,
}

impl FolderStorage {
    /// That folder; it is created when first written to.
    pub fn new(dir: impl Into<PathBuf>) -> FolderStorage {
        FolderStorage { dir: dir.into() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }
}

impl fmt::Debug for FolderStorage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FolderStorage({})", self.dir.display())
    }
}

impl StoredFile for File {
    fn len(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        FileExt::read_exact_at(self, buffer, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        FileExt::write_all_at(self, bytes, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        File::sync_data(self)
    }
}

impl Storage for FolderStorage {
    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&self.dir)? {
            if let Ok(name) = entry?.file_name().into_string() {
                names.push(name);
            }
        }
        Ok(names)
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn StoredFile>> {
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(true).open(self.path(name))?;
        Ok(Arc::new(file))
    }

    fn open(&self, name: &str, writable: bool) -> io::Result<Arc<dyn StoredFile>> {
        Ok(Arc::new(OpenOptions::new().read(true).write(writable).open(self.path(name))?))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        std::fs::rename(self.path(from), self.path(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        std::fs::remove_file(self.path(name))
    }

    fn sync(&self) -> io::Result<()> {
        File::open(&self.dir)?.sync_all()
    }

    fn lock(&self, exclusive: bool) -> io::Result<Lock> {
        let mut file = match exclusive {
            true => {
                create_folder(&self.dir)?;
                OpenOptions::new().read(true).write(true).create(true).truncate(false).open(self.path(LOCK))?
            }
            false => match File::open(self.path(LOCK)) {
                Ok(file) => file,
                Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Lock::Held(Box::new(()))),
                Err(e) => return Err(e),
            },
        };
        match lock_file(&mut file, exclusive)? {
            Locked::Held => {}
            Locked::Taken(pid) => return Ok(Lock::Taken(pid)),
        }
        Ok(Lock::Held(Box::new(file)))
    }

    fn place(&self) -> String {
        self.dir.display().to_string()
    }
}

/// Creates the folder and makes its name durable in its parent.
fn create_folder(dir: &Path) -> io::Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    std::fs::create_dir_all(dir)?;
    match dir.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        Some(parent) => File::open(parent)?.sync_all(),
        None => File::open(".")?.sync_all(),
    }
}
