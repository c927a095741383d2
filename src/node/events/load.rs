//! Realistic events, appended by many loaders at once.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Endpoint;
use super::people::{Numbers, People};
use crate::model::limits;
use crate::postgres::events::PgEventsInsert;
use crate::sqlite::events::SqliteEventsInsert;
use crate::view::{EventsError, EventsInsert, Trouble};

/// What is loaded.
#[derive(Clone, Debug)]
pub struct LoadOptions {
    /// Loaders, each with a connection of its own (in a file they share one).
    pub loaders: usize,
    /// Events over all loaders; `None`: until it is stopped.
    pub count: Option<u64>,
    /// Events of one transaction.
    pub batch: RangeInclusive<u32>,
    /// Events per second over all loaders at most.
    pub rate: Option<u64>,
    /// The same seed gives the same people; their stamps differ.
    pub seed: u64,
    /// Whether loaders connect again when the database goes away, and go on with other events.
    pub retry: bool,
    /// How long connecting may take.
    pub connect_timeout: Duration,
}

/// How far it has come; updated while it runs.
#[derive(Debug, Default)]
pub struct Loaded {
    events: AtomicU64,
    transactions: AtomicU64,
    reconnects: AtomicU64,
}

impl Loaded {
    /// Events of acknowledged transactions.
    pub fn events(&self) -> u64 {
        self.events.load(Relaxed)
    }

    /// Acknowledged transactions.
    pub fn transactions(&self) -> u64 {
        self.transactions.load(Relaxed)
    }

    /// How often a loader lost its connection; its last transaction may be there nevertheless.
    pub fn reconnects(&self) -> u64 {
        self.reconnects.load(Relaxed)
    }
}

/// What loaders share.
struct Shared {
    endpoint: Endpoint,
    options: LoadOptions,
    /// Events that nobody has taken yet.
    left: AtomicU64,
    /// Events for which a time was given.
    issued: AtomicU64,
    begun: Instant,
    loaded: Arc<Loaded>,
    stop: CancellationToken,
}

/// Appends events until there are enough of them or `stop` is cancelled; then every transaction under way has ended.
///
/// # Errors
/// The first error of a loader, after which all stop.
pub async fn load(
    endpoint: &Endpoint,
    options: LoadOptions,
    loaded: Arc<Loaded>,
    stop: &CancellationToken,
) -> Result<(), EventsError> {
    let (run, loaders) = (rand::random(), options.loaders.clamp(1, limits::EVENTS_LOADERS_MAX));
    let mut opened: Vec<Box<dyn EventsInsert>> = Vec::with_capacity(loaders);
    let first = open(endpoint, options.connect_timeout).await?;
    let shared_connection = first.1;
    opened.push(first.0);
    while opened.len() < loaders {
        opened.push(match &shared_connection {
            Some(insert) => Box::new(insert.clone()),
            None => open(endpoint, options.connect_timeout).await?.0,
        });
    }
    let shared = Arc::new(Shared {
        endpoint: endpoint.clone(),
        left: AtomicU64::new(options.count.unwrap_or(u64::MAX)),
        issued: AtomicU64::new(0),
        begun: Instant::now(),
        loaded,
        stop: stop.child_token(),
        options,
    });
    let mut tasks = JoinSet::new();
    for (number, insert) in opened.into_iter().enumerate() {
        let loader =
            Loader { people: People::new(shared.options.seed, run, number), insert, shared: Arc::clone(&shared) };
        tasks.spawn(loader.run(Numbers::new(shared.options.seed ^ (number as u64) << 32)));
    }
    let mut result = Ok(());
    while let Some(ended) = tasks.join_next().await {
        let ended = ended.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()));
        if let Err(error) = ended {
            shared.stop.cancel();
            result = result.and(Err(error));
        }
    }
    result
}

/// A connection for appending; the second is for clones of a connection that is shared.
async fn open(
    endpoint: &Endpoint,
    limit: Duration,
) -> Result<(Box<dyn EventsInsert>, Option<SqliteEventsInsert>), EventsError> {
    match endpoint {
        Endpoint::Postgres(endpoint) => Ok((Box::new(PgEventsInsert::open(endpoint, limit).await?), None)),
        Endpoint::Sqlite(path) => {
            let insert = SqliteEventsInsert::open(path)?;
            Ok((Box::new(insert.clone()), Some(insert)))
        }
    }
}

struct Loader {
    people: People,
    insert: Box<dyn EventsInsert>,
    shared: Arc<Shared>,
}

impl Loader {
    async fn run(mut self, mut sizes: Numbers) -> Result<(), EventsError> {
        let shared = Arc::clone(&self.shared);
        while let Some(count) = shared.take(&mut sizes) {
            if !shared.pace(count).await {
                break;
            }
            let events = self.people.transaction(count);
            match self.insert.insert(&events).await {
                Ok(inserted) if inserted == u64::from(count) => {
                    shared.loaded.events.fetch_add(inserted, Relaxed);
                    shared.loaded.transactions.fetch_add(1, Relaxed);
                }
                Ok(inserted) => return Err(shared.miscounted(count, inserted)),
                Err(error) if shared.options.retry && error.is_retryable() => {
                    tracing::debug!("{error}");
                    shared.left.fetch_add(u64::from(count), Relaxed);
                    if !self.reconnect().await? {
                        break;
                    }
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Connects again; false when it was stopped before.
    async fn reconnect(&mut self) -> Result<bool, EventsError> {
        self.shared.loaded.reconnects.fetch_add(1, Relaxed);
        loop {
            let waited = tokio::time::timeout(limits::EVENTS_LOAD_RETRY_DELAY, self.shared.stop.cancelled()).await;
            if waited.is_ok() {
                return Ok(false);
            }
            match open(&self.shared.endpoint, self.shared.options.connect_timeout).await {
                Ok((insert, _)) => {
                    self.insert = insert;
                    return Ok(true);
                }
                Err(error) if error.is_retryable() => tracing::debug!("{error}"),
                Err(error) => return Err(error),
            }
        }
    }
}

impl Shared {
    /// Takes the events of a transaction out of those that are left.
    fn take(&self, sizes: &mut Numbers) -> Option<u32> {
        if self.stop.is_cancelled() {
            return None;
        }
        let (least, most) = (*self.options.batch.start(), *self.options.batch.end());
        let wanted = least + sizes.below((most.saturating_sub(least) + 1) as usize) as u32;
        let less = |left: u64| (left > 0).then(|| left - left.min(u64::from(wanted)));
        let before = self.left.fetch_update(Relaxed, Relaxed, less).ok()?;
        Some(before.min(u64::from(wanted)) as u32)
    }

    /// Waits for the time at which these events are due; false when it was stopped before.
    async fn pace(&self, count: u32) -> bool {
        let Some(rate) = self.options.rate else { return true };
        let before = self.issued.fetch_add(u64::from(count), Relaxed);
        let due = self.begun + Duration::from_secs_f64(before as f64 / rate.max(1) as f64);
        tokio::select! {
            () = tokio::time::sleep_until(due) => true,
            () = self.stop.cancelled() => false,
        }
    }

    fn miscounted(&self, count: u32, inserted: u64) -> EventsError {
        EventsError {
            code: "WS-EVENTS-101",
            trouble: Trouble::Failure,
            what: format!("{}: insert_events inserted {inserted} events of {count}", self.endpoint),
            why: "the function is not the one of an events source, or a trigger drops rows".into(),
            fix: "make the objects of a source: `watershed events init --role source`".into(),
        }
    }
}
