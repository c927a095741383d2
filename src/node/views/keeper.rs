//! The task that keeps one view going: opens its store, follows its log, builds what is wanted beside what answers.

use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::following::{First, Following, LostAt, RETRY, Role};
use super::looks::shown;
use super::orders::{Order, refuse};
use super::part::End;
use super::publish::Publisher;
use super::status::what_to_do;
use super::viewed::{Running, Trouble, Viewed, unmet_by};
use crate::model::{Cursor, Position, TableName, limits};
use crate::node::feeds::Feed;
use crate::node::shared::Shared;
use crate::view::{Needed, ViewBuilds, ViewError, ViewStore};

/// Keeps one view.
pub(super) struct Keeper {
    pub view: Arc<Viewed>,
    pub builds: Arc<dyn ViewBuilds>,
    pub shared: Arc<Shared>,
    pub inbox: mpsc::Receiver<Order>,
    pub stop: CancellationToken,
    /// Where what is followed for readers stops: one place at most in each partition.
    pub lost_at: Vec<LostAt>,
    /// What came while the store was opened anew, and is done once it is.
    put_off: Vec<Order>,
    /// Definitions were taken up while the store was opened: once it is, what is built is compared with what is wanted.
    taken_up: bool,
}

/// What answers, and what is to take its place.
pub(super) struct Standing {
    pub feed: Arc<Feed>,
    pub live: Following,
    /// What the store has is of a log that is not there any more: nothing is followed, and nobody is answered by it.
    pub elsewhere: bool,
    pub building: Option<Following>,
    /// By these it is built.
    pub by: Arc<dyn ViewBuilds>,
    /// The build is tried again then.
    pub again: Option<Again>,
    pub persisted: Instant,
    /// What of a state in memory would be there after a crash.
    pub saved: Needed,
    /// How often in a row what answers was opened anew, and how far it had come then.
    pub lost: (u32, u64),
    /// How often in a row what is built was lost.
    pub unbuilt: u32,
    /// How often in a row what is built could not take the place of what answers.
    pub unswitched: u32,
}

/// A further attempt at a build.
#[derive(Clone, Copy)]
pub(super) struct Again {
    pub at: tokio::time::Instant,
    /// How many there were.
    pub failed: u32,
    /// It is to begin with nothing, as was ordered.
    pub afresh: bool,
}

impl Again {
    /// After so many that failed, in a row.
    pub(super) fn after(failed: u32, passes: bool, afresh: bool) -> Again {
        Again { at: tokio::time::Instant::now() + RETRY.wait(failed, passes, rand::random()), failed, afresh }
    }
}

/// A store, and how far it has come.
pub(super) type Opened = (Arc<dyn ViewStore>, Vec<Cursor>);

impl Keeper {
    /// Of a view that nobody keeps yet.
    pub(super) fn of(view: &Arc<Viewed>, shared: &Arc<Shared>) -> Option<Keeper> {
        let inbox = view.inbox.lock().unwrap_or_else(PoisonError::into_inner).take()?;
        let builds = view.builds.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let stop = shared.stop.clone();
        let (view, shared) = (view.clone(), shared.clone());
        Some(Keeper { view, builds, shared, inbox, stop, lost_at: Vec::new(), put_off: Vec::new(), taken_up: false })
    }

    /// Runs until the node stops.
    pub(super) async fn run(mut self) {
        let Some(feed) = self.feed().await else { return };
        self.takes(&feed);
        let Some(live) = self.open(0).await else { return };
        let standing = self.stand(feed, live).await;
        self.keep(standing).await;
    }

    pub(super) fn who(&self) -> String {
        format!("view {}", self.view.name)
    }

    /// From now on this is wanted; whether it is something else than before. If it is not, the builds stay those that they were:
    /// they know of what is being built.
    pub(super) fn wants(&mut self, builds: Arc<dyn ViewBuilds>) -> bool {
        if builds.wanted() == self.builds.wanted() {
            return false;
        }
        *self.view.builds.lock().unwrap_or_else(PoisonError::into_inner) = builds.clone();
        self.builds = builds;
        true
    }

    /// What answers, once the store gives it; at once, unless it was `lost` so often in a row.
    pub(super) async fn open(&mut self, lost: u32) -> Option<Opened> {
        let mut failed = lost;
        if lost > 0 && !self.pause(RETRY.wait(lost, true, rand::random()), None).await {
            return None;
        }
        loop {
            let error = match opened(self.builds.live().await).await {
                Ok(opened) => return Some(opened),
                Err(error) => error,
            };
            failed += 1;
            let trouble = opening(&error);
            if self.view.figures().trouble.as_ref() != Some(&trouble) {
                tracing::error!("the view {} cannot be opened: {error}; it is tried again", self.view.name);
            }
            match trouble.kind {
                "away" => self.view.waiters.recover(),
                _ => self.view.waiters.fail(unmet_by(&trouble)),
            }
            let wait = RETRY.wait(failed, trouble.kind == "away", rand::random());
            self.view.figures().trouble = Some(trouble);
            let why = "its store cannot be opened";
            for order in std::mem::take(&mut self.put_off) {
                self.hear(order, Some(why));
            }
            if !self.pause(wait, Some(why)).await {
                return None;
            }
        }
    }

    /// Waits; orders are heard meanwhile, and end it. False: the node stops.
    async fn pause(&mut self, wait: Duration, refused: Option<&str>) -> bool {
        tokio::select! {
            () = self.stop.cancelled() => return false,
            () = tokio::time::sleep(wait) => {}
            order = self.inbox.recv() => match order {
                None => return false,
                Some(order) => self.hear(order, refused),
            },
        }
        true
    }

    /// Takes an order while there is no store: what needs one is refused with that reason, or put off.
    fn hear(&mut self, order: Order, refused: Option<&str>) {
        match (order, refused) {
            (Order::TakeUp(builds), _) => {
                self.wants(builds);
                self.lost_at.clear();
                self.taken_up = true;
            }
            (Order::Rebuild { reply, .. } | Order::PassOver { reply, .. }, Some(why)) => refuse(reply, why),
            (order, None) => self.put_off.push(order),
        }
    }

    /// Begins to follow for what answers, and to build what is wanted.
    pub(super) async fn stand(&mut self, feed: Arc<Feed>, (live, cursors): Opened) -> Standing {
        let definition = live.definition();
        self.note(self.view.record.answers(definition));
        let elsewhere = are_elsewhere(&feed, &cursors);
        self.goes_on();
        let live = match elsewhere {
            true => self.follow_nothing(live).await,
            false => {
                *self.view.live.write().await = Some(live.clone());
                self.follow(&feed, live, None).await
            }
        };
        let saved = self::cursors(&live).await;
        let mut standing = Standing {
            feed,
            live,
            elsewhere,
            building: None,
            by: self.builds.clone(),
            again: None,
            persisted: Instant::now(),
            saved,
            lost: (0, 0),
            unbuilt: 0,
            unswitched: 0,
        };
        match self.is_wanted(&standing) {
            false => self.build(&mut standing, false).await,
            true => self.drop_build().await,
        }
        standing
    }

    /// Whether nothing is to be built.
    pub(super) fn is_wanted(&self, standing: &Standing) -> bool {
        let definition = standing.live.store.definition();
        definition == self.builds.wanted() && !standing.elsewhere && !self.view.record.is_taken_back()
    }

    pub(super) fn goes_on(&self) {
        self.view.waiters.recover();
        self.view.figures().trouble = None;
    }

    /// What is noted only so that it is known after a restart can be found out in another way, too.
    pub(super) fn note(&self, noted: std::io::Result<()>) {
        if let Err(error) = noted {
            tracing::error!("the note about what the view {} passes over cannot be written: {error}", self.view.name);
        }
    }

    /// With what a new build begins, where that is not the log.
    pub(super) fn first(&self) -> Option<Arc<First>> {
        if &*self.view.settings.log != "main" || self.shared.database.is_none() {
            return None;
        }
        let captured = || self.shared.tables.borrow().iter().map(|table| table.name.clone()).collect();
        let tables: Vec<TableName> = self.view.settings.tables.clone().unwrap_or_else(captured);
        (!tables.is_empty()).then(|| Arc::new(First { shared: self.shared.clone(), tables }))
    }

    /// Follows for what answers; or for a build that passes over these.
    pub(super) async fn follow(
        &mut self,
        feed: &Arc<Feed>,
        store: Arc<dyn ViewStore>,
        building: Option<Vec<Cursor>>,
    ) -> Following {
        let fresh = store.cursors().await.is_ok_and(|cursors| cursors.iter().all(|at| at.position == Position::ZERO));
        let (first, is_live) = (self.first(), building.is_none());
        let role = match building {
            None => Role {
                waiters: Some(self.view.waiters.clone()),
                stops: Some(self.view.stops.clone()),
                share: None,
                first,
                out: self.view.publishing.clone(),
                over: self.view.record.over_live().into(),
                lost_at: self.lost_at.clone(),
            },
            Some(over) => Role { share: Some(limits::VIEW_REBUILD_SHARE), first, over: over.into(), ..Role::default() },
        };
        let mut following = Following::start(&self.view.name, store, feed, &role, &self.stop);
        if let Some(publisher) = is_live.then(|| self.publisher(feed, &following.store)).flatten() {
            following.publish(publisher);
        }
        let running = running(&following, fresh);
        let mut figures = self.view.figures();
        *(if is_live { &mut figures.live } else { &mut figures.building }) = Some(running);
        drop(figures);
        following
    }

    /// What publishes the output of what answers, if that is wanted.
    pub(super) fn publisher(&self, feed: &Arc<Feed>, store: &Arc<dyn ViewStore>) -> Option<Publisher> {
        let (board, outbox) = (self.view.publishing.as_ref()?, store.outbox()?);
        Publisher::of(&self.view.name, board, outbox, feed, &self.shared, &self.view.waiters)
    }

    /// What the store has is not answered by: it is of another log.
    async fn follow_nothing(&mut self, store: Arc<dyn ViewStore>) -> Following {
        *self.view.live.write().await = None;
        let following = Following::nothing(store, &self.stop);
        let why = format!(
            "what it had was of another log than the {} that is there now; it is built from that",
            self.view.settings.log
        );
        tracing::warn!("the view {}: {why}", self.view.name);
        let trouble = Trouble { kind: "rebuilding", partition: 0, position: Position::ZERO, why, entry: None };
        self.view.waiters.fail(unmet_by(&trouble));
        let mut figures = self.view.figures();
        (figures.live, figures.trouble) = (Some(running(&following, true)), Some(trouble));
        drop(figures);
        following
    }

    async fn keep(mut self, mut standing: Standing) {
        let mut looks = tokio::time::interval(limits::VIEW_LOOK_INTERVAL);
        let mut made = self.shared.feeds.made();
        loop {
            self.make_up_for(&mut standing).await;
            tokio::select! {
                () = self.stop.cancelled() => break,
                (number, end) = standing.live.ended() => self.stopped(&mut standing, number, end).await,
                news = super::building::news(&mut standing.building) => match news {
                    Some((number, end)) => self.unbuilt(&mut standing, number, end).await,
                    None => self.replace(&mut standing).await,
                },
                order = self.inbox.recv() => match order {
                    Some(order) => self.obey(&mut standing, order).await,
                    None => break,
                },
                Ok(()) = made.changed() => self.look_for_log(&mut standing).await,
                _ = looks.tick() => {
                    self.look_for_log(&mut standing).await;
                    self.look(&mut standing).await;
                }
            }
        }
        standing.live.end().await;
        if let Some(building) = &mut standing.building {
            building.end().await;
            if let Err(error) = building.store.persist().await {
                tracing::debug!("the build of the view {} is not saved: {error}", self.view.name);
            }
        }
        if let Err(error) = standing.live.store.persist().await {
            tracing::error!("the view {} is not saved: {error}; it is made again from its log", self.view.name);
        }
    }

    /// Does what came while the store was opened.
    async fn make_up_for(&mut self, standing: &mut Standing) {
        while !self.stop.is_cancelled() && (self.taken_up || !self.put_off.is_empty()) {
            if std::mem::take(&mut self.taken_up) {
                self.settle(standing).await;
            }
            for order in std::mem::take(&mut self.put_off) {
                self.obey(standing, order).await;
            }
        }
    }

    /// What answers does not go on.
    async fn stopped(&mut self, standing: &mut Standing, number: usize, end: End) {
        match &end {
            End::Lost(why) => return self.reopen(standing, &why.clone()).await,
            // What was saved answers on, up to what is before the entry.
            End::Failed { position, why } if standing.live.store.is_broken() && *position > Position::ZERO => {
                let (log, position) = (standing.live.parts[number].log.id(), *position);
                let why = why.strip_prefix(&format!("the entry at position {position}: ")).unwrap_or(why).to_owned();
                self.lost_at.retain(|known| known.log != log);
                self.lost_at.push(LostAt { log, position, why: why.clone() });
                return self.reopen(standing, &why).await;
            }
            End::Replaced(why) => {
                tracing::info!("the view {} is built anew: {why}", self.view.name);
                if standing.building.is_none() {
                    self.build(standing, false).await;
                }
            }
            _ => {}
        }
        let Some(trouble) = self.trouble(standing, number, end).await else { return };
        if !trouble.passes() {
            let (name, position) = (&self.view.name, trouble.position);
            tracing::error!(
                "error[WS-VIEW-031]: the view {name} stops at position {position} of partition {number}: {} / do: {}",
                trouble.why,
                what_to_do(name, &trouble),
            );
        }
        self.view.waiters.fail(unmet_by(&trouble));
        self.view.figures().trouble = Some(trouble);
    }

    async fn reopen(&mut self, standing: &mut Standing, why: &str) {
        tracing::warn!("the store of the view {} is opened anew: {why}", self.view.name);
        let there: u64 = standing.live.parts.iter().map(|part| part.position().0).sum();
        standing.live.end().await;
        let (lost, before) = standing.lost;
        standing.lost = (if there == before { lost + 1 } else { 1 }, there);
        let Some((live, _)) = self.open(standing.lost.0 - 1).await else { return };
        *self.view.live.write().await = Some(live.clone());
        self.goes_on();
        standing.live = self.follow(&standing.feed, live, None).await;
        if !self.is_wanted(standing) && standing.building.is_none() {
            self.build(standing, false).await;
        }
    }

    pub(super) async fn trouble(&self, standing: &Standing, partition: usize, end: End) -> Option<Trouble> {
        let position_of = |parts: &[Arc<super::part::PartBoard>]| parts.get(partition).map(|part| part.position());
        let (kind, position, why) = match end {
            End::Lost(_) => return None,
            End::Stopped if self.stop.is_cancelled() => return None,
            End::Stopped => {
                let why = format!(
                    "its log {} was closed; it goes on with the one that is made in its place",
                    self.view.settings.log
                );
                ("away", Position::ZERO, why)
            }
            End::Failed { position, why } => ("failed", position, why),
            End::Trimmed { asked, oldest } => {
                let why = format!("position {asked} is not in the log any more; the oldest that is there is {oldest}");
                ("trimmed", asked, why)
            }
            End::Replaced(why) => ("rebuilding", position_of(&standing.live.parts).unwrap_or_default(), why),
            End::Parted(why) => {
                ("failed", Position::ZERO, format!("{why}; the log or the store was restored or copied"))
            }
        };
        let entry = match kind {
            "failed" if position > Position::ZERO => shown(&standing.feed, partition, position).await,
            _ => None,
        };
        Some(Trouble { kind, partition, position, why, entry })
    }

    /// Follows again for what answers. A state that is of no more use is opened anew from what was saved.
    pub(super) async fn again(&mut self, standing: &mut Standing) {
        if standing.elsewhere {
            return;
        }
        standing.live.end().await;
        let mut store = standing.live.store.clone();
        if store.is_broken() {
            let Some((opened, _)) = self.open(0).await else { return };
            *self.view.live.write().await = Some(opened.clone());
            store = opened;
        }
        self.goes_on();
        standing.live = self.follow(&standing.feed, store, None).await;
    }
}

/// How it is doing, from now on.
fn running(following: &Following, fresh: bool) -> Running {
    let (parts, now) = (following.parts.clone(), Instant::now());
    let definition = following.store.definition();
    Running { definition, parts, since: now, rate: 0.0, seen: 0, healthy: now, fresh }
}

/// A store is open when it has said how far it has come.
async fn opened(live: Result<Arc<dyn ViewStore>, ViewError>) -> Result<Opened, ViewError> {
    let live = live?;
    let cursors = live.cursors().await?;
    Ok((live, cursors))
}

/// Whether something of a state is of a log that is none of this feed.
pub(super) fn are_elsewhere(feed: &Feed, cursors: &[Cursor]) -> bool {
    cursors.iter().any(|at| at.position > Position::ZERO && feed.partition_with(at.log).is_none())
}

/// A store that cannot be opened.
pub(super) fn opening(error: &ViewError) -> Trouble {
    let away = matches!(error, ViewError::Retry(_) | ViewError::Lost(_) | ViewError::Fenced { .. });
    let kind = if away { "away" } else { "failed" };
    Trouble { kind, partition: 0, position: Position::ZERO, why: error.to_string(), entry: None }
}

/// Where a build stands that is not followed any more: by its store, else by what it was last seen to have.
pub(super) async fn cursors(following: &Following) -> Needed {
    let mut reached = following.reached();
    let stored: Vec<Cursor> = following.store.cursors().await.unwrap_or_default();
    for cursor in stored {
        let known = reached.entry(cursor.log).or_insert(cursor.position);
        *known = cursor.position.max(*known);
    }
    reached
}
