//! What goes out ahead of entries. Bounded by its shape: later announcements replace earlier ones, acknowledgements add
//! up, and of echoes there are no more than a peer may have heartbeats under way.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::host::{Below, NodeRef, Refusal};
use super::protocol::Message;
use super::refusal::out_of_order;
use super::socket::Frame;
use crate::model::{Cursor, limits};

#[derive(Default)]
struct Slots {
    ping: Option<u64>,
    acknowledge: Option<(Option<Cursor>, u64)>,
    echoes: VecDeque<u64>,
    path: Option<Vec<NodeRef>>,
    below: Option<Vec<Below>>,
}

/// The messages that wait for the writer, other than entries and what the node sends by its handle.
#[derive(Default)]
pub(super) struct Outbox {
    slots: Mutex<Slots>,
    changed: Notify,
}

impl Outbox {
    fn slots(&self) -> MutexGuard<'_, Slots> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A ping; replaces one that waits.
    pub(super) fn ping(&self, number: u64) {
        self.slots().ping = Some(number);
        self.changed.notify_one();
    }

    /// What our subtree has become; replaces an announcement that waits.
    pub(super) fn below(&self, below: Vec<Below>) {
        self.slots().below = Some(below);
        self.changed.notify_one();
    }

    /// A message of the session.
    pub(super) fn push(&self, message: Message) -> Result<(), Refusal> {
        let mut slots = self.slots();
        match message {
            Message::Acknowledge { received, credits } => {
                let (before, sum) = slots.acknowledge.take().unwrap_or_default();
                slots.acknowledge = Some((received.or(before), sum + credits));
            }
            Message::HeartbeatEcho { id } => {
                if slots.echoes.len() >= limits::HEARTBEATS_UNANSWERED_MAX {
                    return Err(out_of_order(format!("heartbeat {id} came before earlier ones were answered")));
                }
                slots.echoes.push_back(id);
            }
            Message::Path(path) => slots.path = Some(path),
            other => unreachable!("the session does not send {}", other.name()),
        }
        drop(slots);
        self.changed.notify_one();
        Ok(())
    }

    /// The next small frame: it may pass between fragments.
    pub(super) fn next_small(&self) -> Option<Frame> {
        let mut slots = self.slots();
        if let Some(number) = slots.ping.take() {
            return Some(Frame::Ping(number));
        }
        let acknowledge =
            slots.acknowledge.take().map(|(received, credits)| Message::Acknowledge { received, credits });
        let message = acknowledge
            .or_else(|| slots.echoes.pop_front().map(|id| Message::HeartbeatEcho { id }))
            .or_else(|| slots.path.take().map(Message::Path))?;
        Some(Frame::Message(message.encode()))
    }

    /// The next message that may need fragments.
    pub(super) fn next_large(&self) -> Option<Message> {
        self.slots().below.take().map(Message::Below)
    }

    /// Waits until something may have been added.
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }
}
