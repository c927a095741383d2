//! How far a view's output has been published, as the log of that output knows it.

use bytes::Bytes;

use crate::model::{Cursor, SourceCursor};
use crate::view::{Outgoing, Waiting};

/// What stands first in it.
const KIND: &str = "view1";

/// What is durable with the last append.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Told {
    /// Of the store.
    pub lineage: u64,
    /// The last of what it kept.
    pub number: u64,
    /// By which transaction of the view's log.
    pub cursor: Option<Cursor>,
}

impl Told {
    /// `view1 LINEAGE NUMBER CURSOR`, the last one `-` where there is none.
    pub(super) fn written(&self) -> SourceCursor {
        let cursor = self.cursor.map_or_else(|| "-".to_owned(), |cursor| cursor.to_string());
        SourceCursor(Bytes::from(format!("{KIND} {:016x} {} {cursor}", self.lineage, self.number)))
    }

    /// `None`: it is nothing that this version has written.
    pub(super) fn read(told: &SourceCursor) -> Option<Told> {
        let text = std::str::from_utf8(&told.0).ok()?;
        let mut words = text.split(' ');
        let told = (words.next()?, words.next()?, words.next()?, words.next()?, words.next());
        let (KIND, lineage, number, cursor, None) = told else { return None };
        let cursor = if cursor == "-" { None } else { Some(cursor.parse().ok()?) };
        Some(Told { lineage: u64::from_str_radix(lineage, 16).ok()?, number: number.parse().ok()?, cursor })
    }

    /// Whether what the store keeps follows what stands in the log. A store that went back to an earlier state comes to the same
    /// again where there is one order of transactions; of several partitions nobody knows in which they were taken. What it has
    /// forgotten and the log does not have was published elsewhere.
    pub(super) fn goes_on_with(&self, waiting: &Waiting, single: bool) -> bool {
        let in_turn = single || self.number <= waiting.last;
        self.lineage == waiting.lineage && self.number >= waiting.forgotten && in_turn
    }

    /// Whether that stands in the log already.
    pub(super) fn has(&self, part: &Outgoing, single: bool) -> bool {
        match self.cursor.filter(|cursor| single && cursor.log == part.cause.cursor.log) {
            Some(cursor) => part.cause.cursor.position <= cursor.position,
            None => part.number <= self.number,
        }
    }

    /// Whether a store that begins anew is behind what stands in the log, and will come there.
    pub(super) fn is_before(&self, reached: &[Cursor], known: impl Fn(Cursor) -> bool) -> bool {
        let Some(told) = self.cursor.filter(|&cursor| known(cursor)) else { return false };
        let at = reached.iter().find(|reached| reached.log == told.log);
        at.is_none_or(|at| at.position < told.position)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::{Epoch, LogId, Position};

    #[test]
    fn what_is_written_is_read_and_nothing_else() {
        let cursor = Cursor { log: LogId(7), epoch: Epoch(9), position: Position(u64::MAX) };
        for cursor in [None, Some(cursor)] {
            let told = Told { lineage: u64::MAX, number: 3, cursor };
            assert_eq!(Told::read(&told.written()), Some(told));
        }
        for other in
            ["", "view1", "view2 1 2 -", "view1 x 2 -", "view1 1 -2 -", "view1 1 2 - -", "view1 1 2 3", "\u{0}"]
        {
            assert_eq!(Told::read(&SourceCursor(Bytes::from(other))), None, "{other:?}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_are_trouble(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Told::read(&SourceCursor(Bytes::from(bytes)));
        }
    }
}
