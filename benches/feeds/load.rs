//! The same load for whoever is measured: connections that ask one after the other, and the rate of what is answered.

use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};

/// How much, and for how long.
#[derive(Clone, Copy)]
pub struct Load {
    /// At once.
    pub connections: usize,
    /// Before it is measured.
    pub warm: Duration,
    /// While it is measured.
    pub time: Duration,
}

/// What connections have in common.
#[derive(Clone, Default)]
pub struct Count {
    events: Rc<Cell<u64>>,
    stop: Rc<Cell<bool>>,
}

impl Count {
    /// So many events more have been answered.
    pub fn add(&self, events: u64) {
        self.events.set(self.events.get() + events);
    }

    /// How many have been.
    pub fn events(&self) -> u64 {
        self.events.get()
    }

    /// Whether it is over.
    pub fn is_over(&self) -> bool {
        self.stop.get()
    }

    /// It is over after what is under way.
    pub fn end(&self) {
        self.stop.set(true);
    }
}

impl Load {
    /// Runs the connections; the rate of what is answered in the middle, per second, and all that was.
    pub async fn rate<F: Future<Output = ()> + 'static>(&self, connection: impl Fn(usize, Count) -> F) -> (f64, u64) {
        let count = Count::default();
        let tasks: Vec<_> =
            (0..self.connections).map(|number| tokio::task::spawn_local(connection(number, count.clone()))).collect();
        tokio::time::sleep(self.warm).await;
        let (began, before) = (Instant::now(), count.events());
        tokio::time::sleep(self.time).await;
        let rate = (count.events() - before) as f64 / began.elapsed().as_secs_f64();
        count.end();
        for task in tasks {
            task.await.expect("a connection works");
        }
        (rate, count.events())
    }
}

/// An event: JSON of exactly so many bytes, with a number of its own.
pub fn event(number: u64, bytes: usize) -> String {
    let front =
        format!("{{\"order\":{},\"customer\":\"c-{:04}\",\"note\":\"", 1_000_000_000_000 + number, number % 10_000);
    let rest = bytes - front.len() - 2;
    format!("{front}{}\"}}", "x".repeat(rest))
}
