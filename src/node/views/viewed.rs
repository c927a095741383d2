//! One view, for those who ask it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use thiserror::Error;
use tokio::sync::{RwLock, Semaphore, mpsc, watch};

use super::orders::Order;
use super::part::PartBoard;
use super::publish::PublishBoard;
use super::record::{PassedOver, Record};
use super::settings::ViewSettings;
use super::stops::Stops;
use super::tokens;
use crate::model::{Cursor, Fingerprint, Position, limits};
use crate::node::feeds::{Feed, joined};
use crate::node::shared::Shared;
use crate::view::{
    Answer, AskError, Bounds, Needed, Question, Token, Unmet, ViewBuilds, ViewChanges, ViewStore, Waiters, covers,
};

/// Between two looks at a store that has less than it had.
const AGAIN: Duration = Duration::from_millis(10);

/// What an answer has to contain, and how long that is waited for.
#[derive(Clone, Debug)]
pub struct Asked {
    /// What, all of it; without any: whatever others have seen.
    pub tokens: Vec<Token>,
    /// How long at most.
    pub timeout: Duration,
    /// After that time, or where the view does not go on, what there is will do.
    pub stale: bool,
}

impl Default for Asked {
    fn default() -> Asked {
        Asked { tokens: Vec::new(), timeout: limits::VIEW_WAIT_DEFAULT, stale: false }
    }
}

/// Something that was answered.
#[derive(Clone, Debug)]
pub struct Told<T> {
    /// What.
    pub what: T,
    /// As of where: the cursors of all partitions, as one text.
    pub cursor: String,
    /// It lacks something of what was asked for.
    pub stale: bool,
}

/// A question was not answered.
#[derive(Clone, Debug, Error)]
pub enum Unanswered {
    /// The view has not got what the answer is to contain.
    #[error(transparent)]
    Unmet(#[from] Unmet),
    /// The question, or the store.
    #[error(transparent)]
    Ask(#[from] AskError),
    /// A digest is wanted of a place that the view has gone past, which is said in words.
    #[error("{0}")]
    Passed(String),
    /// As many digests are summed up as may.
    #[error("{} digests of this view are summed up already", limits::VIEW_DIGESTS_MAX)]
    Crowded,
}

/// How a build is doing, as far as it takes more than one look.
#[derive(Clone)]
pub(super) struct Running {
    pub definition: Fingerprint,
    pub parts: Arc<Vec<Arc<PartBoard>>>,
    pub since: Instant,
    /// Positions a second, lately.
    pub rate: f64,
    /// The sum of all positions at the last look.
    pub seen: u64,
    /// When it last moved, or had everything.
    pub healthy: Instant,
    /// It began with nothing.
    pub fresh: bool,
}

impl Running {
    /// Entries that the log has and the build has not.
    pub(super) fn left(&self) -> u64 {
        self.parts.iter().map(|part| part.tail().0.saturating_sub(part.position().0)).sum()
    }

    pub(super) fn is_stalled(&self) -> bool {
        self.healthy.elapsed() > limits::VIEW_STALL_AFTER && self.left() > 0
    }
}

/// Why a view does not go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Trouble {
    /// `failed`, `trimmed`, `rebuilding` or `away`; the last two pass by themselves.
    pub kind: &'static str,
    pub partition: usize,
    pub position: Position,
    pub why: String,
    /// The entry at which it failed, as JSON.
    pub entry: Option<String>,
}

impl Trouble {
    /// Whether it passes by itself.
    pub(super) fn passes(&self) -> bool {
        matches!(self.kind, "away" | "rebuilding")
    }
}

#[derive(Clone, Default)]
pub(super) struct Figures {
    pub live: Option<Running>,
    pub building: Option<Running>,
    pub trouble: Option<Trouble>,
    pub building_trouble: Option<Trouble>,
}

/// A view of this node.
pub struct Viewed {
    /// Its name.
    pub name: Box<str>,
    /// What it was started with.
    pub settings: ViewSettings,
    pub(super) builds: Mutex<Arc<dyn ViewBuilds>>,
    pub(super) waiters: Arc<Waiters>,
    pub(super) stops: Arc<Stops>,
    /// One for each digest that is summed up.
    pub(super) digests: Arc<Semaphore>,
    pub(super) record: Record,
    /// Its output as a log.
    pub(super) publishing: Option<Arc<PublishBoard>>,
    /// What answers.
    pub(super) live: RwLock<Option<Arc<dyn ViewStore>>>,
    feed: Mutex<Option<Arc<Feed>>>,
    figures: Mutex<Figures>,
    orders: mpsc::Sender<Order>,
    pub(super) inbox: Mutex<Option<mpsc::Receiver<Order>>>,
}

impl Viewed {
    pub(super) fn new(name: Box<str>, settings: ViewSettings, builds: Arc<dyn ViewBuilds>, record: Record) -> Viewed {
        let (orders, inbox) = mpsc::channel(limits::VIEW_ORDERS_MAX);
        let publishing = settings.publish.as_deref().map(|log| Arc::new(PublishBoard::new(log)));
        Viewed {
            name,
            settings,
            builds: Mutex::new(builds),
            waiters: Arc::default(),
            stops: Arc::default(),
            digests: Arc::new(Semaphore::new(limits::VIEW_DIGESTS_MAX)),
            record,
            publishing,
            live: RwLock::new(None),
            feed: Mutex::default(),
            figures: Mutex::default(),
            orders,
            inbox: Mutex::new(Some(inbox)),
        }
    }

    pub(super) fn figures(&self) -> MutexGuard<'_, Figures> {
        self.figures.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The definition that is wanted.
    pub fn wanted(&self) -> Fingerprint {
        self.builds.lock().unwrap_or_else(PoisonError::into_inner).wanted()
    }

    /// The log that it is derived from, once that is there.
    pub fn feed(&self) -> Option<Arc<Feed>> {
        self.feed.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn follows(&self, feed: &Arc<Feed>) {
        *self.feed.lock().unwrap_or_else(PoisonError::into_inner) = Some(feed.clone());
    }

    pub(super) async fn order(&self, order: Order) {
        // A keeper that is gone has ended with the node.
        let _ = self.orders.send(order).await;
    }

    /// What operators have had it pass over, oldest first.
    pub fn passed_over(&self) -> Vec<PassedOver> {
        self.record.all()
    }

    /// How many readers wait for it.
    pub fn waiting(&self) -> usize {
        self.waiters.waiting()
    }

    /// Answers a question, once the view has what the answer is to contain.
    ///
    /// # Errors
    /// It has not within the time, or never will; or the question cannot be answered.
    pub async fn ask(
        &self,
        shared: &Shared,
        asked: &Asked,
        question: &Question,
        bounds: &Bounds,
    ) -> Result<Told<Answer>, Unanswered> {
        let until = tokio::time::Instant::now() + asked.timeout;
        let mut ready = self.ready(shared, asked, until).await?;
        if !ready.stale {
            for (log, position) in self.waiters.shown() {
                let known = ready.needed.entry(log).or_insert(position);
                *known = position.max(*known);
            }
        }
        loop {
            let Some(live) = self.live.read().await.clone() else {
                self.again(until).await?;
                continue;
            };
            let answer = match live.ask(question, bounds).await {
                // It is opened anew.
                Err(AskError::Failed(_)) if live.is_broken() => {
                    self.again(until).await?;
                    continue;
                }
                answer => answer?,
            };
            // A store that has been set back has less for a moment than it had when it was looked at.
            if covers(&answer.cursors, &ready.needed) {
                self.waiters.shows(&answer.cursors);
                let cursor = self.cursor(&answer.cursors);
                return Ok(Told { what: answer, cursor, stale: ready.stale });
            }
            self.again(until).await?;
        }
    }

    /// Waits until the view has that; how far it is then.
    ///
    /// # Errors
    /// It has not within the time, or never will.
    pub async fn wait(&self, shared: &Shared, asked: &Asked) -> Result<Told<()>, Unmet> {
        let until = tokio::time::Instant::now() + asked.timeout;
        let ready = self.ready(shared, asked, until).await?;
        // What was waited for is there, though its followers may just have begun anew.
        let mut reached = self.reached();
        for partition in self.feed().iter().flat_map(|feed| &feed.partitions) {
            let log = partition.log.id();
            let needed = ready.needed.get(&log).copied().unwrap_or_default();
            reached.retain(|at| at.log != log || at.position >= needed);
            if reached.iter().all(|at| at.log != log) {
                reached.push(partition.log.cursor_at(needed));
            }
        }
        Ok(Told { what: (), cursor: self.cursor(&reached), stale: ready.stale })
    }

    /// What changes in its rows, where that is kept.
    ///
    /// # Errors
    /// Its store has not answered yet.
    pub async fn changes(&self) -> Result<Option<Arc<dyn ViewChanges>>, Unmet> {
        let until = tokio::time::Instant::now() + limits::VIEW_WAIT_DEFAULT;
        loop {
            if let Some(live) = self.live.read().await.as_ref() {
                return Ok(live.changes());
            }
            self.again(until).await?;
        }
    }

    /// Changes whenever it has moved.
    pub fn moved(&self) -> watch::Receiver<u64> {
        self.waiters.moved()
    }

    /// How far it has come.
    pub fn reached(&self) -> Vec<Cursor> {
        let parts = self.figures().live.as_ref().map(|live| live.parts.clone());
        parts.iter().flat_map(|parts| parts.iter()).filter_map(|part| part.state().cursor).collect()
    }

    /// Cursors in the order of the partitions; of one that has nothing yet, its beginning.
    pub fn cursor(&self, cursors: &[Cursor]) -> String {
        let Some(feed) = self.feed() else { return joined(cursors) };
        let parts = feed.partitions.iter().map(|partition| {
            let known = cursors.iter().find(|cursor| cursor.log == partition.log.id());
            known.copied().unwrap_or_else(|| partition.log.cursor_at(Position::ZERO))
        });
        joined(&parts.collect::<Vec<_>>())
    }

    pub(super) async fn again(&self, until: tokio::time::Instant) -> Result<(), Unmet> {
        if tokio::time::Instant::now() + AGAIN > until {
            return Err(self.unmet());
        }
        tokio::time::sleep(AGAIN).await;
        Ok(())
    }

    /// Waits until the view has what is asked for. With [`Asked::stale`] it does not matter what comes of it.
    pub(super) async fn ready(
        &self,
        shared: &Shared,
        asked: &Asked,
        until: tokio::time::Instant,
    ) -> Result<Ready, Unmet> {
        self.trusted()?;
        let waited = self.met(shared, asked, until).await;
        self.trusted()?;
        match waited {
            Ok(needed) => Ok(Ready { needed, stale: false }),
            // What can never be there is a mistake, and no question of time.
            Err(Unmet::Unknown(why)) => Err(Unmet::Unknown(why)),
            Err(_) if asked.stale => Ok(Ready { needed: Needed::new(), stale: true }),
            Err(unmet) => Err(unmet),
        }
    }

    /// What is known to be wrong answers nobody, whatever will do.
    pub(super) fn trusted(&self) -> Result<(), Unmet> {
        self.record.quarantine.why().map_or(Ok(()), |why| Err(Unmet::Failed(why)))
    }

    async fn met(&self, shared: &Shared, asked: &Asked, until: tokio::time::Instant) -> Result<Needed, Unmet> {
        let feed = self.log_there(until).await?;
        let mut needed = self.waiters.seen();
        for token in &asked.tokens {
            for (log, position) in tokens::needed(shared, &feed, self.settings.tables.as_deref(), token, until).await? {
                let known = needed.entry(log).or_insert(position);
                *known = position.max(*known);
            }
        }
        self.within_reach(&needed, until)?;
        let met = tokio::time::timeout_at(until, self.waiters.wait(&needed)).await;
        met.map_err(|_| self.unmet())??;
        for token in &asked.tokens {
            tokens::still_valid(&feed, token)?;
        }
        Ok(needed)
    }

    /// A view that is built for the first time, and is far from it, says so at once.
    pub(super) fn within_reach(&self, needed: &Needed, until: tokio::time::Instant) -> Result<(), Unmet> {
        if self.waiters.has(needed) {
            return Ok(());
        }
        let live = self.figures().live.clone();
        let far = live.filter(|live| self.is_first(live) && live.left() > limits::VIEW_NEAR_ENTRIES);
        // Before it has been looked at how quickly it goes, nobody knows how long it takes.
        match far.filter(|live| live.rate > 0.0) {
            Some(live) if Instant::now() + Duration::from_secs_f64(seconds_left(&live)) > until.into_std() => {
                Err(Unmet::Rebuilding(progress(&live)))
            }
            _ => Ok(()),
        }
    }

    /// Whether it is being built for the first time, and has never been whole.
    pub(super) fn is_first(&self, live: &Running) -> bool {
        live.fresh && !self.waiters.has(&Needed::new())
    }

    /// Its log; that of a feed elsewhere is there once that has been reached.
    pub(super) async fn log_there(&self, until: tokio::time::Instant) -> Result<Arc<Feed>, Unmet> {
        loop {
            if let Some(feed) = self.feed() {
                return Ok(feed);
            }
            if tokio::time::Instant::now() + AGAIN > until {
                return Err(Unmet::NotYet(format!(": its log {} is not there yet", self.settings.log)));
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    /// Why, after the time has passed.
    pub(super) fn unmet(&self) -> Unmet {
        let figures = self.figures().clone();
        if let Some(trouble) = &figures.trouble {
            return unmet_by(trouble);
        }
        match figures.live {
            Some(live) if self.is_first(&live) => Unmet::Rebuilding(progress(&live)),
            Some(live) => Unmet::NotYet(format!(": {} entries are to come", live.left())),
            None => Unmet::NotYet(": its store has not answered yet".into()),
        }
    }
}

pub(super) struct Ready {
    pub needed: Needed,
    pub stale: bool,
}

/// What readers are told of a view that does not go on.
pub(super) fn unmet_by(trouble: &Trouble) -> Unmet {
    let words = format!("at position {} of partition {}: {}", trouble.position, trouble.partition, trouble.why);
    match trouble.kind {
        "trimmed" => Unmet::Trimmed(words),
        "rebuilding" => Unmet::Rebuilding(trouble.why.clone()),
        "away" => Unmet::NotYet(format!(": {}", trouble.why)),
        _ => Unmet::Failed(words),
    }
}

pub(super) fn seconds_left(running: &Running) -> f64 {
    running.left() as f64 / running.rate.max(1.0)
}

fn progress(running: &Running) -> String {
    let left = running.left();
    if running.rate <= 0.0 {
        return format!("{left} entries are to come");
    }
    format!("{left} entries are to come, about {:.0} s at {:.0} a second", seconds_left(running), running.rate)
}
