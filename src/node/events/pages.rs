//! The events of a range, read page by page.

use std::collections::VecDeque;

use crate::model::limits;
use crate::view::{EventsError, EventsTable, StoredEvent};

/// What of a range has been read and not yet taken.
pub(super) struct Pages {
    /// The least id that has not been read; `None` when the range is at its end.
    next: Option<i64>,
    last: i64,
    read: VecDeque<StoredEvent>,
}

impl Pages {
    /// `first` and `last` are inclusive.
    pub(super) fn new(first: i64, last: i64) -> Pages {
        Pages { next: (first <= last).then_some(first), last, read: VecDeque::new() }
    }

    /// Reads on if nothing is left of what was read.
    pub(super) async fn fill(&mut self, table: &mut dyn EventsTable) -> Result<(), EventsError> {
        let Some(next) = self.next.filter(|_| self.read.is_empty()) else { return Ok(()) };
        self.read = table.range(next, self.last, limits::EVENTS_COMPARE_ROWS).await?.into();
        let read = self.read.back().map(|event| event.id);
        self.next = read.and_then(|id| id.checked_add(1)).filter(|next| *next <= self.last);
        Ok(())
    }

    /// The id that [`Pages::take`] gives next, after [`Pages::fill`]; `None` at the end.
    pub(super) fn head(&self) -> Option<i64> {
        self.read.front().map(|event| event.id)
    }

    /// The next event.
    pub(super) fn take(&mut self) -> Option<StoredEvent> {
        self.read.pop_front()
    }
}
