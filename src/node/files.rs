//! How many files the process may open: segments, databases and connections are files.

use rustix::process::{Resource, getrlimit, setrlimit};

/// Raises the limit as far as the system lets this process; returns what it is then (`None`: there is none).
pub fn raise_open_files() -> Option<u64> {
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        limit.current = limit.maximum;
        // Where it may not be raised it stays, and fewer connections are accepted.
        if let Err(error) = setrlimit(Resource::Nofile, limit) {
            tracing::debug!("the limit of open files is not raised: {error}");
        }
    }
    open_files()
}

/// The limit as it is; `None`: there is none.
pub fn open_files() -> Option<u64> {
    getrlimit(Resource::Nofile).current
}
