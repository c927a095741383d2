//! The server's messages, cut out of what is read, without copying.

use std::io;
use std::ops::Range;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio_postgres::error::SqlState;

use super::error::ServerError;
use crate::model::limits;

/// A message's tag and length.
const HEADER_BYTES: usize = 5;

/// One message, within the block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) tag: u8,
    /// Its content.
    pub(super) range: Range<usize>,
}

/// What was read and not yet used.
///
/// ```text
///   block   |frame|frame|fra…|      whole frames; `at` is where the next begins
///   buffer  |…me     free          what follows, its last frame perhaps not whole
/// ```
#[derive(Debug, Default)]
pub(super) struct Incoming {
    block: Bytes,
    at: usize,
    buffer: BytesMut,
}

impl Incoming {
    /// The bytes that frames lie in.
    pub(super) fn block(&self) -> &Bytes {
        &self.block
    }

    /// The next whole message of what was read.
    ///
    /// # Errors
    /// It has a length that no message has.
    pub(super) fn next(&mut self) -> io::Result<Option<Frame>> {
        if self.at == self.block.len() && !self.refill()? {
            return Ok(None);
        }
        let rest = &self.block[self.at..];
        let Some(length) = whole(rest)?.filter(|length| *length <= rest.len()) else { return Ok(None) };
        let frame = Frame { tag: rest[0], range: self.at + HEADER_BYTES..self.at + length };
        self.at += length;
        Ok(Some(frame))
    }

    /// Makes the whole messages of the buffer the block; whether there is one.
    fn refill(&mut self) -> io::Result<bool> {
        let mut upto = 0;
        while let Some(length) = whole(&self.buffer[upto..])? {
            if length > self.buffer.len() - upto {
                break;
            }
            upto += length;
        }
        if upto > 0 {
            // The old block goes first, so that its memory can be used again.
            self.block = Bytes::new();
            self.block = self.buffer.split_to(upto).freeze();
            self.at = 0;
        }
        Ok(upto > 0)
    }

    /// Reads what there is, waiting for it if there is nothing; 0: the end. Nothing is lost when this is dropped.
    pub(super) async fn read(&mut self, from: &mut (impl AsyncRead + Unpin)) -> io::Result<usize> {
        if self.at == self.block.len() {
            self.block = Bytes::new();
            self.at = 0;
        }
        let free = self.buffer.capacity() - self.buffer.len();
        if free < limits::REPLICATION_READ_BYTES / 4 {
            // A long message's buffer grows with what comes, whatever length it claims.
            self.buffer.reserve(limits::REPLICATION_READ_BYTES.max(self.buffer.len()));
        }
        from.read_buf(&mut self.buffer).await
    }
}

/// How long the first message is, if as much as its header is there.
fn whole(bytes: &[u8]) -> io::Result<Option<usize>> {
    let Some(header) = bytes.first_chunk::<HEADER_BYTES>() else { return Ok(None) };
    let length = u32::from_be_bytes([header[1], header[2], header[3], header[4]]) as usize;
    match (4..=limits::REPLICATION_MESSAGE_BYTES_MAX).contains(&length) {
        true => Ok(Some(length + 1)),
        false => {
            let tag = char::from(header[0]);
            let why = format!("a message {tag:?} of {length} bytes cannot be");
            Err(io::Error::new(io::ErrorKind::InvalidData, why))
        }
    }
}

/// Reads fields of a message.
pub(super) struct Fields<'a>(pub(super) &'a [u8]);

impl<'a> Fields<'a> {
    pub(super) fn take(&mut self, bytes: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(bytes)?;
        self.0 = rest;
        Some(taken)
    }

    pub(super) fn u8(&mut self) -> Option<u8> {
        self.take(1).map(|bytes| bytes[0])
    }

    pub(super) fn u16(&mut self) -> Option<u16> {
        Some(u16::from_be_bytes(*self.take(2)?.first_chunk()?))
    }

    pub(super) fn i32(&mut self) -> Option<i32> {
        Some(i32::from_be_bytes(*self.take(4)?.first_chunk()?))
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        Some(u64::from_be_bytes(*self.take(8)?.first_chunk()?))
    }

    /// A text that a zero ends; what is no UTF-8 is shown as such (before a session has its encoding, errors may have it).
    pub(super) fn text(&mut self) -> Option<String> {
        let length = self.0.iter().position(|byte| *byte == 0)?;
        let text = String::from_utf8_lossy(self.take(length)?).into_owned();
        self.take(1)?;
        Some(text)
    }
}

/// What the server says in an error or a notice. (postgresql.org/docs/15/protocol-error-fields.html)
pub(super) fn server_error(content: &[u8]) -> ServerError {
    let mut fields = Fields(content);
    let mut error = ServerError {
        severity: String::new(),
        code: SqlState::INTERNAL_ERROR,
        message: String::new(),
        detail: None,
        hint: None,
    };
    while let Some((kind, text)) = fields.u8().filter(|kind| *kind != 0).and_then(|kind| Some((kind, fields.text()?))) {
        match kind {
            // The one that is never translated comes after the other.
            b'S' | b'V' => error.severity = text,
            b'C' => error.code = SqlState::from_code(&text),
            b'M' => error.message = text,
            b'D' => error.detail = Some(text),
            b'H' => error.hint = Some(text),
            _ => {}
        }
    }
    error
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn frames(incoming: &mut Incoming, mut bytes: &[u8]) -> io::Result<Vec<(u8, Vec<u8>)>> {
        let mut found = Vec::new();
        loop {
            while let Some(frame) = incoming.next()? {
                found.push((frame.tag, incoming.block()[frame.range].to_vec()));
            }
            if incoming.read(&mut bytes).await? == 0 {
                return Ok(found);
            }
        }
    }

    fn message(tag: u8, content: &[u8]) -> Vec<u8> {
        let length = u32::try_from(content.len() + 4).unwrap_or_default();
        [&[tag], &length.to_be_bytes()[..], content].concat()
    }

    #[tokio::test]
    async fn messages_are_whole_however_they_arrive() {
        let long = vec![7; 3 * limits::REPLICATION_READ_BYTES];
        let expected = [(b'd', b"one".to_vec()), (b'k', Vec::new()), (b'd', long), (b'Z', b"I".to_vec())];
        let bytes: Vec<u8> = expected.iter().flat_map(|(tag, content)| message(*tag, content)).collect();
        assert_eq!(frames(&mut Incoming::default(), &bytes).await.expect("messages"), expected);
        for piece in [1, 3, 1000, 100_000] {
            let mut incoming = Incoming::default();
            let mut found = Vec::new();
            for bytes in bytes.chunks(piece) {
                found.extend(frames(&mut incoming, bytes).await.expect("messages"));
            }
            assert_eq!(found, expected, "in pieces of {piece}");
        }
    }

    #[tokio::test]
    async fn lengths_that_cannot_be_are_refused() {
        for length in [0, 3, u32::MAX, limits::REPLICATION_MESSAGE_BYTES_MAX as u32 + 1] {
            let bytes = [&message(b'd', b"one")[..], b"d", &length.to_be_bytes()].concat();
            let error = frames(&mut Incoming::default(), &bytes).await.expect_err("no message");
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{error}");
        }
    }

    #[test]
    fn errors_are_read_as_far_as_they_go() {
        let error = server_error(b"SFEHLER\0VERROR\0C55006\0Min use\0Dsee\0Hwait\0\0rest");
        assert_eq!(error.to_string(), "ERROR: in use (55006); DETAIL: see; HINT: wait");
        assert_eq!(error.code, SqlState::OBJECT_IN_USE);
        assert_eq!(server_error(b"Mhalf\0C55").message, "half");
        assert_eq!(server_error(b"").code, SqlState::INTERNAL_ERROR);
    }
}
