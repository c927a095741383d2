//! A feed as its mirrors get it: the entries' bytes at their positions, with the epochs that they belong to.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use super::Feed;
use crate::log::{CursorRefused, Limit, Log, SourceError};
use crate::model::{Cursor, Epoch, Fingerprint, Position, Timestamp, limits};
use crate::peer::FeedEntries;

/// A feed cannot be mirrored, or not from there.
#[derive(Debug, Error)]
pub enum RawRefused {
    /// There is no such partition.
    #[error("there is no partition {0}")]
    NoPartition(u32),
    /// The cursor is not one of this log's, or the epochs have parted before it.
    #[error(transparent)]
    Cursor(#[from] CursorRefused),
    /// Reading failed; what was asked for may have been trimmed.
    #[error(transparent)]
    Source(#[from] SourceError),
}

/// Reads one partition for one mirror.
pub struct RawReader {
    feed: Arc<Feed>,
    log: Arc<dyn Log>,
    partition: u32,
    after: Position,
    tail: watch::Receiver<Position>,
}

impl RawReader {
    /// After a cursor; without one from the oldest.
    ///
    /// # Errors
    /// The cursor is not valid here.
    pub fn new(feed: Arc<Feed>, partition: u32, after: Option<Cursor>) -> Result<RawReader, RawRefused> {
        let at = feed.partitions.get(partition as usize).ok_or(RawRefused::NoPartition(partition))?;
        let log = at.log.clone();
        let after = match after {
            Some(cursor) => {
                log.check(cursor)?;
                cursor.position
            }
            None => Position(log.info().oldest.0.saturating_sub(1)),
        };
        let tail = log.tail();
        Ok(RawReader { feed, log, partition, after, tail })
    }

    /// Waits until something comes next, at the latest until `wait` is over, without reading it. Cancel-safe.
    pub async fn ready(&mut self, wait: Duration) {
        let after = self.after;
        // Whatever ends it, reading says.
        let _ = tokio::time::timeout(wait, self.tail.wait_for(|tail| *tail != after)).await;
    }

    /// What comes next, at the latest after `wait`: then perhaps nothing. Cancel-safe.
    ///
    /// # Errors
    /// What comes next has been trimmed, or the log cannot be read.
    pub async fn next(&mut self, wait: Duration) -> Result<FeedEntries, RawRefused> {
        let until = Instant::now() + wait;
        loop {
            self.tail.mark_unchanged();
            let batch = self.log.read(self.after.into(), Limit::default()).await?;
            if batch.next != self.after.into() || Instant::now() >= until {
                let first = self.after.next();
                let mut entries = self.stretch(first);
                let mut named = HashSet::new();
                for logged in batch.entries {
                    let tables = logged.entry.header().tables.iter();
                    let new: HashSet<Fingerprint> = tables.filter(|table| !named.contains(*table)).copied().collect();
                    // A receiver takes so many definitions at once; one entry has no more.
                    if named.len() + new.len() > limits::OFFERS_MAX {
                        break;
                    }
                    entries.tables.extend(new.iter().filter_map(|table| batch.catalog.get(*table)));
                    named.extend(new);
                    entries.entries.push(logged.entry);
                }
                let last = Position(self.after.0 + entries.entries.len() as u64);
                entries.epochs = between(&self.log.info().epochs, first, last);
                self.after = last;
                return Ok(entries);
            }
            if let Ok(Err(_)) = timeout_at(until, self.tail.changed()).await {
                return Err(SourceError::Closed.into());
            }
        }
    }

    fn stretch(&self, first: Position) -> FeedEntries {
        FeedEntries {
            log: self.feed.name.clone(),
            partition: self.partition,
            first,
            epochs: Vec::new(),
            tables: Vec::new(),
            entries: Vec::new(),
            tail: *self.tail.borrow(),
            time: Timestamp::now(),
        }
    }
}

/// The epoch of a position and those that begin behind it, up to `last`.
fn between(epochs: &[(Epoch, Position)], first: Position, last: Position) -> Vec<(Epoch, Position)> {
    let from = epochs.partition_point(|(_, begins)| *begins <= first).saturating_sub(1);
    epochs[from..].iter().take_while(|(_, begins)| *begins <= last.max(first)).copied().collect()
}

/// The epoch of a position, by such a list.
pub(super) fn epoch_of(epochs: &[(Epoch, Position)], position: Position) -> Option<Epoch> {
    let after = epochs.partition_point(|(_, begins)| *begins <= position);
    Some(epochs.get(after.checked_sub(1)?)?.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stretch_has_the_epochs_of_its_positions_and_no_others() {
        let all: Vec<_> = [(1, 1), (2, 5), (3, 5), (4, 9)].map(|(e, p)| (Epoch(e), Position(p))).to_vec();
        let names = |first, last| -> Vec<u64> {
            between(&all, Position(first), Position(last)).iter().map(|(epoch, _)| epoch.0).collect()
        };
        assert_eq!(names(1, 3), [1]);
        assert_eq!(names(4, 5), [1, 2, 3]);
        assert_eq!(names(5, 8), [3]);
        assert_eq!(names(6, 20), [3, 4]);
        assert_eq!(names(10, 9), [4]);
        let of = |position| epoch_of(&all, Position(position)).map(|epoch| epoch.0);
        assert_eq!([of(4), of(5), of(9), of(0)], [Some(1), Some(3), Some(4), None]);
    }
}
