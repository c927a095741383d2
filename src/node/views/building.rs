//! What is built beside what answers, and takes its place.

use std::sync::Arc;

use super::following::Following;
use super::keeper::{Again, Keeper, Standing, are_elsewhere, cursors, opening};
use super::part::End;
use super::status::what_to_do;
use crate::model::{Batch, Cursor, Position, limits};
use crate::node::feeds::Feed;
use crate::view::{ViewError, ViewStore};

impl Keeper {
    /// After definitions were taken up: what is built of another one than the wanted one is given up, that one is built if it does
    /// not answer, and a build that is stuck is tried again.
    pub(super) async fn settle(&mut self, standing: &mut Standing) {
        let wanted = self.builds.wanted();
        let other = standing.building.as_ref().is_some_and(|building| building.store.definition() != wanted);
        let changed = other || !Arc::ptr_eq(&self.builds, &standing.by);
        if changed {
            (standing.by, standing.again) = (self.builds.clone(), None);
            (standing.unbuilt, standing.unswitched) = (0, 0);
        }
        let stuck = self.view.figures().building_trouble.is_some();
        match self.is_wanted(standing) {
            false if changed || stuck || standing.building.is_none() => self.build(standing, false).await,
            true if changed => {
                self.give_up(standing).await;
                self.drop_build().await;
            }
            // What was ordered to be built afresh.
            true if stuck => self.build(standing, false).await,
            _ => {}
        }
    }

    /// Begins to build what is wanted beside what answers; what was being built is given up. What was once to begin with nothing
    /// does so also when it is tried again.
    pub(super) async fn build(&mut self, standing: &mut Standing, afresh: bool) {
        self.give_up(standing).await;
        standing.by = self.builds.clone();
        let afresh = afresh || standing.again.is_some_and(|again| again.afresh);
        match self.begun(&standing.feed, afresh).await {
            Ok((store, over)) => {
                tracing::info!("the view {} is built by its new definition {}", self.view.name, store.definition());
                standing.building = Some(self.follow(&standing.feed, store, Some(over)).await);
                standing.again = None;
            }
            Err(error) => {
                let failed = standing.again.map_or(1, |again| again.failed + 1);
                let trouble = opening(&error);
                if failed == 1 {
                    tracing::error!("the view {} cannot be built by its definition: {error}", self.view.name);
                }
                standing.again = Some(Again::after(failed, trouble.kind == "away", afresh));
                self.view.figures().building_trouble = Some(trouble);
            }
        }
    }

    /// A build, and what it passes over: as far as it had come, where that is of this log and nothing was ordered behind its
    /// back; else from nothing.
    async fn begun(&self, feed: &Feed, afresh: bool) -> Result<(Arc<dyn ViewStore>, Vec<Cursor>), ViewError> {
        let mut store = self.builds.build(afresh).await?;
        let definition = store.definition();
        let reached = store.cursors().await?;
        if reached.iter().any(|at| at.position > Position::ZERO) {
            let known = self.view.record.over_building(definition);
            if let Some(over) = known.filter(|_| !are_elsewhere(feed, &reached)) {
                return Ok((store, over));
            }
            drop(store);
            store = self.builds.build(true).await?;
        }
        let noted = tokio::task::block_in_place(|| self.view.record.begins(definition));
        let over = noted.map_err(|error| ViewError::Retry(format!("what it passes over cannot be noted: {error}")))?;
        Ok((store, over))
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

    /// Removes what is left of a build that nobody wants.
    pub(super) async fn drop_build(&self) {
        if let Err(error) = self.builds.drop_build().await {
            tracing::debug!("what is left of a build of the view {} stays for now: {error}", self.view.name);
        }
    }

    /// What is being built does not go on.
    pub(super) async fn unbuilt(&mut self, standing: &mut Standing, number: usize, end: End) {
        match end {
            End::Lost(why) => {
                self.give_up(standing).await;
                standing.unbuilt += 1;
                standing.again = Some(Again::after(standing.unbuilt, true, false));
                self.view.figures().building_trouble = Some(opening(&ViewError::Lost(why)));
                return;
            }
            End::Replaced(_) => return self.build(standing, true).await,
            _ => {}
        }
        if let Some(trouble) = self.trouble(standing, number, end).await {
            tracing::error!(
                "error[WS-VIEW-032]: the view {} cannot be built by its definition: position {}: {} / why: what answers is as it was \
                 before / do: {}",
                self.view.name,
                trouble.position,
                trouble.why,
                what_to_do(&self.view.name, &trouble)
            );
            self.view.figures().building_trouble = Some(trouble);
        }
    }

    /// What is built takes the place of what answers, if it has nearly everything.
    pub(super) async fn replace(&mut self, standing: &mut Standing) {
        let Some(mut building) = standing.building.take() else { return };
        // What nobody wants any more does not answer.
        if building.store.definition() != self.builds.wanted() {
            standing.building = Some(building);
            return self.settle(standing).await;
        }
        let far = building.left() > limits::VIEW_SWITCH_ENTRIES || !building.has_begun(self.first().is_some());
        if far || self.view.figures().building_trouble.is_some() {
            standing.building = Some(building);
            return;
        }
        // What was answered last is where the new one has to be; what answers stands still for that long.
        standing.live.end().await;
        let mut old = cursors(&standing.live).await;
        old.retain(|log, _| standing.feed.partition_with(*log).is_some());
        if !building.wait(&old, limits::VIEW_SWITCH_WAIT).await {
            tracing::info!("the view {} is not switched yet: its log moves faster than it is built", self.view.name);
            standing.building = Some(building);
            self.again(standing).await;
            return;
        }
        building.end().await;
        if let Some(publisher) = self.publisher(&standing.feed, &standing.live.store) {
            publisher.drain(limits::VIEW_SWITCH_WAIT).await;
        }
        let begun = match standing.elsewhere {
            true => begin_with(&*building.store, &standing.feed).await,
            false => Ok(()),
        };
        let switched = match begun {
            Ok(()) => self.builds.switch().await,
            Err(error) => Err(error),
        };
        if let Ok(store) = &switched {
            *self.view.live.write().await = Some(store.clone());
        }
        self.give_up(standing).await;
        match switched {
            Ok(store) => {
                tracing::info!("the view {} answers by its new definition {}", self.view.name, store.definition());
                tokio::task::block_in_place(|| {
                    self.note(self.view.record.switched());
                    self.view.record.quarantine.end();
                });
                self.goes_on();
                self.lost_at.clear();
                standing.live = self.follow(&standing.feed, store, None).await;
                (standing.saved, standing.elsewhere) = (old, false);
                (standing.unbuilt, standing.unswitched) = (0, 0);
            }
            Err(error) => {
                tracing::error!("the view {} is not switched: {error}; it is tried again", self.view.name);
                // Each attempt has what answers stand still for a while.
                standing.unswitched += 1;
                standing.again = Some(Again::after(standing.unswitched, true, false));
                self.again(standing).await;
            }
        }
    }
}

/// Has a build know of every partition of its log, also where that has nothing yet: what it replaces is of another one.
async fn begin_with(store: &dyn ViewStore, feed: &Feed) -> Result<(), ViewError> {
    for log in feed.partitions.iter().map(|partition| &partition.log) {
        let mut part = store.part(log.id()).await?;
        if part.cursor().await?.is_none() {
            let upto = log.cursor_at(Position::ZERO);
            let nothing = Batch { entries: Vec::new(), upto, next: upto.position.into(), catalog: log.catalog() };
            part.apply(&nothing).await?;
            part.flush().await?;
        }
    }
    Ok(())
}

/// What happens to a build: a partition is not followed any more, or (`None`) has nothing more to read.
pub(super) async fn news(building: &mut Option<Following>) -> Option<(usize, End)> {
    match building {
        Some(building) => building.news().await,
        None => std::future::pending().await,
    }
}
