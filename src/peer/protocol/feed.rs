//! Feeds on the wire.

use std::sync::Arc;

use super::entries::{cursor_from_wire, cursor_to_wire};
use super::wire::{
    EpochWire, FeedEntriesWire, FeedFactsWire, FeedPartWire, FeedRefusedWire, FeedRequestWire, FeedsWire, Kind,
};
use super::{Message, ProtocolError, bad, bounded, in_field, missing};
use crate::model::{Entry, Epoch, Lamport, LogId, Position, Timestamp, decode_table, encode_table, limits};
use crate::peer::feed::{FeedEntries, FeedFacts, FeedMessage, FeedPart};
use crate::peer::refusal::printable;

/// Numbers beyond it are no positions.
const POSITION_MAX: u64 = i64::MAX as u64 - 1;

fn epochs_to_wire(epochs: &[(Epoch, Position)]) -> Vec<EpochWire> {
    epochs.iter().map(|(epoch, first)| EpochWire { epoch: epoch.0, first: first.0 }).collect()
}

fn epochs_from_wire(field: &'static str, wire: &[EpochWire]) -> Result<Vec<(Epoch, Position)>, ProtocolError> {
    bounded(field, wire.len(), limits::LOG_EPOCHS_MAX)?;
    if !wire.is_sorted_by_key(|epoch| epoch.first) || wire.iter().any(|epoch| epoch.first > POSITION_MAX) {
        return Err(bad(field, "epochs do not come in their order"));
    }
    Ok(wire.iter().map(|epoch| (Epoch(epoch.epoch), Position(epoch.first))).collect())
}

fn name(field: &'static str, text: String) -> Result<Box<str>, ProtocolError> {
    bounded(field, text.len(), limits::NAME_BYTES_MAX)?;
    match text.is_empty() || text.chars().any(char::is_control) {
        true => Err(bad(field, format!("{text:?} is not a log's name"))),
        false => Ok(text.into()),
    }
}

fn partition(field: &'static str, number: u32) -> Result<u32, ProtocolError> {
    bounded(field, number as usize, limits::FEED_PARTITIONS_MAX as usize - 1).map(|()| number)
}

fn part_to_wire(part: &FeedPart) -> FeedPartWire {
    let (log_high, log_low) = part.id.halves();
    let epochs = epochs_to_wire(&part.epochs);
    FeedPartWire { log_high, log_low, epochs, oldest: part.oldest.0, tail: part.tail.0, lamport: part.lamport.0 }
}

fn part_from_wire(wire: &FeedPartWire) -> Result<FeedPart, ProtocolError> {
    let field = "feeds.parts";
    let id = LogId::from_halves(wire.log_high, wire.log_low);
    if id == LogId(0) {
        return Err(bad(field, "the log's id is 0"));
    }
    let epochs = epochs_from_wire("feeds.parts.epochs", &wire.epochs)?;
    if epochs.is_empty() {
        return Err(missing("feeds.parts.epochs"));
    }
    if wire.tail > POSITION_MAX || wire.oldest == 0 || wire.oldest > wire.tail + 1 || wire.lamport > POSITION_MAX {
        return Err(bad(field, format!("it reaches from {} to {}", wire.oldest, wire.tail)));
    }
    let (oldest, tail) = (Position(wire.oldest), Position(wire.tail));
    Ok(FeedPart { id, epochs, oldest, tail, lamport: Lamport(wire.lamport) })
}

fn facts_to_wire(facts: &FeedFacts) -> FeedFactsWire {
    FeedFactsWire { log: facts.log.to_string(), parts: facts.parts.iter().map(part_to_wire).collect() }
}

fn facts_from_wire(wire: FeedFactsWire) -> Result<FeedFacts, ProtocolError> {
    bounded("feeds.parts", wire.parts.len(), limits::FEED_PARTITIONS_MAX as usize)?;
    if wire.parts.is_empty() {
        return Err(missing("feeds.parts"));
    }
    let parts: Vec<FeedPart> = wire.parts.iter().map(part_from_wire).collect::<Result<_, _>>()?;
    let twice = |at: usize| parts[..at].iter().any(|part| part.id == parts[at].id);
    if (1..parts.len()).any(twice) {
        return Err(bad("feeds.parts", "two partitions have one id"));
    }
    Ok(FeedFacts { log: name("feeds.log", wire.log)?, parts })
}

pub(super) fn to_wire(message: &FeedMessage) -> Kind {
    match message {
        FeedMessage::Feeds(feeds) => Kind::Feeds(FeedsWire { feeds: feeds.iter().map(facts_to_wire).collect() }),
        FeedMessage::Request { log, partition, after } => Kind::FeedRequest(FeedRequestWire {
            log: log.to_string(),
            partition: *partition,
            after: Some(cursor_to_wire(*after)),
        }),
        FeedMessage::Entries(entries) => Kind::FeedEntries(FeedEntriesWire {
            log: entries.log.to_string(),
            partition: entries.partition,
            first: entries.first.0,
            epochs: epochs_to_wire(&entries.epochs),
            tables: entries.tables.iter().map(|table| encode_table(table).into()).collect(),
            entries: entries.entries.iter().map(|entry| entry.bytes().clone()).collect(),
            tail: entries.tail.0,
            time: entries.time.0,
        }),
        FeedMessage::Refused { log, partition, code, why } => Kind::FeedRefused(FeedRefusedWire {
            log: log.to_string(),
            partition: *partition,
            code: code.clone(),
            why: why.chars().take(limits::FAILURE_BYTES_MAX / 4).collect(),
        }),
    }
}

pub(super) fn feeds_from_wire(wire: FeedsWire) -> Result<Message, ProtocolError> {
    bounded("feeds", wire.feeds.len(), limits::FEEDS_MAX)?;
    let feeds = wire.feeds.into_iter().map(facts_from_wire).collect::<Result<_, _>>()?;
    Ok(Message::Feed(FeedMessage::Feeds(feeds)))
}

pub(super) fn request_from_wire(wire: FeedRequestWire) -> Result<Message, ProtocolError> {
    let log = name("feed_request.log", wire.log)?;
    let partition = partition("feed_request.partition", wire.partition)?;
    let after = wire.after.map(cursor_from_wire).ok_or_else(|| missing("feed_request.after"))?;
    Ok(Message::Feed(FeedMessage::Request { log, partition, after }))
}

pub(super) fn entries_from_wire(wire: FeedEntriesWire) -> Result<Message, ProtocolError> {
    bounded("feed_entries.tables", wire.tables.len(), limits::OFFERS_MAX)?;
    bounded("feed_entries.entries", wire.entries.len(), limits::READ_ENTRIES_MAX)?;
    let tables = wire.tables.iter().map(|table| decode_table(table).map(Arc::new));
    let tables = tables.collect::<Result<_, _>>().map_err(in_field("feed_entries.tables"))?;
    if wire.first == 0 || wire.first > POSITION_MAX || wire.tail > POSITION_MAX {
        return Err(bad("feed_entries.first", format!("position {} of {}", wire.first, wire.tail)));
    }
    let epochs = epochs_from_wire("feed_entries.epochs", &wire.epochs)?;
    if !wire.entries.is_empty() && epochs.first().is_none_or(|(_, first)| first.0 > wire.first) {
        return Err(bad("feed_entries.epochs", "the first entry has no epoch"));
    }
    let mut entries = Vec::with_capacity(wire.entries.len());
    for bytes in wire.entries {
        bounded("feed_entries.entries", bytes.len(), limits::ENTRY_BYTES_MAX)?;
        entries.push(Entry::decode(bytes).map_err(in_field("feed_entries.entries"))?);
    }
    Ok(Message::Feed(FeedMessage::Entries(FeedEntries {
        log: name("feed_entries.log", wire.log)?,
        partition: partition("feed_entries.partition", wire.partition)?,
        first: Position(wire.first),
        epochs,
        tables,
        entries,
        tail: Position(wire.tail),
        time: Timestamp(wire.time),
    })))
}

pub(super) fn refused_from_wire(wire: FeedRefusedWire) -> Result<Message, ProtocolError> {
    Ok(Message::Feed(FeedMessage::Refused {
        log: name("feed_refused.log", wire.log)?,
        partition: partition("feed_refused.partition", wire.partition)?,
        code: printable(&wire.code).chars().take(32).collect(),
        why: printable(&wire.why),
    }))
}

/// Bytes before each message of a stream: the length of what follows.
const LENGTH_BYTES: usize = 4;

/// A message for a stream of bytes (an HTTP answer): its length (4 bytes, little endian), then the message with its checksum.
pub fn frame(message: FeedMessage) -> bytes::Bytes {
    let message = Message::Feed(message).encode();
    let mut out = bytes::BytesMut::with_capacity(LENGTH_BYTES + message.len());
    out.extend_from_slice(&(message.len() as u32).to_le_bytes());
    out.extend_from_slice(&message);
    out.freeze()
}

/// Takes the next message out of a stream of bytes; `None` while it is not complete.
///
/// # Errors
/// It is not readable, is no message about feeds, or is longer than [`limits::FEED_FRAME_BYTES_MAX`].
pub fn unframe(bytes: &mut bytes::BytesMut) -> Result<Option<FeedMessage>, ProtocolError> {
    let Some(length) = bytes.first_chunk::<LENGTH_BYTES>().map(|length| u32::from_le_bytes(*length) as usize) else {
        return Ok(None);
    };
    bounded("frame", length, limits::FEED_FRAME_BYTES_MAX)?;
    if bytes.len() < LENGTH_BYTES + length {
        return Ok(None);
    }
    let mut whole = bytes.split_to(LENGTH_BYTES + length);
    match Message::decode(whole.split_off(LENGTH_BYTES).freeze())? {
        Message::Feed(message) => Ok(Some(message)),
        other => Err(bad("frame", format!("{} is no message about feeds", other.name()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::BytesMut;
    use proptest::prelude::*;
    use prost::Message as _;

    fn facts() -> FeedMessage {
        let part = FeedPart {
            id: LogId(7),
            epochs: vec![(Epoch(1), Position(1)), (Epoch(2), Position(5))],
            oldest: Position(3),
            tail: Position(9),
            lamport: Lamport(9),
        };
        FeedMessage::Feeds(vec![FeedFacts { log: "orders".into(), parts: vec![part] }])
    }

    #[test]
    fn messages_come_out_of_a_stream_as_they_went_in_wherever_it_is_cut() {
        let refused =
            FeedMessage::Refused { log: "orders".into(), partition: 3, code: "WS-X-001".into(), why: "because".into() };
        let whole = [frame(facts()), frame(refused.clone())].concat();
        for cut in 0..whole.len() {
            let (mut bytes, mut found) = (BytesMut::from(&whole[..cut]), Vec::new());
            found.extend(std::iter::from_fn(|| unframe(&mut bytes).expect("whole or nothing")));
            bytes.extend_from_slice(&whole[cut..]);
            found.extend(std::iter::from_fn(|| unframe(&mut bytes).expect("whole or nothing")));
            assert_eq!(found, [facts(), refused.clone()]);
        }
    }

    #[test]
    fn a_changed_byte_is_noticed() {
        let whole = frame(facts());
        for at in LENGTH_BYTES..whole.len() {
            let mut bytes = BytesMut::from(&whole[..]);
            bytes[at] ^= 0x10;
            assert!(unframe(&mut bytes).is_err(), "byte {at}");
        }
        let mut long = BytesMut::from(&u32::MAX.to_le_bytes()[..]);
        assert!(matches!(unframe(&mut long), Err(ProtocolError::TooLarge { .. })));
    }

    proptest! {
        #[test]
        fn foreign_bytes_are_no_messages_and_no_panic(bytes: Vec<u8>) {
            let mut framed = BytesMut::from(&(bytes.len() as u32 + 5).to_le_bytes()[..]);
            framed.extend_from_slice(&super::super::seal(bytes.clone()));
            let _ = unframe(&mut framed);
            let _ = unframe(&mut BytesMut::from(&bytes[..]));
            if let Ok(wire) = FeedEntriesWire::decode(&bytes[..]) {
                let _ = entries_from_wire(wire);
            }
        }
    }
}
