//! Reading a message's fields, none beyond its end.

use std::ops::Range;

use bytes::Bytes;
use thiserror::Error;

use super::{Text, Tuple};
use crate::postgres::replication::Lsn;

/// Bytes that are no message of `pgoutput`, or none that is read here.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("pgoutput message {:?}, byte {at}: {why}", char::from(*.tag))]
pub struct DecodeError {
    /// The message's first byte; 0 if there is none.
    pub tag: u8,
    /// Where in the message, from its first byte.
    pub at: usize,
    /// What is wrong there.
    pub why: &'static str,
}

/// One message within a block, and how far it is read.
pub(super) struct Input<'a> {
    block: &'a Bytes,
    start: usize,
    at: usize,
    end: usize,
}

impl<'a> Input<'a> {
    /// The part of a block, cut to what there is.
    pub(super) fn new(block: &'a Bytes, range: Range<usize>) -> Input<'a> {
        let end = range.end.min(block.len());
        let start = range.start.min(end);
        Input { block, start, at: start, end }
    }

    pub(super) fn error(&self, why: &'static str) -> DecodeError {
        let tag = self.block.get(self.start..self.end).and_then(|bytes| bytes.first());
        DecodeError { tag: tag.copied().unwrap_or(0), at: self.at - self.start, why }
    }

    fn take(&mut self, bytes: usize) -> Result<&'a [u8], DecodeError> {
        if bytes > self.end - self.at {
            return Err(self.error("it ends too early"));
        }
        let taken = &self.block[self.at..self.at + bytes];
        self.at += bytes;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let taken = self.take(N)?;
        Ok(*taken.first_chunk().expect("so many bytes were taken"))
    }

    pub(super) fn u8(&mut self) -> Result<u8, DecodeError> {
        Ok(self.array::<1>()?[0])
    }

    pub(super) fn u16(&mut self) -> Result<u16, DecodeError> {
        Ok(u16::from_be_bytes(self.array()?))
    }

    pub(super) fn u32(&mut self) -> Result<u32, DecodeError> {
        Ok(u32::from_be_bytes(self.array()?))
    }

    pub(super) fn i32(&mut self) -> Result<i32, DecodeError> {
        Ok(i32::from_be_bytes(self.array()?))
    }

    pub(super) fn i64(&mut self) -> Result<i64, DecodeError> {
        Ok(i64::from_be_bytes(self.array()?))
    }

    pub(super) fn lsn(&mut self) -> Result<Lsn, DecodeError> {
        Ok(Lsn(u64::from_be_bytes(self.array()?)))
    }

    /// The length of what follows, or how many of it; never more bytes than there are.
    pub(super) fn length(&mut self) -> Result<usize, DecodeError> {
        let length = usize::try_from(self.i32()?).map_err(|_| self.error("a length is negative"))?;
        match length > self.end - self.at {
            true => Err(self.error("a length leads beyond the end")),
            false => Ok(length),
        }
    }

    /// A text that a zero ends.
    pub(super) fn text(&mut self) -> Result<Text, DecodeError> {
        let rest = &self.block[self.at..self.end];
        let length = rest.iter().position(|byte| *byte == 0).ok_or_else(|| self.error("a text does not end"))?;
        let bytes = self.block.slice(self.at..self.at + length);
        let text = Text::new(bytes).ok_or_else(|| self.error("a text is not UTF-8"))?;
        self.at += length + 1;
        Ok(text)
    }

    /// Bytes with their length before them.
    pub(super) fn counted(&mut self) -> Result<Bytes, DecodeError> {
        let length = self.length()?;
        let bytes = self.block.slice(self.at..self.at + length);
        self.at += length;
        Ok(bytes)
    }

    /// A row's values, checked so far that [`Tuple::values`] needs no errors.
    pub(super) fn tuple(&mut self) -> Result<Tuple, DecodeError> {
        let columns = self.u16()?;
        let start = self.at;
        for _ in 0..columns {
            match self.u8()? {
                b'n' | b'u' => {}
                b't' => {
                    let length = self.length()?;
                    self.at += length;
                }
                b'b' => return Err(self.error("a value is binary, which was not asked for")),
                _ => return Err(self.error("a value is of no known kind")),
            }
        }
        Ok(Tuple::new(columns, self.block.slice(start..self.at)))
    }

    /// Everything must have been read.
    pub(super) fn ended(&self) -> Result<(), DecodeError> {
        match self.at == self.end {
            true => Ok(()),
            false => Err(self.error("it goes on after its end")),
        }
    }
}
