//! What was written reads back; foreign bytes are an error, never a panic.

use std::sync::Arc;

use proptest::prelude::*;
use prost::Message as _;

use super::super::feed::{FeedEntries, FeedFacts, FeedPart};
use super::super::replicas::DigestAt;
use super::*;
use crate::model::{
    Column, Entry, EntryHeader, Epoch, Fingerprint, Kind as ValueKind, Lamport, LogId, Origin, Position, TableDef,
    Timestamp, Value,
};
use crate::view::CopyLines;

fn node(number: u128) -> NodeRef {
    NodeRef { name: format!("node-{number}").into(), log: LogId(number) }
}

fn cursor(position: u64) -> Cursor {
    Cursor { log: LogId(7 << 77), epoch: Epoch(3), position: Position(position) }
}

fn table() -> Arc<TableDef> {
    let column = |name: &str, key| Column { name: name.into(), type_name: "text".into(), key };
    Arc::new(TableDef::new("orders".parse().expect("a name"), vec![column("id", 1), column("note", 0)]))
}

fn feed_facts() -> FeedFacts {
    let epochs = vec![(Epoch(1), Position(1)), (Epoch(2), Position(8))];
    let part = |id| FeedPart {
        id: LogId(id),
        epochs: epochs.clone(),
        oldest: Position(2),
        tail: Position(9),
        lamport: Lamport(4),
    };
    FeedFacts { log: "orders".into(), parts: vec![part(5), part(6)] }
}

fn replica(positions: &[u64]) -> ReplicaDigests {
    let at =
        |position: &u64| DigestAt { epoch: Epoch(3), position: Position(*position), digest: [*position as u8; 32] };
    ReplicaDigests {
        node: node(2),
        view: "ledger".into(),
        definition: Fingerprint(5),
        log: LogId(7 << 77),
        original: true,
        at: positions.iter().map(at).collect(),
    }
}

fn heartbeat() -> Message {
    let head = |captured| Head { node: node(1), cursor: cursor(8), time: Timestamp(-5), captured };
    let heads = vec![head(None), head(Some(u64::MAX))];
    Message::Heartbeat { id: 3, heads, replicas: vec![replica(&[1_000, 2_000])] }
}

#[test]
fn digests_of_hostile_shapes_are_refused_and_old_heartbeats_have_none() {
    let beat = |replicas| Message::Heartbeat { id: 1, heads: Vec::new(), replicas };
    let many = vec![replica(&[1]); limits::HEARTBEAT_REPLICAS_MAX + 1];
    let long: Vec<u64> = (1..=limits::MACHINE_DIGESTS_MAX as u64 + 1).collect();
    for replicas in [many, vec![replica(&long)], vec![replica(&[2, 2])], vec![replica(&[2, 1])]] {
        let refused = Message::decode(beat(replicas).encode());
        assert!(matches!(refused, Err(ProtocolError::TooLarge { .. } | ProtocolError::Field { .. })), "{refused:?}");
    }
    let mut short = wire::HeartbeatWire { id: 1, heads: Vec::new(), replicas: vec![] };
    let decoded = |beat: &wire::HeartbeatWire| {
        Message::decode(seal(Envelope { kind: Some(Kind::Heartbeat(beat.clone())) }.encode_to_vec()))
    };
    assert!(matches!(decoded(&short), Ok(Message::Heartbeat { replicas, .. }) if replicas.is_empty()));
    let at = wire::DigestWire { epoch: 1, position: 1, digest: Bytes::from_static(b"short") };
    short.replicas = vec![wire::ReplicaWire { at: vec![at], ..wire::ReplicaWire::default() }];
    assert!(matches!(decoded(&short), Err(ProtocolError::Field { .. })));
}

fn one_of_each() -> Vec<Message> {
    let offer = Offer { table: table(), under: Fingerprint(9), owned: true, may_diverge: true, whole: false };
    let below = vec![Below { node: node(4), parent: "node-1".into(), away: true }];
    let hello = Hello {
        node: node(1),
        epoch: Epoch(5),
        probe: true,
        path: vec![node(1), node(2)],
        below: below.clone(),
        offers: vec![offer.clone()],
        received: Some(cursor(0)),
        mirrors: true,
    };
    let header = EntryHeader { origin: Some(Origin { ..cursor(8) }), ..EntryHeader::default() };
    let entries = vec![Entry::new(header, Bytes::from_static(b"changes"))];
    let stretch = FeedEntries {
        log: "orders".into(),
        partition: 3,
        first: Position(7),
        epochs: vec![(Epoch(1), Position(1)), (Epoch(2), Position(8))],
        tables: vec![table()],
        entries: entries.clone(),
        tail: Position(9),
        time: Timestamp(-5),
    };
    let row = vec![Value::new(ValueKind::Integer, "1"), Value::NULL];
    let name = table().name.clone();
    vec![
        Message::Hello(hello),
        Message::Entries(Entries { tables: vec![table()], entries, upto: Some(cursor(8)) }),
        Message::Acknowledge { received: None, credits: 5 },
        heartbeat(),
        Message::HeartbeatEcho { id: 3 },
        Message::Path(vec![node(1)]),
        Message::Below(below),
        Message::Offers(vec![offer]),
        Message::Copy(CopyMessage::Request { table: name.clone(), after: Some(row.clone()), received: None }),
        Message::Copy(CopyMessage::Chunk {
            table: table(),
            after: None,
            upto: Some(row.clone()),
            rows: vec![row.clone(), row],
            lines: None,
            left: Some(0),
            settled: Some(Position(0)),
            under: Fingerprint(1),
            cut: None,
        }),
        Message::Copy(CopyMessage::Chunk {
            table: table(),
            after: None,
            upto: None,
            rows: Vec::new(),
            lines: Some(CopyLines { bytes: Bytes::from_static(b"1\t2\n"), rows: 1 }),
            left: None,
            settled: None,
            under: Fingerprint(1),
            cut: Some("cut-7".into()),
        }),
        Message::Copy(CopyMessage::Refused { table: name, why: "parked".into() }),
        Message::Feed(FeedMessage::Feeds(vec![feed_facts()])),
        Message::Feed(FeedMessage::Request { log: "orders".into(), partition: 3, after: cursor(8) }),
        Message::Feed(FeedMessage::Entries(stretch)),
        Message::Feed(FeedMessage::Refused { log: "a".into(), partition: 0, code: "WS-X-1".into(), why: "no".into() }),
        Message::Failure(Refusal { code: "WS-X-1".into(), message: "no / why: so".into(), retryable: true }),
        Message::Bye("stopping".into()),
    ]
}

#[test]
fn every_message_reads_back_as_written() {
    for message in one_of_each() {
        let read = Message::decode(message.encode()).expect("own encoding");
        assert_eq!(format!("{read:?}"), format!("{message:?}"));
        assert_eq!(read.name(), message.name());
    }
}

#[test]
fn a_changed_byte_anywhere_is_damage_that_may_be_tried_again() {
    for message in one_of_each() {
        let good = message.encode();
        for at in 0..good.len() {
            let mut bytes = good.to_vec();
            bytes[at] ^= 0x10;
            Message::decode(bytes.into()).expect_err("damaged");
        }
    }
    let mut bytes = one_of_each()[0].encode().to_vec();
    bytes[3] ^= 1;
    let why = Refusal::from(Message::decode(bytes.into()).expect_err("damaged"));
    assert_eq!((&*why.code, why.retryable), (code::DAMAGED, true));
}

#[test]
fn unknown_fields_are_ignored_unknown_kinds_and_newer_versions_refused() {
    let mut bytes = Envelope { kind: Some(Kind::Bye(wire::ByeWire { why: "x".into() })) }.encode_to_vec();
    bytes.extend_from_slice(b"\xfa\x01\x00");
    assert!(matches!(Message::decode(seal(bytes)), Ok(Message::Bye(_))));
    let unknown = Message::decode(seal(b"\xfa\x01\x00".to_vec())).expect_err("unknown");
    assert_eq!(unknown, ProtocolError::UnknownKind(31));
    let newer = wire::HelloWire { protocol: PROTOCOL_VERSION + 1, ..wire::HelloWire::default() };
    let newer = Envelope { kind: Some(Kind::Hello(newer)) }.encode_to_vec();
    assert_eq!(Message::decode(seal(newer)).expect_err("newer"), ProtocolError::Newer(PROTOCOL_VERSION + 1));
}

#[test]
fn errors_name_the_field_and_lists_are_bounded() {
    let read = |kind| Message::decode(seal(Envelope { kind: Some(kind) }.encode_to_vec())).expect_err("refused");
    let unnamed = wire::PathWire { path: vec![wire::NodeWire { name: "a".into(), log_high: 0, log_low: 0 }] };
    assert_eq!(read(Kind::Path(unnamed)).to_string(), "field path: the log's id is 0");
    let many = wire::PathWire { path: vec![hello::node_to_wire(&node(1)); limits::PATH_NODES_MAX + 1] };
    let error = ProtocolError::TooLarge { field: "path", actual: 65, max: limits::PATH_NODES_MAX };
    assert_eq!(read(Kind::Path(many)), error);
    let hello = wire::HelloWire { protocol: 1, ..wire::HelloWire::default() };
    assert_eq!(read(Kind::Hello(hello)).to_string(), "field hello.node: missing");
}

#[test]
fn a_large_message_travels_in_fragments_and_small_ones_pass_between() {
    let why = "x".repeat(3 * limits::FRAGMENT_BYTES_MAX);
    let entry = Entry::new(EntryHeader::default(), Bytes::from(why));
    let message = Message::Entries(Entries { entries: vec![entry], ..Entries::default() });
    let encoded = message.encode();
    let mut joiner = Joiner::default();
    let mut whole = None;
    let mut count = 0;
    for fragment in Fragments::new(encoded.clone()) {
        assert!(fragment.len() <= limits::LINK_FRAME_BYTES_MAX);
        assert!(whole.is_none());
        count += 1;
        whole = joiner.push(fragment).expect("a fragment");
        let small = joiner.push(Message::HeartbeatEcho { id: 1 }.encode()).expect("readable");
        assert!(matches!(small, Some((Message::HeartbeatEcho { id: 1 }, _))));
    }
    assert_eq!(count, 4);
    let (read, length) = whole.expect("complete");
    assert_eq!(length, encoded.len());
    assert_eq!(format!("{read:?}"), format!("{message:?}"));
}

#[test]
fn fragments_without_end_are_refused() {
    let fragment = wire::FragmentWire { bytes: vec![0; limits::FRAGMENT_BYTES_MAX].into(), more: true };
    let frame: Bytes = Envelope { kind: Some(Kind::Fragment(fragment)) }.encode_to_vec().into();
    let mut joiner = Joiner::default();
    let refused =
        (0..2 * limits::FRAME_BYTES_MAX / limits::FRAGMENT_BYTES_MAX).find_map(|_| joiner.push(frame.clone()).err());
    assert!(matches!(refused, Some(ProtocolError::TooLarge { field: "fragment", .. })));
}

proptest! {
    #[test]
    fn foreign_bytes_are_an_error_never_a_panic(frames in prop::collection::vec(any::<Vec<u8>>(), 0..4), sealed: bool) {
        let mut joiner = Joiner::default();
        for frame in frames {
            let frame = if sealed { seal(frame) } else { frame.into() };
            let _ = joiner.push(frame);
        }
    }

    #[test]
    fn mangled_messages_are_an_error_never_a_panic(which in 0usize..13, at: usize, value: u8, cut: usize) {
        let encoded = one_of_each()[which].encode();
        let mut bytes = encoded[..encoded.len() - CHECKSUM_BYTES].to_vec();
        let at = at % bytes.len();
        bytes[at] = value;
        bytes.truncate(bytes.len() - cut % 3);
        let _ = Message::decode(seal(bytes));
    }
}
