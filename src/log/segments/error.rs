//! Why a log on disk cannot be opened.

use std::io;

use thiserror::Error;

use crate::log::SourceError;

/// Opening or verifying failed. Nothing was deleted or changed.
#[derive(Debug, Error)]
pub enum OpenError {
    /// Another process has the log open, or this one a second time.
    #[error("the log in {place} is in use{}", pid.map_or(String::new(), |pid| format!(" by process {pid}")))]
    Locked {
        /// The folder.
        place: String,
        /// Who holds it, where that is known.
        pid: Option<u32>,
    },
    /// What was durable is not there any more.
    #[error("segment {segment} is damaged at offset {offset}: {why}")]
    Damaged {
        /// The file's name.
        segment: String,
        /// Bytes from its start.
        offset: u64,
        /// What is wrong.
        why: String,
    },
    /// There is no log in the folder, and it was not to be created.
    #[error("there is no log in {0}")]
    Missing(String),
    /// No room for the first segment.
    #[error("the disk is full: no room for a segment of {needed} bytes in {place}")]
    DiskFull {
        /// The folder.
        place: String,
        /// Bytes.
        needed: u64,
    },
    /// The store failed.
    #[error("the log in the data folder cannot be opened: {0}")]
    Io(#[from] io::Error),
}

impl From<OpenError> for SourceError {
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::Damaged { segment, offset, why } => SourceError::Damaged { place: segment, offset, why },
            OpenError::Io(error) => SourceError::Io(error),
            other => SourceError::Io(io::Error::other(other.to_string())),
        }
    }
}
