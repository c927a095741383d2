//! Appends that may come twice, known by their idempotency key.

use std::collections::{HashMap, VecDeque};

use sha2::{Digest, Sha256};
use tokio::sync::watch;

use crate::model::{Position, limits};

/// Of an append's rows, so that a key that is used for something else is noticed.
pub(super) fn digest(changes: &[u8]) -> u64 {
    let mut first = [0; 8];
    first.copy_from_slice(&Sha256::digest(changes)[..8]);
    u64::from_be_bytes(first)
}

/// What is known of a key.
pub(super) enum Known {
    /// Nothing: whoever asked appends, and drops the sender once it has noted the outcome.
    New(watch::Sender<()>),
    /// It is being appended; ask again when this ends.
    Running(watch::Receiver<()>),
    /// It was appended there.
    Done(Position),
    /// It was appended with other rows, there.
    Other(Position),
}

/// The keys of one partition.
#[derive(Default)]
pub(super) struct Requests {
    done: HashMap<Box<str>, (u64, Position)>,
    order: VecDeque<(Position, Box<str>)>,
    running: HashMap<Box<str>, watch::Receiver<()>>,
}

impl Requests {
    /// Looks a key up, and takes it where it is new.
    pub fn ask(&mut self, key: &str, digest: u64) -> Known {
        match self.done.get(key) {
            Some((known, position)) if *known == digest => return Known::Done(*position),
            Some((_, position)) => return Known::Other(*position),
            None => {}
        }
        // A sender that is gone without a note has failed: it may be tried again.
        if let Some(running) = self.running.get(key).filter(|running| running.has_changed().is_ok()) {
            return Known::Running(running.clone());
        }
        let (sender, receiver) = watch::channel(());
        self.running.insert(key.into(), receiver);
        Known::New(sender)
    }

    /// Notes that a key was appended, and forgets those that are too old.
    pub fn done(&mut self, key: &str, digest: u64, position: Position) {
        self.running.remove(key);
        self.done.insert(key.into(), (digest, position));
        self.order.push_back((position, key.into()));
        while let Some((at, _)) = self.order.front()
            && at.0 + limits::FEED_REQUESTS_WINDOW <= position.0
        {
            let Some((at, key)) = self.order.pop_front() else { break };
            if self.done.get(&key).is_some_and(|(_, known)| *known == at) {
                self.done.remove(&key);
            }
        }
    }

    /// An append of that key has failed.
    pub fn failed(&mut self, key: &str) {
        self.running.remove(key);
    }
}
