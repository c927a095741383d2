//! What a read of a log gives, and what a view is given.

use std::sync::Arc;

use super::{Catalog, Cursor, Entry, LinkId, Position};

/// Where to go on reading: after position `after`; if `part` > 0, at that part of the entry at `after + 1`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct ReadFrom {
    /// Exclusive: everything up to and including it has been read.
    pub after: Position,
    /// 0-based part of the entry at `after.next()` that comes next.
    pub part: u32,
}

impl From<Position> for ReadFrom {
    fn from(after: Position) -> Self {
        ReadFrom { after, part: 0 }
    }
}

/// An entry (or one part of a large one) at its place in a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Logged {
    /// Its position; the same for all parts of one transaction.
    pub position: Position,
    /// The link by which it arrived.
    pub from: LinkId,
    /// The transaction.
    pub entry: Entry,
}

/// A run of entries in log order.
#[derive(Clone, Debug)]
pub struct Batch {
    /// The entries, positions ascending, parts of one position ascending and adjacent.
    pub entries: Vec<Logged>,
    /// Everything up to and including it is covered by this batch and those before it (also what was filtered out).
    /// The position of the last *complete* entry. Always set; equal to the start when caught up.
    pub upto: Cursor,
    /// Where the next read starts.
    pub next: ReadFrom,
    /// Has the definition of every table named in `entries`.
    pub catalog: Arc<Catalog>,
}
