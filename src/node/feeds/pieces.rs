//! What many readers are told alike is read and formatted once.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use crate::model::{LogId, ReadFrom, limits};

/// A stretch of a log as readers get it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Its entries, formatted.
    pub text: Bytes,
    /// Where reading goes on after it.
    pub next: ReadFrom,
}

/// Of which log, from where on, and whether as events (else as lines).
pub type PieceOf = (LogId, ReadFrom, bool);

/// How often things have been forgotten: what was read before that is not kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Generation(u64);

#[derive(Default)]
struct Kept {
    pieces: HashMap<PieceOf, Piece>,
    /// The oldest first.
    order: VecDeque<PieceOf>,
    bytes: usize,
    generation: u64,
}

/// The pieces that were given last, of all feeds of a node; at most [`limits::FEED_PIECES_BYTES_MAX`] of them.
#[derive(Default)]
pub struct Pieces {
    kept: Mutex<Kept>,
}

impl Pieces {
    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The piece that begins there.
    ///
    /// # Errors
    /// It is not kept: whoever makes it gives the generation back with it.
    pub fn get(&self, of: &PieceOf) -> Result<Piece, Generation> {
        let kept = self.kept();
        kept.pieces.get(of).cloned().ok_or(Generation(kept.generation))
    }

    /// Keeps a piece for those who come after; the oldest make room for it.
    pub fn put(&self, of: PieceOf, piece: Piece, generation: Generation) {
        let size = piece.text.len();
        let mut kept = self.kept();
        if kept.generation != generation.0 || size > limits::FEED_PIECES_BYTES_MAX / 4 || kept.pieces.contains_key(&of)
        {
            return;
        }
        kept.bytes += size;
        kept.order.push_back(of);
        kept.pieces.insert(of, piece);
        while kept.bytes > limits::FEED_PIECES_BYTES_MAX || kept.order.len() > limits::FEED_PIECES_MAX {
            let Some(oldest) = kept.order.pop_front() else { break };
            let gone = kept.pieces.remove(&oldest).map_or(0, |piece| piece.text.len());
            kept.bytes -= gone;
        }
    }

    /// Forgets everything, and what is being read at the moment: some of it may not be given any more.
    pub fn clear(&self) {
        let mut kept = self.kept();
        *kept = Kept { generation: kept.generation + 1, ..Kept::default() };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Position;

    fn of(after: u64) -> PieceOf {
        (LogId(1), Position(after).into(), true)
    }

    fn piece(bytes: usize) -> Piece {
        Piece { text: vec![b'x'; bytes].into(), next: Position(9).into() }
    }

    #[test]
    fn the_oldest_pieces_make_room() {
        let (pieces, size) = (Pieces::default(), limits::FEED_PIECES_BYTES_MAX / 4);
        for after in 0..6 {
            let generation = pieces.get(&of(after)).expect_err("not there yet");
            pieces.put(of(after), piece(size), generation);
        }
        let kept: Vec<u64> = (0..6).filter(|after| pieces.get(&of(*after)).is_ok()).collect();
        assert_eq!(kept, [2, 3, 4, 5]);
        let generation = pieces.get(&of(7)).expect_err("not there yet");
        pieces.put(of(7), piece(size + 1), generation);
        assert!(pieces.get(&of(7)).is_err(), "it is too large to be kept");
        for after in 100..100 + 2 * limits::FEED_PIECES_MAX as u64 {
            pieces.put(of(after), piece(1), generation);
        }
        let kept = pieces.kept();
        let bytes: usize = kept.pieces.values().map(|piece| piece.text.len()).sum();
        assert!(kept.pieces.len() <= limits::FEED_PIECES_MAX && kept.bytes == bytes);
    }

    #[test]
    fn what_was_read_before_everything_was_forgotten_is_not_kept() {
        let pieces = Pieces::default();
        let generation = pieces.get(&of(0)).expect_err("not there yet");
        pieces.put(of(1), piece(1), generation);
        pieces.clear();
        assert!(pieces.get(&of(1)).is_err());
        pieces.put(of(0), piece(1), generation);
        assert!(pieces.get(&of(0)).is_err());
    }
}
