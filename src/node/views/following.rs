//! A build that follows its log: a task for each partition.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::task::{Id, JoinError, JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use super::part::{End, Part, PartBoard};
use super::publish::{PublishBoard, Publisher};
use super::stops::Stops;
use crate::log::{Append, Draft, Limit, SourceError};
use crate::model::{Cursor, EntryHeader, LinkId, LogId, Position, TableName, Timestamp, limits};
use crate::node::feeds::Feed;
use crate::node::present::{Present, present};
use crate::node::shared::Shared;
use crate::peer::Retry;
use crate::stream::{FollowError, follow};
use crate::view::{Needed, View, ViewError, ViewStore, Waiters};

/// Between attempts at a store that is away.
pub(super) const RETRY: Retry = Retry { first: Duration::from_millis(200), max: Duration::from_secs(10) };

/// Between two looks at how far a build has come that somebody waits for.
const STEP: Duration = Duration::from_millis(10);

/// A build, and what follows for it.
pub(super) struct Following {
    pub store: Arc<dyn ViewStore>,
    pub parts: Arc<Vec<Arc<PartBoard>>>,
    stop: CancellationToken,
    tasks: JoinSet<(usize, End)>,
    /// The partition of each task.
    numbers: BTreeMap<Id, usize>,
    caught_up: Arc<Notify>,
    publisher: Option<JoinHandle<()>>,
}

/// An entry at which a state was lost: it is not given again to the one that was opened in its place.
#[derive(Clone, Debug)]
pub(super) struct LostAt {
    pub log: LogId,
    pub position: Position,
    pub why: String,
}

/// For whom a build follows.
#[derive(Default)]
pub(super) struct Role {
    /// Who waits for it; `None` for one that does not answer yet.
    pub waiters: Option<Arc<Waiters>>,
    /// Where it is to stand still; `None` for one that does not answer yet.
    pub stops: Option<Arc<Stops>>,
    /// Of its time it works so many hundredths; `None`: all of it.
    pub share: Option<u32>,
    /// With what a new build begins, where that is not the log.
    pub first: Option<Arc<First>>,
    /// How its output is published, where it is.
    pub out: Option<Arc<PublishBoard>>,
    /// Entries that it is not given, by order.
    pub over: Arc<[Cursor]>,
    /// Where it stops, whatever comes there.
    pub lost_at: Vec<LostAt>,
}

/// Tables of the node's database, with whose rows a view of main begins: the log has only what has changed since.
pub(super) struct First {
    pub shared: Arc<Shared>,
    pub tables: Vec<TableName>,
}

impl Following {
    /// Begins where the store is.
    pub(super) fn start(
        view: &str,
        store: Arc<dyn ViewStore>,
        feed: &Feed,
        role: &Role,
        stop: &CancellationToken,
    ) -> Following {
        let mut following = Following::nothing(store.clone(), stop);
        let (stop, caught_up) = (following.stop.clone(), following.caught_up.clone());
        let mut parts = Vec::new();
        for (number, partition) in feed.partitions.iter().enumerate() {
            let board = Arc::new(PartBoard::new(number, partition.log.clone()));
            parts.push(board.clone());
            let one = One {
                view: view.into(),
                store: store.clone(),
                board,
                waiters: role.waiters.clone(),
                stops: role.stops.clone(),
                share: role.share,
                first: role.first.clone(),
                out: role.out.clone(),
                over: role.over.clone(),
                lost_at: role.lost_at.iter().find(|lost_at| lost_at.log == partition.log.id()).cloned(),
                caught_up: caught_up.clone(),
                stop: stop.clone(),
            };
            let task = following.tasks.spawn(async move { (number, one.run().await) });
            following.numbers.insert(task.id(), number);
        }
        Following { parts: Arc::new(parts), ..following }
    }

    /// Follows nothing: what the store has is of no log that is there.
    pub(super) fn nothing(store: Arc<dyn ViewStore>, stop: &CancellationToken) -> Following {
        Following {
            store,
            parts: Arc::default(),
            stop: stop.child_token(),
            tasks: JoinSet::new(),
            numbers: BTreeMap::new(),
            caught_up: Arc::default(),
            publisher: None,
        }
    }

    /// Publishes what it changes, for as long as it follows.
    pub(super) fn publish(&mut self, publisher: Publisher) {
        self.publisher = Some(tokio::spawn(publisher.run(self.stop.child_token())));
    }

    /// A partition that is not followed any more. Cancel-safe.
    pub(super) async fn ended(&mut self) -> (usize, End) {
        match self.tasks.join_next().await {
            Some(Ok(ended)) => ended,
            Some(Err(error)) => {
                let number = self.numbers.get(&error.id()).copied().unwrap_or_default();
                let why = format!("whoever applies its entries has ended badly, of no entry's fault: {}", words(error));
                (number, End::Failed { position: Position::ZERO, why })
            }
            None => std::future::pending().await,
        }
    }

    /// A partition that is not followed any more; `None`: one has nothing more to read. Cancel-safe.
    pub(super) async fn news(&mut self) -> Option<(usize, End)> {
        let caught_up = self.caught_up.clone();
        tokio::select! {
            ended = self.ended() => Some(ended),
            () = caught_up.notified() => None,
        }
    }

    /// Waits until a partition has nothing more to read. Cancel-safe.
    pub(super) async fn caught_up(&self) {
        self.caught_up.notified().await;
    }

    /// Stops: nothing is given to the store by this any more on return. Who does not end in time is broken off, as a crash
    /// would: what was not committed comes again. Whether nobody was.
    pub(super) async fn end(&mut self) -> bool {
        self.stop.cancel();
        let ended = async { while self.tasks.join_next().await.is_some() {} };
        let in_time = tokio::time::timeout(limits::VIEW_SWITCH_WAIT, ended).await.is_ok();
        if !in_time {
            self.tasks.shutdown().await;
        }
        if let Some(mut publisher) = self.publisher.take()
            && tokio::time::timeout(limits::VIEW_SWITCH_WAIT, &mut publisher).await.is_err()
        {
            // What it has given to the log goes on; whoever publishes next waits for that.
            publisher.abort();
        }
        in_time
    }

    /// How far each partition has come.
    pub(super) fn reached(&self) -> Needed {
        self.parts.iter().map(|part| (part.log.id(), part.position())).collect()
    }

    /// Entries that the log has and the build has not.
    pub(super) fn left(&self) -> u64 {
        self.parts.iter().map(|part| part.tail().0.saturating_sub(part.position().0)).sum()
    }

    /// Whether every partition that has something has been begun with; of tables their rows are there then.
    pub(super) fn has_begun(&self, with_tables: bool) -> bool {
        let begun = |part: &Arc<PartBoard>| part.position() > Position::ZERO;
        self.parts.iter().all(|part| begun(part) || !with_tables && part.tail() == Position::ZERO)
    }

    /// Whether it has come that far.
    pub(super) fn has(&self, needed: &Needed) -> bool {
        let reached = self.reached();
        needed.iter().all(|(log, position)| reached.get(log).is_some_and(|at| at >= position))
    }

    /// Waits until it has come that far.
    pub(super) async fn wait(&self, needed: &Needed, patience: Duration) -> bool {
        let until = tokio::time::Instant::now() + patience;
        while !self.has(needed) {
            tokio::select! {
                () = self.stop.cancelled() => return self.has(needed),
                () = tokio::time::sleep_until(until) => return self.has(needed),
                () = self.caught_up() => {}
                // Under a log that moves there is always more to read.
                () = tokio::time::sleep(STEP) => {}
            }
        }
        true
    }
}

/// Why a task has ended badly.
fn words(error: JoinError) -> String {
    let said = error.to_string();
    let Ok(panic) = error.try_into_panic() else { return said };
    let words = panic.downcast_ref::<&str>().copied();
    let words = words.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    words.map_or(said, |words| format!("it panicked: {words}"))
}

/// One partition.
struct One {
    view: Box<str>,
    store: Arc<dyn ViewStore>,
    board: Arc<PartBoard>,
    waiters: Option<Arc<Waiters>>,
    stops: Option<Arc<Stops>>,
    share: Option<u32>,
    first: Option<Arc<First>>,
    out: Option<Arc<PublishBoard>>,
    over: Arc<[Cursor]>,
    lost_at: Option<LostAt>,
    caught_up: Arc<Notify>,
    stop: CancellationToken,
}

impl First {
    /// The rows, at a position behind the log's beginning: at position 0 there is no entry.
    async fn rows(&self) -> Result<Present, String> {
        let log = &self.shared.log;
        if *log.tail().borrow() == Position::ZERO {
            let header =
                EntryHeader { time: Timestamp::now(), node: self.shared.name.clone(), ..EntryHeader::default() };
            let drafts = vec![Draft::Local { header, changes: bytes::Bytes::new() }];
            let append = Append { from: LinkId::LOCAL, tables: Vec::new(), drafts, upto: None };
            log.append(append).await.map_err(|error| error.to_string())?;
        }
        present(&self.shared, &self.tables).await
    }
}

/// Why an attempt was the last, or is not.
enum Broken {
    Ends(End),
    Again(String),
    /// This view is of no more use.
    Lost(String),
}

impl One {
    async fn run(self) -> End {
        let mut failed = 0;
        loop {
            let before = self.board.position();
            let why = match self.attempt().await {
                // Once more: the store may only have lost its connection.
                Err(Broken::Lost(why)) if failed >= 2 => return End::Lost(why),
                Err(Broken::Lost(why)) => why,
                Err(Broken::Ends(end)) => {
                    self.board.state().end = Some(end.clone());
                    return end;
                }
                Err(Broken::Again(why)) => why,
                Ok(never) => match never {},
            };
            if self.stop.is_cancelled() {
                return End::Stopped;
            }
            failed = if self.board.position() > before { 1 } else { failed + 1 };
            if failed == 1 {
                tracing::warn!("the view {}: {why}; it is tried again", self.view);
            }
            self.board.state().away = Some(why);
            tokio::select! {
                () = self.stop.cancelled() => return End::Stopped,
                () = tokio::time::sleep(RETRY.wait(failed, true, rand::random())) => {}
            }
        }
    }

    async fn attempt(&self) -> Result<Infallible, Broken> {
        let log = self.board.log.clone();
        let inner = self.store.part(log.id()).await.map_err(|error| self.broken(error.into()))?;
        let mut part = Part {
            inner,
            board: self.board.clone(),
            waiters: self.waiters.clone(),
            stops: None,
            share: self.share,
            over: Arc::default(),
            lost_at: None,
            caught_up: self.caught_up.clone(),
            out: self.out.clone(),
            stop: self.stop.clone(),
        };
        let mut cursor = self.begins(&mut part).await?;
        // Parts of the rows may have come before it was broken off; only with the last one it stands behind position 0.
        if cursor.is_none_or(|at| at.position == Position::ZERO)
            && let Some(first) = &self.first
        {
            cursor = self.tables(first, &mut part).await?;
        }
        // In the middle of the rows of its tables there is no place at which it could stand.
        part.stops = self.stops.clone();
        // Rows of tables are no entries, though they stand at the position of one.
        (part.over, part.lost_at) = (self.over.clone(), self.lost_at.clone());
        let progress = watch::Sender::new(cursor.unwrap_or_default());
        let source: &dyn crate::log::Source = &*log;
        if let Err(error) = follow(source, None, &mut part, Limit::default(), &progress, &self.stop).await {
            // What stands before the entry that failed may have been committed.
            let _ = part.cursor().await;
            return Err(self.broken(error));
        }
        Err(Broken::Ends(End::Stopped))
    }

    /// Where it begins: the store may have less than it had, and the log may be another one.
    async fn begins(&self, part: &mut Part) -> Result<Option<Cursor>, Broken> {
        let cursor = part.inner.cursor().await.map_err(|error| self.broken(error.into()))?;
        let there = cursor.map_or(Position::ZERO, |cursor| cursor.position);
        if let Some(waiters) = &self.waiters {
            waiters.back_to(self.board.log.id(), there);
        }
        if let Some(cursor) = cursor
            && let Err(refused) = self.board.log.check(cursor)
        {
            let mut state = self.board.state();
            (state.cursor, state.known) = (Some(cursor), true);
            return Err(Broken::Ends(End::Parted(format!("the view is at {cursor}: {refused}"))));
        }
        part.cursor().await.map_err(|error| self.broken(error.into()))
    }

    /// The rows of the tables at a position, as inserts of one large transaction there.
    async fn tables(&self, first: &First, part: &mut Part) -> Result<Option<Cursor>, Broken> {
        // None of them is an entry of the log, so none can be passed over.
        let failed = |error: ViewError| match self.broken(error.into()) {
            Broken::Ends(End::Failed { why, .. }) => {
                Broken::Ends(End::Failed { position: Position::ZERO, why: format!("the rows of its tables: {why}") })
            }
            other => other,
        };
        let mut rows = first.rows().await.map_err(Broken::Again)?;
        tracing::info!(
            "the view {} begins with {} rows of its tables, at position {}",
            self.view,
            rows.rows(),
            rows.at().position
        );
        while let Some(batch) =
            tokio::task::block_in_place(|| rows.next()).map_err(|error| Broken::Again(error.to_string()))?
        {
            if self.stop.is_cancelled() {
                return Err(Broken::Ends(End::Stopped));
            }
            part.apply(&batch).await.map_err(failed)?;
        }
        part.flush().await.map_err(failed)?;
        part.cursor().await.map_err(failed)
    }

    fn broken(&self, error: FollowError) -> Broken {
        let failed = |why: String| Broken::Ends(End::Failed { position: self.board.position().next(), why });
        match error {
            FollowError::View(ViewError::Lost(why)) => Broken::Lost(why),
            FollowError::View(ViewError::Retry(_) | ViewError::Fenced { .. })
            | FollowError::Source(SourceError::Io(_)) => Broken::Again(error.to_string()),
            FollowError::Source(SourceError::Trimmed { asked, oldest }) => Broken::Ends(End::Trimmed { asked, oldest }),
            FollowError::Source(SourceError::Closed) => Broken::Ends(End::Stopped),
            FollowError::View(error @ ViewError::Replaced { .. }) => Broken::Ends(End::Replaced(error.to_string())),
            FollowError::View(ref view) if view.stops_at().is_some() => {
                let position = view.stops_at().unwrap_or_default();
                Broken::Ends(End::Failed { position, why: error.to_string() })
            }
            FollowError::OtherLog { .. } => Broken::Ends(End::Parted(error.to_string())),
            other => failed(other.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;

    use super::*;
    use crate::log::memory::MemoryLog;
    use crate::model::Fingerprint;
    use crate::view::{Answer, AskError, Bounds, Question, StateDigest};

    /// Nobody gives it anything.
    struct Idle;

    fn none() -> ViewError {
        ViewError::Failed("it does nothing".into())
    }

    #[async_trait]
    impl ViewStore for Idle {
        fn definition(&self) -> Fingerprint {
            Fingerprint(1)
        }

        async fn part(&self, _: LogId) -> Result<Box<dyn View>, ViewError> {
            Err(none())
        }

        async fn cursors(&self) -> Result<Vec<Cursor>, ViewError> {
            Err(none())
        }

        async fn ask(&self, _: &Question, _: &Bounds) -> Result<Answer, AskError> {
            Err(AskError::Failed("it does nothing".into()))
        }

        async fn digest(&self) -> Result<StateDigest, ViewError> {
            Err(none())
        }

        async fn pass_over(&self, _: Cursor) -> Result<(), ViewError> {
            Err(none())
        }
    }

    #[tokio::test]
    async fn a_build_is_there_when_it_has_come_that_far_though_its_log_goes_on() {
        let log: Arc<dyn crate::log::Log> = Arc::new(MemoryLog::new());
        let board = Arc::new(PartBoard::new(0, log.clone()));
        let nothing = Following::nothing(Arc::new(Idle), &CancellationToken::new());
        let following = Following { parts: Arc::new(vec![board.clone()]), ..nothing };
        let needed: Needed = [(log.id(), Position(5))].into();
        let at = Cursor { position: Position(7), ..log.cursor_at(Position::ZERO) };
        // It never says that it has nothing more to read.
        let moves = async {
            tokio::task::yield_now().await;
            board.state().cursor = Some(at);
        };
        let waited = async { tokio::join!(following.wait(&needed, Duration::from_secs(3600)), moves) };
        let waited = tokio::time::timeout(Duration::from_secs(60), waited).await;
        assert!(waited.is_ok_and(|(there, ())| there), "it is waited for as long as may be");
    }
}
