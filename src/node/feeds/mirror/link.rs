//! An original at a linked peer: stretches are asked for one by one, so what is under way is bounded by its shape.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use async_trait::async_trait;
use tokio::sync::{Notify, mpsc};

use super::original::{Original, Stretches};
use super::trouble::{self, Trouble};
use crate::model::{Cursor, LinkId, Position, limits};
use crate::node::feeds::raw::epoch_of;
use crate::peer::{Control, FeedEntries, FeedFacts, FeedMessage, LinkHandle};

/// Where an answer goes: (the connection, the feed's name at the peer, the partition).
type Place = (u64, Box<str>, u32);
type Answer = Result<FeedEntries, Trouble>;

/// The answer to what was asked, and a late one to what was asked before.
const ANSWERS_MAX: usize = 2;

/// A linked peer, and the feeds that it lets be mirrored.
struct Peer {
    name: Box<str>,
    connection: u64,
    handle: LinkHandle,
    feeds: Vec<FeedFacts>,
    /// Names that it has said on this connection.
    told: BTreeSet<Box<str>>,
}

/// The linked peers that mirrors may ask, and the mirrors that wait for their answers.
#[derive(Default)]
pub struct PeerFeeds {
    peers: Mutex<HashMap<LinkId, Peer>>,
    waiting: Mutex<HashMap<Place, mpsc::Sender<Answer>>>,
    /// A peer came, or has other feeds.
    pub(super) changed: Notify,
}

impl PeerFeeds {
    fn peers(&self) -> MutexGuard<'_, HashMap<LinkId, Peer>> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn waiting(&self) -> MutexGuard<'_, HashMap<Place, mpsc::Sender<Answer>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A peer has linked.
    pub fn linked(&self, peer: LinkId, name: &str, connection: u64, handle: LinkHandle) {
        self.peers()
            .insert(peer, Peer { name: name.into(), connection, handle, feeds: Vec::new(), told: BTreeSet::new() });
    }

    /// That connection with it has ended.
    pub fn closed(&self, peer: LinkId, connection: u64) {
        let mut peers = self.peers();
        if peers.get(&peer).is_some_and(|known| known.connection == connection) {
            peers.remove(&peer);
        }
        drop(peers);
        self.waiting().retain(|(of, ..), _| *of != connection);
    }

    /// It has said what it lets be mirrored. Returns the names that it says on this connection for the first time, as long as
    /// they are not too many to be told.
    pub fn offered(&self, peer: LinkId, feeds: Vec<FeedFacts>) -> Vec<Box<str>> {
        let mut new = Vec::new();
        if let Some(known) = self.peers().get_mut(&peer) {
            for feed in &feeds {
                if known.told.len() < limits::FEEDS_MAX && known.told.insert(feed.log.clone()) {
                    new.push(feed.log.clone());
                }
            }
            known.feeds = feeds;
        }
        self.changed.notify_waiters();
        new
    }

    /// It answers. An answer that nobody waits for is left out: whoever asked has gone.
    pub fn answered(&self, peer: LinkId, message: FeedMessage) {
        let Some(connection) = self.peers().get(&peer).map(|known| known.connection) else { return };
        let (place, answer) = match message {
            FeedMessage::Entries(entries) => {
                self.keep_up(peer, &entries);
                ((connection, entries.log.clone(), entries.partition), Ok(entries))
            }
            FeedMessage::Refused { log, partition, code, why } => {
                let what = format!("the peer does not send {log}: {why}");
                ((connection, log, partition), Err(trouble::refused(&code, what)))
            }
            FeedMessage::Feeds(_) | FeedMessage::Request { .. } => return,
        };
        let waiting = self.waiting().get(&place).cloned();
        // One request is under way, and there is room for its answer; a second answer is one too many.
        if let Some(waiting) = waiting
            && waiting.try_send(answer).is_err()
        {
            tracing::warn!("a peer answers more than it was asked for: left out");
        }
    }

    /// What the peer has said of its feed is brought up to what it has sent since.
    fn keep_up(&self, peer: LinkId, entries: &FeedEntries) {
        let mut peers = self.peers();
        let Some(known) = peers.get_mut(&peer) else { return };
        let feed = known.feeds.iter_mut().find(|feed| feed.log == entries.log);
        let Some(part) = feed.and_then(|feed| feed.parts.get_mut(entries.partition as usize)) else { return };
        part.tail = part.tail.max(entries.tail);
        for (epoch, first) in &entries.epochs {
            if part.epochs.iter().all(|(known, _)| known != epoch) && part.epochs.len() < limits::LOG_EPOCHS_MAX {
                part.epochs.push((*epoch, *first));
            }
        }
    }
}

/// A feed of a peer.
pub(super) struct PeerOriginal {
    pub peers: Arc<PeerFeeds>,
    pub node: Box<str>,
    pub log: Box<str>,
}

#[async_trait]
impl Original for PeerOriginal {
    async fn open(&self, partition: u32, after: Option<Cursor>) -> Result<(FeedFacts, Box<dyn Stretches>), Trouble> {
        let (facts, connection, handle) = {
            let peers = self.peers.peers();
            let Some(peer) = peers.values().find(|peer| peer.name == self.node) else {
                return Err(trouble::unreachable(format!("{} is not linked with this node", self.node)));
            };
            let Some(facts) = peer.feeds.iter().find(|feed| feed.log == self.log) else {
                let what = format!("{} does not send the log {}", self.node, self.log);
                return Err(trouble::missing(what));
            };
            (facts.clone(), peer.connection, peer.handle.clone())
        };
        let place = (connection, self.log.clone(), partition);
        let (sender, answers) = mpsc::channel(ANSWERS_MAX);
        let after = match after {
            Some(after) => {
                self.peers.waiting().insert(place.clone(), sender);
                after
            }
            None => Cursor::default(),
        };
        let peers = Arc::downgrade(&self.peers);
        Ok((facts, Box::new(Asking { peers, place, handle, answers, after, asked: false })))
    }

    async fn changed(&self) {
        self.peers.changed.notified().await;
    }
}

/// One partition that is asked for, stretch by stretch.
struct Asking {
    peers: Weak<PeerFeeds>,
    place: Place,
    handle: LinkHandle,
    answers: mpsc::Receiver<Answer>,
    after: Cursor,
    asked: bool,
}

impl Drop for Asking {
    fn drop(&mut self) {
        self.answers.close();
        let Some(peers) = self.peers.upgrade() else { return };
        let mut waiting = peers.waiting();
        // A later one may wait there already.
        if waiting.get(&self.place).is_some_and(|sender| sender.is_closed()) {
            waiting.remove(&self.place);
        }
    }
}

#[async_trait]
impl Stretches for Asking {
    async fn next(&mut self) -> Result<FeedEntries, Trouble> {
        let gone = || trouble::unreachable("the link with the peer has ended".into());
        if !self.asked {
            let (_, log, partition) = self.place.clone();
            let request = FeedMessage::Request { log, partition, after: self.after };
            if !self.handle.send(Control::Feed(request)).await {
                return Err(gone());
            }
            self.asked = true;
        }
        let answer = tokio::time::timeout(limits::MIRROR_SILENCE_MAX, async {
            loop {
                let answer = tokio::select! {
                    answer = self.answers.recv() => answer,
                    () = self.handle.closed() => None,
                };
                match answer {
                    // To what was asked before this.
                    Some(Ok(late)) if late.first != self.after.position.next() => {}
                    answer => return answer,
                }
            }
        });
        let answer = answer.await.map_err(|_| trouble::silent(limits::MIRROR_SILENCE_MAX.as_secs()))?;
        let entries = answer.ok_or_else(gone)??;
        self.asked = false;
        if let Some(count) = entries.entries.len().checked_sub(1) {
            let position = Position(entries.first.0.saturating_add(count as u64));
            let epoch = epoch_of(&entries.epochs, position).unwrap_or_default();
            self.after = Cursor { epoch, position, ..self.after };
        }
        Ok(entries)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::LogId;

    #[test]
    fn a_name_is_told_once_for_each_connection_and_not_without_end() {
        let (feeds, peer) = (PeerFeeds::default(), LinkId(LogId(7)));
        let link = |connection| feeds.linked(peer, "hq", connection, LinkHandle::new(1).0);
        let say = |name: &str| feeds.offered(peer, vec![FeedFacts { log: name.into(), parts: Vec::new() }]).len();
        link(1);
        assert_eq!([say("a"), say("b"), say("a"), say("b")], [1, 1, 0, 0]);
        let told: usize = (0..2 * limits::FEEDS_MAX).map(|n| say(&format!("f{n}"))).sum();
        assert_eq!(told, limits::FEEDS_MAX - 2);
        link(2);
        assert_eq!([say("a"), say("a")], [1, 0]);
    }
}
