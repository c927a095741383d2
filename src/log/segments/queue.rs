//! Group commit: appends that come while one group is written form the next.
//!
//! Whoever finds nobody leading leads: it takes what is queued, writes it and wakes the others. So a lone appender
//! changes no thread. A leader's duty has no await in it, so dropping a future cannot leave the queue without one. Its
//! own append done, a leader hands what has come meanwhile to the worker thread, which leads until the queue is empty.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::shared::Shared;
use crate::log::{Append, AppendError, Draft};
use crate::model::{Cursor, Lamport, limits};

/// An append and whom to tell.
pub(super) struct Pending {
    pub append: Append,
    pub answer: oneshot::Sender<Result<(Cursor, Lamport), AppendError>>,
    /// Gives the place in the queue back.
    pub _permit: OwnedSemaphorePermit,
}

#[derive(Default)]
struct Waiting {
    pending: VecDeque<Pending>,
    leading: bool,
    /// How many appends a leader waits for at the moment; 0 when none waits.
    wanted: usize,
    /// Appends in the last group.
    last_group: usize,
}

#[derive(Default)]
pub(super) struct Queue {
    waiting: Mutex<Waiting>,
    more: Condvar,
}

impl Queue {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues an append; true if the caller leads now, and has to call [`lead`].
    pub fn push(&self, pending: Pending) -> bool {
        let mut waiting = self.waiting();
        waiting.pending.push_back(pending);
        if waiting.wanted > 0 && waiting.pending.len() >= waiting.wanted {
            waiting.wanted = 0;
            self.more.notify_one();
        }
        !std::mem::replace(&mut waiting.leading, true)
    }

    /// Takes the lead if there is something to do and nobody leads.
    pub fn take_over(&self) -> bool {
        let mut waiting = self.waiting();
        let needed = !waiting.leading && !waiting.pending.is_empty();
        waiting.leading |= needed;
        needed
    }

    /// The next group. Waits a little for those that were in the last one, when there were several.
    fn next(&self, wait: bool) -> Vec<Pending> {
        let mut waiting = self.waiting();
        if wait && waiting.last_group > 1 && waiting.pending.len() < waiting.last_group {
            waiting.wanted = waiting.last_group;
            let until = Instant::now() + limits::LOG_GROUP_DELAY_MAX;
            while waiting.wanted > 0 {
                let Some(left) = until.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) else {
                    break;
                };
                let woken = self.more.wait_timeout(waiting, left).unwrap_or_else(PoisonError::into_inner);
                waiting = woken.0;
            }
            waiting.wanted = 0;
        }
        let mut group: Vec<Pending> = Vec::with_capacity(waiting.pending.len());
        let mut bytes = 0;
        while let Some(next) = waiting.pending.front() {
            let (next_bytes, large) = size(&next.append);
            if !group.is_empty() && (large || bytes + next_bytes > limits::BATCH_BYTES_MAX) {
                break;
            }
            bytes += next_bytes;
            group.extend(waiting.pending.pop_front());
            if large {
                break;
            }
        }
        waiting.last_group = group.len();
        group
    }

    /// Ends the lead; false if something has come meanwhile, and the lead goes on.
    fn resign(&self) -> bool {
        let mut waiting = self.waiting();
        waiting.leading = !waiting.pending.is_empty();
        !waiting.leading
    }
}

/// Encoded bytes, about, and whether it is large.
fn size(append: &Append) -> (usize, bool) {
    let mut bytes = 0;
    let mut large = false;
    for draft in &append.drafts {
        bytes += match draft {
            Draft::Local { changes, .. } => changes.len() + 128,
            Draft::Relayed(entry) | Draft::Mirrored { entry, .. } => entry.bytes().len() + 4,
            Draft::Expect(_) => 0,
            Draft::Large { .. } => {
                large = true;
                0
            }
        };
    }
    (bytes, large)
}

/// The leader's duty. An appender (`patient == false`) writes one group and hands the rest on to the worker; the worker
/// stays until there is nothing left.
pub(super) fn lead(shared: &Shared, patient: bool) {
    loop {
        lead_once(shared, patient);
        if shared.queue.resign() {
            return;
        }
        if !patient && shared.worker.hand_over() {
            return;
        }
    }
}

fn lead_once(shared: &Shared, patient: bool) {
    let group = shared.queue.next(patient);
    if group.is_empty() {
        return;
    }
    let mut appends = Vec::with_capacity(group.len());
    let mut waiters = Vec::with_capacity(group.len());
    for pending in group {
        appends.push(pending.append);
        waiters.push((pending.answer, pending._permit));
    }
    let answers = match shared.writer().as_mut() {
        Some(writer) => writer.append(shared, appends),
        None => appends.iter().map(|_| Err(AppendError::Closed)).collect(),
    };
    shared.worker.appended();
    for ((waiter, _permit), answer) in waiters.into_iter().zip(answers) {
        // Whoever dropped the future does not want to know.
        let _ = waiter.send(answer);
    }
}
