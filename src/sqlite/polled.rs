//! Capture and reading as every database does it.

use std::time::Duration;

use async_trait::async_trait;

use super::capture::Capture;
use super::copy::Reader;
use super::error::CaptureError;
use crate::log::{self, CaptureFailure, CaptureTrouble, Polled};
use crate::model::{Row, SourceCursor, TableName, limits};
use crate::view::{Chunk, TableReader, blocking};

impl From<CaptureError> for CaptureFailure {
    fn from(error: CaptureError) -> CaptureFailure {
        let kind = match () {
            () if error.needs_operator() => CaptureTrouble::Operator,
            () if error.is_locked() => CaptureTrouble::Locked,
            () if error.is_retryable() => CaptureTrouble::Retry,
            () => CaptureTrouble::Failed,
        };
        CaptureFailure { what: error.to_string(), kind }
    }
}

impl log::Capture for Capture {
    fn place(&self) -> SourceCursor {
        Capture::place(self)
    }

    fn poll(&mut self) -> Result<Polled, CaptureFailure> {
        let Some(captured) = Capture::poll(self)? else { return Ok(Polled::Current) };
        Ok(Polled::Captured(log::Captured {
            drafts: vec![captured.draft],
            tables: captured.tables,
            upto: captured.upto,
            changes: captured.changes,
            recreated: captured.recreated,
            dropped: captured.dropped,
            current: true,
        }))
    }

    fn wait(&mut self, quiet: bool) {
        let interval: Duration = if quiet { limits::CAPTURE_QUIET_INTERVAL } else { limits::CAPTURE_POLL_INTERVAL };
        std::thread::sleep(interval);
    }

    fn release(&mut self, upto: &SourceCursor) -> Result<(), CaptureFailure> {
        Ok(Capture::release(self, upto)?)
    }

    fn retry(&mut self) {
        Capture::retry(self);
    }

    fn request_rescan(&mut self, table: &TableName) {
        Capture::request_rescan(self, table);
    }
}

#[async_trait]
impl TableReader for Reader {
    async fn read_lines(
        &mut self,
        table: &TableName,
        after: Option<&Row>,
        rows_max: usize,
        bytes_max: usize,
    ) -> Result<Chunk, String> {
        let read = blocking(|| Reader::read_chunk(self, table, after, rows_max, bytes_max));
        read.map_err(|error| error.to_string())
    }
}
