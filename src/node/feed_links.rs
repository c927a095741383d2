//! Feeds over links: what a peer may mirror, and its requests.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;

use super::feeds::{Feed, Feeds, MirrorFrom, RawReader, RawRefused};
use super::shared::{Link, Shared};
use crate::model::{Cursor, LinkId, limits};
use crate::peer::{Control, FeedFacts, FeedMessage, LinkHandle, Role, feed_code};

/// What one peer may have under way of stretches of feeds.
#[derive(Debug)]
pub struct FeedRoom {
    requests: Arc<Semaphore>,
    answers: Semaphore,
}

impl Default for FeedRoom {
    fn default() -> FeedRoom {
        let requests = Arc::new(Semaphore::new(limits::FEED_REQUESTS_MAX));
        FeedRoom { requests, answers: Semaphore::new(limits::FEED_ANSWERS_MAX) }
    }
}

impl Shared {
    /// Whether a peer may mirror a feed: it is listed, and does not come from that peer.
    fn may_mirror(&self, role: Role, peer: &str, feed: &Feed) -> bool {
        let listed = self.policy.send(role, peer).logs.iter().any(|log| **log == *feed.name);
        let of = feed.mirror_of().and_then(|of| MirrorFrom::parse(&of).ok());
        listed && !matches!(of, Some(MirrorFrom::Peer { node, .. }) if *node == *peer)
    }

    /// What a peer may mirror, as it stands.
    pub fn feeds_for(&self, role: Role, peer: &str) -> Vec<FeedFacts> {
        let feeds = &self.feeds;
        let feeds = feeds.all().into_iter().filter(|feed| self.may_mirror(role, peer, feed));
        feeds.filter_map(|feed| feed.facts()).collect()
    }

    /// A link is about to stand: its peer is told which feeds it may mirror.
    pub async fn begin_feeds(&self, id: LinkId, link: &Link) {
        if !link.mirrors {
            return;
        }
        let name = &link.node.name;
        self.peer_feeds.linked(id, name, link.connection, link.handle.clone());
        if !self.policy.send(link.role, name).logs.is_empty() {
            let feeds = self.feeds_for(link.role, name);
            link.handle.send(Control::Feed(FeedMessage::Feeds(feeds))).await;
        }
    }

    /// A message about feeds came from a peer. Does not block.
    pub fn feed_message(self: &Arc<Self>, peer: LinkId, message: FeedMessage) {
        let (log, partition, after) = match message {
            FeedMessage::Request { log, partition, after } => (log, partition, after),
            FeedMessage::Feeds(feeds) => return self.feeds_offered(peer, feeds),
            answer => return self.peer_feeds.answered(peer, answer),
        };
        let link = self
            .links()
            .get(&peer)
            .map(|link| (link.role, link.node.name.clone(), link.handle.clone(), link.feed_room.clone()));
        let Some((role, name, handle, room)) = link else { return };
        let Ok(permit) = room.requests.clone().try_acquire_owned() else {
            tracing::warn!(
                "{name} asks for more than {} stretches of feeds at once: left out",
                limits::FEED_REQUESTS_MAX
            );
            return;
        };
        let feed = self.feeds.get(&log).filter(|feed| self.may_mirror(role, &name, feed));
        let stop = self.stop.clone();
        self.tasks.spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = handle.closed() => {}
                () = answer(&handle, &name, feed, (log, partition, after), &room.answers) => {}
            }
            drop(permit);
        });
    }

    fn feeds_offered(&self, peer: LinkId, feeds: Vec<FeedFacts>) {
        let name = self.links().get(&peer).map(|link| link.node.name.clone()).unwrap_or_default();
        for log in self.peer_feeds.offered(peer, feeds) {
            let of = format!("peer:{name}/{log}");
            if self.mirrors.status().iter().all(|mirror| mirror.of != of) {
                tracing::info!("{name} sends the log {log}: `[log.{log}] mirror = \"{of}\"` keeps a copy of it here");
            }
        }
    }

    /// Tells every peer what it may mirror, after a feed was made.
    pub async fn announce_feeds(&self) {
        let links: Vec<_> = {
            let links = self.links();
            let those = links.values().filter(|link| link.mirrors);
            those.map(|link| (link.role, link.node.name.clone(), link.handle.clone())).collect()
        };
        for (role, name, handle) in links {
            if !self.policy.send(role, &name).logs.is_empty() {
                handle.send(Control::Feed(FeedMessage::Feeds(self.feeds_for(role, &name)))).await;
            }
        }
    }

    /// Announces feeds that are made while the node runs, until it stops.
    pub async fn watch_feeds(self: Arc<Self>, feeds: Arc<Feeds>) {
        let mut made = feeds.made();
        loop {
            tokio::select! {
                () = self.stop.cancelled() => return,
                changed = made.changed() => if changed.is_err() { return },
            }
            self.announce_feeds().await;
        }
    }
}

async fn answer(
    handle: &LinkHandle,
    peer: &str,
    feed: Option<Arc<Feed>>,
    (log, partition, after): (Box<str>, u32, Cursor),
    answers: &Semaphore,
) {
    let mut place = None;
    let read = async {
        let feed = feed.ok_or(None)?;
        let mut reader = RawReader::new(feed.clone(), partition, Some(after)).map_err(Some)?;
        // The cursor is one of this log's, and what it speaks of is durable there.
        feed.has_mirrored(peer, after);
        reader.ready(limits::MIRROR_PING_INTERVAL).await;
        // A peer that does not take its answers has so many of them in memory, no more.
        place = answers.acquire().await.ok();
        reader.next(Duration::ZERO).await.map_err(Some)
    };
    let message = match read.await {
        Ok(entries) => FeedMessage::Entries(entries),
        Err(refused) => {
            let (code, why) = match &refused {
                None => (feed_code::NOT_SENT, "it is not sent to this peer".to_owned()),
                Some(refused) => (refused.code(), refused.to_string()),
            };
            FeedMessage::Refused { log, partition, code: code.into(), why }
        }
    };
    // Whoever asked may have gone.
    handle.send(Control::Feed(message)).await;
    drop(place);
}

impl RawRefused {
    /// For a peer, by which it knows what to do.
    fn code(&self) -> &'static str {
        match self {
            RawRefused::NoPartition(_) => feed_code::NO_PARTITION,
            RawRefused::Cursor(_) => feed_code::CURSOR,
            RawRefused::Source(crate::log::SourceError::Trimmed { .. }) => feed_code::TRIMMED,
            RawRefused::Source(_) => feed_code::UNREADABLE,
        }
    }
}
