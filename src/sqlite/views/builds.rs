//! The builds of one view: what answers, and what is to take its place.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use async_trait::async_trait;
use rusqlite::Connection;
use rusqlite::backup::{Backup, StepResult};

use super::meta::{self, Found};
use super::open::{NotOpened, connect, foreign, in_memory, look, open};
use super::place::{SqlitePlace, SqliteViewOptions, building, folder, remove, remove_others, sibling};
use super::store::{SqliteViewStore, failed};
use crate::model::{Cursor, Fingerprint, TableDef, limits};
use crate::sqlite::connect::{Access, connect as existing};
use crate::view::{Look, ViewBuilds, ViewError, ViewStore, blocking};

/// A SQL view in SQLite.
#[derive(Debug)]
pub struct SqliteViews {
    pub(super) options: SqliteViewOptions,
    /// In memory, what is being built.
    built: Mutex<Option<Arc<SqliteViewStore>>>,
}

impl SqliteViews {
    /// Looks at nothing yet.
    pub fn new(options: SqliteViewOptions) -> SqliteViews {
        SqliteViews { options, built: Mutex::default() }
    }

    /// Where what answers is: the file that was given, unless another view has it.
    ///
    /// # Errors
    /// The file cannot be read, or is a database of something else.
    pub fn path(&self) -> Result<PathBuf, ViewError> {
        let SqlitePlace::File(path) = &self.options.place else { return Ok(self.given().to_path_buf()) };
        match look(path, self.options.busy_timeout)? {
            Found::View(meta) if meta.name != self.options.name => Ok(sibling(path, &self.options.name)),
            Found::Foreign => Err(foreign(&path.display().to_string())),
            _ => Ok(path.clone()),
        }
    }

    fn given(&self) -> &Path {
        match &self.options.place {
            SqlitePlace::File(path) | SqlitePlace::Memory(path) => path,
        }
    }

    fn is_memory(&self) -> bool {
        matches!(self.options.place, SqlitePlace::Memory(_))
    }

    /// A connection to what a path has; in memory a copy of it.
    fn database(&self, path: &Path) -> Result<Connection, ViewError> {
        let wait = self.options.busy_timeout;
        if !self.is_memory() {
            return connect(path, wait);
        }
        let mut memory = in_memory(wait)?;
        if path.exists() {
            let place = path.display().to_string();
            let file = existing(path, Access::Read, wait).map_err(|error| failed(&place, error))?;
            copy(&file, &mut memory, &place, &self.options)?;
        }
        Ok(memory)
    }

    fn store(&self, path: PathBuf, kept: bool) -> Result<SqliteViewStore, NotOpened> {
        let opened = open(self.database(&path)?, &path.display().to_string(), &self.options, kept)?;
        // What is published says of which lineage it is, so a crash must find that again.
        if self.is_memory()
            && let Some(out) = &opened.out
            && (out.is_new || may_differ(&opened.conn).map_err(|error| failed(&path.display().to_string(), error))?)
        {
            save(&opened.conn, &path)?;
        }
        opened.program.script.definition.tell_kept(&self.options.name);
        let place = if self.is_memory() { SqlitePlace::Memory(path) } else { SqlitePlace::File(path) };
        Ok(SqliteViewStore::new(opened, &place, self.options.busy_timeout))
    }

    /// What answers.
    fn open_live(&self) -> Result<SqliteViewStore, ViewError> {
        let path = self.path()?;
        let build = building(&path, self.options.fingerprint());
        if is_live(&path, &build, &self.options)? {
            remove(&build).map_err(|error| ViewError::Retry(format!("{}: {error}", build.display())))?;
        }
        match self.store(path.clone(), true) {
            Ok(store) => Ok(store),
            Err(NotOpened::View(error)) => Err(error),
            // Another view took the file at the same instant.
            Err(NotOpened::Others(_)) if path == self.given() && !self.is_memory() => {
                self.store(sibling(&path, &self.options.name), true).map_err(|error| others(error, &path))
            }
            Err(error) => Err(others(error, &path)),
        }
    }

    fn open_build(&self, afresh: bool) -> Result<SqliteViewStore, ViewError> {
        let live = self.path()?;
        let wanted = self.options.fingerprint();
        let path = building(&live, wanted);
        let io = |error| ViewError::Retry(format!("{}: {error}", path.display()));
        remove_others(&live, Some(wanted)).map_err(io)?;
        if afresh || is_live(&live, &path, &self.options)? {
            remove(&path).map_err(io)?;
        }
        self.store(path.clone(), false).map_err(|error| others(error, &path))
    }

    fn built(&self) -> MutexGuard<'_, Option<Arc<SqliteViewStore>>> {
        self.built.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn switch_now(&self) -> Result<SqliteViewStore, ViewError> {
        let live = self.path()?;
        let path = building(&live, self.options.fingerprint());
        if let Some(store) = self.built().take() {
            save(&store.shared.writer().conn, &path)?;
        }
        if !path.exists() {
            return Err(ViewError::Failed(format!("there is no build at {}", path.display())));
        }
        let build = connect(&path, self.options.busy_timeout)?;
        if live.exists() {
            let answers = existing(&live, Access::Read, self.options.busy_timeout);
            inherit(&build, &answers.map_err(|error| failed(&live.display().to_string(), error))?, &path)?;
        }
        match self.is_memory() {
            true => save(&build, &live)?,
            false => {
                let mut answers = connect(&live, self.options.busy_timeout)?;
                copy(&build, &mut answers, &live.display().to_string(), &self.options)?;
            }
        }
        drop(build);
        remove(&path).map_err(|error| ViewError::Retry(format!("{}: {error}", path.display())))?;
        self.open_live()
    }
}

/// A state in memory may have gone back. Transactions of several partitions are then taken again in another order, with other
/// changes than those that were published: what is published from here on is of another lineage.
fn may_differ(conn: &Connection) -> rusqlite::Result<bool> {
    let sql = "UPDATE watershed_view_lineage SET lineage = ?1 WHERE (SELECT count(*) FROM watershed_view_cursor) > 1";
    Ok(conn.execute(sql, [rand::random::<i64>()])? > 0)
}

fn others(error: NotOpened, path: &Path) -> ViewError {
    match error {
        NotOpened::View(error) => error,
        NotOpened::Others(name) => ViewError::Failed(format!("{} has the view {name:?}", path.display())),
    }
}

/// Whether a build has become what answers already, and only its removal is missing.
fn is_live(live: &Path, build: &Path, options: &SqliteViewOptions) -> Result<bool, ViewError> {
    let (live, build) = (look(live, options.busy_timeout)?, look(build, options.busy_timeout)?);
    Ok(matches!((live, build), (Found::View(live), Found::View(build)) if live.build == build.build))
}

/// What was ever passed over stays known. A build that has not come as far as what it would replace is refused.
fn inherit(build: &Connection, live: &Connection, path: &Path) -> Result<(), ViewError> {
    let fail = |error| failed(&path.display().to_string(), error);
    if !matches!(meta::found(live).map_err(fail)?, Found::View(_)) {
        return Ok(());
    }
    let reached = meta::cursors(build).map_err(fail)?;
    for cursor in meta::cursors(live).map_err(fail)? {
        let at = reached.iter().find(|reached| reached.log == cursor.log);
        // A log of which a build has never heard that knows of another is none of the view's any more.
        if at.is_none() && !reached.is_empty() {
            continue;
        }
        let at = at.map_or(0, |reached| reached.position.0);
        if at < cursor.position.0 {
            let Cursor { log, position, .. } = cursor;
            let why = format!("the build has come to {at} of the log {log}, and what answers to {position}");
            return Err(ViewError::Failed(why));
        }
    }
    for (cursor, time) in meta::passed(live).map_err(fail)? {
        meta::keep_passed(build, cursor, &time).map_err(fail)?;
    }
    Ok(())
}

/// Everything that is in `from`, in one step, also for those who read `to` meanwhile; durable on return.
fn copy(from: &Connection, to: &mut Connection, place: &str, options: &SqliteViewOptions) -> Result<(), ViewError> {
    let fail = |error| failed(place, error);
    let backup = Backup::new(from, to).map_err(fail)?;
    let deadline = Instant::now() + options.busy_timeout;
    loop {
        match backup.step(-1).map_err(fail)? {
            StepResult::Done => return Ok(()),
            _ if Instant::now() >= deadline => {
                return Err(ViewError::Retry(format!("{place} is locked by another connection")));
            }
            _ => std::thread::sleep(limits::VIEW_LOCK_PAUSE),
        }
    }
}

/// Writes a database to a file, which is the one or the other at any instant; durable on return.
pub(super) fn save(conn: &Connection, path: &Path) -> Result<(), ViewError> {
    let place = path.display().to_string();
    let io = |error: std::io::Error| ViewError::Retry(format!("{place}: {error}"));
    fs::create_dir_all(folder(path)).map_err(io)?;
    let new = PathBuf::from(format!("{place}.new"));
    remove(&new).map_err(io)?;
    let fail = |error| failed(&place, error);
    let mut file = Connection::open(&new).map_err(fail)?;
    // Nobody reads it before it is whole, and what is there is made durable at once.
    file.execute_batch("PRAGMA synchronous = OFF").map_err(fail)?;
    file.query_row("PRAGMA journal_mode = OFF", [], |_| Ok(())).map_err(fail)?;
    let backup = Backup::new(conn, &mut file).map_err(fail)?;
    while backup.step(-1).map_err(fail)? != StepResult::Done {
        std::thread::sleep(limits::VIEW_LOCK_PAUSE);
    }
    drop(backup);
    drop(file);
    File::open(&new).and_then(|file| file.sync_all()).map_err(io)?;
    fs::rename(&new, path).map_err(io)?;
    File::open(folder(path)).and_then(|folder| folder.sync_all()).map_err(io)
}

#[async_trait]
impl ViewBuilds for SqliteViews {
    fn wanted(&self) -> Fingerprint {
        self.options.fingerprint()
    }

    async fn live(&self) -> Result<Arc<dyn ViewStore>, ViewError> {
        Ok(Arc::new(blocking(|| self.open_live())?))
    }

    async fn build(&self, afresh: bool) -> Result<Arc<dyn ViewStore>, ViewError> {
        let store = Arc::new(blocking(|| self.open_build(afresh))?);
        if self.is_memory() {
            *self.built() = Some(store.clone());
        }
        Ok(store)
    }

    async fn look(&self, known: &[Arc<TableDef>]) -> Result<Look, ViewError> {
        blocking(|| self.looked(known))
    }

    async fn switch(&self) -> Result<Arc<dyn ViewStore>, ViewError> {
        Ok(Arc::new(blocking(|| self.switch_now())?))
    }

    async fn drop_build(&self) -> Result<(), ViewError> {
        *self.built() = None;
        blocking(|| {
            let live = self.path()?;
            remove_others(&live, None).map_err(|error| ViewError::Retry(format!("{}: {error}", live.display())))
        })
    }
}
