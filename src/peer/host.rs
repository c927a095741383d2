//! What a link needs from the node that it belongs to. `node` implements it; tests have one on a memory log.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use thiserror::Error;
use tokio::sync::watch;

use super::feed::FeedMessage;
use super::handle::LinkHandle;
use super::replicas::ReplicaDigests;
use crate::log::Append;
use crate::model::{Cursor, Entry, Epoch, Fingerprint, LinkId, LogId, Position, Row, TableDef, TableName, Timestamp};
use crate::view::CopyLines;

/// A node as others see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeRef {
    /// Its label, unique in the tree.
    pub name: Box<str>,
    /// The id of its `main` log.
    pub log: LogId,
}

/// A node somewhere below, with the node it hangs from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Below {
    /// The node.
    pub node: NodeRef,
    /// Its parent's name.
    pub parent: Box<str>,
    /// Its link is down: it was there when last heard of.
    pub away: bool,
}

/// Which end of the link we are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// We dialled: the other side is our parent.
    Child,
    /// We were dialled: the other side is our child.
    Parent,
}

/// A table that one side is going to send, and under what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// The sender's definition.
    pub table: Arc<TableDef>,
    /// Over selection, filter and definition: when it changes, the table is copied afresh.
    pub under: Fingerprint,
    /// Whether the table has an owner (or owners) in the sender's configuration.
    pub owned: bool,
    /// The sender accepts that both ends write the same rows (`conflicts = "may-diverge"`).
    pub may_diverge: bool,
    /// All its rows belong to nodes on the sender's side of the link: a copy may remove what it does not have.
    pub whole: bool,
}

/// The first message of each side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// Who speaks.
    pub node: NodeRef,
    /// The epoch of this run of its log.
    pub epoch: Epoch,
    /// Looking only (`check`): answered and closed, nothing is recorded.
    pub probe: bool,
    /// From the speaker (first) up to the root (last).
    pub path: Vec<NodeRef>,
    /// Everything below the speaker.
    pub below: Vec<Below>,
    /// What the speaker will send over this link.
    pub offers: Vec<Offer>,
    /// How far the speaker has durably received the other side's log; `None` when it never has.
    pub received: Option<Cursor>,
    /// The speaker understands messages about feeds.
    pub mirrors: bool,
}

/// How far some node's log has travelled: everything of it up to `position` that the sender selects has been sent
/// before this.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// Whose log.
    pub node: NodeRef,
    /// Its cursor then.
    pub cursor: Cursor,
    /// That node's clock then.
    pub time: Timestamp,
    /// Everything that its PostgreSQL database had committed up to that place of the server's own log is in its log up to the
    /// cursor; `None` where it captures none, or does not say.
    pub captured: Option<u64>,
}

/// What the sender half of a link sends next.
#[derive(Clone, Debug)]
pub struct Outbound {
    /// Entries in log order, filtered, never those that came from this peer. Parts of large ones singly.
    pub entries: Vec<Entry>,
    /// Definitions of the tables they name (the link leaves out those that it has sent before).
    pub tables: Vec<Arc<TableDef>>,
    /// Everything of our log up to here is covered once these are received.
    pub upto: Cursor,
}

/// Messages of first copies; `node` has the logic, the link only carries them.
#[derive(Clone, Debug)]
pub enum CopyMessage {
    /// Receiver to sender: the next chunk, please.
    Request {
        /// Which table.
        table: TableName,
        /// Exclusive; `None` from the start.
        after: Option<Row>,
        /// What the receiver had durably received of the sender's log: the chunk must contain all of it.
        received: Option<Cursor>,
    },
    /// Sender to receiver: one chunk.
    Chunk {
        /// The sender's definition.
        table: Arc<TableDef>,
        /// As requested.
        after: Option<Row>,
        /// Last key covered, inclusive; `None`: the table's end.
        upto: Option<Row>,
        /// The rows.
        rows: Vec<Row>,
        /// The rows as PostgreSQL wrote them; then `rows` is empty.
        lines: Option<CopyLines>,
        /// Rows that are still to come, estimated.
        left: Option<u64>,
        /// On the last chunk: what all chunks may contain, as a position in the sender's log.
        settled: Option<Position>,
        /// Under which selection and filter.
        under: Fingerprint,
        /// For a table without a key: the causation id of the entry before which everything is in the copy, and after which
        /// nothing.
        cut: Option<Box<str>>,
    },
    /// Sender to receiver: not now (the table is parked, half-copied or gone at the sender); asked again later.
    Refused {
        /// Which table.
        table: TableName,
        /// Why.
        why: String,
    },
}

/// A link is refused or ended for a reason that the other side is told.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("error[{code}]: {message}")]
pub struct Refusal {
    /// Greppable: `WS-PEER-…`.
    pub code: String,
    /// What happened, why, and what to do.
    pub message: String,
    /// Whether dialling again may help without an operator.
    pub retryable: bool,
}

impl Refusal {
    /// What happened, without why and what to do.
    pub fn what(&self) -> &str {
        self.part(0)
    }

    /// Why; empty where the message does not say.
    pub fn why(&self) -> &str {
        self.part(1)
    }

    /// What to do; empty where the message does not say.
    pub fn advice(&self) -> &str {
        self.part(2)
    }

    fn part(&self, index: usize) -> &str {
        let (what, rest) = self.message.split_once(" / why: ").unwrap_or((&self.message, ""));
        let (why, advice) = rest.split_once(" / do: ").unwrap_or((rest, ""));
        [what, why, advice][index]
    }
}

/// Reads our log for one peer, selected and filtered.
#[async_trait]
pub trait Outgoing: Send {
    /// Waits until there is something for this peer: entries, or (rarely, when idle) a cursor that moved over filtered
    /// stretches only. Cancel-safe. A filter that fails on a row, or a trimmed log, is a refusal: the link stops.
    async fn next(&mut self) -> Result<Outbound, Refusal>;
}

/// The node, as a link sees it.
#[async_trait]
pub trait Host: Send + Sync + 'static {
    /// What we say. A child speaks first (`peer` is `None`); a parent answers a child's hello.
    async fn hello(&self, role: Role, peer: Option<&Hello>) -> Result<Hello, Refusal>;
    /// Whether we accept what the peer said: names, known log ids, cursors, tables sent both ways. (That its path does
    /// not contain us is checked by the session.)
    async fn admit(&self, role: Role, peer: &Hello) -> Result<(), Refusal>;
    /// The link stands: both hellos were accepted. From here on `handle` sends control messages and closes the link.
    async fn established(&self, role: Role, peer: &Hello, handle: LinkHandle) -> Result<Box<dyn Outgoing>, Refusal>;
    /// Appends what came over the link (`append.from` is the peer's log id, `append.upto` the cursor in the peer's
    /// log); returns when it is durable.
    async fn receive(&self, append: Append) -> Result<(), Refusal>;
    /// A message of a first copy came. Must not block: hands it on.
    async fn copy(&self, peer: LinkId, message: CopyMessage);
    /// A message about feeds came. Must not block: hands it on.
    async fn feed(&self, _peer: LinkId, _message: FeedMessage) {}
    /// The peer's offers, path or subtree changed.
    async fn changed(&self, peer: LinkId, change: PeerChange);
    /// Where our log and those that we receive have got to, for a heartbeat after everything sent so far.
    fn heads(&self) -> Vec<Head>;
    /// Heads that came with a heartbeat; everything sent before it is durable here.
    fn reached(&self, peer: LinkId, heads: Vec<Head>);
    /// What our replicas of machines, and those that we have heard of elsewhere, say of their states.
    fn replicas(&self) -> Vec<ReplicaDigests> {
        Vec::new()
    }
    /// What replicas of machines elsewhere say of their states.
    fn replicas_say(&self, _peer: LinkId, _replicas: Vec<ReplicaDigests>) {}
    /// The peer has durably received our log up to here.
    fn acknowledged(&self, peer: LinkId, received: Cursor);
    /// Our heartbeat and everything before it was durable at the peer after this time (our clock both times).
    fn delivered(&self, peer: LinkId, lag: Duration);
    /// The link is gone (after `established` only).
    fn closed(&self, peer: LinkId, why: &Refusal);
    /// From us (first) up to the root (last); announced to children when it changes.
    fn path(&self) -> watch::Receiver<Vec<NodeRef>>;
    /// Everything below us; announced to the parent when it changes.
    fn below(&self) -> watch::Receiver<Vec<Below>>;
    /// A folder on the log's disk where large transactions wait for their last part.
    fn spool_dir(&self) -> PathBuf {
        std::env::temp_dir()
    }
}

/// Something that a peer announced after its hello.
#[derive(Clone, Debug)]
pub enum PeerChange {
    /// The parent's path to the root, parent first.
    Path(Vec<NodeRef>),
    /// What is below the child.
    Below(Vec<Below>),
    /// What the peer is going to send from now on (all of it, not only what is new).
    Offers(Vec<Offer>),
}
