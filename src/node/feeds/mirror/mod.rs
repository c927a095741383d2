//! Read-only copies of feeds elsewhere: the same logs, with their ids, epochs and positions. A mirror's own log is its cursor.

mod follow;
mod from;
mod http;
mod link;
mod original;
mod tls;
mod trouble;

pub use from::{HttpFrom, MirrorFrom};
pub use link::PeerFeeds;
pub use trouble::Trouble;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::original::Original;
use super::{Feed, FeedSpec, Feeds};
use crate::model::{Position, limits};

/// The same trouble is reported again after this.
const REPEAT_INTERVAL: Duration = Duration::from_secs(60);

/// What a mirror is started with.
#[derive(Clone, Debug)]
pub struct MirrorSettings {
    /// Its original.
    pub from: MirrorFrom,
    /// How it is kept here; the number of partitions is the original's.
    pub spec: FeedSpec,
}

/// How one partition is doing.
#[derive(Clone, Debug, Default)]
struct PartState {
    connected: bool,
    /// The original's tail, when it was last heard of.
    tail: Position,
    /// When everything that was there was here.
    current: Option<Instant>,
    trouble: Option<(Trouble, Instant)>,
}

#[derive(Default)]
struct State {
    feed: Option<Arc<Feed>>,
    parts: Vec<PartState>,
    /// Before there is a log.
    trouble: Option<(Trouble, Instant)>,
    told: Option<(&'static str, Instant)>,
}

/// A mirror that runs.
pub struct Mirror {
    /// The log's name here.
    pub name: Box<str>,
    /// Its original.
    pub from: MirrorFrom,
    spec: FeedSpec,
    original: Arc<dyn Original>,
    state: Mutex<State>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

/// How a mirror is doing.
#[derive(Debug, Serialize)]
pub struct MirrorStatus {
    /// The log's name here.
    pub name: String,
    /// Its original.
    pub of: String,
    /// `waiting` (it has never reached its original), `following`, `trying`, or `stopped` (an operator must decide).
    pub state: &'static str,
    /// Entries that the original had when it was last heard of, and that are not here.
    pub behind: u64,
    /// For so long not everything has been here.
    pub lag_ms: Option<f64>,
    /// Why it does not go on.
    pub error: Option<String>,
    /// Milliseconds to the next attempt.
    pub retry_ms: Option<u64>,
}

impl Mirror {
    fn new(name: &str, settings: MirrorSettings, original: Arc<dyn Original>, stop: CancellationToken) -> Mirror {
        let MirrorSettings { from, spec } = settings;
        let (state, tasks) = (Mutex::default(), TaskTracker::new());
        Mirror { name: name.into(), from, spec, original, state, stop, tasks }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn follows(&self, feed: &Arc<Feed>) {
        let parts = vec![PartState::default(); feed.partitions.len()];
        let mut state = self.state();
        *state = State { feed: Some(feed.clone()), parts, trouble: None, told: state.told };
    }

    /// A partition's original answers; `tail` is where it is.
    fn heard(&self, number: usize, here: Position, tail: Position) {
        let mut state = self.state();
        let Some(part) = state.parts.get_mut(number) else { return };
        if !part.connected && number == 0 {
            tracing::info!("the mirror {} follows {} from position {here} on", self.name, self.from);
        }
        (part.connected, part.tail, part.trouble) = (true, tail, None);
        if here >= tail {
            part.current = Some(Instant::now());
        }
    }

    /// A partition (or, without a number, the whole) does not go on, and is tried again after that time.
    fn troubled(&self, number: Option<usize>, trouble: Trouble, wait: Duration) {
        let mut state = self.state();
        let known = state.told.is_some_and(|(code, at)| code == trouble.code && at.elapsed() < REPEAT_INTERVAL);
        if !known && !self.stop.is_cancelled() {
            let slow = if trouble.retryable { "" } else { "; an operator must decide" };
            tracing::warn!("the mirror {} of {}, next attempt in {wait:.1?}{slow}: {trouble}", self.name, self.from);
            state.told = Some((trouble.code, Instant::now()));
        }
        let trouble = Some((trouble, Instant::now() + wait));
        match number.and_then(|number| state.parts.get_mut(number)) {
            Some(part) => (part.connected, part.trouble) = (false, trouble),
            None => state.trouble = trouble,
        }
    }

    /// How it is doing.
    pub fn status(&self) -> MirrorStatus {
        let state = self.state();
        let troubles = state.parts.iter().filter_map(|part| part.trouble.as_ref()).chain(&state.trouble);
        // What an operator must decide is shown first.
        let trouble = troubles.min_by_key(|(trouble, _)| trouble.retryable);
        let name = match trouble {
            Some((trouble, _)) if !trouble.retryable => "stopped",
            _ if state.feed.is_none() => "waiting",
            None if state.parts.iter().all(|part| part.connected) => "following",
            _ => "trying",
        };
        let here = |number: usize| state.feed.as_ref().map_or(0, |feed| feed.partitions[number].log.tail().borrow().0);
        let behind = state.parts.iter().enumerate().map(|(number, part)| part.tail.0.saturating_sub(here(number)));
        let since = state.parts.iter().map(|part| part.current).min().flatten();
        MirrorStatus {
            name: self.name.to_string(),
            of: self.from.to_string(),
            state: name,
            behind: behind.sum(),
            lag_ms: since.map(|since| since.elapsed().as_secs_f64() * 1e3),
            error: trouble.map(|(trouble, _)| trouble.to_string()),
            retry_ms: trouble.map(|(_, at)| at.saturating_duration_since(Instant::now()).as_millis() as u64),
        }
    }

    /// Whether the original answers, as the log that it was.
    pub async fn reaches_original(&self) -> bool {
        let asked = tokio::time::timeout(limits::MIRROR_CONNECT_TIMEOUT, self.original.open(0, None)).await;
        let Ok(Ok((facts, _))) = asked else { return false };
        let feed = self.state().feed.clone();
        feed.is_some_and(|feed| facts.parts[0].id == feed.partitions[0].log.id())
    }

    /// Ends it: nothing is appended by it any more on return.
    pub async fn end(&self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

/// Asks the originals of mirrors over HTTP, at once; records nothing at either end. Of each, by its name, what it is, or why a
/// mirror of it would not go on.
pub async fn look_at_originals(mirrors: &BTreeMap<String, MirrorSettings>) -> Vec<(String, Result<String, Trouble>)> {
    let over_http = mirrors.iter().filter_map(|(name, settings)| match &settings.from {
        MirrorFrom::Http(from) => Some((name.clone(), from.clone())),
        // Peers say which feeds they send once they have linked.
        MirrorFrom::Peer { .. } => None,
    });
    let asked = over_http.map(|(name, from)| async move {
        let found = http::HttpOriginal(from.clone()).open(0, None).await;
        let told = found.map(|(facts, _)| {
            let entries: u64 = facts.parts.iter().map(|part| part.tail.0).sum();
            let several =
                if facts.parts.len() > 1 { format!(" in {} partitions", facts.parts.len()) } else { String::new() };
            format!("{} answers, with {entries} entries{several}", from.url)
        });
        (name, told)
    });
    futures_util::future::join_all(asked).await
}

/// The mirrors of a node, by name.
#[derive(Default)]
pub struct Mirrors {
    all: Mutex<BTreeMap<Box<str>, Arc<Mirror>>>,
}

impl Mirrors {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<Box<str>, Arc<Mirror>>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The one of that name.
    pub fn get(&self, name: &str) -> Option<Arc<Mirror>> {
        self.lock().get(name).cloned()
    }

    /// It is none any more.
    pub fn forget(&self, name: &str) {
        self.lock().remove(name);
    }

    /// How all of them are doing.
    pub fn status(&self) -> Vec<MirrorStatus> {
        self.lock().values().map(|mirror| mirror.status()).collect()
    }

    /// What of them wants attention, as sentences.
    pub fn problems(&self) -> Vec<String> {
        let told = |status: MirrorStatus| status.error.map(|error| format!("mirror {}: {error}", status.name));
        self.status().into_iter().filter_map(told).collect()
    }

    /// Starts those of the configuration that have not been promoted; they run until `stop`.
    pub fn start(
        &self,
        settings: BTreeMap<String, MirrorSettings>,
        feeds: &Arc<Feeds>,
        peers: &Arc<PeerFeeds>,
        tasks: &TaskTracker,
        stop: &CancellationToken,
    ) {
        for (name, settings) in settings {
            if feeds.get(&name).is_some_and(|feed| feed.mirror_of().is_none()) {
                continue;
            }
            let original: Arc<dyn Original> = match settings.from.clone() {
                MirrorFrom::Http(from) => Arc::new(http::HttpOriginal(from)),
                MirrorFrom::Peer { node, log } => Arc::new(link::PeerOriginal { peers: peers.clone(), node, log }),
            };
            let mirror = Arc::new(Mirror::new(&name, settings, original, stop.child_token()));
            self.lock().insert(name.into(), mirror.clone());
            let following = mirror.tasks.track_future(follow::run(mirror.clone(), feeds.clone()));
            tasks.spawn(following);
        }
    }
}
