//! One partition's log, applied: effects and cursor in one transaction.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use rusqlite::{CachedStatement, Connection};

use super::carry::Carry;
use super::meta;
use super::outbox::{self, Outbox};
use super::store::{Shared, Writer};
use crate::model::{Batch, Catalog, Cursor, Entry, LogId, Position};
use crate::view::{Program, Ready, Spools, ViewError, Work, number_of, stands_before};

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

    /// A program by which batches can be read before they are taken.
    pub(super) fn reader(&self) -> Program {
        Program::new(self.shared.writer().program.script.definition.clone())
    }

    /// Takes a batch, of which something may have been read: effects and cursor together, or neither.
    pub(super) fn take(&mut self, batch: &Batch, ready: &Ready) -> Result<(), ViewError> {
        if batch.upto.log != self.log {
            let why = format!("the view follows the log {}, and is given entries of {}", self.log, batch.upto.log);
            return Err(ViewError::Failed(why));
        }
        let after = self.held.map_or(Position::ZERO, |held| held.position);
        if self.held.is_some() && batch.upto.position < after {
            return Ok(());
        }
        let mut spools = std::mem::take(&mut self.spools);
        let done = self.work((batch, ready), after, &mut spools);
        if let Some(held) = self.held {
            spools.forget(held.position);
        }
        self.spools = spools;
        done
    }

    fn work(&mut self, from: (&Batch, &Ready), after: Position, spools: &mut Spools) -> Result<(), ViewError> {
        let batch = from.0;
        let work = spools.take_all(batch, after, &self.shared.folder)?;
        if work.is_empty() && self.held == Some(batch.upto) {
            return Ok(());
        }
        let shared = self.shared.clone();
        let mut writer = shared.writer();
        let Err(stop) = self.commit(&mut writer, &work, from, batch.upto, spools) else { return Ok(()) };
        // What stands before the entry that fails is applied all the same.
        if let Some((end, before)) = stands_before(&stop, &work, batch.upto, self.held) {
            self.commit(&mut writer, &work[..end], from, before, spools)?;
        }
        Err(stop)
    }

    /// Carries out the work and stores the cursor; nothing stays if it fails.
    fn commit(
        &mut self,
        writer: &mut Writer,
        work: &[Work<'_>],
        from: (&Batch, &Ready),
        upto: Cursor,
        spools: &mut Spools,
    ) -> Result<(), ViewError> {
        let fail = |error| self.shared.fail(error);
        writer.conn.prepare_cached("BEGIN IMMEDIATE").and_then(|mut begin| begin.execute([])).map_err(fail)?;
        let begun = self.fenced(&writer.conn).and_then(|()| match self.shared.changes {
            true => super::changes::begin(&writer.conn, upto).map_err(fail),
            false => Ok(()),
        });
        let begun = begun.and_then(|()| self.forget(writer)).and_then(|()| self.begins(writer, work));
        let done = begun.and_then(|()| self.carry(writer, work, from, spools)).and_then(|()| {
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
                writer.out.iter().for_each(Outbox::clear);
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

    /// A log begins at its first position, and a state that begins elsewhere with tables as they are: at another time they are
    /// others.
    fn begins(&self, writer: &Writer, work: &[Work<'_>]) -> Result<(), ViewError> {
        let has_nothing = self.held.is_none_or(|held| held.position == Position::ZERO);
        let elsewhere = work.first().is_some_and(|first| first.position() > Position::ZERO.next());
        match &writer.out {
            Some(_) if has_nothing && elsewhere => {
                outbox::draw_again(&writer.conn).map_err(|error| self.shared.fail(error))
            }
            _ => Ok(()),
        }
    }

    /// What has been published is kept no longer.
    fn forget(&self, writer: &Writer) -> Result<(), ViewError> {
        match (&writer.out, self.shared.published.swap(0, Ordering::AcqRel)) {
            (None, _) | (_, 0) => Ok(()),
            (Some(_), upto) => outbox::forget(&writer.conn, upto).map_err(|error| self.shared.fail(error)),
        }
    }

    fn carry(
        &self,
        writer: &mut Writer,
        work: &[Work<'_>],
        (batch, ready): (&Batch, &Ready),
        spools: &mut Spools,
    ) -> Result<(), ViewError> {
        let Writer { conn, program, sqls, defs, out } = writer;
        let statements: Vec<Option<CachedStatement<'_>>> = (0..sqls.len()).map(|_| None).collect();
        let script = program.script.clone();
        let mut carry = Carry { conn, script, sqls, statements, defs, place: &self.shared.place };
        let catalog = std::slice::from_ref(&batch.catalog);
        let (mut cells, mut number) = (Vec::new(), 0);
        for item in work {
            match item {
                Work::Whole(logged) => {
                    number = number_of(batch, logged.position, number);
                    program.carry((number, logged), ready, catalog, &mut cells, &mut carry)?;
                    self.note(out.as_ref(), conn, batch, logged.position, &logged.entry)?;
                }
                Work::Spooled(position) => {
                    if let Some(last) = large(program, *position, spools, &mut carry)? {
                        self.note(out.as_ref(), conn, batch, *position, &last)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Keeps what is to be published of a transaction.
    fn note(
        &self,
        out: Option<&Outbox>,
        conn: &Connection,
        batch: &Batch,
        position: Position,
        entry: &Entry,
    ) -> Result<(), ViewError> {
        let Some(out) = out else { return Ok(()) };
        let cursor = Cursor { position, ..batch.upto };
        out.keep(conn, cursor, entry).map_err(|error| self.shared.fail(error))
    }
}

/// Carries out all parts, and gives the last.
fn large(
    program: &mut Program,
    position: Position,
    spools: &mut Spools,
    carry: &mut Carry<'_>,
) -> Result<Option<Entry>, ViewError> {
    let mut parts = spools.read(position)?;
    let mut last = None;
    while let Some(entry) = parts.next()? {
        let catalogs: &[Arc<Catalog>] = &parts.catalogs;
        program.entry(position, &entry, catalogs, &mut Vec::new(), carry)?;
        last = Some(entry);
    }
    Ok(last)
}

fn roll_back(conn: &Connection, place: &str) {
    if !conn.is_autocommit()
        && let Err(error) = conn.execute_batch("ROLLBACK")
    {
        // Nothing is lost: the next begin says so.
        tracing::warn!(%error, %place, "rollback failed");
    }
}
