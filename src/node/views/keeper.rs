//! The task that keeps one view going: opens its store, follows its log, builds what is wanted beside what answers.

use std::sync::{Arc, PoisonError};
use std::time::Instant;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::following::{First, Following, RETRY, Role};
use super::looks::shown;
use super::orders::{Order, refuse};
use super::part::End;
use super::viewed::{Running, Trouble, Viewed, unmet_by};
use crate::model::{Cursor, Position, TableName, limits};
use crate::node::feeds::Feed;
use crate::node::shared::Shared;
use crate::view::{Needed, ViewBuilds, ViewError, ViewStore};

/// Keeps one view.
pub(super) struct Keeper {
    pub view: Arc<Viewed>,
    pub builds: Arc<dyn ViewBuilds>,
    shared: Arc<Shared>,
    inbox: mpsc::Receiver<Order>,
    stop: CancellationToken,
}

/// What answers, and what is to take its place.
pub(super) struct Standing {
    pub feed: Arc<Feed>,
    pub live: Following,
    pub building: Option<Following>,
    /// The build is tried again then.
    pub again: Option<(tokio::time::Instant, u32)>,
    pub persisted: Instant,
    /// What of a state in memory would be there after a crash.
    pub saved: Needed,
}

impl Keeper {
    /// Of a view that nobody keeps yet.
    pub(super) fn of(view: &Arc<Viewed>, shared: &Arc<Shared>) -> Option<Keeper> {
        let inbox = view.inbox.lock().unwrap_or_else(PoisonError::into_inner).take()?;
        let builds = view.builds.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Some(Keeper { view: view.clone(), builds, shared: shared.clone(), inbox, stop: shared.stop.clone() })
    }

    /// Runs until the node stops.
    pub(super) async fn run(mut self) {
        let Some(feed) = self.feed().await else { return };
        for partition in &feed.partitions {
            // Until the store has said what the view has, everything is kept for it.
            feed.pin(&self.who(), partition.log.id(), Some(Position::ZERO));
            self.view.waiters.floor(partition.log.id(), *partition.log.tail().borrow());
        }
        self.view.follows(&feed);
        let Some(live) = self.open().await else { return };
        let standing = self.stand(feed, live).await;
        self.keep(standing).await;
    }

    pub(super) fn who(&self) -> String {
        format!("view {}", self.view.name)
    }

    /// The log, once it is there.
    async fn feed(&mut self) -> Option<Arc<Feed>> {
        let mut made = self.shared.feeds.made();
        loop {
            made.mark_unchanged();
            if let Some(feed) = self.shared.feeds.get(&self.view.settings.log) {
                return Some(feed);
            }
            tokio::select! {
                () = self.stop.cancelled() => return None,
                changed = made.changed() => if changed.is_err() { return None },
                order = self.inbox.recv() => match order? {
                    Order::TakeUp(builds) => self.wants(builds),
                    Order::Rebuild(_, reply) | Order::PassOver { reply, .. } => refuse(reply, "its log is not there yet"),
                },
            }
        }
    }

    pub(super) fn wants(&mut self, builds: Arc<dyn ViewBuilds>) {
        *self.view.builds.lock().unwrap_or_else(PoisonError::into_inner) = builds.clone();
        self.builds = builds;
    }

    /// What answers, once the store gives it.
    async fn open(&mut self) -> Option<Arc<dyn ViewStore>> {
        let mut failed = 0;
        loop {
            let error = match self.builds.live().await {
                Ok(live) => return Some(live),
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
            tokio::select! {
                () = self.stop.cancelled() => return None,
                () = tokio::time::sleep(wait) => {}
                order = self.inbox.recv() => match order? {
                    Order::TakeUp(builds) => self.wants(builds),
                    Order::Rebuild(_, reply) | Order::PassOver { reply, .. } => refuse(reply, "its store cannot be opened"),
                },
            }
        }
    }

    /// Begins to follow for what answers, and to build what is wanted.
    async fn stand(&mut self, feed: Arc<Feed>, live: Arc<dyn ViewStore>) -> Standing {
        *self.view.live.write().await = Some(live.clone());
        self.goes_on();
        let live = self.follow(&feed, live, true).await;
        let saved = cursors(&live).await;
        let mut standing = Standing { feed, live, building: None, again: None, persisted: Instant::now(), saved };
        if standing.live.store.definition() != self.builds.wanted() {
            self.build(&mut standing, false).await;
        }
        standing
    }

    fn goes_on(&self) {
        self.view.waiters.recover();
        self.view.figures().trouble = None;
    }

    /// With what a new build begins, where that is not the log.
    fn first(&self) -> Option<Arc<First>> {
        if &*self.view.settings.log != "main" || self.shared.database.is_none() {
            return None;
        }
        let captured = || self.shared.tables.borrow().iter().map(|table| table.name.clone()).collect();
        let tables: Vec<TableName> = self.view.settings.tables.clone().unwrap_or_else(captured);
        (!tables.is_empty()).then(|| Arc::new(First { shared: self.shared.clone(), tables }))
    }

    async fn follow(&self, feed: &Arc<Feed>, store: Arc<dyn ViewStore>, live: bool) -> Following {
        let fresh = store.cursors().await.is_ok_and(|cursors| cursors.iter().all(|at| at.position == Position::ZERO));
        let first = self.first();
        let role = match live {
            true => Role { waiters: Some(self.view.waiters.clone()), share: None, first },
            false => Role { waiters: None, share: Some(limits::VIEW_REBUILD_SHARE), first },
        };
        let following = Following::start(&self.view.name, store, feed, &role, &self.stop);
        let (parts, now) = (following.parts.clone(), Instant::now());
        let definition = following.store.definition();
        let running = Running { definition, parts, since: now, rate: 0.0, seen: 0, healthy: now, fresh };
        let mut figures = self.view.figures();
        *(if live { &mut figures.live } else { &mut figures.building }) = Some(running);
        following
    }

    /// Begins to build what is wanted beside what answers; what was being built is given up.
    pub(super) async fn build(&mut self, standing: &mut Standing, afresh: bool) {
        self.give_up(standing).await;
        match self.builds.build(afresh).await {
            Ok(store) => {
                tracing::info!("the view {} is built by its new definition {}", self.view.name, store.definition());
                standing.building = Some(self.follow(&standing.feed, store, false).await);
                standing.again = None;
            }
            Err(error) => {
                let failed = standing.again.map_or(1, |(_, failed)| failed + 1);
                let trouble = opening(&error);
                if failed == 1 {
                    tracing::error!("the view {} cannot be built by its new definition: {error}", self.view.name);
                }
                let wait = RETRY.wait(failed, trouble.kind == "away", rand::random());
                standing.again = Some((tokio::time::Instant::now() + wait, failed));
                self.view.figures().building_trouble = Some(trouble);
            }
        }
    }

    pub(super) async fn give_up(&self, standing: &mut Standing) {
        if let Some(mut building) = standing.building.take() {
            building.end().await;
        }
        let who = format!("{} (being built)", self.who());
        standing.feed.partitions.iter().for_each(|partition| standing.feed.pin(&who, partition.log.id(), None));
        let mut figures = self.view.figures();
        (figures.building, figures.building_trouble) = (None, None);
    }

    async fn keep(mut self, mut standing: Standing) {
        let mut looks = tokio::time::interval(limits::VIEW_LOOK_INTERVAL);
        loop {
            tokio::select! {
                () = self.stop.cancelled() => break,
                (number, end) = standing.live.ended() => self.stopped(&mut standing, number, end).await,
                news = news(&mut standing.building) => match news {
                    Some((number, end)) => self.unbuilt(&mut standing, number, end).await,
                    None => self.replace(&mut standing).await,
                },
                order = self.inbox.recv() => match order {
                    Some(order) => self.obey(&mut standing, order).await,
                    None => break,
                },
                _ = looks.tick() => self.look(&mut standing).await,
            }
        }
        standing.live.end().await;
        if let Some(building) = &mut standing.building {
            building.end().await;
        }
        if let Err(error) = standing.live.store.persist().await {
            tracing::error!("the view {} is not saved: {error}; it is made again from its log", self.view.name);
        }
    }

    /// What answers does not go on.
    async fn stopped(&mut self, standing: &mut Standing, number: usize, end: End) {
        match &end {
            End::Lost(why) => return self.reopen(standing, &why.clone()).await,
            End::Replaced(why) => {
                tracing::info!("the view {} is built anew: {why}", self.view.name);
                if standing.building.is_none() {
                    self.build(standing, false).await;
                }
            }
            _ => {}
        }
        let Some(trouble) = self.trouble(standing, number, end).await else { return };
        if trouble.kind != "rebuilding" {
            let (name, position) = (&self.view.name, trouble.position);
            tracing::error!(
                "error[WS-VIEW-031]: the view {name} stops at position {position} of partition {number}: {} / do: correct its definition \
                 and send the node SIGHUP; or `watershed view skip {name} --position {position}`",
                trouble.why,
            );
        }
        self.view.waiters.fail(unmet_by(&trouble));
        self.view.figures().trouble = Some(trouble);
    }

    async fn reopen(&mut self, standing: &mut Standing, why: &str) {
        tracing::warn!("the store of the view {} is opened anew: {why}", self.view.name);
        standing.live.end().await;
        let Some(live) = self.open().await else { return };
        *self.view.live.write().await = Some(live.clone());
        self.goes_on();
        let is_wanted = live.definition() == self.builds.wanted();
        standing.live = self.follow(&standing.feed, live, true).await;
        if !is_wanted && standing.building.is_none() {
            self.build(standing, false).await;
        }
    }

    /// What is being built does not go on.
    async fn unbuilt(&mut self, standing: &mut Standing, number: usize, end: End) {
        match end {
            End::Lost(_) => return self.build(standing, false).await,
            End::Replaced(_) => return self.build(standing, true).await,
            _ => {}
        }
        if let Some(trouble) = self.trouble(standing, number, end).await {
            tracing::error!(
                "error[WS-VIEW-032]: the view {} cannot be built by its new definition: position {}: {} / why: what answers is of the \
                 definition before / do: correct the definition and send the node SIGHUP",
                self.view.name,
                trouble.position,
                trouble.why
            );
            self.view.figures().building_trouble = Some(trouble);
        }
    }

    async fn trouble(&self, standing: &Standing, partition: usize, end: End) -> Option<Trouble> {
        let (kind, position, why) = match end {
            End::Stopped | End::Lost(_) => return None,
            End::Failed { position, why } => ("failed", position, why),
            End::Trimmed { asked, oldest } => {
                let why = format!("position {asked} is not in the log any more; the oldest that is there is {oldest}");
                ("trimmed", asked, why)
            }
            End::Replaced(why) => ("rebuilding", standing.live.parts[partition].position(), why),
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

    /// What is built takes the place of what answers, if it has nearly everything.
    pub(super) async fn replace(&mut self, standing: &mut Standing) {
        let Some(mut building) = standing.building.take() else { return };
        let far = building.left() > limits::VIEW_SWITCH_ENTRIES || !building.has_begun(self.first().is_some());
        if far || self.view.figures().building_trouble.is_some() {
            standing.building = Some(building);
            return;
        }
        // What was answered last is where the new one has to be; what answers stands still for that long.
        standing.live.end().await;
        let old = cursors(&standing.live).await;
        if !building.wait(&old, limits::VIEW_SWITCH_WAIT).await {
            tracing::info!("the view {} is not switched yet: its log moves faster than it is built", self.view.name);
            standing.building = Some(building);
            self.again(standing).await;
            return;
        }
        building.end().await;
        let switched = self.builds.switch().await;
        if let Ok(store) = &switched {
            *self.view.live.write().await = Some(store.clone());
        }
        self.give_up(standing).await;
        match switched {
            Ok(store) => {
                tracing::info!("the view {} answers by its new definition {}", self.view.name, store.definition());
                tokio::task::block_in_place(|| self.view.record.quarantine.end());
                self.goes_on();
                standing.live = self.follow(&standing.feed, store, true).await;
                standing.saved = old;
            }
            Err(error) => {
                tracing::error!("the view {} is not switched: {error}; it is tried again", self.view.name);
                let failed = standing.again.map_or(1, |(_, failed)| failed + 1);
                standing.again = Some((tokio::time::Instant::now() + RETRY.wait(failed, true, rand::random()), failed));
                self.again(standing).await;
            }
        }
    }

    /// Follows again for what answers.
    pub(super) async fn again(&mut self, standing: &mut Standing) {
        standing.live.end().await;
        self.goes_on();
        let store = standing.live.store.clone();
        standing.live = self.follow(&standing.feed, store, true).await;
    }
}

/// What happens to a build: a partition is not followed any more, or (`None`) has nothing more to read.
async fn news(building: &mut Option<Following>) -> Option<(usize, End)> {
    match building {
        Some(building) => building.news().await,
        None => std::future::pending().await,
    }
}

/// A store that cannot be opened.
fn opening(error: &ViewError) -> Trouble {
    let away = matches!(error, ViewError::Retry(_) | ViewError::Lost(_) | ViewError::Fenced { .. });
    let kind = if away { "away" } else { "failed" };
    Trouble { kind, partition: 0, position: Position::ZERO, why: error.to_string(), entry: None }
}

/// Where a build stands that is not followed any more: by its store, else by what it was last seen to have.
async fn cursors(following: &Following) -> Needed {
    let mut reached = following.reached();
    let stored: Vec<Cursor> = following.store.cursors().await.unwrap_or_default();
    for cursor in stored {
        let known = reached.entry(cursor.log).or_insert(cursor.position);
        *known = cursor.position.max(*known);
    }
    reached
}
