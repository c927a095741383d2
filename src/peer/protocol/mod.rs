//! Messages between nodes and their bytes; `docs/PROTOCOL.md` specifies them.

mod copy;
mod entries;
mod feed;
mod fragment;
mod hello;
mod replicas;
mod wire;

use std::fmt;

use bytes::Bytes;
use prost::Message as _;
use thiserror::Error;

use super::feed::FeedMessage;
use super::host::{Below, CopyMessage, Head, Hello, NodeRef, Offer, Refusal};
use super::refusal::{code, printable, refusal};
use super::replicas::ReplicaDigests;
use crate::model::{CodecError, Cursor, limits};

pub use entries::Entries;
pub use feed::{frame, unframe};
pub(super) use fragment::{Fragments, Joiner};
use wire::{Envelope, Kind};

/// The version that this build speaks. A newer one is refused; fields may be added without raising it.
pub const PROTOCOL_VERSION: u32 = 1;

/// One message of the protocol.
#[derive(Clone, Debug)]
pub enum Message {
    /// The first message of each side.
    Hello(Hello),
    /// Transactions, and how far they reach.
    Entries(Entries),
    /// What has become durable at the receiver, and bytes that may be sent again.
    Acknowledge {
        /// Everything up to here is durable; `None`: only credits come back.
        received: Option<Cursor>,
        /// Bytes of credit given back.
        credits: u64,
    },
    /// How far logs have travelled, in order with the entries.
    Heartbeat {
        /// Counts up.
        id: u64,
        /// Everything of these logs up to their cursors was sent before.
        heads: Vec<Head>,
        /// What replicas of machines say of their states, where it is not what the last heartbeat said.
        replicas: Vec<ReplicaDigests>,
    },
    /// That heartbeat, and everything before it, is durable.
    HeartbeatEcho {
        /// Which.
        id: u64,
    },
    /// From the parent (first) to the root.
    Path(Vec<NodeRef>),
    /// Everything below the child.
    Below(Vec<Below>),
    /// What the speaker sends from now on.
    Offers(Vec<Offer>),
    /// A message of a first copy.
    Copy(CopyMessage),
    /// A message about feeds and their mirrors.
    Feed(FeedMessage),
    /// Why the speaker ends the link.
    Failure(Refusal),
    /// The speaker ends the link in order.
    Bye(String),
}

/// A message from a peer is not what it should be.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum ProtocolError {
    /// Not protobuf.
    #[error("the message is not readable: {0}")]
    Unreadable(String),
    /// Its checksum is wrong.
    #[error("the message was damaged on its way: its checksum is wrong")]
    Damaged,
    /// A kind of message that this version does not know.
    #[error("the message is of kind {0}, which this version does not know")]
    UnknownKind(u32),
    /// A field has a value that it must not have.
    #[error("field {field}: {why}")]
    Field {
        /// Its name, with those of the messages around it.
        field: &'static str,
        /// What is wrong.
        why: String,
    },
    /// More than a limit allows.
    #[error("field {field}: {actual}, at most {max}")]
    TooLarge {
        /// Its name.
        field: &'static str,
        /// How many, or how many bytes.
        actual: usize,
        /// The limit.
        max: usize,
    },
    /// The peer's protocol is newer.
    #[error("the peer speaks version {0} of the protocol, this node {PROTOCOL_VERSION}")]
    Newer(u32),
}

impl From<ProtocolError> for Refusal {
    fn from(error: ProtocolError) -> Refusal {
        let same = "run the same version of Watershed at both ends; what listens there may not be Watershed";
        let (code, why, todo) = match &error {
            ProtocolError::Unreadable(_) | ProtocolError::Field { .. } => {
                (code::UNREADABLE, "the bytes are not what the protocol says", same)
            }
            ProtocolError::Damaged => {
                let todo = "nothing: it is sent again; if it goes on, look at the network's hardware";
                return refusal(code::DAMAGED, true, error.to_string(), "the network changed bytes", todo);
            }
            ProtocolError::UnknownKind(_) => {
                (code::UNKNOWN_KIND, "the peer is of a newer version", "upgrade this node")
            }
            ProtocolError::TooLarge { .. } => {
                (code::TOO_LARGE, "messages are bounded", "send less: fewer tables, nodes, or smaller rows")
            }
            ProtocolError::Newer(_) => {
                (code::NEWER_VERSION, "the peer is of a newer version", "upgrade this node first")
            }
        };
        refusal(code, false, error.to_string(), why, todo)
    }
}

/// Blames a field for what the codec said.
fn in_field(field: &'static str) -> impl Fn(CodecError) -> ProtocolError {
    move |error| bad(field, error)
}

fn bad(field: &'static str, why: impl fmt::Display) -> ProtocolError {
    ProtocolError::Field { field, why: why.to_string() }
}

fn missing(field: &'static str) -> ProtocolError {
    bad(field, "missing")
}

fn bounded(field: &'static str, actual: usize, max: usize) -> Result<(), ProtocolError> {
    if actual > max { Err(ProtocolError::TooLarge { field, actual, max }) } else { Ok(()) }
}

impl Message {
    /// The name of its kind, for errors.
    pub fn name(&self) -> &'static str {
        match self {
            Message::Hello(_) => "Hello",
            Message::Entries(_) => "Entries",
            Message::Acknowledge { .. } => "Acknowledge",
            Message::Heartbeat { .. } => "Heartbeat",
            Message::HeartbeatEcho { .. } => "HeartbeatEcho",
            Message::Path(_) => "Path",
            Message::Below(_) => "Below",
            Message::Offers(_) => "Offers",
            Message::Copy(CopyMessage::Request { .. }) => "CopyRequest",
            Message::Copy(CopyMessage::Chunk { .. }) => "CopyChunk",
            Message::Copy(CopyMessage::Refused { .. }) => "CopyRefused",
            Message::Feed(FeedMessage::Feeds(_)) => "Feeds",
            Message::Feed(FeedMessage::Request { .. }) => "FeedRequest",
            Message::Feed(FeedMessage::Entries(_)) => "FeedEntries",
            Message::Feed(FeedMessage::Refused { .. }) => "FeedRefused",
            Message::Failure(_) => "Failure",
            Message::Bye(_) => "Bye",
        }
    }

    /// Its bytes, not yet cut into fragments.
    pub fn encode(&self) -> Bytes {
        let kind = match self {
            Message::Hello(hello) => Kind::Hello(hello::to_wire(hello)),
            Message::Entries(entries) => Kind::Entries(entries.to_wire()),
            Message::Acknowledge { received, credits } => Kind::Acknowledge(wire::AcknowledgeWire {
                received: received.map(entries::cursor_to_wire),
                credits: *credits,
            }),
            Message::Heartbeat { id, heads, replicas } => {
                Kind::Heartbeat(hello::heartbeat_to_wire(*id, heads, replicas))
            }
            Message::HeartbeatEcho { id } => Kind::HeartbeatEcho(wire::EchoWire { id: *id }),
            Message::Path(path) => Kind::Path(wire::PathWire { path: path.iter().map(hello::node_to_wire).collect() }),
            Message::Below(below) => {
                Kind::Below(wire::BelowListWire { below: below.iter().map(hello::below_to_wire).collect() })
            }
            Message::Offers(offers) => {
                Kind::Offers(wire::OffersWire { offers: offers.iter().map(hello::offer_to_wire).collect() })
            }
            Message::Copy(copy) => copy::to_wire(copy),
            Message::Feed(message) => feed::to_wire(message),
            Message::Failure(why) => Kind::Failure(wire::FailureWire {
                code: why.code.clone(),
                message: why.message.chars().take(limits::FAILURE_BYTES_MAX / 4).collect(),
                retryable: why.retryable,
            }),
            Message::Bye(why) => Kind::Bye(wire::ByeWire { why: why.clone() }),
        };
        seal(Envelope { kind: Some(kind) }.encode_to_vec())
    }

    /// Reads a whole message. Entries and values share the given buffer.
    pub fn decode(bytes: Bytes) -> Result<Message, ProtocolError> {
        let bytes = unseal(bytes)?;
        let first = first_field(&bytes);
        let envelope = Envelope::decode(bytes).map_err(|e| ProtocolError::Unreadable(e.to_string()))?;
        let Some(kind) = envelope.kind else {
            return Err(match first {
                Some(field) => ProtocolError::UnknownKind(field),
                None => ProtocolError::Unreadable("it is empty".into()),
            });
        };
        Ok(match kind {
            Kind::Hello(hello) => Message::Hello(hello::from_wire(hello)?),
            Kind::Entries(entries) => Message::Entries(Entries::from_wire(entries)?),
            Kind::Acknowledge(ack) => {
                Message::Acknowledge { received: ack.received.map(entries::cursor_from_wire), credits: ack.credits }
            }
            Kind::Heartbeat(heartbeat) => hello::heartbeat_from_wire(heartbeat)?,
            Kind::HeartbeatEcho(echo) => Message::HeartbeatEcho { id: echo.id },
            Kind::Path(path) => Message::Path(hello::path_from_wire("path", path.path)?),
            Kind::Below(below) => Message::Below(hello::below_from_wire("below", below.below)?),
            Kind::Offers(offers) => Message::Offers(hello::offers_from_wire("offers", offers.offers)?),
            Kind::CopyRequest(request) => Message::Copy(copy::request_from_wire(request)?),
            Kind::CopyChunk(chunk) => Message::Copy(copy::chunk_from_wire(chunk)?),
            Kind::CopyRefused(refused) => Message::Copy(copy::refused_from_wire(refused)?),
            Kind::Feeds(feeds) => feed::feeds_from_wire(feeds)?,
            Kind::FeedRequest(request) => feed::request_from_wire(request)?,
            Kind::FeedEntries(entries) => feed::entries_from_wire(entries)?,
            Kind::FeedRefused(refused) => feed::refused_from_wire(refused)?,
            Kind::Failure(failure) => Message::Failure(failure_from_wire(failure)),
            Kind::Bye(bye) => Message::Bye(printable(&bye.why)),
            Kind::Fragment(_) => return Err(bad("fragment", "fragments do not nest")),
        })
    }
}

/// The key of the last field: number 15, four bytes.
const CHECKSUM_KEY: u8 = 15 << 3 | 5;
/// That field's key and value.
const CHECKSUM_BYTES: usize = 5;

/// Adds the last field of every message: a CRC-32C over all the bytes before it. TCP's own checksum lets one in some
/// thousand damaged packets pass, and what passes here is stored for ever.
pub fn seal(mut message: Vec<u8>) -> Bytes {
    let checksum = crc32c::crc32c(&message);
    message.push(CHECKSUM_KEY);
    message.extend_from_slice(&checksum.to_le_bytes());
    message.into()
}

fn unseal(mut bytes: Bytes) -> Result<Bytes, ProtocolError> {
    let length = bytes.len().checked_sub(CHECKSUM_BYTES).filter(|&at| bytes[at] == CHECKSUM_KEY);
    let length = length.ok_or_else(|| ProtocolError::Unreadable("it does not end with a checksum".into()))?;
    let told = bytes.split_off(length);
    if told[1..] != crc32c::crc32c(&bytes).to_le_bytes() {
        return Err(ProtocolError::Damaged);
    }
    Ok(bytes)
}

/// Text of a peer ends up in logs: it is cut and cleaned.
fn failure_from_wire(failure: wire::FailureWire) -> Refusal {
    let code = printable(&failure.code).chars().take(32).collect();
    Refusal { code, message: printable(&failure.message), retryable: failure.retryable }
}

/// The number of the first field: the kind, also where it is unknown.
fn first_field(bytes: &Bytes) -> Option<u32> {
    let mut rest = bytes.clone();
    prost::encoding::decode_key(&mut rest).ok().map(|(field, _)| field)
}

#[cfg(test)]
mod tests;
