//! What replicas of machines say of their states in heartbeats, so that those which have parted are found.

use crate::model::{Epoch, Fingerprint, LogId, Position};

use super::host::NodeRef;

/// The digest of a state that has everything up to a position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DigestAt {
    /// Of the entry at that position.
    pub epoch: Epoch,
    /// Inclusive.
    pub position: Position,
    /// SHA-256.
    pub digest: [u8; 32],
}

/// A node's replica of a machine, and what its state was at agreed positions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicaDigests {
    /// Whose replica.
    pub node: NodeRef,
    /// The view's name there.
    pub view: Box<str>,
    /// Replicas of one definition over one log have the same states.
    pub definition: Fingerprint,
    /// The log that the machine follows.
    pub log: LogId,
    /// The log is appended to at that node, not mirrored.
    pub original: bool,
    /// Positions ascending.
    pub at: Vec<DigestAt>,
}
