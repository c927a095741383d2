//! Opens a build: what is there is gone on with, and where nothing is it is made.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};

use super::bounded;
use super::check;
use super::meta::{self, Found, Meta};
use super::outbox::{self, Outbox};
use super::place::{SqliteViewOptions, folder};
use super::store::{failed, is_of_the_store};
use crate::model::limits;
use crate::sqlite::connect::{Access, connect as existing};
use crate::view::sql::{Definition, Dialect};
use crate::view::{Program, ViewError};

/// Of SQLite itself, as it is built (sqlite.org/limits.html).
const VALUE_BYTES_MAX: usize = 1_000_000_000;

/// A build that is open for writing.
pub(super) struct Opened {
    pub conn: Connection,
    pub meta: Meta,
    pub program: Program,
    pub sqls: Vec<String>,
    /// Whether it notes what changes in the view's tables.
    pub changes: bool,
    /// Where it notes what is to be published.
    pub out: Option<Outbox>,
}

/// Why a file is not opened.
pub(super) enum NotOpened {
    /// It is the view of that name.
    Others(String),
    View(ViewError),
}

impl From<ViewError> for NotOpened {
    fn from(error: ViewError) -> NotOpened {
        NotOpened::View(error)
    }
}

/// A connection that writes.
pub(super) fn connect(path: &Path, busy_timeout: Duration) -> Result<Connection, ViewError> {
    let fail = |error| failed(&path.display().to_string(), error);
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let conn = Connection::open_with_flags(path, flags).map_err(fail)?;
    configure(&conn, busy_timeout).map_err(fail)?;
    Ok(conn)
}

/// A database in memory, which answers questions, too. Values may be as large as SQLite lets them be.
pub(super) fn in_memory(busy_timeout: Duration) -> Result<Connection, ViewError> {
    let fail = |error| failed("a view in memory", error);
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let conn = Connection::open_in_memory_with_flags(flags).map_err(fail)?;
    configure(&conn, busy_timeout).map_err(fail)?;
    bounded::define(&conn, VALUE_BYTES_MAX).map_err(fail)?;
    Ok(conn)
}

/// What is committed is durable; who reads does not wait for who writes.
fn configure(conn: &Connection, busy_timeout: Duration) -> rusqlite::Result<()> {
    conn.busy_timeout(busy_timeout)?;
    conn.query_row("PRAGMA journal_mode = WAL", [], |_| Ok(()))?;
    // A row that another one replaces is told to triggers, too.
    conn.execute_batch("PRAGMA synchronous = FULL; PRAGMA cache_size = -16384; PRAGMA recursive_triggers = ON")?;
    conn.set_prepared_statement_cache_capacity(limits::VIEW_STATEMENTS_MAX + 32);
    Ok(())
}

/// Opens the build in a database. `kept` says whether one of an earlier definition is gone on with.
pub(super) fn open(
    conn: Connection,
    place: &str,
    options: &SqliteViewOptions,
    kept: bool,
) -> Result<Opened, NotOpened> {
    let fail = |error| failed(place, error);
    let mut conn = conn;
    // What fails goes with the connection, and with it what was begun.
    conn.execute_batch("BEGIN IMMEDIATE").map_err(fail)?;
    let found = meta::found(&conn).map_err(fail)?;
    let (meta, definition) = match found {
        Found::Empty => {
            let meta = fresh(options);
            meta::install(&conn, &meta).map_err(fail)?;
            check::set_up(&mut conn, &options.definition).map_err(|unfit| unfit.into_view(fail))?;
            (meta, options.definition.clone())
        }
        Found::View(meta) if meta.name != options.name => return Err(NotOpened::Others(meta.name)),
        Found::View(meta) => {
            let definition = match meta.fingerprint == options.fingerprint() {
                true => options.definition.clone(),
                false if kept => {
                    Arc::new(Definition::parse(&meta.file, &meta.definition, Dialect::Sqlite).map_err(ViewError::from)?)
                }
                false => return Err(ViewError::Failed(format!("{place} is a build of another definition")).into()),
            };
            (meta, definition)
        }
        Found::Foreign => return Err(foreign(place).into()),
    };
    // One of an earlier definition of which not everything could be told answers, and tells nothing.
    let tells = match definition.only_changes_rows() {
        Err(error) if (options.changes || options.publish) && meta.fingerprint == options.fingerprint() => {
            return Err(ViewError::from(error).into());
        }
        tells => kept && tells.is_ok(),
    };
    let program = Program::new(definition);
    let sqls = check::prepare(&mut conn, &program.script).map_err(|unfit| unfit.into_view(fail))?;
    // What is being built changes for nobody.
    let changes = options.changes && tells;
    if changes {
        super::changes::install(&conn).map_err(fail)?;
    }
    if options.publish {
        // What cannot be published is refused before it takes the place of what answers.
        outbox::defined(&conn).map_err(fail)?;
    }
    let out = match (options.publish && tells, kept) {
        (true, _) => Some(Outbox::install(&conn, &folder(Path::new(place))).map_err(fail)?),
        (false, true) => outbox::remove(&conn).map(|()| None).map_err(fail)?,
        (false, false) => None,
    };
    conn.execute_batch("COMMIT").map_err(fail)?;
    Ok(Opened { conn, meta, program, sqls, changes, out })
}

/// Why a database that is no view's is left alone.
pub(super) fn foreign(place: &str) -> ViewError {
    let why = "is a database of something else: give the view a file of its own, because it is replaced when the view is built anew";
    ViewError::Failed(format!("{place} {why}"))
}

fn fresh(options: &SqliteViewOptions) -> Meta {
    Meta {
        name: options.name.clone(),
        fingerprint: options.fingerprint(),
        build: rand::random::<i64>(),
        file: options.definition.file.clone(),
        definition: options.definition.text.clone(),
    }
}

/// What a file is, without making anything; `Empty` where there is none.
pub(super) fn look(path: &Path, busy_timeout: Duration) -> Result<Found, ViewError> {
    if !path.exists() {
        return Ok(Found::Empty);
    }
    let fail = |error| failed(&path.display().to_string(), error);
    let found = existing(path, Access::Read, busy_timeout).and_then(|conn| meta::found(&conn));
    match found {
        // A reader cannot make what it needs beside a file that was left behind; a writer can.
        Err(error) if is_of_the_store(&error) => {
            existing(path, Access::Write, busy_timeout).and_then(|conn| meta::found(&conn)).map_err(fail)
        }
        found => found.map_err(fail),
    }
}
