//! Local commits, read from the change table that the triggers fill.
//!
//! Everything that one look at the database finds becomes one transaction: a read transaction sees whole transactions,
//! so none is split; those that committed since the last look are merged.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use rusqlite::config::DbConfig;
use rusqlite::{Connection, TransactionBehavior};

use super::assemble::{Assembler, Definition, DefinitionError};
use super::connect::{Access, connect};
use super::continuity::{Facts, Place, checksum, newest, oldest};
use super::error::{CaptureError, is_busy};
use super::identity::FileId;
use super::install::{Occasion, log_all_copied, reconcile};
use super::options::{CaptureOptions, Captured};
use super::schema;
use super::start::settle;
use super::trim::{trim_interval, trim_some};
use crate::model::{SourceCursor, TableName, limits};

/// Captures one database's local commits. All calls block; it belongs on a thread of its own.
pub struct Capture {
    options: CaptureOptions,
    conn: Connection,
    file: FileId,
    file_checked: Instant,
    facts: Facts,
    /// The log has it.
    released: Place,
    /// Given to the log.
    read: Place,
    /// Last change that the latest look found.
    newest: i64,
    data_version: Option<i64>,
    schema_version: i64,
    width: usize,
    definitions: HashMap<i64, Definition>,
    rescans: Vec<TableName>,
    dropped: Vec<TableName>,
    busy_since: Option<Instant>,
    /// First row that is left, as far as we know.
    oldest: i64,
    trimmed_at: Instant,
}

impl Capture {
    /// Installs what is missing and checks that the log and the database belong together. Never creates a database.
    pub fn open(options: CaptureOptions) -> Result<Capture, CaptureError> {
        let path = options.path.clone();
        let fail = |error| CaptureError::sqlite(&path, "opening it for capture", error);
        let file = FileId::of(&path).map_err(|source| CaptureError::File { path: path.clone(), source })?;
        let mut conn = connect(&path, Access::Write, limits::DATABASE_BUSY_TIMEOUT).map_err(fail)?;
        conn.set_db_config(DbConfig::SQLITE_DBCONFIG_DQS_DML, false).map_err(fail)?;
        let resume = options.resume.as_ref().map(Place::try_from).transpose().map_err(CaptureError::Cursor)?;
        let transaction = conn.transaction_with_behavior(TransactionBehavior::Immediate).map_err(fail)?;
        let (facts, start, occasion) = settle(&transaction, &options, resume)?;
        let dropped = reconcile(&transaction, &*options.captured, occasion).map_err(fail)?;
        if resume.is_none() && start.seq > 0 {
            // The log has lost its place: who follows it copies afresh.
            log_all_copied(&transaction, None).map_err(fail)?;
        }
        let newest = newest(&transaction).map_err(fail)?;
        let schema_version = pragma(&transaction, "schema_version").map_err(fail)?;
        let width = schema::change_width(&transaction).map_err(fail)?;
        transaction.commit().map_err(fail)?;
        conn.busy_handler(Some(wait_a_little)).map_err(fail)?;
        let now = Instant::now();
        Ok(Capture {
            newest,
            options,
            conn,
            file,
            file_checked: now,
            facts,
            released: start,
            read: start,
            data_version: None,
            schema_version,
            width,
            definitions: HashMap::new(),
            rescans: Vec::new(),
            dropped,
            busy_since: None,
            oldest: 0,
            trimmed_at: now,
        })
    }

    /// Up to where the database has been read; before the first poll, where reading starts.
    pub fn place(&self) -> SourceCursor {
        self.read.into()
    }

    /// What has been committed since the last call, as one transaction; `None` if nothing was. Meant to be called every
    /// [`limits::CAPTURE_POLL_INTERVAL`]. A locked database is an error only after [`limits::DATABASE_BUSY_TIMEOUT`].
    pub fn poll(&mut self) -> Result<Option<Captured>, CaptureError> {
        match self.look_and_read() {
            Err(CaptureError::Locked { path, doing, source }) => {
                let since = *self.busy_since.get_or_insert_with(Instant::now);
                match since.elapsed() >= limits::DATABASE_BUSY_TIMEOUT {
                    true => Err(CaptureError::Locked { path, doing, source }),
                    false => Ok(None),
                }
            }
            outcome => {
                self.busy_since = None;
                outcome
            }
        }
    }

    /// The log has everything up to and including `upto`, durably: the next polls remove it from the database.
    pub fn release(&mut self, upto: &SourceCursor) -> Result<(), CaptureError> {
        let place = Place::try_from(upto).map_err(CaptureError::Cursor)?;
        if place.database != self.facts.database {
            return Err(CaptureError::Cursor(format!("{place} is of another database")));
        }
        if place.seq >= self.released.seq && place.seq <= self.read.seq {
            self.released = place;
        }
        Ok(())
    }

    /// Reads again what was not released: the log could not take it.
    pub fn retry(&mut self) {
        self.read = self.released;
    }

    /// Logs the table as replaced at the next poll, so that whoever follows it copies it afresh. A table that is not
    /// captured is left out.
    pub fn request_rescan(&mut self, table: &TableName) {
        self.rescans.push(table.clone());
    }

    fn look_and_read(&mut self) -> Result<Option<Captured>, CaptureError> {
        self.check_file()?;
        self.log_rescans()?;
        let version = pragma(&self.conn, "data_version").map_err(|e| self.fail("polling", e))?;
        if self.data_version != Some(version) {
            self.look()?;
            self.data_version = Some(version);
        }
        if self.read.seq < self.newest || !self.dropped.is_empty() {
            return self.read_changes().map(Some);
        }
        self.trim()?;
        Ok(None)
    }

    /// Sees what there is, and whether the schema is still the same, in one snapshot.
    fn look(&mut self) -> Result<(), CaptureError> {
        let fail = |error| CaptureError::sqlite(&self.options.path, "looking for changes", error);
        let snapshot = self.conn.unchecked_transaction().map_err(fail)?;
        let schema_version = pragma(&snapshot, "schema_version").map_err(fail)?;
        if schema_version != self.schema_version && !schema::is_installed(&snapshot).map_err(fail)? {
            return Err(self.restored("capture's tables are not in it any more", None));
        }
        let facts = Facts::read(&snapshot).map_err(fail)?;
        snapshot.commit().map_err(fail)?;
        self.check_facts(facts.as_ref())?;
        self.newest = facts.map_or(self.newest, |facts| facts.newest);
        match schema_version == self.schema_version {
            true => Ok(()),
            false => self.renew(),
        }
    }

    fn check_facts(&self, facts: Option<&Facts>) -> Result<(), CaptureError> {
        let Some(found) = facts else { return Err(self.restored("capture's state is not in it any more", None)) };
        if found.database != self.facts.database || found.mark != self.facts.mark {
            return Err(self.restored("its mark changed while it was being captured", facts));
        }
        if found.newest < self.newest {
            return Err(self.restored("changes that were there are gone", facts));
        }
        Ok(())
    }

    /// The schema changed: brings the triggers in line.
    fn renew(&mut self) -> Result<(), CaptureError> {
        let fail = |error| CaptureError::sqlite(&self.options.path, "renewing triggers", error);
        let transaction = self.conn.transaction_with_behavior(TransactionBehavior::Immediate).map_err(fail)?;
        let captures = &*self.options.captured;
        let dropped = reconcile(&transaction, captures, Occasion::Read(self.read.seq)).map_err(fail)?;
        let newest = newest(&transaction).map_err(fail)?;
        let schema_version = pragma(&transaction, "schema_version").map_err(fail)?;
        let width = schema::change_width(&transaction).map_err(fail)?;
        transaction.commit().map_err(fail)?;
        self.dropped.extend(dropped);
        (self.newest, self.schema_version, self.width) = (newest, schema_version, width);
        Ok(())
    }

    /// Reads up to the newest change found. Rows are never changed once committed, so many short reads see the same
    /// as a long one, and no writer waits for long.
    fn read_changes(&mut self) -> Result<Captured, CaptureError> {
        let mut assembler = Assembler::new(&self.options.path, &self.options.spool_dir);
        let mut upto = self.read;
        upto.mark = self.facts.mark;
        let columns: String = (0..self.width).map(|i| format!(", c{i}")).collect();
        let sql = format!(
            "SELECT seq, tbl, op{columns} FROM watershed_changes WHERE seq > ?1 AND seq <= ?2 ORDER BY seq LIMIT {}",
            limits::CAPTURE_READ_ROWS_MAX
        );
        while upto.seq < self.newest {
            let before = upto.seq;
            self.read_some(&sql, &mut assembler, &mut upto)?;
            if upto.seq == before {
                return Err(CaptureError::Gap { path: self.options.path.clone(), read: before, oldest: 0 });
            }
        }
        let assembled = assembler.finish(&self.options.node, upto.seq)?;
        self.read = upto;
        Ok(Captured {
            draft: assembled.draft,
            tables: assembled.tables,
            upto: upto.into(),
            changes: assembled.count,
            recreated: assembled.copied,
            dropped: std::mem::take(&mut self.dropped),
        })
    }

    fn read_some(&mut self, sql: &str, assembler: &mut Assembler, upto: &mut Place) -> Result<(), CaptureError> {
        let path = &self.options.path;
        let fail = |error| CaptureError::sqlite(path, "reading changes", error);
        let mut statement = self.conn.prepare_cached(sql).map_err(fail)?;
        let mut rows = statement.query([upto.seq, self.newest]).map_err(fail)?;
        let enough = assembler.bytes + limits::CAPTURE_READ_BYTES_MAX;
        while let Some(row) = rows.next().map_err(fail)? {
            let (seq, id): (i64, i64) = (row.get(0).map_err(fail)?, row.get(1).map_err(fail)?);
            if seq != upto.seq + 1 {
                return Err(CaptureError::Gap { path: path.clone(), read: upto.seq, oldest: seq });
            }
            if !self.definitions.contains_key(&id) {
                let definition = Definition::read(&self.conn, id).map_err(|error| match error {
                    DefinitionError::Sqlite(error) => fail(error),
                    DefinitionError::Codec(error) => CaptureError::Definition(error),
                })?;
                let why = || format!("its table definition {id} is not in watershed_tables");
                let definition =
                    definition.ok_or_else(|| CaptureError::Damaged { path: path.clone(), seq, why: why() })?;
                self.definitions.insert(id, definition);
            }
            let definition = self.definitions.get(&id).expect("just read");
            assembler.push(row, seq, id, definition)?;
            upto.seq = seq;
            if seq == self.newest {
                upto.check = checksum(row, self.width + 3).map_err(fail)?;
            }
            if assembler.bytes >= enough {
                break;
            }
        }
        Ok(())
    }

    fn log_rescans(&mut self) -> Result<(), CaptureError> {
        if self.rescans.is_empty() {
            return Ok(());
        }
        let fail = |error| CaptureError::sqlite(&self.options.path, "logging a rescan", error);
        let transaction = self.conn.transaction_with_behavior(TransactionBehavior::Immediate).map_err(fail)?;
        for table in &self.rescans {
            log_all_copied(&transaction, Some(table)).map_err(fail)?;
        }
        transaction.commit().map_err(fail)?;
        self.rescans.clear();
        // This connection's own commits do not move its data_version.
        self.data_version = None;
        Ok(())
    }

    /// Removes what the log has, but for the last row, a little at a time; a busy database is left alone.
    fn trim(&mut self) -> Result<(), CaptureError> {
        if self.trimmed_at.elapsed() < trim_interval(self.released.seq - self.oldest) {
            return Ok(());
        }
        let fail = |error| CaptureError::sqlite(&self.options.path, "removing captured changes", error);
        self.trimmed_at = Instant::now();
        self.oldest = oldest(&self.conn).map_err(fail)?;
        if self.oldest >= self.released.seq {
            return Ok(());
        }
        self.conn.busy_timeout(Duration::ZERO).map_err(fail)?;
        let outcome = trim_some(&mut self.conn, self.released, self.read.seq, self.facts.mark);
        self.conn.busy_handler(Some(wait_a_little)).map_err(fail)?;
        match outcome {
            Ok((mark, upto)) => {
                (self.facts.mark, self.oldest) = (mark, upto);
                Ok(())
            }
            Err(error) if is_busy(&error) => Ok(()),
            Err(error) => Err(fail(error)),
        }
    }

    fn check_file(&mut self) -> Result<(), CaptureError> {
        if self.file_checked.elapsed() < limits::CAPTURE_FILE_INTERVAL {
            return Ok(());
        }
        self.file_checked = Instant::now();
        match FileId::of(&self.options.path) {
            Ok(file) if file == self.file => Ok(()),
            Ok(_) => Err(self.restored("another file has taken its place", None)),
            Err(error) => Err(self.restored(&format!("its file cannot be found any more: {error}"), None)),
        }
    }

    fn restored(&self, why: &str, found: Option<&Facts>) -> CaptureError {
        CaptureError::Restored {
            path: self.options.path.clone(),
            why: why.to_owned(),
            expected: self.read.to_string(),
            found: found.map_or("nothing of it".to_owned(), |found| {
                Place { database: found.database, mark: found.mark, seq: found.newest, check: 0 }.to_string()
            }),
        }
    }

    fn fail(&self, doing: &'static str, error: rusqlite::Error) -> CaptureError {
        CaptureError::sqlite(&self.options.path, doing, error)
    }
}

/// SQLite's own waiting backs off so far that a busy writer starves a reader in rollback-journal mode.
fn wait_a_little(times: i32) -> bool {
    const WAIT: Duration = Duration::from_millis(1);
    std::thread::sleep(WAIT);
    WAIT.saturating_mul(times.unsigned_abs()) < limits::CAPTURE_BUSY_TIMEOUT
}

fn pragma(conn: &Connection, name: &str) -> rusqlite::Result<i64> {
    let mut statement = conn.prepare_cached(&format!("PRAGMA {name}"))?;
    statement.query_row([], |row| row.get(0))
}
