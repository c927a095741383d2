//! One partition's log, applied: effects and cursor in one transaction.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use async_trait::async_trait;

use super::collect::Collected;
use super::meta;
use super::session::Trouble;
use super::store::{Shared, Writer};
use crate::model::{Batch, Catalog, Cursor, Entry, LogId, Position, limits};
use crate::view::{Cause, Program, Spools, View, ViewError, Work, stands_before};

/// A build as the view of one log.
pub(super) struct Part {
    shared: Arc<Shared>,
    log: LogId,
    /// The cursor when it was last seen.
    held: Option<Cursor>,
    spools: Spools,
}

impl Part {
    pub(super) fn new(shared: Arc<Shared>, log: LogId) -> Part {
        Part { shared, log, held: None, spools: Spools::default() }
    }

    async fn take(&mut self, batch: &Batch) -> Result<(), ViewError> {
        if batch.upto.log != self.log {
            let why = format!("the view follows the log {}, and is given entries of {}", self.log, batch.upto.log);
            return Err(ViewError::Failed(why));
        }
        let after = self.held.map_or(Position::ZERO, |held| held.position);
        if self.held.is_some() && batch.upto.position < after {
            return Ok(());
        }
        let mut spools = std::mem::take(&mut self.spools);
        let done = self.work(batch, after, &mut spools).await;
        if let Some(held) = self.held {
            spools.forget(held.position);
        }
        self.spools = spools;
        done
    }

    async fn work(&mut self, batch: &Batch, after: Position, spools: &mut Spools) -> Result<(), ViewError> {
        let work = spools.take_all(batch, after, &self.shared.folder)?;
        if work.is_empty() && self.held == Some(batch.upto) {
            return Ok(());
        }
        let shared = self.shared.clone();
        let mut writer = shared.writer().await?;
        let Err(stop) = self.commit(&mut writer, &work, batch, batch.upto, spools).await else { return Ok(()) };
        // What stands before the entry that fails is applied all the same.
        if let Some((end, before)) = stands_before(&stop, &work, batch.upto, self.held) {
            self.commit(&mut writer, &work[..end], batch, before, spools).await?;
        }
        Err(stop)
    }

    /// Carries out the work and stores the cursor; nothing stays if it fails.
    async fn commit(
        &mut self,
        writer: &mut Writer,
        work: &[Work<'_>],
        batch: &Batch,
        upto: Cursor,
        spools: &mut Spools,
    ) -> Result<(), ViewError> {
        // A session that was broken off in the middle of a transaction is not used again.
        let mut guard = Unfinished { writer, finished: false };
        let done = self.transact(guard.writer, work, batch, upto, spools).await;
        let rolled_back = match (&done, guard.writer.client()) {
            (Ok(()), _) => true,
            (Err(_), Ok(client)) => client.batch_execute("ROLLBACK").await.is_ok(),
            (Err(_), Err(_)) => false,
        };
        guard.finished = rolled_back;
        done.map_err(|trouble| self.shared.told(trouble))?;
        self.held = Some(upto);
        Ok(())
    }

    async fn transact(
        &self,
        writer: &mut Writer,
        work: &[Work<'_>],
        batch: &Batch,
        upto: Cursor,
        spools: &mut Spools,
    ) -> Result<(), Trouble> {
        writer.client()?.batch_execute("BEGIN").await?;
        let found = self.shared.fence(writer.client()?, self.log).await?;
        if found != self.held {
            return Err(ViewError::Fenced { expected: self.held, found }.into());
        }
        let mut collected = Collected::new(writer.program.script.clone(), writer.prepared.clone(), writer.mark.clone());
        let mut causes = self.causes(work, upto);
        let catalogs = std::slice::from_ref(&batch.catalog);
        self.prefetch(writer, work, catalogs, &mut collected).await?;
        for item in work {
            match item {
                Work::Whole(logged) => {
                    writer.program.entry(logged.position, &logged.entry, catalogs, &mut Vec::new(), &mut collected)?;
                    self.relieve(writer, &mut collected, false).await?;
                }
                Work::Spooled(position) => {
                    let mut parts = spools.read(*position)?;
                    while let Some(entry) = parts.next()? {
                        causes
                            .entry(*position)
                            .or_insert_with(|| cause(&entry, Cursor { position: *position, ..upto }));
                        self.part(writer, *position, &entry, &parts.catalogs, &mut collected).await?;
                    }
                    self.prefetch(writer, work, catalogs, &mut collected).await?;
                }
            }
        }
        let client = writer.client()?;
        collected.send(client).await?;
        collected.keep_rows(client).await?;
        if let Some(notes) = &self.shared.notes {
            let published = self.shared.published.load(Ordering::Acquire);
            notes.keep(client, &causes, upto, published).await?;
        }
        meta::set_cursor(client, upto).await?;
        client.batch_execute("COMMIT").await?;
        Ok(())
    }

    /// By what rows may change, where somebody is told; of large transactions once their parts are read.
    fn causes(&self, work: &[Work<'_>], upto: Cursor) -> HashMap<Position, Cause> {
        let told = self.shared.notes.is_some();
        let whole = work.iter().filter(|_| told).filter_map(|item| match item {
            Work::Whole(logged) => {
                Some((logged.position, cause(&logged.entry, Cursor { position: logged.position, ..upto })))
            }
            Work::Spooled(_) => None,
        });
        whole.collect()
    }

    /// One part of a large transaction.
    async fn part(
        &self,
        writer: &mut Writer,
        position: Position,
        entry: &Entry,
        catalogs: &[Arc<Catalog>],
        collected: &mut Collected,
    ) -> Result<(), Trouble> {
        let keys = writer.program.keys(position, entry, catalogs)?;
        collected.prefetch(writer.client()?, keys).await?;
        writer.program.entry(position, entry, catalogs, &mut Vec::new(), collected)?;
        self.relieve(writer, collected, true).await
    }

    /// Sends what has come together, if it is much; `rows` also writes the latest rows down.
    async fn relieve(&self, writer: &Writer, collected: &mut Collected, rows: bool) -> Result<(), Trouble> {
        if collected.is_much() {
            collected.send(writer.client()?).await?;
        }
        if rows && collected.rows() > limits::VIEW_SENT_STATEMENTS {
            collected.keep_rows(writer.client()?).await?;
            collected.forget_rows();
        }
        Ok(())
    }

    /// Reads the latest rows that whole transactions may ask for.
    async fn prefetch(
        &self,
        writer: &mut Writer,
        work: &[Work<'_>],
        catalogs: &[Arc<Catalog>],
        collected: &mut Collected,
    ) -> Result<(), Trouble> {
        let mut keys = Vec::new();
        let Writer { program, .. } = writer;
        for item in work {
            if let Work::Whole(logged) = item {
                keys.extend(wanted(program, logged, catalogs)?);
            }
        }
        collected.prefetch(writer.client()?, keys).await
    }
}

fn cause(entry: &Entry, cursor: Cursor) -> Cause {
    let header = entry.header();
    Cause { cursor, time: header.time, correlation: header.correlation.clone() }
}

/// An entry that cannot be read asks for nothing: it is told of when it is its turn.
fn wanted(
    program: &mut Program,
    logged: &crate::model::Logged,
    catalogs: &[Arc<Catalog>],
) -> Result<Vec<(crate::model::TableName, Vec<u8>)>, ViewError> {
    match program.keys(logged.position, &logged.entry, catalogs) {
        Err(error) if error.stops_at().is_some() => Ok(Vec::new()),
        keys => keys,
    }
}

/// Loses the session unless what was begun was ended.
struct Unfinished<'w> {
    writer: &'w mut Writer,
    finished: bool,
}

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        if !self.finished {
            self.writer.lose();
        }
    }
}

#[async_trait]
impl View for Part {
    async fn cursor(&mut self) -> Result<Option<Cursor>, ViewError> {
        let shared = self.shared.clone();
        let writer = shared.writer().await?;
        let read = async { shared.fence(writer.client()?, self.log).await };
        self.held = read.await.map_err(|trouble| shared.told(trouble))?;
        Ok(self.held)
    }

    async fn apply(&mut self, batch: &Batch) -> Result<(), ViewError> {
        self.take(batch).await
    }
}
