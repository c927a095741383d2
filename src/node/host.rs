//! The node as its links see it.

use std::sync::Arc;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use sha2::{Digest, Sha256};
use tokio::sync::watch;

use super::outgoing::LogOutgoing;
use super::replaced::Replaced;
use super::rights::{Token, check_name};
use super::shared::{Link, Shared};
use crate::log::{Append, AppendError, Draft};
use crate::model::{CodecError, Cursor, Fingerprint, LinkId, Timestamp};
use crate::peer::{
    Below, Control, CopyMessage, FeedMessage, Head, Hello, Host, LinkHandle, NodeRef, Offer, Outgoing, PeerChange,
    Refusal, ReplicaDigests, Role,
};
use crate::stream::{OnRefused, Sieve};

/// Between attempts to append while the disk is full.
const APPEND_RETRY_DELAY: Duration = Duration::from_millis(500);

/// Names are unique in the tree.
pub(super) const NAMED_TWICE: &str = "WS-NODE-001";

static CONNECTIONS: AtomicU64 = AtomicU64::new(1);

/// Implements [`Host`] over the node's shared state, for whoever showed that token, where one was asked for.
#[derive(Clone)]
pub struct NodeHost(pub Arc<Shared>, pub Option<Token>);

fn unreadable(error: &CodecError) -> Refusal {
    refusal("WS-NODE-006", format!("an entry is not readable: {error}"), false)
}

/// Nodes below somebody that are linked now.
fn linked(below: &[Below]) -> impl Iterator<Item = &NodeRef> {
    below.iter().filter(|below| !below.away).map(|below| &below.node)
}

pub(super) fn refusal(code: &str, message: String, retryable: bool) -> Refusal {
    Refusal { code: code.into(), message, retryable }
}

impl NodeHost {
    /// What we send to that peer, table by table.
    pub fn offers(&self, role: Role, peer: &str, sieve: &Sieve, generation: u64) -> Result<Vec<Offer>, Refusal> {
        let shared = &self.0;
        let mut offers = Vec::new();
        for table in shared.tables.borrow().iter() {
            let out = sieve.table(table).map_err(|error| {
                let message = format!(
                    "nothing is sent to {peer:?}: {error} / do: correct the filter in the sender's configuration"
                );
                refusal("WS-SEND-003", message, false)
            })?;
            let Some(out) = out else { continue };
            let mut hash = Sha256::new();
            hash.update(sieve.under(table).0.to_le_bytes());
            hash.update(generation.to_le_bytes());
            let mut under = [0; 8];
            under.copy_from_slice(&hash.finalize()[..8]);
            let owned = shared.policy.ownership.of(&table.name).is_some();
            offers.push(Offer {
                table: out,
                under: Fingerprint(u64::from_be_bytes(under)),
                owned,
                may_diverge: shared.policy.may_diverge.contains(&table.name),
                whole: owned,
            });
        }
        let _ = role;
        Ok(offers)
    }

    fn generation(&self, peer: &str) -> u64 {
        self.0.book.get(peer).map_or(1, |known| known.generation)
    }

    /// The cursor after which the peer is sent our log, and whether it knows of it. A peer that has nothing of it, or
    /// has fallen out, starts at the tail and copies afresh; a cursor that the log never gave is refused.
    fn start(&self, peer: &Hello) -> Result<(Cursor, bool), Refusal> {
        let shared = &self.0;
        let info = shared.log.info();
        let tail = shared.log.cursor_at(info.tail);
        let Some(received) = peer.received.filter(|cursor| cursor.log == shared.log.id()) else {
            return Ok((tail, false));
        };
        shared.log.check(received).map_err(|error| {
            let message = format!(
                "{:?} has received this node's log up to {received}, which it never had: {error} / why: the data folder of \
                 {:?} was restored from a backup or copied, and what it lost has already left it / do: put the newer data \
                 folder back; or, to give up what was lost, stop {:?}, move its data folder away, run `watershed source drop \
                 {} --yes` at {:?}, and start it again: it copies afresh",
                peer.node.name, shared.name, shared.name, shared.name, peer.node.name
            );
            refusal("WS-NODE-003", message, false)
        })?;
        if received.position.next() < info.oldest {
            return Ok((tail, false));
        }
        Ok((received, true))
    }

    /// A peer has less of our log than is kept of it.
    fn fell_out(&self, name: &str, received: Cursor) {
        let shared = &self.0;
        shared.counters.fell_out.add(1);
        let then = match &shared.database {
            Some(_) => "it copies afresh",
            None => {
                "this node has no database to copy from: have it link with one that has, or compare (`watershed diff`)"
            }
        };
        tracing::warn!(
            peer = name,
            "{name} fell out of the log: it has {}, the oldest kept is {}; {then}",
            received.position,
            shared.log.info().oldest
        );
    }

    fn check_names(&self, role: Role, peer: &Hello) -> Result<(), Refusal> {
        let shared = &self.0;
        let me = shared.me();
        let twice = |name: &str, what: &str| {
            let message = format!(
                "two nodes are named {name:?}: {what} / why: names are unique in the tree / do: change [node] name of one of them"
            );
            Err(refusal(NAMED_TWICE, message, false))
        };
        if peer.node.name == me.name {
            return twice(&me.name, "this node and the one it links with");
        }
        let theirs = peer.path.get(1..).into_iter().flatten().chain(linked(&peer.below));
        for node in theirs.chain([&peer.node]) {
            if node.name == me.name && node.log != me.log {
                return twice(&node.name, "this node and one beyond the link");
            }
            if role == Role::Parent {
                let links = shared.links();
                let others = links.values().filter(|link| link.node.log != peer.node.log);
                let known = others.flat_map(|link| linked(&link.below).chain([&link.node]));
                let path = shared.path.borrow();
                if let Some(other) = known
                    .chain(path.get(1..).into_iter().flatten())
                    .find(|other| other.name == node.name && other.log != node.log)
                {
                    return twice(&other.name, "one is linked already, another wants to");
                }
            }
        }
        // A parent may still count an earlier connection of ours among what is below it.
        if role == Role::Parent && linked(&peer.below).any(|node| node.log == me.log) {
            let message = format!(
                "this node is below {:?} already: linking would close a cycle / why: links form a tree / do: correct [parent] url \
                 at {:?}",
                peer.node.name, peer.node.name
            );
            return Err(refusal("WS-NODE-004", message, false));
        }
        self.check_known(role, peer).and_then(|()| self.check_twin(peer))
    }

    fn check_known(&self, role: Role, peer: &Hello) -> Result<(), Refusal> {
        let shared = &self.0;
        let Some(known) = shared.book.get(&peer.node.name) else { return Ok(()) };
        if known.paused {
            let message = format!(
                "the link with {:?} is paused here / do: watershed peer resume {}",
                peer.node.name, peer.node.name
            );
            return Err(refusal("WS-NODE-005", message, true));
        }
        if known.log() != peer.node.log {
            let what = if role == Role::Parent { "child" } else { "parent" };
            let message = format!(
                "the {what} {:?} is a new log: {} was known under that name, {} is at the link / why: its data folder was \
                 re-created, or another node took its name; merging the two by mistake would lose or repeat changes / do: if \
                 the old one is gone for good, run `watershed source drop {} --yes` at {:?}: the new one then copies afresh",
                peer.node.name, known.log, peer.node.log, peer.node.name, shared.name
            );
            return Err(refusal("WS-NODE-002", message, false));
        }
        Ok(())
    }

    /// Leaves out what its writer does not own.
    fn ingress(&self, append: Append) -> Result<Append, Refusal> {
        let shared = self.0.clone();
        let told: OnRefused = Arc::new(move |refused| shared.refused(&refused));
        let shared = &self.0;
        let catalog = shared.log.catalog();
        let mut drafts = Vec::with_capacity(append.drafts.len());
        for draft in append.drafts {
            let guarded = shared.policy.ownership.guard(draft, &append.tables, &catalog, &told);
            drafts.push(guarded.map_err(|error| unreadable(&error))?);
        }
        Ok(Append { drafts, ..append })
    }

    /// Tells every peer what it will be sent, after tables changed.
    pub async fn announce_offers(&self) {
        let links: Vec<_> = {
            let links = self.0.links();
            links
                .values()
                .map(|link| (link.role, link.node.name.clone(), link.sieve.clone(), link.handle.clone()))
                .collect()
        };
        for (role, name, sieve, handle) in links {
            let control = match self.offers(role, &name, &sieve, self.generation(&name)) {
                Ok(offers) => Control::Offers(offers),
                Err(refusal) => Control::Close(refusal),
            };
            handle.send(control).await;
        }
    }
}

#[async_trait]
impl Host for NodeHost {
    async fn hello(&self, role: Role, peer: Option<&Hello>) -> Result<Hello, Refusal> {
        let shared = &self.0;
        let (name, link) = match peer {
            Some(peer) => (peer.node.name.to_string(), Some(LinkId(peer.node.log))),
            None => match shared.book.parent() {
                Some((name, known)) if known.paused => {
                    let message = format!("the link with {name:?} is paused here / do: watershed peer resume {name}");
                    return Err(refusal("WS-NODE-005", message, true));
                }
                Some((name, known)) => (name, Some(LinkId(known.log()))),
                None => (String::new(), None),
            },
        };
        if let Some(peer) = peer {
            self.start(peer)?;
        }
        let sieve = shared.policy.sieve(role, &name, link.unwrap_or_default());
        Ok(Hello {
            node: shared.me(),
            epoch: shared.epoch,
            probe: false,
            path: shared.path.borrow().clone(),
            below: shared.below.borrow().clone(),
            offers: self.offers(role, &name, &sieve, self.generation(&name))?,
            received: link.and_then(|link| shared.received(link)),
            mirrors: true,
        })
    }

    async fn admit(&self, role: Role, peer: &Hello) -> Result<(), Refusal> {
        check_name(self.1.as_ref(), &peer.node.name, &self.0.name)?;
        let checked = self
            .check_names(role, peer)
            .and_then(|()| self.check_two_way(role, &peer.node, &peer.offers))
            .and_then(|()| self.start(peer).map(|_| ()));
        if let Err(refusal) = &checked {
            self.0.refusals().insert(peer.node.name.to_string(), (Timestamp::now(), refusal.to_string()));
        }
        checked
    }

    async fn established(&self, role: Role, peer: &Hello, handle: LinkHandle) -> Result<Box<dyn Outgoing>, Refusal> {
        let shared = &self.0;
        let failed =
            |error: std::io::Error| refusal("WS-NODE-007", format!("the data folder cannot be written: {error}"), true);
        let link = LinkId(peer.node.log);
        let name = &*peer.node.name;
        self.leave_parent(role, peer).await;
        let new = shared.book.meet(name, peer.node.log, role).map_err(failed)?;
        let (start, known) = self.start(peer)?;
        let sieve = Arc::new(shared.policy.sieve(role, name, link));
        if !known {
            if let Some(received) = peer.received.filter(|cursor| cursor.log == shared.log.id()) {
                self.fell_out(name, received);
            }
            shared.book.renew(name, start.position).map_err(failed)?;
        }
        if new || !known {
            // Our hello spoke of another generation.
            let offers = self.offers(role, name, &sieve, self.generation(name))?;
            handle.send(Control::Offers(offers)).await;
        }
        shared.refusals().remove(name);
        let standing = Link {
            role,
            node: peer.node.clone(),
            epoch: peer.epoch,
            connection: CONNECTIONS.fetch_add(1, Ordering::Relaxed),
            handle,
            offers: peer.offers.clone(),
            below: peer.below.clone(),
            sieve: sieve.clone(),
            since: Timestamp::now(),
            acknowledged: known.then_some(start),
            lag: None,
            delivered: Instant::now(),
            received: shared.received(link),
            replaced: 0,
            target: None,
            target_tail: None,
            mirrors: peer.mirrors,
            feed_room: Arc::default(),
        };
        shared.begin_feeds(link, &standing).await;
        let before = {
            let mut links = shared.links();
            let before = links.remove(&link);
            let replaced = before.as_ref().map_or(0, |before| before.replaced + 1);
            links.insert(link, Link { replaced, ..standing });
            before
        };
        if let Some(before) = before {
            let why = refusal("WS-NODE-008", "the peer has linked again".into(), true);
            before.handle.send(Control::Close(why)).await;
        }
        shared.counters.links.add(1);
        if role == Role::Child {
            shared.update_path(&peer.path);
        }
        match role {
            Role::Parent => shared.heard_below(&peer.node, &peer.below),
            Role::Child => shared.update_below(),
        }
        shared.copy_wake.notify_one();
        Ok(Box::new(LogOutgoing::new(shared.log.clone(), link, sieve, start, known)))
    }

    async fn receive(&self, append: Append) -> Result<(), Refusal> {
        let shared = &self.0;
        let count = append.drafts.len() as u64;
        let append = self.ingress(append)?;
        let (append, replaced) = Replaced::of(append).map_err(|error| unreadable(&error))?;
        // Before the append: after a crash the announcement would not come again.
        replaced.tell(shared).await?;
        let (from, tables, upto) = (append.from, append.tables.clone(), append.upto.clone());
        // Relayed entries are kept to append them again after a full disk; large ones come again from the peer.
        let again: Option<Vec<_>> = append
            .drafts
            .iter()
            .map(|draft| if let Draft::Relayed(entry) = draft { Some(entry.clone()) } else { None })
            .collect();
        let mut append = append;
        loop {
            match (shared.log.append(append).await, &again) {
                (Ok(_), _) => break,
                (Err(error @ AppendError::DiskFull { .. }), Some(entries)) => {
                    tracing::error!("error[WS-LOG-001]: {error} / do: make room; receiving goes on by itself");
                    let drafts = entries.iter().cloned().map(Draft::Relayed).collect();
                    append = Append { from, tables: tables.clone(), drafts, upto: upto.clone() };
                    tokio::select! {
                        _ = shared.stop.cancelled() => return Err(refusal("WS-NODE-009", "this node stops".into(), true)),
                        _ = tokio::time::sleep(APPEND_RETRY_DELAY) => {}
                    }
                }
                (Err(error), _) => {
                    let retryable = error.is_retryable();
                    let todo = match &error {
                        AppendError::Diverged { .. } => {
                            "at the node whose log that is, put the newer data folder back; or begin a new log there: stop it, move \
                             its data folder away, run `watershed source drop database --yes`, and start it again"
                        }
                        _ => "see the reason; the link is tried again, and nothing is lost",
                    };
                    let message = format!("what came could not be logged: {error} / do: {todo}");
                    return Err(refusal("WS-LOG-002", message, retryable));
                }
            }
        }
        replaced.tell(shared).await?;
        shared.has_arrived(upto.as_ref());
        shared.counters.received.add(count);
        Ok(())
    }

    async fn copy(&self, peer: LinkId, message: CopyMessage) {
        if self.0.copies.try_send((peer, message)).is_err() {
            tracing::warn!(
                "a message of a first copy was left out, because too many are waiting; it will be asked for again"
            );
        }
    }

    async fn feed(&self, peer: LinkId, message: FeedMessage) {
        self.0.feed_message(peer, message);
    }

    async fn changed(&self, peer: LinkId, change: PeerChange) {
        let shared = &self.0;
        match change {
            PeerChange::Path(path) => shared.update_path(&path),
            PeerChange::Below(below) => {
                let node = shared.links().get_mut(&peer).map(|link| {
                    link.below.clone_from(&below);
                    link.node.clone()
                });
                if let Some(node) = node {
                    shared.heard_below(&node, &below);
                    shared.copy_wake.notify_one();
                }
            }
            PeerChange::Offers(offers) => self.offered(peer, offers).await,
        }
    }

    fn heads(&self) -> Vec<Head> {
        let shared = &self.0;
        // First the others: what they speak of is in the log up to the tail that is read behind them.
        let others = shared.heads.lock().unwrap_or_else(PoisonError::into_inner);
        // What was captured up to that place is in the log up to the same tail.
        let captured = shared.captured();
        let cursor = shared.log.cursor_at(*shared.log.tail().borrow());
        let own = Head { node: shared.me(), cursor, time: Timestamp::now(), captured };
        others.values().cloned().chain([own]).collect()
    }

    fn reached(&self, peer: LinkId, heads: Vec<Head>) {
        self.0.heard_heads(peer, heads);
    }

    fn replicas(&self) -> Vec<ReplicaDigests> {
        self.0.views.say(&self.0)
    }

    fn replicas_say(&self, _peer: LinkId, replicas: Vec<ReplicaDigests>) {
        self.0.views.hear(&self.0, replicas);
    }

    fn acknowledged(&self, peer: LinkId, received: Cursor) {
        if let Some(link) = self.0.links().get_mut(&peer) {
            link.acknowledged = Some(received);
            self.0.book.acknowledge(&link.node.name, received);
        }
    }

    fn delivered(&self, peer: LinkId, lag: Duration) {
        if let Some(link) = self.0.links().get_mut(&peer) {
            (link.lag, link.delivered) = (Some(lag), Instant::now());
        }
    }

    fn closed(&self, peer: LinkId, why: &Refusal) {
        let shared = &self.0;
        let gone = {
            let mut links = shared.links();
            // A connection that the same peer has replaced ends, too; the new one stays.
            match links.get_mut(&peer) {
                Some(link) if link.replaced > 0 => {
                    link.replaced -= 1;
                    None
                }
                _ => links.remove(&peer),
            }
        };
        let Some(link) = gone else { return };
        shared.peer_feeds.closed(peer, link.connection);
        if !why.retryable {
            shared.refusals().insert(link.node.name.to_string(), (Timestamp::now(), why.to_string()));
        }
        if link.role == Role::Child {
            shared.update_path(&[]);
        }
        shared.update_below();
    }

    fn path(&self) -> watch::Receiver<Vec<NodeRef>> {
        self.0.path.subscribe()
    }

    fn below(&self) -> watch::Receiver<Vec<Below>> {
        self.0.below.subscribe()
    }

    fn spool_dir(&self) -> std::path::PathBuf {
        self.0.data_dir.clone()
    }
}
