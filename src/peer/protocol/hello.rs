//! Hellos, paths, subtrees, offers and heartbeats on the wire.

use std::sync::Arc;

use super::entries::{cursor_from_wire, cursor_to_wire};
use super::wire::{BelowWire, HeadWire, HeartbeatWire, HelloWire, NodeWire, OfferWire};
use super::{Message, PROTOCOL_VERSION, ProtocolError, bad, bounded, in_field, missing};
use crate::model::{Epoch, Fingerprint, LogId, Timestamp, decode_table, encode_table, limits};
use crate::peer::host::{Below, Head, Hello, NodeRef, Offer};
use crate::peer::replicas::ReplicaDigests;

pub(super) fn to_wire(hello: &Hello) -> HelloWire {
    HelloWire {
        protocol: PROTOCOL_VERSION,
        node: Some(node_to_wire(&hello.node)),
        epoch: hello.epoch.0,
        probe: hello.probe,
        path: hello.path.iter().map(node_to_wire).collect(),
        below: hello.below.iter().map(below_to_wire).collect(),
        offers: hello.offers.iter().map(offer_to_wire).collect(),
        received: hello.received.map(cursor_to_wire),
        software: concat!("watershed ", env!("CARGO_PKG_VERSION")).into(),
        mirrors: hello.mirrors,
    }
}

pub(super) fn from_wire(wire: HelloWire) -> Result<Hello, ProtocolError> {
    // Before anything else: a newer hello may say the rest in another way.
    if wire.protocol > PROTOCOL_VERSION {
        return Err(ProtocolError::Newer(wire.protocol));
    }
    if wire.protocol == 0 {
        return Err(missing("hello.protocol"));
    }
    Ok(Hello {
        node: node_from_wire("hello.node", wire.node)?,
        epoch: Epoch(wire.epoch),
        probe: wire.probe,
        path: path_from_wire("hello.path", wire.path)?,
        below: below_from_wire("hello.below", wire.below)?,
        offers: offers_from_wire("hello.offers", wire.offers)?,
        received: wire.received.map(cursor_from_wire),
        mirrors: wire.mirrors,
    })
}

pub(super) fn node_to_wire(node: &NodeRef) -> NodeWire {
    let (log_high, log_low) = node.log.halves();
    NodeWire { name: node.name.to_string(), log_high, log_low }
}

fn name(field: &'static str, text: String) -> Result<Box<str>, ProtocolError> {
    bounded(field, text.len(), limits::NAME_BYTES_MAX)?;
    if text.is_empty() || text.chars().any(char::is_control) {
        return Err(bad(field, format!("{text:?} is not a node's name")));
    }
    Ok(text.into())
}

pub(super) fn node_from_wire(field: &'static str, wire: Option<NodeWire>) -> Result<NodeRef, ProtocolError> {
    let wire = wire.ok_or_else(|| missing(field))?;
    let log = LogId::from_halves(wire.log_high, wire.log_low);
    if log == LogId(0) {
        return Err(bad(field, "the log's id is 0"));
    }
    Ok(NodeRef { name: name(field, wire.name)?, log })
}

pub(super) fn path_from_wire(field: &'static str, wire: Vec<NodeWire>) -> Result<Vec<NodeRef>, ProtocolError> {
    bounded(field, wire.len(), limits::PATH_NODES_MAX)?;
    wire.into_iter().map(|node| node_from_wire(field, Some(node))).collect()
}

pub(super) fn below_to_wire(below: &Below) -> BelowWire {
    BelowWire { node: Some(node_to_wire(&below.node)), parent: below.parent.to_string(), away: below.away }
}

pub(super) fn below_from_wire(field: &'static str, wire: Vec<BelowWire>) -> Result<Vec<Below>, ProtocolError> {
    bounded(field, wire.len(), limits::SUBTREE_NODES_MAX)?;
    let one =
        |b: BelowWire| Ok(Below { node: node_from_wire(field, b.node)?, parent: name(field, b.parent)?, away: b.away });
    wire.into_iter().map(one).collect()
}

pub(super) fn offer_to_wire(offer: &Offer) -> OfferWire {
    OfferWire {
        table: encode_table(&offer.table).into(),
        under: offer.under.0,
        owned: offer.owned,
        may_diverge: offer.may_diverge,
        whole: offer.whole,
    }
}

pub(super) fn offers_from_wire(field: &'static str, wire: Vec<OfferWire>) -> Result<Vec<Offer>, ProtocolError> {
    bounded(field, wire.len(), limits::OFFERS_MAX)?;
    let one = |offer: OfferWire| {
        Ok(Offer {
            table: Arc::new(decode_table(&offer.table).map_err(in_field(field))?),
            under: Fingerprint(offer.under),
            owned: offer.owned,
            may_diverge: offer.may_diverge,
            whole: offer.whole,
        })
    };
    wire.into_iter().map(one).collect()
}

pub(super) fn heartbeat_to_wire(id: u64, heads: &[Head], replicas: &[ReplicaDigests]) -> HeartbeatWire {
    let head = |head: &Head| HeadWire {
        node: Some(node_to_wire(&head.node)),
        cursor: Some(cursor_to_wire(head.cursor)),
        time: head.time.0,
        captured: head.captured,
    };
    let replicas = replicas.iter().map(super::replicas::to_wire).collect();
    HeartbeatWire { id, heads: heads.iter().map(head).collect(), replicas }
}

pub(super) fn heartbeat_from_wire(wire: HeartbeatWire) -> Result<Message, ProtocolError> {
    bounded("heartbeat.heads", wire.heads.len(), limits::HEADS_MAX)?;
    let head = |head: HeadWire| {
        let cursor = head.cursor.ok_or_else(|| missing("heartbeat.heads.cursor"))?;
        Ok(Head {
            node: node_from_wire("heartbeat.heads.node", head.node)?,
            cursor: cursor_from_wire(cursor),
            time: Timestamp(head.time),
            captured: head.captured,
        })
    };
    let heads = wire.heads.into_iter().map(head).collect::<Result<_, ProtocolError>>()?;
    let replicas = super::replicas::all_from_wire(wire.replicas)?;
    Ok(Message::Heartbeat { id: wire.id, heads, replicas })
}
