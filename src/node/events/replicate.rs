//! One stream per destination, each on its own.

use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::join_all;
use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio_util::sync::CancellationToken;

use super::endpoint::Endpoint;
use super::progress::{Overview, Progress};
use super::settings::Settings;
use super::validate;
use super::worker::{Plan, Worker};
use crate::model::limits;
use crate::peer::Retry;
use crate::view::{EventIds, EventsError, EventsFacts, EventsTable, Trouble};

/// Everything that stands against copying. Nothing has been written.
#[derive(Clone, Debug)]
pub struct Refusal(pub Vec<EventsError>);

impl Refusal {
    /// The gravest of them: what needs an operator, then what needs another configuration.
    pub fn gravest(&self) -> Option<&EventsError> {
        let order = [Trouble::Operator, Trouble::Invalid, Trouble::Failure, Trouble::Unreachable];
        order.iter().find_map(|trouble| self.0.iter().find(|error| error.trouble == *trouble))
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let texts: Vec<String> = self.0.iter().map(ToString::to_string).collect();
        f.write_str(&texts.join("\n\n"))
    }
}

impl std::error::Error for Refusal {}

impl From<EventsError> for Refusal {
    fn from(error: EventsError) -> Refusal {
        Refusal(vec![error])
    }
}

/// What is not waited for, though it may pass by itself.
#[derive(Clone, Copy, Debug, Default)]
pub struct Haste {
    /// Nothing that cannot be reached at the start is waited for.
    pub at_start: bool,
    /// The first failure of any destination ends it all.
    pub exit_on_error: bool,
}

/// A source and its destinations, found to be one another's, ready to be copied.
pub struct Replication {
    settings: Settings,
    plan: Plan,
    ids: EventIds,
    /// How far everybody has come.
    pub overview: Arc<Overview>,
    /// What the source is.
    pub source: EventsFacts,
    /// What each destination is; `None` for those that could not be reached yet.
    pub destinations: Vec<Option<EventsFacts>>,
}

/// A table and what it is.
type Looked = (Box<dyn EventsTable>, EventsFacts);

async fn look(endpoint: &Endpoint, timeout: Duration) -> Result<Looked, EventsError> {
    let mut table = endpoint.table(timeout).await?;
    let facts = table.facts().await?;
    Ok((table, facts))
}

impl Replication {
    /// Reaches everybody and looks whether copying may begin; changes nothing. Unless `haste` says otherwise, the
    /// source is waited for, and a destination that cannot be reached is left for later. `None`: told to stop before.
    ///
    /// # Errors
    /// Everything that stands against it.
    pub async fn prepare(
        settings: Settings,
        haste: Haste,
        stop: &CancellationToken,
    ) -> Result<Option<Replication>, Refusal> {
        let retry = Retry::default();
        let mut failed = 0;
        loop {
            let prepared = tokio::select! {
                prepared = Replication::attempt(&settings, haste) => prepared,
                _ = stop.cancelled() => return Ok(None),
            };
            let refusal = match prepared {
                Ok(replication) => return Ok(Some(replication)),
                Err(refusal) => refusal,
            };
            let waits = !haste.at_start && refusal.0.iter().all(EventsError::is_retryable);
            if !waits {
                return Err(refusal);
            }
            failed += 1;
            let wait = retry.wait(failed, true, rand::random());
            tracing::warn!("tried again in {wait:.1?}: {refusal}");
            tokio::select! {
                _ = stop.cancelled() => return Ok(None),
                _ = tokio::time::sleep(wait) => {}
            }
        }
    }

    async fn attempt(settings: &Settings, haste: Haste) -> Result<Replication, Refusal> {
        let timeout = settings.connect_timeout;
        let mut errors = Vec::new();
        // What the destinations have is read first: the source may grow meanwhile, and they with it.
        let looked = join_all(settings.destinations.iter().map(|endpoint| look(endpoint, timeout))).await;
        let source = look(&settings.source, timeout).await.map_err(|error| errors.push(error)).ok();
        let mut found: Vec<Option<Looked>> = Vec::new();
        for (endpoint, looked) in settings.destinations.iter().zip(looked) {
            found.push(match looked {
                Ok(looked) => Some(looked),
                Err(error) if error.is_retryable() && !haste.at_start => {
                    tracing::warn!("{endpoint} is begun later: {error}");
                    None
                }
                Err(error) => {
                    errors.push(error);
                    None
                }
            });
        }
        let Some((mut table, facts)) = source else { return Err(Refusal(errors)) };
        errors.extend(doubles(settings, &facts, &found));
        let from = table.name().to_string();
        errors.extend(validate::source(&from, &facts));
        for (destination, own) in found.iter_mut().flatten() {
            let own_errors = validate::destination(destination.name(), own, &from, &facts);
            let agrees = own_errors.iter().all(|error| error.trouble != Trouble::Operator);
            errors.extend(own_errors);
            if agrees && let Err(error) = validate::probe(&mut *table, &mut **destination, own.max_id).await {
                errors.push(error);
            }
        }
        match errors.is_empty() {
            true => Ok(Replication::new(settings.clone(), haste, facts, found)),
            false => Err(Refusal(errors)),
        }
    }

    fn new(settings: Settings, haste: Haste, source: EventsFacts, found: Vec<Option<Looked>>) -> Replication {
        let destinations: Vec<Option<EventsFacts>> = found.into_iter().map(|looked| Some(looked?.1)).collect();
        let identity = |facts: &EventsFacts| facts.identity.clone();
        let own = [Some(identity(&source))].into_iter();
        let identities = own.chain(destinations.iter().map(|facts| facts.as_ref().map(identity))).collect();
        let plan = Plan {
            source: settings.source.clone(),
            max_events_per_write: settings.max_events_per_write,
            batch_bytes: (limits::EVENTS_BATCH_BYTES / settings.destinations.len()).max(limits::EVENTS_BATCH_BYTES_MIN),
            connect_timeout: settings.connect_timeout,
            exit_on_error: haste.exit_on_error,
            identities: Mutex::new(identities),
        };
        let progress = settings.destinations.iter().map(|endpoint| Arc::new(Progress::new(endpoint.to_string())));
        let overview = Arc::new(Overview { source: settings.source.to_string(), destinations: progress.collect() });
        Replication { plan, ids: source.ids.unwrap_or_default(), overview, source, destinations, settings }
    }

    /// Copies until told to stop. A destination that fails for good is left, the others go on; then, and when they are
    /// told to stop, each finishes the batch that it writes.
    ///
    /// # Errors
    /// No destination is left; or, with `exit_on_error`, one has failed.
    pub async fn run(&self, stop: &CancellationToken) -> Result<(), EventsError> {
        let stop = stop.child_token();
        let mut workers: Vec<Worker<'_>> = self.workers();
        let mut running: FuturesUnordered<_> = workers.iter_mut().map(|worker| worker.run(&stop)).collect();
        let mut first = None;
        let drained = async {
            stop.cancelled().await;
            tokio::time::sleep(limits::EVENTS_DRAIN_MAX).await;
        };
        tokio::pin!(drained);
        let mut left = running.len();
        loop {
            tokio::select! {
                ended = running.next() => match ended {
                    None => break,
                    Some(Ok(())) => {}
                    Some(Err(error)) => {
                        left -= 1;
                        first.get_or_insert(error);
                        if self.plan.exit_on_error {
                            stop.cancel();
                        }
                    }
                },
                () = &mut drained => {
                    tracing::warn!("a destination did not finish in time; what it has not committed is copied again");
                    break;
                }
            }
        }
        match first {
            Some(error) if left == 0 || self.plan.exit_on_error => Err(error),
            _ => Ok(()),
        }
    }

    fn workers(&self) -> Vec<Worker<'_>> {
        let mut workers = Vec::with_capacity(self.destinations.len());
        for (index, endpoint) in self.settings.destinations.iter().enumerate() {
            let progress = &*self.overview.destinations[index];
            let checked = self.destinations[index].as_ref().map(|_| self.ids);
            workers.push(Worker { plan: &self.plan, index, endpoint, progress, checked, again: false });
        }
        workers
    }
}

/// Databases that are named twice.
fn doubles(settings: &Settings, source: &EventsFacts, found: &[Option<Looked>]) -> Vec<EventsError> {
    let name = settings.source.to_string();
    let destinations = found.iter().flatten().map(|(table, facts)| (table.name(), facts.identity.as_str()));
    validate::doubles([(name.as_str(), source.identity.as_str())].into_iter().chain(destinations))
}
