//! Batches of many transactions, merged and carried out while the next ones are gathered and prepared.
//!
//! What comes while one transaction is carried out becomes the next one, up to a limit: so the farther behind, the larger
//! they are, and the more of a row's updates are one.

use tokio_postgres::error::SqlState;
use tokio_util::task::AbortOnDropHandle;

use super::PgApplier;
use super::copying::copy_in;
use super::link::{Fail, Link};
use super::pass::server_words;
use super::plan::Prepared;
use crate::model::{Batch, Cursor, Logged, Position, limits};
use crate::view::ViewError;

/// What is under way.
pub(super) struct Flight {
    task: AbortOnDropHandle<Result<(), Fail>>,
    /// Kept until they are there: if it fails they are done in order.
    batches: Vec<Batch>,
    to: Cursor,
    torn: u64,
}

impl Flight {
    pub(super) fn is_finished(&self) -> bool {
        self.task.is_finished()
    }
}

fn bytes(batch: &Batch) -> usize {
    batch.entries.iter().map(|logged| logged.entry.bytes().len()).sum()
}

impl PgApplier {
    /// Waits until everything given is there.
    pub(super) async fn settle(&mut self) -> Result<(), ViewError> {
        self.arrive().await?;
        while !self.gathered.is_empty() {
            self.launch().await?;
            self.arrive().await?;
        }
        Ok(())
    }

    /// Waits for what is under way; what has failed is done in order.
    pub(super) async fn arrive(&mut self) -> Result<(), ViewError> {
        if let Some(flight) = &mut self.flight {
            let done = (&mut flight.task).await;
            let flight = self.flight.take().expect("it was there");
            self.land(flight, done)?;
        }
        while let Some(batch) = self.owed.pop_front() {
            let done = self.apply_in_order(&batch).await;
            if let Err(error) = done {
                // After a loss it would leave a gap.
                if !matches!(error, ViewError::Lost(_)) {
                    self.owed.push_front(batch);
                }
                return Err(error);
            }
        }
        Ok(())
    }

    /// Notes what has come of a flight.
    fn land(
        &mut self,
        flight: Flight,
        done: Result<Result<(), Fail>, tokio::task::JoinError>,
    ) -> Result<(), ViewError> {
        let fail = match done {
            Ok(Ok(())) => {
                self.held = Some(flight.to);
                self.torn += flight.torn;
                return Ok(());
            }
            Ok(Err(fail)) => fail,
            Err(error) => Fail::View(ViewError::Retry(format!("applying was interrupted: {error}"))),
        };
        self.failures += 1;
        flight.batches.into_iter().rev().for_each(|batch| self.owed.push_front(batch));
        if let Some(link) = &mut self.link {
            link.forget_loops();
        }
        match fail {
            Fail::Table(error) => {
                tracing::debug!("a merged batch is applied in order: {}", server_words(&error));
                let unique = error.as_db_error().filter(|db| *db.code() == SqlState::UNIQUE_VIOLATION);
                if let Some(table) = unique.and_then(|db| db.table()) {
                    self.targets.overwrite(table);
                }
                self.targets.clear();
                Ok(())
            }
            fail => {
                self.targets.clear();
                Err(self.view_fail(fail))
            }
        }
    }

    /// Whether the batch may be merged: many transactions, all of them whole.
    fn is_behind(&self, batch: &Batch, after: Position) -> bool {
        if self.options.exact || self.options.fire_triggers {
            return false;
        }
        let whole = |logged: &Logged| logged.entry.header().part == 0 && !logged.entry.header().more;
        let received = || batch.entries.iter().filter(|logged| logged.position > after && !logged.from.is_local());
        let many = received().count() > limits::APPLY_LIVE_ENTRIES
            || received().map(|logged| logged.entry.bytes().len()).sum::<usize>() > limits::APPLY_LIVE_BYTES;
        many && received().all(whole)
    }

    /// Takes the batch to be merged with what comes with it; false if it has to be done otherwise.
    pub(super) async fn take_off(&mut self, batch: &Batch) -> Result<bool, ViewError> {
        let given = self.gathered.last().map(|batch| batch.upto);
        let from = given.or(self.flight.as_ref().map(|flight| flight.to)).or(self.held);
        let after = from.map_or(Position::ZERO, |cursor| cursor.position);
        let same_log = from.is_none_or(|from| from.log == batch.upto.log);
        if !same_log
            || batch.upto.log != self.options.log
            || batch.upto.position <= after
            || !self.is_behind(batch, after)
        {
            return Ok(false);
        }
        self.gathered.push(batch.clone());
        let busy = self.flight.as_ref().is_some_and(|flight| !flight.is_finished());
        if !busy || self.gathered.iter().map(bytes).sum::<usize>() >= limits::APPLY_GATHER_BYTES {
            self.launch().await?;
        }
        Ok(true)
    }

    /// Has what was gathered carried out, after what is under way.
    pub(super) async fn launch(&mut self) -> Result<(), ViewError> {
        if !self.owed.is_empty() {
            self.arrive().await?;
        }
        let batches = std::mem::take(&mut self.gathered);
        let Some(to) = batches.last().map(|batch| batch.upto) else { return Ok(()) };
        match self.ready_for(&batches).await {
            Ok(Some((link, from, Prepared { calls, copies, torn }))) => {
                self.attempted = Some(to);
                let transaction = async move {
                    match copies.is_empty() {
                        true => link.transaction(from, to, &calls).await,
                        false => fly(&link, from, to, &calls, copies).await,
                    }
                };
                let task = AbortOnDropHandle::new(tokio::spawn(transaction));
                self.flight = Some(Flight { task, batches, to, torn });
                Ok(())
            }
            Ok(None) => {
                self.owed.extend(batches);
                self.arrive().await
            }
            // After a loss they would leave a gap.
            Err(error @ ViewError::Lost(_)) => Err(error),
            Err(error) => {
                self.gathered = batches;
                Err(error)
            }
        }
    }

    /// What the batches take at the server, once what is under way is there; `None` if they have to be done in order.
    async fn ready_for(&mut self, batches: &[Batch]) -> Result<Option<(Link, Option<Cursor>, Prepared)>, ViewError> {
        let from = self.flight.as_ref().map(|flight| flight.to).or(self.held);
        let (after, failures) = (from.map_or(Position::ZERO, |cursor| cursor.position), self.failures);
        for batch in batches {
            if !self.knows_tables(batch, after) {
                // Nothing may come between the statements of what is under way.
                self.arrive().await?;
                self.look_at_tables(batch, after).await?;
            }
        }
        let Some(plan) = self.plan(batches, after) else { return Ok(None) };
        let Some(prepared) = self.prepare(plan).await? else { return Ok(None) };
        self.arrive().await?;
        // What was under way may have parked a table, which these then pass over.
        if self.held != from || self.failures != failures {
            return Ok(None);
        }
        let link = self.link().await?.beside();
        Ok(Some((link, from, prepared)))
    }
}

/// Carries out merged batches: the cursor, the calls, the rows that are copied, all in one commit.
async fn fly(
    link: &Link,
    from: Option<Cursor>,
    to: Cursor,
    calls: &[super::link::Call],
    copies: Vec<(String, Vec<u8>)>,
) -> Result<(), Fail> {
    let done = async {
        link.begun(from, to, calls).await?;
        for (statement, rows) in copies {
            copy_in(link.client(), &statement, rows.into()).await.map_err(|e| link.sort("copying", e))?;
        }
        link.commit().await
    };
    let done = done.await;
    if done.is_err() {
        link.roll_back().await;
    }
    done
}
