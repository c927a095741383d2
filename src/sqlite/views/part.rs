//! One partition's log, applied: effects and cursor in one transaction.

use std::sync::Arc;

use rusqlite::{CachedStatement, Connection};

use super::carry::Carry;
use super::meta;
use super::store::{Shared, Writer};
use crate::model::{Batch, Catalog, Cursor, LogId, Position};
use crate::view::{Program, Spools, ViewError, Work, stands_before};

/// A build as the view of one log.
pub(super) struct Part {
    shared: Arc<Shared>,
    log: LogId,
    /// The cursor when it was last seen.
    held: Option<Cursor>,
    spools: Spools,
}

impl Part {
    pub(super) fn open(shared: Arc<Shared>, log: LogId) -> Result<Part, ViewError> {
        let mut part = Part { shared, log, held: None, spools: Spools::default() };
        part.read()?;
        Ok(part)
    }

    /// The cursor when it was last seen here.
    pub(super) fn held(&self) -> Option<Cursor> {
        self.held
    }

    /// As the database has it.
    pub(super) fn read(&mut self) -> Result<Option<Cursor>, ViewError> {
        let writer = self.shared.writer();
        self.held = self.shared.fence(&writer.conn, self.log)?;
        Ok(self.held)
    }

    /// Takes a batch: effects and cursor together, or neither.
    pub(super) fn take(&mut self, batch: &Batch) -> Result<(), ViewError> {
        if batch.upto.log != self.log {
            let why = format!("the view follows the log {}, and is given entries of {}", self.log, batch.upto.log);
            return Err(ViewError::Failed(why));
        }
        let after = self.held.map_or(Position::ZERO, |held| held.position);
        if self.held.is_some() && batch.upto.position < after {
            return Ok(());
        }
        let mut spools = std::mem::take(&mut self.spools);
        let done = self.work(batch, after, &mut spools);
        if let Some(held) = self.held {
            spools.forget(held.position);
        }
        self.spools = spools;
        done
    }

    fn work(&mut self, batch: &Batch, after: Position, spools: &mut Spools) -> Result<(), ViewError> {
        let work = spools.take_all(batch, after, &self.shared.folder)?;
        if work.is_empty() && self.held == Some(batch.upto) {
            return Ok(());
        }
        let shared = self.shared.clone();
        let mut writer = shared.writer();
        let Err(stop) = self.commit(&mut writer, &work, batch, batch.upto, spools) else { return Ok(()) };
        // What stands before the entry that fails is applied all the same.
        if let Some((end, before)) = stands_before(&stop, &work, batch.upto, self.held) {
            self.commit(&mut writer, &work[..end], batch, before, spools)?;
        }
        Err(stop)
    }

    /// Carries out the work and stores the cursor; nothing stays if it fails.
    fn commit(
        &mut self,
        writer: &mut Writer,
        work: &[Work<'_>],
        batch: &Batch,
        upto: Cursor,
        spools: &mut Spools,
    ) -> Result<(), ViewError> {
        let fail = |error| self.shared.fail(error);
        writer.conn.prepare_cached("BEGIN IMMEDIATE").and_then(|mut begin| begin.execute([])).map_err(fail)?;
        let begun = self.fenced(&writer.conn).and_then(|()| match self.shared.changes {
            true => super::changes::begin(&writer.conn, upto).map_err(fail),
            false => Ok(()),
        });
        let done = begun.and_then(|()| self.carry(writer, work, batch, spools)).and_then(|()| {
            meta::set_cursor(&writer.conn, upto).map_err(fail)?;
            writer.conn.prepare_cached("COMMIT").and_then(|mut commit| commit.execute([])).map_err(fail)
        });
        match done {
            Ok(_) => {
                self.held = Some(upto);
                Ok(())
            }
            Err(error) => {
                roll_back(&writer.conn, &self.shared.place);
                writer.defs.clear();
                Err(error)
            }
        }
    }

    fn fenced(&self, conn: &Connection) -> Result<(), ViewError> {
        let found = self.shared.fence(conn, self.log)?;
        match found == self.held {
            true => Ok(()),
            false => Err(ViewError::Fenced { expected: self.held, found }),
        }
    }

    fn carry(
        &self,
        writer: &mut Writer,
        work: &[Work<'_>],
        batch: &Batch,
        spools: &mut Spools,
    ) -> Result<(), ViewError> {
        let Writer { conn, program, sqls, defs } = writer;
        let statements: Vec<Option<CachedStatement<'_>>> = (0..sqls.len()).map(|_| None).collect();
        let script = program.script.clone();
        let mut carry = Carry { conn, script, sqls, statements, defs, place: &self.shared.place };
        let catalog = std::slice::from_ref(&batch.catalog);
        let mut cells = Vec::new();
        for item in work {
            match item {
                Work::Whole(logged) => {
                    program.entry(logged.position, &logged.entry, catalog, &mut cells, &mut carry)?;
                }
                Work::Spooled(position) => large(program, *position, spools, &mut carry)?,
            }
        }
        Ok(())
    }
}

fn large(
    program: &mut Program,
    position: Position,
    spools: &mut Spools,
    carry: &mut Carry<'_>,
) -> Result<(), ViewError> {
    let mut parts = spools.read(position)?;
    while let Some(entry) = parts.next()? {
        let catalogs: &[Arc<Catalog>] = &parts.catalogs;
        program.entry(position, &entry, catalogs, &mut Vec::new(), carry)?;
    }
    Ok(())
}

fn roll_back(conn: &Connection, place: &str) {
    if !conn.is_autocommit()
        && let Err(error) = conn.execute_batch("ROLLBACK")
    {
        // Nothing is lost: the next begin says so.
        tracing::warn!(%error, %place, "rollback failed");
    }
}
