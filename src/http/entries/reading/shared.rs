//! What many readers of one place get: formatted once, and kept for those who come after.

use axum::body::Bytes;

use super::{Form, ReadError, Reading};
use crate::log::Limit;
use crate::model::{Logged, ReadFrom, limits};
use crate::node::feeds::Piece;

/// What stands around an entry's changes, about, in bytes.
const LINE_BYTES: usize = 400;

impl Reading {
    /// Whether other readers get the same from where it is.
    pub(super) fn is_shared(&self) -> bool {
        let whole = self.wanted.is_everything() && self.sieve.is_none() && self.left == u64::MAX;
        whole && self.form != Form::Lines && self.parts.len() == 1
    }

    /// The next piece of what many readers get; `None`: nothing more is there.
    pub(super) async fn stretch(&mut self) -> Result<Option<Bytes>, ReadError> {
        let part = &mut self.parts[0];
        let tail = *part.tail.borrow_and_update();
        if part.from == ReadFrom::from(tail) {
            return Ok(None);
        }
        let of = (part.log.id(), part.from, self.form == Form::Events);
        let generation = match self.node.shared.feeds.pieces.get(&of) {
            Ok(piece) => {
                part.from = piece.next;
                return Ok(Some(piece.text));
            }
            Err(generation) => generation,
        };
        let limit = Limit { bytes: limits::FEED_PIECE_BYTES, ..Limit::default() };
        let mut batch = part.log.read(part.from, limit).await?;
        if batch.next == part.from {
            return Ok(None);
        }
        let meets = |logged: &Logged| {
            logged.position.0.is_multiple_of(limits::FEED_PIECE_ENTRIES) && !logged.entry.header().more
        };
        if let Some(meeting) = batch.entries.iter().rposition(meets) {
            batch.entries.truncate(meeting + 1);
            batch.next = batch.entries[meeting].position.into();
        }
        let (log, number) = (part.log.clone(), part.number);
        let size = |logged: &Logged| logged.entry.bytes().len() + LINE_BYTES;
        let mut text = String::with_capacity(batch.entries.iter().map(size).sum());
        for logged in &batch.entries {
            self.write(&mut text, logged, &log, number, &batch.catalog);
        }
        text.shrink_to_fit();
        self.parts[0].from = batch.next;
        let piece = Piece { text: text.into(), next: batch.next };
        // Names of neighbours may change.
        if batch.entries.iter().all(|logged| logged.from.is_local()) {
            self.node.shared.feeds.pieces.put(of, piece.clone(), generation);
        }
        Ok(Some(piece.text))
    }

    /// The same, of what many readers get.
    pub(super) async fn next_shared(&mut self) -> Option<Bytes> {
        loop {
            if self.done || self.node.shared.stop.is_cancelled() {
                return None;
            }
            match self.stretch().await {
                Ok(Some(text)) => {
                    self.sent = true;
                    return Some(text);
                }
                Ok(None) => {}
                Err(failed) => {
                    self.done = true;
                    let mut out = String::new();
                    self.fail(&mut out, &failed);
                    return self.piece(out);
                }
            }
            if let Some(told) = self.at_tail().await {
                return told;
            }
        }
    }
}
