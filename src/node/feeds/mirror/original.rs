//! Where the entries of a mirror come from, however they come.

use async_trait::async_trait;

use super::trouble::Trouble;
use crate::model::Cursor;
use crate::peer::{FeedEntries, FeedFacts};

/// The feed that is mirrored.
#[async_trait]
pub(super) trait Original: Send + Sync {
    /// What the feed is now, and one partition of it after a cursor that is checked there. Without a cursor only what the
    /// feed is, is wanted.
    ///
    /// # Errors
    /// It cannot be reached, has no such feed, or the cursor is none of its own.
    async fn open(&self, partition: u32, after: Option<Cursor>) -> Result<(FeedFacts, Box<dyn Stretches>), Trouble>;
    /// Returns when something has changed by which it may be reached; never for most.
    async fn changed(&self) {
        std::future::pending().await
    }
}

/// One partition that is being read.
#[async_trait]
pub(super) trait Stretches: Send {
    /// What comes next, perhaps nothing; at least every [`crate::model::limits::MIRROR_PING_INTERVAL`] something comes.
    /// Cancel-safe.
    ///
    /// # Errors
    /// The connection has ended, or what comes is not readable.
    async fn next(&mut self) -> Result<FeedEntries, Trouble>;
}
