//! The messages as protobuf. Field numbers are never used again for anything else; `docs/PROTOCOL.md` lists them.

use bytes::Bytes;
use prost::{Message, Oneof};

/// What every WebSocket message carries.
#[derive(Clone, PartialEq, Message)]
pub struct Envelope {
    #[prost(oneof = "Kind", tags = "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 16, 17, 18, 19")]
    pub kind: Option<Kind>,
}

#[derive(Clone, PartialEq, Oneof)]
pub enum Kind {
    #[prost(message, tag = "1")]
    Hello(HelloWire),
    #[prost(message, tag = "2")]
    Entries(EntriesWire),
    #[prost(message, tag = "3")]
    Acknowledge(AcknowledgeWire),
    #[prost(message, tag = "4")]
    Heartbeat(HeartbeatWire),
    #[prost(message, tag = "5")]
    HeartbeatEcho(EchoWire),
    #[prost(message, tag = "6")]
    Path(PathWire),
    #[prost(message, tag = "7")]
    Below(BelowListWire),
    #[prost(message, tag = "8")]
    Offers(OffersWire),
    #[prost(message, tag = "9")]
    CopyRequest(CopyRequestWire),
    #[prost(message, tag = "10")]
    CopyChunk(CopyChunkWire),
    #[prost(message, tag = "11")]
    CopyRefused(CopyRefusedWire),
    #[prost(message, tag = "12")]
    Failure(FailureWire),
    #[prost(message, tag = "13")]
    Bye(ByeWire),
    #[prost(message, tag = "14")]
    Fragment(FragmentWire),
    #[prost(message, tag = "16")]
    Feeds(FeedsWire),
    #[prost(message, tag = "17")]
    FeedRequest(FeedRequestWire),
    #[prost(message, tag = "18")]
    FeedEntries(FeedEntriesWire),
    #[prost(message, tag = "19")]
    FeedRefused(FeedRefusedWire),
}

/// A part of the encoding of an envelope that is too large for one WebSocket message.
#[derive(Clone, PartialEq, Message)]
pub struct FragmentWire {
    #[prost(bytes = "bytes", tag = "1")]
    pub bytes: Bytes,
    #[prost(bool, tag = "2")]
    pub more: bool,
}

#[derive(Clone, PartialEq, Message)]
pub struct CursorWire {
    #[prost(fixed64, tag = "1")]
    pub log_high: u64,
    #[prost(fixed64, tag = "2")]
    pub log_low: u64,
    #[prost(fixed64, tag = "3")]
    pub epoch: u64,
    #[prost(uint64, tag = "4")]
    pub position: u64,
}

#[derive(Clone, PartialEq, Message)]
pub struct NodeWire {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(fixed64, tag = "2")]
    pub log_high: u64,
    #[prost(fixed64, tag = "3")]
    pub log_low: u64,
}

#[derive(Clone, PartialEq, Message)]
pub struct BelowWire {
    #[prost(message, optional, tag = "1")]
    pub node: Option<NodeWire>,
    #[prost(string, tag = "2")]
    pub parent: String,
    #[prost(bool, tag = "3")]
    pub away: bool,
}

#[derive(Clone, PartialEq, Message)]
pub struct OfferWire {
    #[prost(bytes = "bytes", tag = "1")]
    pub table: Bytes,
    #[prost(fixed64, tag = "2")]
    pub under: u64,
    #[prost(bool, tag = "3")]
    pub owned: bool,
    #[prost(bool, tag = "4")]
    pub may_diverge: bool,
    #[prost(bool, tag = "5")]
    pub whole: bool,
}

#[derive(Clone, PartialEq, Message)]
pub struct HelloWire {
    #[prost(uint32, tag = "1")]
    pub protocol: u32,
    #[prost(message, optional, tag = "2")]
    pub node: Option<NodeWire>,
    #[prost(fixed64, tag = "3")]
    pub epoch: u64,
    #[prost(bool, tag = "4")]
    pub probe: bool,
    #[prost(message, repeated, tag = "5")]
    pub path: Vec<NodeWire>,
    #[prost(message, repeated, tag = "6")]
    pub below: Vec<BelowWire>,
    #[prost(message, repeated, tag = "7")]
    pub offers: Vec<OfferWire>,
    #[prost(message, optional, tag = "8")]
    pub received: Option<CursorWire>,
    #[prost(string, tag = "9")]
    pub software: String,
    #[prost(bool, tag = "10")]
    pub mirrors: bool,
}

#[derive(Clone, PartialEq, Message)]
pub struct EntriesWire {
    #[prost(bytes = "bytes", repeated, tag = "1")]
    pub tables: Vec<Bytes>,
    #[prost(bytes = "bytes", repeated, tag = "2")]
    pub entries: Vec<Bytes>,
    #[prost(message, optional, tag = "3")]
    pub upto: Option<CursorWire>,
}

#[derive(Clone, PartialEq, Message)]
pub struct AcknowledgeWire {
    #[prost(message, optional, tag = "1")]
    pub received: Option<CursorWire>,
    #[prost(uint64, tag = "2")]
    pub credits: u64,
}

#[derive(Clone, PartialEq, Message)]
pub struct HeadWire {
    #[prost(message, optional, tag = "1")]
    pub node: Option<NodeWire>,
    #[prost(message, optional, tag = "2")]
    pub cursor: Option<CursorWire>,
    #[prost(sint64, tag = "3")]
    pub time: i64,
    #[prost(uint64, optional, tag = "4")]
    pub captured: Option<u64>,
}

#[derive(Clone, PartialEq, Message)]
pub struct HeartbeatWire {
    #[prost(uint64, tag = "1")]
    pub id: u64,
    #[prost(message, repeated, tag = "2")]
    pub heads: Vec<HeadWire>,
    #[prost(message, repeated, tag = "3")]
    pub replicas: Vec<ReplicaWire>,
}

#[derive(Clone, PartialEq, Message)]
pub struct DigestWire {
    #[prost(fixed64, tag = "1")]
    pub epoch: u64,
    #[prost(uint64, tag = "2")]
    pub position: u64,
    #[prost(bytes = "bytes", tag = "3")]
    pub digest: Bytes,
}

#[derive(Clone, PartialEq, Message)]
pub struct ReplicaWire {
    #[prost(message, optional, tag = "1")]
    pub node: Option<NodeWire>,
    #[prost(string, tag = "2")]
    pub view: String,
    #[prost(fixed64, tag = "3")]
    pub definition: u64,
    #[prost(fixed64, tag = "4")]
    pub log_high: u64,
    #[prost(fixed64, tag = "5")]
    pub log_low: u64,
    #[prost(bool, tag = "6")]
    pub original: bool,
    #[prost(message, repeated, tag = "7")]
    pub at: Vec<DigestWire>,
}

#[derive(Clone, PartialEq, Message)]
pub struct EchoWire {
    #[prost(uint64, tag = "1")]
    pub id: u64,
}

#[derive(Clone, PartialEq, Message)]
pub struct PathWire {
    #[prost(message, repeated, tag = "1")]
    pub path: Vec<NodeWire>,
}

#[derive(Clone, PartialEq, Message)]
pub struct BelowListWire {
    #[prost(message, repeated, tag = "1")]
    pub below: Vec<BelowWire>,
}

#[derive(Clone, PartialEq, Message)]
pub struct OffersWire {
    #[prost(message, repeated, tag = "1")]
    pub offers: Vec<OfferWire>,
}

#[derive(Clone, PartialEq, Message)]
pub struct CopyRequestWire {
    #[prost(string, tag = "1")]
    pub table: String,
    #[prost(bytes = "bytes", optional, tag = "2")]
    pub after: Option<Bytes>,
    #[prost(message, optional, tag = "3")]
    pub received: Option<CursorWire>,
}

#[derive(Clone, PartialEq, Message)]
pub struct CopyChunkWire {
    #[prost(bytes = "bytes", tag = "1")]
    pub table: Bytes,
    #[prost(bytes = "bytes", optional, tag = "2")]
    pub after: Option<Bytes>,
    #[prost(bytes = "bytes", optional, tag = "3")]
    pub upto: Option<Bytes>,
    #[prost(bytes = "bytes", tag = "4")]
    pub rows: Bytes,
    #[prost(uint64, optional, tag = "5")]
    pub left: Option<u64>,
    #[prost(uint64, optional, tag = "6")]
    pub settled: Option<u64>,
    #[prost(fixed64, tag = "7")]
    pub under: u64,
    #[prost(bytes = "bytes", optional, tag = "8")]
    pub lines: Option<Bytes>,
    #[prost(uint64, tag = "9")]
    pub line_count: u64,
    #[prost(string, optional, tag = "10")]
    pub cut: Option<String>,
}

#[derive(Clone, PartialEq, Message)]
pub struct CopyRefusedWire {
    #[prost(string, tag = "1")]
    pub table: String,
    #[prost(string, tag = "2")]
    pub why: String,
}

#[derive(Clone, PartialEq, Message)]
pub struct FailureWire {
    #[prost(string, tag = "1")]
    pub code: String,
    #[prost(string, tag = "2")]
    pub message: String,
    #[prost(bool, tag = "3")]
    pub retryable: bool,
}

#[derive(Clone, PartialEq, Message)]
pub struct ByeWire {
    #[prost(string, tag = "1")]
    pub why: String,
}

#[derive(Clone, Copy, PartialEq, Message)]
pub struct EpochWire {
    #[prost(fixed64, tag = "1")]
    pub epoch: u64,
    #[prost(uint64, tag = "2")]
    pub first: u64,
}

#[derive(Clone, PartialEq, Message)]
pub struct FeedPartWire {
    #[prost(fixed64, tag = "1")]
    pub log_high: u64,
    #[prost(fixed64, tag = "2")]
    pub log_low: u64,
    #[prost(message, repeated, tag = "3")]
    pub epochs: Vec<EpochWire>,
    #[prost(uint64, tag = "4")]
    pub oldest: u64,
    #[prost(uint64, tag = "5")]
    pub tail: u64,
    #[prost(uint64, tag = "6")]
    pub lamport: u64,
}

#[derive(Clone, PartialEq, Message)]
pub struct FeedFactsWire {
    #[prost(string, tag = "1")]
    pub log: String,
    #[prost(message, repeated, tag = "2")]
    pub parts: Vec<FeedPartWire>,
}

#[derive(Clone, PartialEq, Message)]
pub struct FeedsWire {
    #[prost(message, repeated, tag = "1")]
    pub feeds: Vec<FeedFactsWire>,
}

#[derive(Clone, PartialEq, Message)]
pub struct FeedRequestWire {
    #[prost(string, tag = "1")]
    pub log: String,
    #[prost(uint32, tag = "2")]
    pub partition: u32,
    #[prost(message, optional, tag = "3")]
    pub after: Option<CursorWire>,
}

#[derive(Clone, PartialEq, Message)]
pub struct FeedEntriesWire {
    #[prost(string, tag = "1")]
    pub log: String,
    #[prost(uint32, tag = "2")]
    pub partition: u32,
    #[prost(uint64, tag = "3")]
    pub first: u64,
    #[prost(message, repeated, tag = "4")]
    pub epochs: Vec<EpochWire>,
    #[prost(bytes = "bytes", repeated, tag = "5")]
    pub tables: Vec<Bytes>,
    #[prost(bytes = "bytes", repeated, tag = "6")]
    pub entries: Vec<Bytes>,
    #[prost(uint64, tag = "7")]
    pub tail: u64,
    #[prost(sint64, tag = "8")]
    pub time: i64,
}

#[derive(Clone, PartialEq, Message)]
pub struct FeedRefusedWire {
    #[prost(string, tag = "1")]
    pub log: String,
    #[prost(uint32, tag = "2")]
    pub partition: u32,
    #[prost(string, tag = "3")]
    pub code: String,
    #[prost(string, tag = "4")]
    pub why: String,
}
