//! What operators tell a view to do.

use std::sync::Arc;

use thiserror::Error;
use tokio::sync::oneshot;

use super::following::LostAt;
use super::keeper::{Keeper, Standing};
use super::record::PassedOver;
use super::viewed::{Trouble, Viewed};
use crate::model::{Cursor, Position};
use crate::view::ViewBuilds;

/// Why an order is not carried out.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum OrderRefused {
    /// Not in the view's present state.
    #[error("{0}")]
    State(String),
    /// The store, or the disk.
    #[error("{0}")]
    Failed(String),
}

type Reply = oneshot::Sender<Result<String, OrderRefused>>;

/// What a view is told to do.
pub(super) enum Order {
    /// Build it afresh, of the definition as it stands now; `with_skipped`: also of what was passed over until now.
    Rebuild { builds: Arc<dyn ViewBuilds>, with_skipped: bool, reply: Reply },
    /// Build it if the definition has changed; try again what has failed.
    TakeUp(Arc<dyn ViewBuilds>),
    /// Pass over the entry at which it, or what is built of it, has stopped.
    PassOver { partition: usize, position: Position, reply: Reply },
}

pub(super) fn refuse(reply: Reply, why: &str) {
    // Whoever has ordered it may be gone.
    let _ = reply.send(Err(OrderRefused::State(why.into())));
}

impl Viewed {
    /// Has it built afresh, of its definition as that stands now; what is done, in words. With `with_skipped` from then on also of
    /// the entries that it was told to pass over.
    ///
    /// # Errors
    /// The definition is wrong, its build cannot begin, or what is ordered cannot be noted.
    pub async fn rebuild(&self, with_skipped: bool) -> Result<String, OrderRefused> {
        let make = self.settings.make.clone();
        let builds = tokio::task::block_in_place(|| make()).map_err(|error| OrderRefused::Failed(error.to_string()))?;
        let (reply, told) = oneshot::channel();
        self.order(Order::Rebuild { builds, with_skipped, reply }).await;
        told.await.unwrap_or_else(|_| Err(OrderRefused::State("the node stops".into())))
    }

    /// Has it pass over the entry at which it, or what is built of it, has stopped: now, and whenever it is built again. That is
    /// noted for ever; what is done, in words.
    ///
    /// # Errors
    /// Nothing has stopped there, or it cannot be noted: then nothing has changed.
    pub async fn pass_over(&self, partition: usize, position: Position) -> Result<String, OrderRefused> {
        let (reply, told) = oneshot::channel();
        self.order(Order::PassOver { partition, position, reply }).await;
        told.await.unwrap_or_else(|_| Err(OrderRefused::State("the node stops".into())))
    }
}

impl Keeper {
    pub(super) async fn obey(&mut self, standing: &mut Standing, order: Order) {
        match order {
            Order::Rebuild { builds, with_skipped, reply } => {
                let done = self.rebuild(standing, builds, with_skipped).await;
                // Whoever has ordered it may be gone.
                let _ = reply.send(done);
            }
            Order::TakeUp(builds) => self.take_up(standing, builds).await,
            Order::PassOver { partition, position, reply } => {
                let done = self.pass_over(standing, partition, position).await;
                let _ = reply.send(done);
            }
        }
    }

    async fn rebuild(
        &mut self,
        standing: &mut Standing,
        builds: Arc<dyn ViewBuilds>,
        with_skipped: bool,
    ) -> Result<String, OrderRefused> {
        if with_skipped {
            let noted = tokio::task::block_in_place(|| self.view.record.take_back());
            noted.map_err(|error| OrderRefused::Failed(format!("it cannot be noted: {error}")))?;
        }
        if self.wants(builds) {
            standing.again = None;
            (standing.unbuilt, standing.unswitched) = (0, 0);
        }
        if standing.live.store.is_broken() {
            self.lost_at.clear();
            self.again(standing).await;
        }
        self.build(standing, true).await;
        match self.view.figures().building_trouble.clone() {
            Some(trouble) => Err(OrderRefused::Failed(trouble.why)),
            None => Ok(format!("the view {} is built afresh; it answers as it did until that is done", self.view.name)),
        }
    }

    async fn take_up(&mut self, standing: &mut Standing, builds: Arc<dyn ViewBuilds>) {
        self.wants(builds);
        self.settle(standing).await;
        // It may be on its way to where it stopped.
        if self.view.figures().trouble.is_some() || !self.lost_at.is_empty() {
            self.lost_at.clear();
            self.again(standing).await;
        }
    }

    async fn pass_over(
        &mut self,
        standing: &mut Standing,
        partition: usize,
        position: Position,
    ) -> Result<String, OrderRefused> {
        let name = self.view.name.clone();
        let state = |why: String| Err(OrderRefused::State(why));
        let (live, building) = self.stopped_at(standing);
        let there: Vec<&Trouble> = live.iter().chain(&building).collect();
        let here = |trouble: &Trouble| (trouble.partition, trouble.position) == (partition, position);
        let Some(trouble) = there.iter().find(|trouble| here(trouble)) else {
            let place = |at: &Trouble| format!("position {} of partition {}", at.position, at.partition);
            let mut places = live.iter().map(place).collect::<Vec<_>>().join(", ");
            if let Some(at) = &building {
                places += if places.is_empty() { "" } else { ", and what is built at " };
                places += &place(at);
            }
            return match places.is_empty() {
                true => state(format!("neither the view {name} nor what is built of it has stopped at an entry")),
                false => state(format!("the view {name} has stopped at {places}")),
            };
        };
        let Some(log) = standing.feed.partitions.get(partition).map(|partition| partition.log.clone()) else {
            return state(format!("there is no partition {partition}"));
        };
        let (is_live, cursor) = (live.iter().any(here), log.cursor_at(position));
        let definition = if is_live { standing.live.store.definition() } else { self.builds.wanted() };
        let one = PassedOver::new(partition, cursor, definition, trouble.why.clone());
        // A build that has taken it is not what one is that passes over it: it begins again.
        let goes_on = stands_before(standing, cursor).await;
        // With this it is ordered: whoever comes to the entry from here on passes over it, also after a crash.
        let noted = tokio::task::block_in_place(|| self.view.record.add(one, is_live, goes_on));
        if let Err(error) = noted {
            if standing.building.is_some() {
                self.build(standing, false).await;
            }
            return Err(OrderRefused::Failed(format!("it cannot be noted: {error}")));
        }
        tracing::warn!("the view {name} passes over position {position} of partition {partition}, as ordered");
        if is_live {
            self.step_over(standing, cursor).await;
        }
        if standing.building.is_some() || standing.again.is_some() || !self.is_wanted(standing) {
            self.build(standing, false).await;
        }
        Ok(format!("the view {name} passes over position {position}; that is noted for ever"))
    }

    /// The entries at which what answers has stopped, or stops when it comes there again; and the one at which its build has.
    fn stopped_at(&self, standing: &Standing) -> (Vec<Trouble>, Option<Trouble>) {
        let (shown, building) = {
            let figures = self.view.figures();
            let at_entry = |trouble: &Trouble| trouble.kind == "failed" && trouble.position > Position::ZERO;
            (figures.trouble.clone().filter(at_entry), figures.building_trouble.clone().filter(at_entry))
        };
        let mut live: Vec<Trouble> = shown.into_iter().collect();
        for LostAt { log, position, why } in &self.lost_at {
            let Some(partition) = standing.feed.partition_with(*log) else { continue };
            // One that is behind came with the rows of tables.
            let is_ahead = standing.live.parts.get(partition).is_some_and(|at| at.position() < *position);
            if is_ahead && live.iter().all(|known| (known.partition, known.position) != (partition, *position)) {
                live.push(Trouble { kind: "failed", partition, position: *position, why: why.clone(), entry: None });
            }
        }
        (live, building)
    }

    /// What answers goes on behind an entry; the store notes it for itself, if it can.
    async fn step_over(&mut self, standing: &mut Standing, cursor: Cursor) {
        standing.live.end().await;
        self.lost_at.retain(|lost_at| (lost_at.log, lost_at.position) != (cursor.log, cursor.position));
        let store = standing.live.store.clone();
        if !store.is_broken()
            && let Err(error) = store.pass_over(cursor).await
        {
            tracing::debug!("the store of the view {} goes over {cursor} when it comes there: {error}", self.view.name);
        }
        self.again(standing).await;
    }
}

/// Ends what is built; whether that has certainly not come to a place: while it is followed, its store may have more than it has
/// told.
async fn stands_before(standing: &mut Standing, place: Cursor) -> bool {
    let Some(building) = &mut standing.building else { return false };
    let is_still = building.end().await;
    let Ok(reached) = building.store.cursors().await else { return false };
    is_still && reached.iter().filter(|at| at.log == place.log).all(|at| at.position < place.position)
}
