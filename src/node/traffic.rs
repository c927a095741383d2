//! What a node counts of its connections over HTTP.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Counters, since the node started.
#[derive(Debug, Default)]
pub struct Traffic {
    /// Connections that are open.
    pub open: AtomicU64,
    /// Connections that were turned away, because there were too many.
    pub turned_away: AtomicU64,
    /// Connections that were cut off, because they took nothing of their answer.
    pub cut_off: AtomicU64,
    /// Requests and TLS handshakes that did not come to their end in time.
    pub late: AtomicU64,
    /// Requests that were refused because their token asks too much.
    pub limited: AtomicU64,
}

impl Traffic {
    /// One more of something.
    pub fn count(counter: &AtomicU64) {
        counter.fetch_add(1, Relaxed);
    }

    /// One less.
    pub fn uncount(counter: &AtomicU64) {
        counter.fetch_sub(1, Relaxed);
    }
}
