//! Digests of machines' states on the wire.

use super::hello::{node_from_wire, node_to_wire};
use super::wire::{DigestWire, ReplicaWire};
use super::{ProtocolError, bad, bounded};
use crate::model::{Epoch, Fingerprint, LogId, Position, limits};
use crate::peer::replicas::{DigestAt, ReplicaDigests};

pub(super) fn to_wire(replica: &ReplicaDigests) -> ReplicaWire {
    let (log_high, log_low) = replica.log.halves();
    let at =
        |at: &DigestAt| DigestWire { epoch: at.epoch.0, position: at.position.0, digest: at.digest.to_vec().into() };
    ReplicaWire {
        node: Some(node_to_wire(&replica.node)),
        view: replica.view.to_string(),
        definition: replica.definition.0,
        log_high,
        log_low,
        original: replica.original,
        at: replica.at.iter().map(at).collect(),
    }
}

pub(super) fn all_from_wire(wire: Vec<ReplicaWire>) -> Result<Vec<ReplicaDigests>, ProtocolError> {
    bounded("heartbeat.replicas", wire.len(), limits::HEARTBEAT_REPLICAS_MAX)?;
    wire.into_iter().map(from_wire).collect()
}

fn from_wire(wire: ReplicaWire) -> Result<ReplicaDigests, ProtocolError> {
    bounded("heartbeat.replicas.view", wire.view.len(), limits::NAME_BYTES_MAX)?;
    bounded("heartbeat.replicas.at", wire.at.len(), limits::MACHINE_DIGESTS_MAX)?;
    let at = |at: DigestWire| {
        let digest = <[u8; 32]>::try_from(&at.digest[..]);
        let digest = digest.map_err(|_| bad("heartbeat.replicas.at.digest", "a digest has 32 bytes"))?;
        Ok(DigestAt { epoch: Epoch(at.epoch), position: Position(at.position), digest })
    };
    let at: Vec<DigestAt> = wire.at.into_iter().map(at).collect::<Result<_, ProtocolError>>()?;
    if !at.is_sorted_by(|one, other| one.position < other.position) {
        return Err(bad("heartbeat.replicas.at", "positions do not ascend"));
    }
    Ok(ReplicaDigests {
        node: node_from_wire("heartbeat.replicas.node", wire.node)?,
        view: wire.view.chars().filter(|c| !c.is_control()).collect::<String>().into(),
        definition: Fingerprint(wire.definition),
        log: LogId::from_halves(wire.log_high, wire.log_low),
        original: wire.original,
        at,
    })
}
