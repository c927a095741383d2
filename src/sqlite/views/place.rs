//! Where a view's builds are.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::model::{Fingerprint, limits};
use crate::view::sql::Definition;

/// Where a view is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SqlitePlace {
    /// In a database file that is the view's alone. If another view has that file already, it is a file beside it, with the
    /// view's name at the end of its own.
    File(PathBuf),
    /// In memory, written to that file by [`crate::view::ViewStore::persist`]. Questions and changes wait for each other.
    Memory(PathBuf),
}

/// What [`super::SqliteViews`] is opened with.
#[derive(Clone, Debug)]
pub struct SqliteViewOptions {
    /// The view's name.
    pub name: String,
    /// What is wanted.
    pub definition: Arc<Definition>,
    /// Where it is kept.
    pub place: SqlitePlace,
    /// How long a lock of another connection is waited for.
    pub busy_timeout: Duration,
    /// What changes in the view's tables is kept for a while.
    pub changes: bool,
    /// What changes in the view's tables is kept until it has been published.
    pub publish: bool,
}

impl SqliteViewOptions {
    /// With the usual patience.
    pub fn new(name: impl Into<String>, definition: Arc<Definition>, place: SqlitePlace) -> SqliteViewOptions {
        SqliteViewOptions {
            name: name.into(),
            definition,
            place,
            busy_timeout: limits::DATABASE_BUSY_TIMEOUT,
            changes: false,
            publish: false,
        }
    }

    /// The kind of store, which is part of what a view is.
    pub(super) fn fingerprint(&self) -> Fingerprint {
        self.definition.fingerprint("sqlite")
    }
}

/// A view's name as part of a file's name.
pub(super) fn file_part(name: &str) -> String {
    let mut part = String::new();
    for c in name.chars() {
        match c.is_alphanumeric() || matches!(c, '-' | '_') {
            true => part.push(c),
            false => part.push_str(&format!("%{:x}", c as u32)),
        }
    }
    part
}

/// `views.db` of another view leaves this one `views-NAME.db`.
pub(super) fn sibling(path: &Path, name: &str) -> PathBuf {
    let mut file = path.file_stem().unwrap_or_default().to_os_string();
    file.push("-");
    file.push(file_part(name));
    if let Some(extension) = path.extension() {
        file.push(".");
        file.push(extension);
    }
    path.with_file_name(file)
}

const BUILDING: &str = ".building-";

fn with(path: &Path, end: &str) -> PathBuf {
    let mut file = OsString::from(path);
    file.push(end);
    PathBuf::from(file)
}

/// Where the build of a definition stands, beside what answers.
pub(super) fn building(live: &Path, fingerprint: Fingerprint) -> PathBuf {
    with(live, &format!("{BUILDING}{fingerprint}"))
}

/// Removes a database file and what SQLite has beside it; the file last, so that what is left of it is never read without
/// its log.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    // Without its log a file may be an earlier state, or no database: the name goes first, and with it the whole.
    let gone = with(path, ".gone");
    match fs::rename(path, &gone) {
        Ok(()) => fs::remove_file(&gone)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    for end in ["-wal", "-shm", "-journal"] {
        match fs::remove_file(with(path, end)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// Removes builds of other definitions that stand beside what answers.
pub(super) fn remove_others(live: &Path, kept: Option<Fingerprint>) -> io::Result<()> {
    let (Some(name), folder) = (live.file_name(), folder(live)) else { return Ok(()) };
    let start = format!("{}{BUILDING}", name.to_string_lossy());
    let kept = kept.map(|kept| format!("{start}{kept}"));
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let file = entry.file_name().to_string_lossy().into_owned();
        let is_kept = kept.as_ref().is_some_and(|kept| file.starts_with(kept.as_str()));
        if file.starts_with(&start) && !is_kept {
            match fs::remove_file(entry.path()) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
    }
    Ok(())
}

/// The folder of a file.
pub(super) fn folder(path: &Path) -> PathBuf {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder.to_path_buf(),
        _ => PathBuf::from("."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_files_of_their_own() {
        assert_eq!(sibling(Path::new("a/views.db"), "totals"), Path::new("a/views-totals.db"));
        assert_eq!(sibling(Path::new("views"), "../x y"), Path::new("views-%2e%2e%2fx%20y"));
        assert_eq!(building(Path::new("v.db"), Fingerprint(10)), Path::new("v.db.building-000000000000000a"));
    }
}
