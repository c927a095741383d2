//! The log of a view: waited for until it is there, and noticed when another one has come in its place.

use std::sync::Arc;

use super::keeper::{Keeper, Standing};
use super::orders::{Order, refuse};
use super::viewed::Trouble;
use crate::model::{LogId, Position};
use crate::node::feeds::Feed;

impl Keeper {
    /// The log, once it is there.
    pub(super) async fn feed(&mut self) -> Option<Arc<Feed>> {
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
                    Order::TakeUp(builds) => { self.wants(builds); }
                    Order::Rebuild { reply, .. } | Order::PassOver { reply, .. } => refuse(reply, "its log is not there yet"),
                },
            }
        }
    }

    /// From now on this is the log.
    pub(super) fn takes(&self, feed: &Arc<Feed>) {
        let logs: Vec<LogId> = feed.partitions.iter().map(|partition| partition.log.id()).collect();
        self.view.waiters.only(&logs);
        for partition in &feed.partitions {
            // Until the store has said what the view has, everything is kept for it.
            feed.pin(&self.who(), partition.log.id(), Some(Position::ZERO));
            self.view.waiters.floor(partition.log.id(), *partition.log.tail().borrow());
        }
        self.view.follows(feed);
    }

    /// Goes over to the log that stands under the name now, if that is another one than the one that is followed: what was
    /// closed tells nobody that there will never be more of it.
    pub(super) async fn look_for_log(&mut self, standing: &mut Standing) {
        let name = &self.view.settings.log;
        let found = self.shared.feeds.get(name);
        if self.stop.is_cancelled() || found.as_ref().is_some_and(|feed| Arc::ptr_eq(feed, &standing.feed)) {
            return;
        }
        tracing::warn!("the log {name} of the view {} is made anew", self.view.name);
        let why = format!("its log {name} is being made anew");
        let trouble = Trouble { kind: "away", partition: 0, position: Position::ZERO, why, entry: None };
        self.view.waiters.recover();
        self.view.figures().trouble = Some(trouble);
        standing.live.end().await;
        self.give_up(standing).await;
        self.lost_at.clear();
        let Some(feed) = self.feed().await else { return };
        self.takes(&feed);
        let store = standing.live.store.clone();
        let opened = match store.cursors().await {
            Ok(cursors) if !store.is_broken() => Some((store, cursors)),
            _ => self.open(0).await,
        };
        if let Some(opened) = opened {
            *standing = self.stand(feed, opened).await;
        }
    }
}
