//! Large messages in fragments, so that small ones pass between them.

use bytes::{Bytes, BytesMut};
use prost::Message as _;

use super::wire::{Envelope, FragmentWire, Kind};
use super::{Message, ProtocolError, bounded};
use crate::model::limits;

/// What is left to send of one encoded message, as WebSocket messages.
#[derive(Debug)]
pub struct Fragments {
    rest: Option<Bytes>,
    whole: bool,
}

impl Fragments {
    /// Cuts an encoded message.
    pub fn new(encoded: Bytes) -> Fragments {
        Fragments { whole: encoded.len() <= limits::FRAGMENT_BYTES_MAX, rest: Some(encoded) }
    }
}

impl Iterator for Fragments {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        let mut rest = self.rest.take()?;
        if self.whole {
            return Some(rest);
        }
        let bytes = rest.split_to(rest.len().min(limits::FRAGMENT_BYTES_MAX));
        let more = !rest.is_empty();
        if more {
            self.rest = Some(rest);
        }
        let kind = Some(Kind::Fragment(FragmentWire { bytes, more }));
        Some(Envelope { kind }.encode_to_vec().into())
    }
}

/// Puts fragments together again. Bounded by [`limits::FRAME_BYTES_MAX`].
#[derive(Debug, Default)]
pub struct Joiner {
    joined: BytesMut,
}

/// The envelope's key byte for a fragment: field 14, length-delimited.
const FRAGMENT_KEY: u8 = 14 << 3 | 2;

impl Joiner {
    /// Takes one WebSocket message; gives a message, with its encoded length, when one is complete.
    pub fn push(&mut self, frame: Bytes) -> Result<Option<(Message, usize)>, ProtocolError> {
        if frame.first() != Some(&FRAGMENT_KEY) {
            let length = frame.len();
            return Message::decode(frame).map(|message| Some((message, length)));
        }
        let envelope = Envelope::decode(frame).map_err(|e| ProtocolError::Unreadable(e.to_string()))?;
        let Some(Kind::Fragment(fragment)) = envelope.kind else {
            return Err(super::bad("fragment", "more than one kind in one message"));
        };
        bounded("fragment", self.joined.len() + fragment.bytes.len(), limits::FRAME_BYTES_MAX)?;
        if fragment.bytes.is_empty() {
            return Err(super::bad("fragment", "it is empty"));
        }
        self.joined.extend_from_slice(&fragment.bytes);
        if fragment.more {
            return Ok(None);
        }
        let whole = std::mem::take(&mut self.joined).freeze();
        let length = whole.len();
        Message::decode(whole).map(|message| Some((message, length)))
    }
}
