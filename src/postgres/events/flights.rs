//! Batches that are being copied, at most two at once, each over a connection of its own: keeping indexes up to date is
//! what a server process does for most of its time, and two do it on two cores.
//!
//! The later one is committed after the earlier one, under the same lock, and only where it then continues what is there:
//! so the table never shows the later without the earlier.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio_util::task::AbortOnDropHandle;

use super::pen::{Pen, not_continued};
use crate::model::{Logged, Position};
use crate::postgres::PgError;
use crate::view::{EventIds, ViewError};

/// Each connection inserts rows of its own, so neither waits for the other, unless the table has more to say: another
/// unique index, or a trigger that locks something. Where it has, one connection writes everything.
const ALLOWED: &str = "SELECT c.relkind = 'r' \
       AND NOT EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND NOT i.indisprimary AND (i.indisunique OR i.indisexclusion)) \
       AND NOT EXISTS (SELECT FROM pg_trigger t WHERE t.tgrelid = c.oid AND NOT t.tgisinternal AND t.tgenabled <> 'D') \
     FROM pg_class c WHERE c.oid = 'events'::regclass";

/// What is being copied, oldest first.
pub(super) struct Flights {
    first: Arc<Pen>,
    second: Second,
    under_way: VecDeque<Flight>,
}

/// The second connection, opened when it is first of use.
enum Second {
    Unopened,
    Open(Arc<Pen>),
    /// Not to be had, or of no use here.
    Without,
}

struct Flight {
    pen: Arc<Pen>,
    task: AbortOnDropHandle<Result<Landed, ViewError>>,
    /// Resolved when it is committed; taken by the next one.
    committed: Option<oneshot::Receiver<()>>,
}

struct Landed {
    at: Position,
    /// It could not be written beside the one before it.
    crowded: bool,
}

impl Flights {
    pub(super) fn new(first: Arc<Pen>) -> Flights {
        Flights { first, second: Second::Unopened, under_way: VecDeque::new() }
    }

    /// Begins to copy what comes after `at`, as soon as a connection is free; returns how far the table has come meanwhile.
    pub(super) async fn begin(
        &mut self,
        at: Position,
        run: Vec<Logged>,
        ids: EventIds,
        connect_limit: Duration,
    ) -> Result<Option<Position>, ViewError> {
        if matches!(self.second, Second::Unopened) {
            self.second = Second::open(&self.first, ids, connect_limit).await;
        }
        let most = if matches!(self.second, Second::Open(_)) { 2 } else { 1 };
        let mut landed = None;
        while self.under_way.len() >= most {
            landed = self.land().await?.or(landed);
        }
        let other = self.under_way.back_mut();
        let (pen, before) = match (other, &self.second) {
            (Some(other), Second::Open(second)) if Arc::ptr_eq(&other.pen, &self.first) => {
                (second.clone(), other.committed.take())
            }
            (Some(other), _) => (self.first.clone(), other.committed.take()),
            (None, _) => (self.first.clone(), None),
        };
        let (told, committed) = oneshot::channel();
        let task = tokio::spawn(fly(pen.clone(), at, run, before, told));
        let task = AbortOnDropHandle::new(task);
        self.under_way.push_back(Flight { pen, task, committed: Some(committed) });
        Ok(landed)
    }

    /// Waits until nothing is being copied; returns how far the table has come, if something was.
    pub(super) async fn land_all(&mut self) -> Result<Option<Position>, ViewError> {
        let mut landed = None;
        while !self.under_way.is_empty() {
            landed = self.land().await?.or(landed);
        }
        Ok(landed)
    }

    /// How far the table has come by what is written now, without waiting.
    pub(super) async fn landed(&mut self) -> Result<Option<Position>, ViewError> {
        let mut landed = None;
        while self.under_way.front().is_some_and(|flight| flight.task.is_finished()) {
            landed = self.land().await?.or(landed);
        }
        Ok(landed)
    }

    async fn land(&mut self) -> Result<Option<Position>, ViewError> {
        let Some(flight) = self.under_way.front_mut() else { return Ok(None) };
        let landed = (&mut flight.task).await;
        self.under_way.pop_front();
        let Landed { at, crowded } = landed.map_err(|error| ViewError::Lost(error.to_string()))??;
        if crowded {
            self.second = Second::Without;
        }
        Ok(Some(at))
    }
}

async fn fly(
    pen: Arc<Pen>,
    at: Position,
    run: Vec<Logged>,
    before: Option<oneshot::Receiver<()>>,
    told: oneshot::Sender<()>,
) -> Result<Landed, ViewError> {
    let beside = match before {
        None => None,
        Some(mut before) => match pen.copy_after(at, &run, &mut before).await? {
            Some(to) => Some((to, false)),
            None => {
                let name = pen.session.endpoint().name();
                tracing::debug!("{name}: written over one connection from now on: the other one waits for its rows");
                before.await.map_err(|_| not_continued())?;
                Some((pen.copy(at, &run).await?, true))
            }
        },
    };
    let (at, crowded) = match beside {
        Some(done) => done,
        None => (pen.copy(at, &run).await?, false),
    };
    // The last one has nobody who waits for it.
    let _ = told.send(());
    Ok(Landed { at, crowded })
}

impl Second {
    /// Whatever stands against it is no error: the first connection can write everything.
    async fn open(first: &Pen, ids: EventIds, limit: Duration) -> Second {
        match Second::opened(first, ids, limit).await {
            Ok(Some(second)) => Second::Open(Arc::new(second)),
            Ok(None) => Second::Without,
            Err(error) => {
                tracing::debug!("{}: written over one connection: {}", first.session.endpoint().name(), error.words());
                Second::Without
            }
        }
    }

    async fn opened(first: &Pen, ids: EventIds, limit: Duration) -> Result<Option<Pen>, PgError> {
        let allowed = first.session.client.query_one(ALLOWED, &[]).await;
        if !allowed.map_err(|e| first.failed("looking at the events table", e))?.get::<_, bool>(0) {
            return Ok(None);
        }
        Pen::open(first.session.endpoint(), ids, limit).await.map(Some)
    }
}
