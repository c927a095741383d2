//! A look at a view's place, and at how its definition fits SQLite: nothing is changed.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rusqlite::Connection;
use rustix::fs::{Access, access};

use super::builds::SqliteViews;
use super::meta::Found;
use super::open::{in_memory, look};
use super::place::{SqlitePlace, SqliteViewOptions, folder};
use super::store::failed;
use super::{changes, check, outbox};
use crate::model::{TableDef, limits};
use crate::view::{Look, Program, ViewError};

/// Instructions of SQLite between two looks at the clock.
const OPS_BETWEEN_LOOKS: i32 = 1_000;

impl SqliteViews {
    /// Blocks.
    pub(super) fn looked(&self, known: &[Arc<TableDef>]) -> Result<Look, ViewError> {
        let (options, mut notes) = (&self.options, Vec::new());
        let path = self.path()?;
        if let SqlitePlace::File(given) = &options.place {
            if path != *given {
                notes.push(format!("{} is another view's, so it is kept in {}", given.display(), path.display()));
            }
            writable(&path)?;
        }
        let live = match look(&path, options.busy_timeout)? {
            Found::View(meta) if meta.fingerprint == options.fingerprint() => Some(meta.fingerprint),
            Found::View(meta) => {
                notes.push(options.definition.differs(&meta.definition));
                Some(meta.fingerprint)
            }
            Found::Empty | Found::Foreign => None,
        };
        fits(options)?;
        notes.extend(options.definition.kept());
        Ok(Look { live, notes, warnings: options.definition.unknown_columns(known) })
    }
}

/// Whether a database can be made and written there.
fn writable(path: &Path) -> Result<(), ViewError> {
    let folder = folder(path);
    let cannot = |path: &Path, why: &dyn std::fmt::Display| {
        Err(ViewError::Failed(format!("{} cannot be written: {why}", path.display())))
    };
    match fs::metadata(&folder) {
        Err(error) => return cannot(&folder, &error),
        Ok(meta) if !meta.is_dir() => return cannot(&folder, &"it is no folder"),
        Ok(_) => {}
    }
    for one in [folder.as_path(), path].into_iter().filter(|one| one.exists()) {
        if let Err(error) = access(one, Access::WRITE_OK) {
            return cannot(one, &error);
        }
    }
    Ok(())
}

/// Carries out the setup in a database that goes with it, and prepares the statements there.
fn fits(options: &SqliteViewOptions) -> Result<(), ViewError> {
    let definition = &options.definition;
    let fail = |error| failed("a database in memory", error);
    let mut conn = in_memory(Duration::ZERO)?;
    let deadline = Instant::now() + limits::VIEW_ASK_TIME_MAX;
    conn.progress_handler(OPS_BETWEEN_LOOKS, Some(move || Instant::now() >= deadline)).map_err(fail)?;
    conn.execute_batch("BEGIN").map_err(fail)?;
    let program = Program::new(definition.clone());
    let tried = check::set_up(&mut conn, definition).and_then(|()| check::prepare(&mut conn, &program.script));
    let tried = tried.map_err(|unfit| unfit.into_view(fail)).and_then(|_| tells(&conn, options));
    match tried {
        Err(_) if Instant::now() >= deadline => {
            let why = format!("{}: its setup takes more than {:?}", definition.file, limits::VIEW_ASK_TIME_MAX);
            Err(ViewError::Failed(why))
        }
        tried => tried,
    }
}

/// Whether what changes there can be told, where somebody is to be told.
fn tells(conn: &Connection, options: &SqliteViewOptions) -> Result<(), ViewError> {
    let fail = |error| failed(&options.definition.file, error);
    if options.changes || options.publish {
        options.definition.only_changes_rows()?;
    }
    if options.changes {
        changes::install(conn).map_err(fail)?;
    }
    if options.publish {
        outbox::defined(conn).map_err(fail)?;
    }
    Ok(())
}
