//! The background thread of a log: keeps a segment in reserve, notes what is durable when appends pause, removes what
//! retention lets go, and leads group commits that an appender has handed over.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use super::queue;
use super::retain;
use super::shared::Shared;
use crate::model::limits;

#[derive(Default)]
struct Orders {
    /// Something may have to be prepared or removed.
    chores: bool,
    /// The lead of the group commit has been handed over.
    lead: bool,
    running: bool,
    stop: bool,
}

/// How others wake the worker.
#[derive(Default)]
pub(super) struct Wake {
    orders: Mutex<Orders>,
    woken: Condvar,
    /// Something has been appended since the worker last looked.
    appended: AtomicBool,
}

impl Wake {
    fn orders(&self) -> MutexGuard<'_, Orders> {
        self.orders.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// There are chores.
    pub fn wake(&self) {
        self.orders().chores = true;
        self.woken.notify_one();
    }

    /// Hands the lead over; false if there is no worker to take it.
    pub fn hand_over(&self) -> bool {
        let mut orders = self.orders();
        orders.lead = orders.running && !orders.stop;
        self.woken.notify_one();
        orders.lead
    }

    /// An append has been made: a durable mark is due when nothing follows.
    pub fn appended(&self) {
        if !self.appended.swap(true, Ordering::Relaxed) {
            // Under the lock, so that the worker either sees it or is waiting.
            let _orders = self.orders();
            self.woken.notify_one();
        }
    }

    fn stop(&self) {
        self.orders().stop = true;
        self.woken.notify_one();
    }
}

/// The thread; stopped and joined when dropped.
pub(super) struct Worker {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Worker {
    pub fn start(shared: Arc<Shared>) -> std::io::Result<Worker> {
        shared.worker.orders().running = true;
        shared.worker.orders().chores = true;
        let its = shared.clone();
        let thread = std::thread::Builder::new().name("log".into()).spawn(move || run(&its))?;
        Ok(Worker { shared, thread: Some(thread) })
    }

    /// Ends the thread after what it is doing.
    pub fn stop(&mut self) {
        self.shared.worker.stop();
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            assert!(ended.is_ok() || std::thread::panicking(), "the log's worker panicked");
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.stop();
    }
}

fn run(shared: &Shared) {
    let wake = &shared.worker;
    let mut marking = false;
    let mut short_of_space = false;
    loop {
        let (chores, lead, stop) = {
            let mut orders = wake.orders();
            if !(orders.chores || orders.lead || orders.stop) {
                let busy = marking || wake.appended.load(Ordering::Relaxed);
                let pause = match (busy, short_of_space) {
                    (true, _) => limits::LOG_IDLE_MARK_DELAY,
                    (false, true) => Duration::from_secs(1),
                    (false, false) => Duration::from_secs(60),
                };
                orders = wake.woken.wait_timeout(orders, pause).unwrap_or_else(PoisonError::into_inner).0;
            }
            let taken = (std::mem::take(&mut orders.chores), std::mem::take(&mut orders.lead), orders.stop);
            orders.running = !orders.stop;
            taken
        };
        if lead {
            queue::lead(shared, true);
        }
        if stop {
            return;
        }
        if chores || short_of_space || !(marking || lead) {
            short_of_space = shared.reserve.fill().is_err();
            // What cannot be removed now is tried again after the next segment.
            let _ = retain::trim(shared, None);
        }
        let appended = wake.appended.swap(false, Ordering::Relaxed);
        if marking && !appended {
            mark(shared);
        }
        marking = appended;
    }
}

fn mark(shared: &Shared) {
    if let Some(writer) = shared.writer().as_mut() {
        let idle = writer.last_append.elapsed() >= limits::LOG_IDLE_MARK_DELAY;
        // A failed mark breaks the writer, and the next append says so.
        let _ = if idle { writer.mark(shared) } else { Ok(()) };
    }
}
