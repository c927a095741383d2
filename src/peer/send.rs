//! The sending half of a link: what the node's `Outgoing` gives, under credits, with heartbeats in their place.

use std::collections::HashSet;
use std::convert::Infallible;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use bytes::Bytes;
use tokio::sync::{Notify, mpsc};
use tokio::time::MissedTickBehavior;

use super::host::{Head, Host, Outbound, Outgoing, Refusal};
use super::protocol::{Entries, Message};
use super::refusal::lost;
use super::replicas::ReplicaDigests;
use super::session::{Session, Timing, credit_cost};
use crate::model::{Fingerprint, LogId, Position, limits};

/// A heartbeat that waits until everything that it speaks of has been sent.
struct Beat {
    heads: Vec<Head>,
    /// Our own log's position in `heads`.
    own: Position,
    at: Instant,
}

/// Sends entries.
pub(super) struct Sender<'a> {
    pub host: &'a dyn Host,
    pub session: &'a Mutex<Session>,
    pub credits: &'a Notify,
    pub data: mpsc::Sender<Bytes>,
    pub me: LogId,
    /// Everything of our log up to here has been sent.
    pub covered: Position,
    pub defined: HashSet<Fingerprint>,
    pub timing: Timing,
    /// What replicas said in the last heartbeat.
    pub told: Vec<ReplicaDigests>,
}

impl Sender<'_> {
    /// Sends until the link ends.
    pub(super) async fn run(mut self, mut outgoing: Box<dyn Outgoing>) -> Result<Infallible, Refusal> {
        let mut ticks = tokio::time::interval(self.timing.heartbeat);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut beat = None;
        loop {
            tokio::select! {
                biased;
                _ = ticks.tick(), if beat.is_none() => beat = Some(self.take_beat()),
                outbound = outgoing.next() => self.send(outbound?).await?,
            }
            if let Some(due) = beat.take_if(|beat| beat.own <= self.covered) {
                self.send_beat(due).await?;
            }
        }
    }

    fn take_beat(&self) -> Beat {
        let heads = self.host.heads();
        let own =
            heads.iter().find(|head| head.node.log == self.me).map_or(Position::ZERO, |head| head.cursor.position);
        Beat { heads, own, at: Instant::now() }
    }

    async fn send_beat(&mut self, beat: Beat) -> Result<(), Refusal> {
        let id = self.session.lock().unwrap_or_else(PoisonError::into_inner).beat(beat.at);
        match id {
            Some(id) => {
                let replicas = self.news_of_replicas();
                self.queue(Message::Heartbeat { id, heads: beat.heads, replicas }.encode()).await
            }
            // The peer has not made durable what was sent with the earlier ones: its lag is already seen growing.
            None => Ok(()),
        }
    }

    /// What replicas say, where it is not what they said last.
    fn news_of_replicas(&mut self) -> Vec<ReplicaDigests> {
        let mut replicas = self.host.replicas();
        replicas.truncate(limits::HEARTBEAT_REPLICAS_MAX);
        let news = replicas.iter().filter(|replica| !self.told.contains(replica)).cloned().collect();
        self.told = replicas;
        news
    }

    async fn queue(&self, encoded: Bytes) -> Result<(), Refusal> {
        self.data.send(encoded).await.map_err(|_| lost("the writing half of the link has ended"))
    }

    async fn send(&mut self, outbound: Outbound) -> Result<(), Refusal> {
        let upto = outbound.upto;
        for message in self.messages(outbound) {
            let encoded = Message::Entries(message).encode();
            let cost = credit_cost(encoded.len());
            self.take_credits(cost).await;
            self.queue(encoded).await?;
        }
        self.covered = upto.position;
        Ok(())
    }

    /// Messages of about [`limits::FRAGMENT_BYTES_MAX`]; the last one says how far they reach.
    fn messages(&mut self, outbound: Outbound) -> Vec<Entries> {
        let mut tables = outbound.tables;
        tables.retain(|table| self.defined.insert(table.fingerprint));
        let mut messages = Vec::new();
        let mut current = Entries { tables, ..Entries::default() };
        let mut bytes = 0;
        for entry in outbound.entries {
            let length = entry.bytes().len();
            if bytes + length > limits::FRAGMENT_BYTES_MAX - 1024 && !current.entries.is_empty() {
                messages.push(std::mem::take(&mut current));
                bytes = 0;
            }
            bytes += length;
            current.entries.push(entry);
        }
        current.upto = Some(outbound.upto);
        messages.push(current);
        messages
    }

    async fn take_credits(&self, cost: u64) {
        loop {
            {
                let mut session = self.session.lock().unwrap_or_else(PoisonError::into_inner);
                if session.may_send(cost) {
                    session.sent(cost);
                    return;
                }
            }
            self.credits.notified().await;
        }
    }
}
