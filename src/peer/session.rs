//! The state machine of one link, without I/O: what may come when, credits, heartbeats, silence. Time comes in.
//!
//! ```text
//! at the sender:    sent − given back ≤ LINK_CREDIT_BYTES   (or one larger message alone)
//! at the receiver:  echo of a heartbeat ≤ durability of everything that came before it
//! ```

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::feed::FeedMessage;
use super::host::{CopyMessage, Head, Hello, NodeRef, PeerChange, Refusal, Role};
use super::protocol::{Entries, Message};
use super::refusal::{PEER_SAYS, code, out_of_order, refusal};
use super::replicas::ReplicaDigests;
use super::topology;
use crate::model::{Cursor, limits};

/// Times that a link keeps; tests shorten them.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// Between heartbeats, and between pings.
    pub heartbeat: Duration,
    /// A link from which nothing came for this long is given up.
    pub silence: Duration,
    /// The peer's hello must have come by then.
    pub handshake: Duration,
    /// One attempt to connect.
    pub connect: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Timing {
            heartbeat: limits::HEARTBEAT_INTERVAL,
            silence: limits::LINK_SILENCE_MAX,
            handshake: limits::HANDSHAKE_TIMEOUT,
            connect: limits::CONNECT_TIMEOUT,
        }
    }
}

/// What the owner of a session must do, in this order.
#[derive(Debug)]
pub enum Action {
    /// Send it, ahead of entries that wait.
    Send(Message),
    /// Send a WebSocket ping with this number, ahead of everything.
    Ping(u64),
    /// The peer's hello keeps the laws of the topology: ask the node, then call [`Session::established`].
    Admit(Hello),
    /// Append this; then call [`Session::durable`] (or [`Session::spooled`]).
    Append(Entries),
    /// Hand it to the node.
    Copy(CopyMessage),
    /// Hand it to the node.
    Feed(FeedMessage),
    /// The peer announced a change.
    Changed(PeerChange),
    /// The peer has durably received our log up to here.
    Acknowledged(Cursor),
    /// Credits came back: entries that wait may go.
    Credits,
    /// Our heartbeat and everything before it was durable at the peer after this time.
    Delivered(Duration),
    /// Everything before these heads is durable here.
    Reached(Vec<Head>),
    /// What replicas of machines elsewhere say of their states.
    Replicas(Vec<ReplicaDigests>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Greeting,
    Admitting,
    Established,
}

/// Received, in order, and not yet answered for.
#[derive(Debug)]
enum Waiting {
    Entries(u64),
    Heartbeat(u64, Vec<Head>),
}

/// One end of a link.
#[derive(Debug)]
pub struct Session {
    role: Role,
    timing: Timing,
    me: NodeRef,
    path: Vec<NodeRef>,
    peer: Option<NodeRef>,
    state: State,
    began: Instant,
    heard: Instant,
    pinged: Instant,
    pings: u64,
    ping_sent: Option<(u64, Instant)>,
    rtt: Option<Duration>,
    /// Bytes sent and not given back.
    outstanding: u64,
    /// Bytes received and not given back.
    held: u64,
    waiting: VecDeque<Waiting>,
    /// Heartbeats that wait for the end of a large transaction.
    deferred: Vec<(u64, Vec<Head>)>,
    unfinished: bool,
    heartbeats: u64,
    unanswered: VecDeque<(u64, Instant)>,
}

/// What a message with entries costs: its encoded bytes, at least [`limits::MESSAGE_CREDIT_BYTES_MIN`].
pub fn credit_cost(encoded_bytes: usize) -> u64 {
    (encoded_bytes as u64).max(limits::MESSAGE_CREDIT_BYTES_MIN)
}

impl Session {
    /// A link that has just been connected. `path` is ours: from us (first) up to the root.
    pub fn new(role: Role, me: NodeRef, path: Vec<NodeRef>, timing: Timing, now: Instant) -> Session {
        Session {
            role,
            timing,
            me,
            path,
            peer: None,
            state: State::Greeting,
            began: now,
            heard: now,
            pinged: now,
            pings: 0,
            ping_sent: None,
            rtt: None,
            outstanding: 0,
            held: 0,
            waiting: VecDeque::new(),
            deferred: Vec::new(),
            unfinished: false,
            heartbeats: 0,
            unanswered: VecDeque::new(),
        }
    }

    /// Both hellos were accepted.
    pub fn established(&mut self) {
        assert_eq!(self.state, State::Admitting, "a peer is admitted once");
        self.state = State::Established;
    }

    /// The time between our last ping and its answer.
    pub fn rtt(&self) -> Option<Duration> {
        self.rtt
    }

    /// A message came; `length` is its encoded size.
    pub fn on_message(&mut self, message: Message, length: usize, now: Instant) -> Result<Vec<Action>, Refusal> {
        self.heard = now;
        match message {
            Message::Failure(why) => {
                let message = format!("{PEER_SAYS}{}", why.message);
                return Err(Refusal { message, ..why });
            }
            Message::Bye(why) => {
                let todo = "nothing: the link is taken up again when the peer runs";
                return Err(refusal(code::BYE, true, "the peer closed the link", &why, todo));
            }
            _ => {}
        }
        if let (State::Greeting, Message::Hello(hello)) = (self.state, &message) {
            topology::check_hello(self.role, &self.me, &self.path, hello)?;
            self.peer = Some(hello.node.clone());
            self.state = State::Admitting;
            return Ok(vec![Action::Admit(hello.clone())]);
        }
        if self.state != State::Established {
            return Err(out_of_order(format!("{} came where Hello was expected", message.name())));
        }
        self.on_established(message, length, now)
    }

    fn on_established(&mut self, message: Message, length: usize, now: Instant) -> Result<Vec<Action>, Refusal> {
        Ok(match message {
            Message::Entries(entries) => vec![self.on_entries(entries, length)?],
            Message::Heartbeat { id, heads, replicas } => {
                // Their positions say what they are of: nothing has to be durable before.
                let said = (!replicas.is_empty()).then_some(Action::Replicas(replicas));
                said.into_iter().chain(self.on_heartbeat(id, heads)?).collect()
            }
            Message::HeartbeatEcho { id } => vec![self.on_echo(id, now)?],
            Message::Acknowledge { received, credits } => self.on_acknowledge(received, credits)?,
            Message::Copy(copy) => vec![Action::Copy(copy)],
            Message::Feed(message) => vec![Action::Feed(message)],
            Message::Offers(offers) => vec![Action::Changed(PeerChange::Offers(offers))],
            Message::Path(path) if self.role == Role::Child => {
                let parent = self.peer.as_ref().expect("an established link has a peer");
                topology::check_path(&self.me, parent, &path)?;
                vec![Action::Changed(PeerChange::Path(path))]
            }
            Message::Below(below) if self.role == Role::Parent => vec![Action::Changed(PeerChange::Below(below))],
            other => return Err(out_of_order(format!("{} came on an established link", other.name()))),
        })
    }

    /// A WebSocket ping, a pong, or a fragment came: the peer is alive.
    pub fn on_sign_of_life(&mut self, pong: Option<u64>, now: Instant) {
        self.heard = now;
        if let (Some(number), Some((sent, at))) = (pong, self.ping_sent)
            && number == sent
        {
            self.rtt = Some(now.saturating_duration_since(at));
        }
    }

    /// Time passes: pings, and the end of a silent link.
    pub fn on_tick(&mut self, now: Instant) -> Result<Vec<Action>, Refusal> {
        if self.state == State::Greeting && now.saturating_duration_since(self.began) >= self.timing.handshake {
            let what = format!("the peer did not say hello within {:?}", self.timing.handshake);
            let todo = "check that the other end is a Watershed node and is not stuck";
            return Err(refusal(code::NO_HELLO, true, what, "it is no node, or is overloaded", todo));
        }
        let quiet = now.saturating_duration_since(self.heard);
        if self.state == State::Established && quiet >= self.timing.silence {
            let what = format!("nothing came from the peer for {:?}", self.timing.silence);
            let todo = "nothing: the child dials again; if it goes on, look at the network";
            return Err(refusal(code::SILENT, true, what, "the network drops packets, or the peer is stuck", todo));
        }
        if self.state == State::Established && now.saturating_duration_since(self.pinged) >= self.timing.heartbeat {
            self.pinged = now;
            self.pings += 1;
            self.ping_sent = Some((self.pings, now));
            return Ok(vec![Action::Ping(self.pings)]);
        }
        Ok(Vec::new())
    }

    /// When [`Session::on_tick`] has something to do next, at the latest.
    pub fn next_tick(&self) -> Instant {
        match self.state {
            State::Greeting => self.began + self.timing.handshake,
            _ => (self.pinged + self.timing.heartbeat).min(self.heard + self.timing.silence),
        }
    }

    /// Our path changed. A parent announces it to its child, and finds out whether the child has become its ancestor.
    pub fn on_path_changed(&mut self, path: Vec<NodeRef>) -> Result<Vec<Action>, Refusal> {
        self.path = path;
        let Some(peer) = self.peer.as_ref().filter(|_| self.role == Role::Parent) else { return Ok(Vec::new()) };
        topology::check_own_path(peer, &self.path)?;
        Ok(vec![Action::Send(Message::Path(self.path.clone()))])
    }

    /// Whether entries that cost so much may be sent now.
    pub fn may_send(&self, cost: u64) -> bool {
        self.outstanding == 0 || self.outstanding + cost <= limits::LINK_CREDIT_BYTES
    }

    /// Entries that cost so much are being sent.
    pub fn sent(&mut self, cost: u64) {
        assert!(self.may_send(cost), "credits are asked for before sending");
        self.outstanding += cost;
    }

    /// A heartbeat is about to be sent with what is sent before it; its number, or `None` when too many are unanswered.
    pub fn beat(&mut self, now: Instant) -> Option<u64> {
        if self.unanswered.len() >= limits::HEARTBEATS_UNANSWERED_MAX {
            return None;
        }
        self.heartbeats += 1;
        self.unanswered.push_back((self.heartbeats, now));
        Some(self.heartbeats)
    }

    /// The first `messages` of those to be appended are durable, and no part of a large transaction waits.
    pub fn durable(&mut self, messages: usize, received: Option<Cursor>) -> Vec<Action> {
        let mut credits = 0;
        let mut echoes = std::mem::take(&mut self.deferred);
        self.unfinished = false;
        let mut left = messages;
        while let Some(waiting) = self.waiting.pop_front() {
            match waiting {
                Waiting::Entries(cost) if left > 0 => {
                    credits += cost;
                    left -= 1;
                }
                Waiting::Heartbeat(id, heads) => echoes.push((id, heads)),
                entries => {
                    self.waiting.push_front(entries);
                    break;
                }
            }
        }
        assert_eq!(left, 0, "only what came becomes durable");
        let mut actions = self.give_back(received, credits);
        for (id, heads) in echoes {
            actions.push(Action::Reached(heads));
            actions.push(Action::Send(Message::HeartbeatEcho { id }));
        }
        actions
    }

    /// The first `messages` of those to be appended hold parts of a transaction that is not complete: they are out of
    /// memory, so their credits go back, but nothing after them is durable before it is.
    pub fn spooled(&mut self, messages: usize) -> Vec<Action> {
        let mut credits = 0;
        self.unfinished = true;
        for _ in 0..messages {
            loop {
                match self.waiting.pop_front().expect("only what came is spooled") {
                    Waiting::Entries(cost) => {
                        credits += cost;
                        break;
                    }
                    Waiting::Heartbeat(id, heads) => self.deferred.push((id, heads)),
                }
            }
        }
        self.give_back(None, credits)
    }

    fn give_back(&mut self, received: Option<Cursor>, credits: u64) -> Vec<Action> {
        assert!(credits <= self.held, "credits are given back once");
        self.held -= credits;
        if received.is_none() && credits == 0 {
            return Vec::new();
        }
        vec![Action::Send(Message::Acknowledge { received, credits })]
    }

    fn on_entries(&mut self, entries: Entries, length: usize) -> Result<Action, Refusal> {
        let peer = self.peer.as_ref().expect("an established link has a peer").log;
        if let Some(upto) = entries.upto.filter(|upto| upto.log != peer) {
            return Err(out_of_order(format!(
                "entries up to {upto} came, which is of another log than the peer's, {peer}"
            )));
        }
        if entries.entries.iter().any(|entry| entry.header().origin.is_none()) {
            return Err(out_of_order("an entry without its origin came"));
        }
        let cost = credit_cost(length);
        if self.held > 0 && self.held + cost > limits::LINK_CREDIT_BYTES {
            let max = limits::LINK_CREDIT_BYTES;
            let what = format!("the peer has {} bytes under way and sends {cost} more, at most {max}", self.held);
            let todo = "run the same version of Watershed at both ends; if they are, report this";
            return Err(refusal(code::CREDITS, false, what, "the peer does not keep to its credits", todo));
        }
        self.held += cost;
        self.waiting.push_back(Waiting::Entries(cost));
        Ok(Action::Append(entries))
    }

    fn on_heartbeat(&mut self, id: u64, heads: Vec<Head>) -> Result<Vec<Action>, Refusal> {
        if self.waiting.is_empty() && !self.unfinished {
            return Ok(vec![Action::Reached(heads), Action::Send(Message::HeartbeatEcho { id })]);
        }
        let beats = self.waiting.iter().filter(|waiting| matches!(waiting, Waiting::Heartbeat(..))).count();
        if beats + self.deferred.len() >= limits::HEARTBEATS_UNANSWERED_MAX {
            return Err(out_of_order(format!("heartbeat {id} came with {beats} still to be answered")));
        }
        self.waiting.push_back(Waiting::Heartbeat(id, heads));
        Ok(Vec::new())
    }

    fn on_echo(&mut self, id: u64, now: Instant) -> Result<Action, Refusal> {
        match self.unanswered.pop_front() {
            Some((sent, at)) if sent == id => Ok(Action::Delivered(now.saturating_duration_since(at))),
            expected => {
                let expected = expected.map(|(id, _)| id);
                Err(out_of_order(format!("the echo of heartbeat {id} came, expected {expected:?}")))
            }
        }
    }

    fn on_acknowledge(&mut self, received: Option<Cursor>, credits: u64) -> Result<Vec<Action>, Refusal> {
        if let Some(cursor) = received.filter(|cursor| cursor.log != self.me.log) {
            return Err(out_of_order(format!(
                "the peer acknowledged {cursor}, which is of another log than {}",
                self.me.log
            )));
        }
        self.outstanding = self.outstanding.checked_sub(credits).ok_or_else(|| {
            out_of_order(format!("the peer gave {credits} bytes back, {} were under way", self.outstanding))
        })?;
        let mut actions = Vec::with_capacity(2);
        actions.extend(received.map(Action::Acknowledged));
        if credits > 0 {
            actions.push(Action::Credits);
        }
        Ok(actions)
    }
}

#[cfg(test)]
mod tests;
