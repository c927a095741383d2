//! Feeds as they travel to their mirrors: what there is of one, and stretches of its entries at their positions.

use std::sync::Arc;

use crate::log::CursorRefused;
use crate::model::{Cursor, Entry, Epoch, Lamport, LogId, Position, TableDef, Timestamp};

/// Why a request for a stretch is refused; over links.
pub mod code {
    /// The feed is not sent to that peer, or is not there.
    pub const NOT_SENT: &str = "WS-SEND-010";
    /// It has no such partition.
    pub const NO_PARTITION: &str = "WS-SEND-011";
    /// The cursor is not valid there.
    pub const CURSOR: &str = "WS-SEND-012";
    /// What comes next has been trimmed.
    pub const TRIMMED: &str = "WS-SEND-013";
    /// It cannot be read there.
    pub const UNREADABLE: &str = "WS-SEND-014";
}

/// One partition of a feed, as it stands at the sender.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FeedPart {
    /// The log's id; its mirrors have the same.
    pub id: LogId,
    /// Epochs and the first position of each, oldest first.
    pub epochs: Vec<(Epoch, Position)>,
    /// The first position that can be read.
    pub oldest: Position,
    /// The durable tail.
    pub tail: Position,
    /// The highest Lamport time in it.
    pub lamport: Lamport,
}

impl FeedPart {
    /// Whether a cursor is valid there; the same rule as [`crate::log::Log::check`].
    ///
    /// # Errors
    /// It is not: another log, or one whose epochs have parted from those that the cursor knows.
    pub fn check(&self, cursor: Cursor) -> Result<(), CursorRefused> {
        if cursor.log != self.id {
            return Err(CursorRefused::OtherLog { expected: cursor.log, actual: self.id });
        }
        let Some(at) = self.epochs.iter().position(|(epoch, _)| *epoch == cursor.epoch) else {
            return Err(CursorRefused::UnknownEpoch(cursor.epoch));
        };
        let next = self.epochs.get(at + 1).map(|(_, first)| Position(first.0.saturating_sub(1)));
        let end = next.unwrap_or(self.tail);
        match cursor.position > end {
            true => Err(CursorRefused::BeyondEpoch { position: cursor.position, end }),
            false => Ok(()),
        }
    }
}

/// A feed, as it stands at the sender.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FeedFacts {
    /// Its name there.
    pub log: Box<str>,
    /// Its partitions, in their order; at least one.
    pub parts: Vec<FeedPart>,
}

/// A stretch of one partition, without a gap.
#[derive(Clone, Debug, PartialEq)]
pub struct FeedEntries {
    /// The feed's name at the sender.
    pub log: Box<str>,
    /// Which partition.
    pub partition: u32,
    /// The position of the first entry; those that follow have the next ones.
    pub first: Position,
    /// The epochs of these entries, with the first position of each; oldest first.
    pub epochs: Vec<(Epoch, Position)>,
    /// Definitions of the tables that they name.
    pub tables: Vec<Arc<TableDef>>,
    /// Whole entries; none: nothing is there yet.
    pub entries: Vec<Entry>,
    /// The sender's durable tail.
    pub tail: Position,
    /// The sender's clock.
    pub time: Timestamp,
}

/// Messages about feeds; `node` has the logic, a link or an HTTP answer only carries them.
#[derive(Clone, Debug, PartialEq)]
pub enum FeedMessage {
    /// Everything that the speaker lets be mirrored (over HTTP: the one feed that was asked for).
    Feeds(Vec<FeedFacts>),
    /// Receiver to sender: what comes next, please. One answer is given, when there is something or after a while.
    Request {
        /// The feed's name at the sender.
        log: Box<str>,
        /// Which partition.
        partition: u32,
        /// The receiver has everything up to here.
        after: Cursor,
    },
    /// Sender to receiver: the answer.
    Entries(FeedEntries),
    /// Sender to receiver: there is no answer.
    Refused {
        /// The feed's name at the sender.
        log: Box<str>,
        /// Which partition.
        partition: u32,
        /// Greppable.
        code: String,
        /// What happened.
        why: String,
    },
}
