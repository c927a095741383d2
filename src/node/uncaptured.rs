//! A database of which nothing is captured: a copy that nobody reads from.

use std::time::Duration;

use crate::log::{Capture, CaptureFailure, Polled};
use crate::model::{SourceCursor, TableName};

/// Between looks whether to stop.
const PAUSE: Duration = Duration::from_millis(100);
/// What the log notes of such a database.
const NOTHING: &[u8] = b"nothing captured";

/// Reads nothing, and so needs nothing of the database: no slot that retains its transaction log, no decoding.
pub(super) struct Uncaptured;

impl Uncaptured {
    /// Whether the log's place in a database is that nothing of it was ever captured.
    pub(super) fn is_place(place: &SourceCursor) -> bool {
        place.0 == NOTHING
    }
}

impl Capture for Uncaptured {
    fn place(&self) -> SourceCursor {
        SourceCursor(NOTHING.into())
    }

    fn poll(&mut self) -> Result<Polled, CaptureFailure> {
        Ok(Polled::Current)
    }

    fn wait(&mut self, _quiet: bool) {
        std::thread::sleep(PAUSE);
    }

    fn release(&mut self, _upto: &SourceCursor) -> Result<(), CaptureFailure> {
        Ok(())
    }

    fn retry(&mut self) {}

    fn request_rescan(&mut self, _table: &TableName) {}
}
