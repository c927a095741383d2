//! How a view is doing, looked at once a second.

use std::time::{Duration, Instant};

use super::following::Following;
use super::keeper::{Keeper, Standing};
use super::viewed::Running;
use crate::log::Limit;
use crate::model::{Position, limits};
use crate::node::entry_json::write_entry;
use crate::node::feeds::Feed;
use crate::view::Needed;

impl Keeper {
    /// Once a second: how quickly it goes, what is to be kept for it, what is to be saved.
    pub(super) async fn look(&mut self, standing: &mut Standing) {
        let (stalled, trimmed) = {
            let mut figures = self.view.figures();
            let figures = &mut *figures;
            let was = figures.live.as_ref().is_some_and(Running::is_stalled);
            figures.live.iter_mut().chain(&mut figures.building).for_each(looked_at);
            let is = figures.live.as_ref().is_some_and(Running::is_stalled) && figures.trouble.is_none();
            (is && !was, figures.trouble.as_ref().is_some_and(|trouble| trouble.kind == "trimmed"))
        };
        if stalled {
            tracing::warn!(
                "error[WS-VIEW-033]: the view {} has stalled: its log moves and it does not / do: look at its store",
                self.view.name
            );
        }
        let in_memory = self.view.settings.persist_every.is_some();
        pin(&standing.feed, &self.who(), &standing.live, trimmed, in_memory.then_some(&standing.saved));
        if let Some(building) = &standing.building {
            pin(&standing.feed, &format!("{} (being built)", self.who()), building, false, None);
        }
        let due = self.view.settings.persist_every.is_some_and(|every| standing.persisted.elapsed() >= every);
        if due {
            standing.persisted = Instant::now();
            let reached = standing.live.reached();
            match standing.live.store.persist().await {
                Ok(()) => standing.saved = reached,
                Err(error) => tracing::warn!("the view {} is not saved: {error}; it is tried again", self.view.name),
            }
            if let Some(building) = &standing.building
                && let Err(error) = building.store.persist().await
            {
                tracing::debug!("the build of the view {} is not saved: {error}", self.view.name);
            }
        }
        if standing.again.is_some_and(|again| again.at <= tokio::time::Instant::now()) {
            self.build(standing, false).await;
        } else if standing.building.is_some() {
            self.replace(standing).await;
        }
    }
}

fn looked_at(running: &mut Running) {
    let seen: u64 = running.parts.iter().map(|part| part.position().0).sum();
    let moved = seen.saturating_sub(running.seen) as f64 / limits::VIEW_LOOK_INTERVAL.as_secs_f64();
    if running.seen > 0 || seen == 0 {
        // Of the last few looks.
        running.rate = if running.rate == 0.0 { moved } else { running.rate * 0.7 + moved * 0.3 };
    }
    if seen != running.seen || running.left() == 0 {
        running.healthy = Instant::now();
    }
    running.seen = seen;
}

/// What comes behind a build is kept for it; behind what is saved of it, where that is something else.
fn pin(feed: &Feed, who: &str, following: &Following, trimmed: bool, saved: Option<&Needed>) {
    for part in following.parts.iter() {
        let (log, state) = (part.log.id(), part.state().clone());
        match (trimmed, state.known) {
            // Whatever is kept does not help it.
            (true, _) => feed.pin(who, log, None),
            (false, true) => {
                let reached = state.cursor.map_or(Position::ZERO, |at| at.position);
                let saved = saved.map_or(reached, |saved| saved.get(&log).copied().unwrap_or_default());
                feed.pin(who, log, Some(reached.min(saved)));
            }
            (false, false) => {}
        }
    }
}

/// The entry at a position, as JSON, cut where it is long.
pub(super) async fn shown(feed: &Feed, partition: usize, position: Position) -> Option<String> {
    let log = &feed.partitions.get(partition)?.log;
    let one = Limit { entries: 1, ..Limit::default() };
    let before = Position(position.0.checked_sub(1)?);
    let batch = tokio::time::timeout(Duration::from_secs(1), log.read(before.into(), one)).await.ok()?.ok()?;
    let logged = batch.entries.first().filter(|logged| logged.position == position)?;
    let mut text = String::new();
    write_entry(&mut text, logged, log.cursor_at(position), None, &batch.catalog).ok()?;
    if text.len() > limits::VIEW_ENTRY_SHOWN_BYTES {
        let mut end = limits::VIEW_ENTRY_SHOWN_BYTES;
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
        text.push('…');
    }
    Some(text)
}
