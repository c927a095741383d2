//! Batches of many transactions, merged and carried out while the next ones are gathered and prepared.
//!
//! What comes while one transaction is carried out becomes the next one, up to a limit: so the farther behind, the larger
//! they are, and the more of a row's updates are one.
//!
//! Where two in a row only add rows, the later one, the wing, copies its rows at the same time over a second session, and moves
//! the cursor and commits once the earlier one has. If they stand in each other's way both are done in order.

use tokio::sync::oneshot;
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
    /// It only adds rows.
    adds: bool,
    /// On the second session.
    second: bool,
    /// A wing may move the cursor and commit: what comes before it has.
    go: Option<oneshot::Sender<()>>,
}

impl Flight {
    pub(super) fn is_finished(&self) -> bool {
        self.task.is_finished()
    }
}

/// The session over which a wing is carried out.
#[derive(Default)]
pub(super) enum Second {
    #[default]
    Untried,
    Open(Link),
    /// It could not be had; it is tried again when the first one is opened again.
    Unavailable,
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
        while self.flight.is_some() || self.wing.is_some() {
            self.arrive_first().await?;
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

    /// Waits for the earlier one of what is under way, and lets the wing follow, or gives it up too. Whenever this is dropped,
    /// it goes on where it was.
    async fn arrive_first(&mut self) -> Result<(), ViewError> {
        let mut landed = Ok(());
        if let Some(flight) = &mut self.flight {
            let done = (&mut flight.task).await;
            let (flight, failures) = (self.flight.take().expect("it was there"), self.failures);
            landed = self.land(flight, done);
            let go = self.wing.as_mut().and_then(|wing| wing.go.take());
            if self.failures == failures {
                self.flight = self.wing.take();
                // A task that has ended has said why.
                go.map(|go| go.send(()));
                return landed;
            }
        }
        // It was told by now that it does not go.
        if let Some(wing) = &mut self.wing {
            let _ = (&mut wing.task).await;
            let wing = self.wing.take().expect("it was there");
            self.owed.extend(wing.batches);
        }
        landed
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
        if flight.second && !matches!(fail, Fail::Table(_)) {
            // Only a new session tells whether it has been committed.
            (self.link, self.second) = (None, Second::Untried);
            self.attempted.get_or_insert(flight.to);
            self.in_doubt = Some(flight.to);
        }
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
        let from = given.or(self.heading());
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
        let gathered = self.gathered.iter().map(bytes).sum::<usize>();
        let enough = match &self.flight {
            Some(flight) if flight.is_finished() => 0,
            Some(flight) if flight.adds && self.wing.is_none() => limits::APPLY_WING_BYTES,
            Some(_) => limits::APPLY_GATHER_BYTES,
            None => 0,
        };
        if gathered >= enough {
            self.launch().await?;
        }
        Ok(true)
    }

    /// Where the cursor will be once what is under way is there.
    fn heading(&self) -> Option<Cursor> {
        self.wing.as_ref().or(self.flight.as_ref()).map(|flight| flight.to).or(self.held)
    }

    /// Has what was gathered carried out, after what is under way.
    pub(super) async fn launch(&mut self) -> Result<(), ViewError> {
        if !self.owed.is_empty() {
            self.arrive().await?;
        }
        let batches = std::mem::take(&mut self.gathered);
        let Some(to) = batches.last().map(|batch| batch.upto) else { return Ok(()) };
        match self.ready_for(&batches).await {
            Ok(Some(ready)) => {
                self.attempted = Some(to);
                self.start(ready, to, batches);
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

    /// What the batches take at the server, once they can be carried out; `None` if they have to be done in order.
    async fn ready_for(&mut self, batches: &[Batch]) -> Result<Option<Ready>, ViewError> {
        if self.wing.is_some() {
            self.arrive_first().await?;
        }
        let from = self.heading();
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
        let adds = prepared.calls.is_empty() && !prepared.copies.is_empty();
        if let Some(flight) = self.flight.as_ref().filter(|flight| adds && flight.adds && self.failures == failures) {
            let second = !flight.second;
            let wing = if second { self.second().await } else { self.link.as_ref().map(Link::beside) };
            if let Some(link) = wing.filter(|link| !link.is_closed()) {
                return Ok(Some(Ready { link, from, prepared, adds, second, is_wing: true }));
            }
        }
        self.arrive().await?;
        // What was under way may have parked a table, which these then pass over.
        if self.held != from || self.failures != failures {
            return Ok(None);
        }
        let link = self.link().await?.beside();
        Ok(Some(Ready { link, from, prepared, adds, second: false, is_wing: false }))
    }

    /// The second session, if it can be had.
    async fn second(&mut self) -> Option<Link> {
        if matches!(&self.second, Second::Open(link) if link.is_closed()) {
            self.second = Second::Untried;
        }
        if matches!(&self.second, Second::Untried) {
            self.second = match Link::open_second(&self.options).await {
                Ok(link) => Second::Open(link),
                Err(error) => {
                    tracing::debug!("one session applies: {error}");
                    Second::Unavailable
                }
            };
        }
        match &self.second {
            Second::Open(link) => Some(link.beside()),
            _ => None,
        }
    }

    fn start(&mut self, ready: Ready, to: Cursor, batches: Vec<Batch>) {
        let Ready { link, from, prepared: Prepared { calls, copies, torn }, adds, second, is_wing } = ready;
        let (go, gone) = oneshot::channel();
        let transaction = async move {
            match (copies.is_empty(), is_wing) {
                (true, _) => link.transaction(from, to, &calls).await,
                (false, false) => fly(&link, from, to, &calls, copies).await,
                (false, true) => fly_beside(&link, from, to, copies, gone).await,
            }
        };
        let task = AbortOnDropHandle::new(tokio::spawn(transaction));
        let flight = Flight { task, batches, to, torn, adds, second, go: is_wing.then_some(go) };
        match is_wing {
            true => self.wing = Some(flight),
            false => self.flight = Some(flight),
        }
    }
}

/// What can be carried out, and how.
struct Ready {
    link: Link,
    from: Option<Cursor>,
    prepared: Prepared,
    adds: bool,
    second: bool,
    /// What it comes after is still under way.
    is_wing: bool,
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
        copy(link, copies).await?;
        link.commit().await
    };
    let done = done.await;
    if done.is_err() {
        link.roll_back().await;
    }
    done
}

/// The same where rows are only added: they are copied at once, the cursor follows when what comes before has moved it. Capture
/// knows the transaction by its origin, which its first change bears.
async fn fly_beside(
    link: &Link,
    from: Option<Cursor>,
    to: Cursor,
    copies: Vec<(String, Vec<u8>)>,
    go: oneshot::Receiver<()>,
) -> Result<(), Fail> {
    let done = async {
        link.open_transaction().await?;
        copy(link, copies).await?;
        let given_up = |_| Fail::View(ViewError::Retry("what comes before it has failed".to_owned()));
        go.await.map_err(given_up)?;
        link.move_cursor(from, to).await?;
        link.commit().await
    };
    let done = done.await;
    if done.is_err() {
        link.roll_back().await;
    }
    done
}

async fn copy(link: &Link, copies: Vec<(String, Vec<u8>)>) -> Result<(), Fail> {
    for (statement, rows) in copies {
        copy_in(link.client(), &statement, rows.into()).await.map_err(|e| link.sort("copying", e))?;
    }
    Ok(())
}
