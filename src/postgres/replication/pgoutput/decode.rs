//! From bytes to messages.

use std::ops::Range;

use bytes::Bytes;

use super::input::{DecodeError, Input};
use super::message::{
    Begin, Commit, Decoded, Identity, LogicalMessage, Message, Old, Origin, Relation, RelationColumn, Truncate,
};
use crate::model::Timestamp;

/// Microseconds from 1970-01-01 to 2000-01-01, where PostgreSQL's clock begins.
const POSTGRES_EPOCH_US: i64 = 946_684_800_000_000;

/// The bits of a truncation.
const CASCADE: u8 = 1;
const RESTART_IDENTITY: u8 = 2;

/// Reads messages in the order in which they were sent: within a part of an unfinished transaction they look differently.
#[derive(Clone, Debug, Default)]
pub struct Decoder {
    /// Between a part's start and its stop.
    in_part: bool,
}

impl Decoder {
    /// For a stream from its beginning.
    pub fn new() -> Decoder {
        Decoder::default()
    }

    /// Reads one message; what it returns shares the bytes.
    ///
    /// # Errors
    /// They are no message. The stream cannot be read further.
    pub fn decode(&mut self, bytes: &Bytes) -> Result<Decoded, DecodeError> {
        self.decode_within(bytes, 0..bytes.len())
    }

    /// The same for a part of a larger block.
    pub(in crate::postgres::replication) fn decode_within(
        &mut self,
        block: &Bytes,
        range: Range<usize>,
    ) -> Result<Decoded, DecodeError> {
        let mut input = Input::new(block, range);
        let tag = input.u8()?;
        let has_xid = self.in_part && matches!(tag, b'M' | b'R' | b'Y' | b'I' | b'U' | b'D' | b'T');
        let xid = if has_xid { Some(input.u32()?) } else { None };
        let message = match tag {
            b'I' => Message::Insert { relation: input.u32()?, new: new_row(&mut input)? },
            b'U' => update(&mut input)?,
            b'D' => Message::Delete { relation: input.u32()?, old: old_row(&mut input)? },
            b'B' => Message::Begin(Begin { commit: input.lsn()?, time: time(&mut input)?, xid: input.u32()? }),
            b'C' => Message::Commit(commit(&mut input)?),
            b'O' => Message::Origin(Origin { lsn: input.lsn()?, name: input.text()? }),
            b'R' => Message::Relation(relation(&mut input)?),
            b'Y' => Message::Type { id: input.u32()?, schema: input.text()?, name: input.text()? },
            b'T' => Message::Truncate(truncate(&mut input)?),
            b'M' => Message::Logical(logical(&mut input)?),
            b'S' => Message::StreamStart { xid: input.u32()?, first: input.u8()? == 1 },
            b'E' => Message::StreamStop,
            b'c' => Message::StreamCommit { xid: input.u32()?, commit: commit(&mut input)? },
            b'A' => Message::StreamAbort { xid: input.u32()?, subxid: input.u32()? },
            _ => return Err(input.error("there is no such message in the versions 1 and 2")),
        };
        input.ended()?;
        match (self.in_part, &message) {
            (false, Message::StreamStart { .. }) => self.in_part = true,
            (true, Message::StreamStop) => self.in_part = false,
            (true, Message::Begin(_) | Message::Commit(_) | Message::StreamStart { .. })
            | (true, Message::StreamCommit { .. } | Message::StreamAbort { .. }) => {
                return Err(input.error("it stands within a part of another transaction"));
            }
            (false, Message::StreamStop) => return Err(input.error("it ends a part that has not begun")),
            _ => {}
        }
        Ok(Decoded { xid, message })
    }
}

/// A point in time, as the model has it.
fn time(input: &mut Input<'_>) -> Result<Timestamp, DecodeError> {
    Ok(Timestamp(input.i64()?.saturating_add(POSTGRES_EPOCH_US)))
}

fn commit(input: &mut Input<'_>) -> Result<Commit, DecodeError> {
    if input.u8()? != 0 {
        return Err(input.error("a commit has flags, which are not known"));
    }
    Ok(Commit { lsn: input.lsn()?, end: input.lsn()?, time: time(input)? })
}

fn new_row(input: &mut Input<'_>) -> Result<super::Tuple, DecodeError> {
    match input.u8()? {
        b'N' => input.tuple(),
        _ => Err(input.error("a new row is expected")),
    }
}

fn old_row(input: &mut Input<'_>) -> Result<Old, DecodeError> {
    match input.u8()? {
        b'K' => Ok(Old::Key(input.tuple()?)),
        b'O' => Ok(Old::Row(input.tuple()?)),
        _ => Err(input.error("an old row is expected")),
    }
}

fn update(input: &mut Input<'_>) -> Result<Message, DecodeError> {
    let relation = input.u32()?;
    let old = match input.u8()? {
        b'K' => Some(Old::Key(input.tuple()?)),
        b'O' => Some(Old::Row(input.tuple()?)),
        b'N' => return Ok(Message::Update { relation, old: None, new: input.tuple()? }),
        _ => return Err(input.error("a row is expected")),
    };
    Ok(Message::Update { relation, old, new: new_row(input)? })
}

fn relation(input: &mut Input<'_>) -> Result<Relation, DecodeError> {
    let (id, schema, name) = (input.u32()?, input.text()?, input.text()?);
    let identity = match input.u8()? {
        b'd' => Identity::Default,
        b'n' => Identity::Nothing,
        b'f' => Identity::Full,
        b'i' => Identity::Index,
        _ => return Err(input.error("a replica identity is of no known kind")),
    };
    let count = input.u16()?;
    // A column takes ten bytes at least: a false count ends early, before there are many.
    let mut columns = Vec::new();
    for _ in 0..count {
        let key = input.u8()? & 1 == 1;
        columns.push(RelationColumn { key, name: input.text()?, type_id: input.u32()?, modifier: input.i32()? });
    }
    Ok(Relation { id, schema, name, identity, columns })
}

fn truncate(input: &mut Input<'_>) -> Result<Truncate, DecodeError> {
    let count = input.length()?;
    let bits = input.u8()?;
    let mut relations = Vec::new();
    for _ in 0..count {
        relations.push(input.u32()?);
    }
    Ok(Truncate { relations, cascade: bits & CASCADE != 0, restart_identity: bits & RESTART_IDENTITY != 0 })
}

fn logical(input: &mut Input<'_>) -> Result<LogicalMessage, DecodeError> {
    let transactional = input.u8()? & 1 == 1;
    let (lsn, prefix, content) = (input.lsn()?, input.text()?, input.counted()?);
    Ok(LogicalMessage { transactional, lsn, prefix, content })
}
