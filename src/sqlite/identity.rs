//! Which file a path leads to.

use std::fs;
use std::io;
use std::path::Path;

/// Device and number of a file: another one under the same path differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FileId {
    device: u64,
    number: u64,
}

impl FileId {
    /// Of the file at that path. On systems without such numbers all files are the same.
    pub(crate) fn of(path: &Path) -> io::Result<FileId> {
        let metadata = fs::metadata(path)?;
        #[cfg(unix)]
        {
            use std::os::unix::fs::MetadataExt;
            Ok(FileId { device: metadata.dev(), number: metadata.ino() })
        }
        #[cfg(not(unix))]
        {
            let _ = metadata;
            Ok(FileId { device: 0, number: 0 })
        }
    }
}

/// What tells a database's file from every other, however its path is written; `None` where there is none.
pub fn file_identity(path: &Path) -> Option<String> {
    let FileId { device, number } = FileId::of(path).ok()?;
    Some(format!("sqlite:{device}/{number}"))
}
