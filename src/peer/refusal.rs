//! The codes with which links are refused or end; `docs/PROTOCOL.md` lists what to do for each.

use super::host::Refusal;
use crate::model::limits;

/// `WS-PEER-…` codes. They are never given another meaning.
pub mod code {
    /// A message is not readable.
    pub const UNREADABLE: &str = "WS-PEER-001";
    /// A message of a kind that this version does not know.
    pub const UNKNOWN_KIND: &str = "WS-PEER-002";
    /// The peer speaks a newer protocol.
    pub const NEWER_VERSION: &str = "WS-PEER-003";
    /// A message that must not come now.
    pub const OUT_OF_ORDER: &str = "WS-PEER-004";
    /// A message is larger, or a list longer, than the limit.
    pub const TOO_LARGE: &str = "WS-PEER-005";
    /// The peer sent more than it had credits for.
    pub const CREDITS: &str = "WS-PEER-006";
    /// The node dialled itself.
    pub const SELF: &str = "WS-PEER-007";
    /// The link would close a cycle.
    pub const CYCLE: &str = "WS-PEER-008";
    /// Two nodes on the path have the same name.
    pub const NAME_TAKEN: &str = "WS-PEER-009";
    /// Nothing came for too long.
    pub const SILENT: &str = "WS-PEER-010";
    /// The handshake took too long.
    pub const NO_HELLO: &str = "WS-PEER-011";
    /// The parent cannot be reached.
    pub const UNREACHABLE: &str = "WS-PEER-012";
    /// The connection broke.
    pub const LOST: &str = "WS-PEER-013";
    /// What answers is not a node that speaks this protocol.
    pub const NOT_A_NODE: &str = "WS-PEER-014";
    /// The parent's URL cannot be read.
    pub const BAD_URL: &str = "WS-PEER-015";
    /// Plain text beyond loopback.
    pub const NO_TLS: &str = "WS-PEER-016";
    /// The peer ended the link in order.
    pub const BYE: &str = "WS-PEER-017";
    /// This node ends the link in order.
    pub const STOPPING: &str = "WS-PEER-018";
    /// Parts of a large transaction could not be kept until they were complete.
    pub const SPOOL: &str = "WS-PEER-019";
    /// A message was damaged on its way.
    pub const DAMAGED: &str = "WS-PEER-020";
    /// The parent asks for a token, or for another one.
    pub const NOT_LET_IN: &str = "WS-PEER-021";
    /// The parent's certificate is not accepted, or TLS with it fails.
    pub const TLS: &str = "WS-PEER-022";
    /// What dialling needs cannot be read: certificates, or a token that fits no header.
    pub const UNUSABLE: &str = "WS-PEER-023";
    /// The proxy does not let through.
    pub const PROXY: &str = "WS-PEER-024";
}

/// A refusal in three parts. `retryable`: dialling again may help without an operator.
pub(super) fn refusal(code: &str, retryable: bool, what: impl AsRef<str>, why: &str, todo: &str) -> Refusal {
    let message = format!("{} / why: {why} / do: {todo}", what.as_ref());
    Refusal { code: code.into(), message, retryable }
}

/// The connection broke.
pub(super) fn lost(what: impl AsRef<str>) -> Refusal {
    let todo = "nothing: the child dials again and goes on where it was";
    refusal(code::LOST, true, what, "the network or the peer's process went away", todo)
}

/// A message came that must not come now.
pub(super) fn out_of_order(what: impl AsRef<str>) -> Refusal {
    let todo = "run the same version of Watershed at both ends; if they are, report this";
    refusal(code::OUT_OF_ORDER, false, what, "the peer does not follow the protocol", todo)
}

/// This node is stopping.
pub(super) fn stopping() -> Refusal {
    let todo = "nothing: the link is taken up again when the node runs";
    refusal(code::STOPPING, true, "the link was closed", "this node is stopping", todo)
}

/// What stands before the words of a peer, so that a reader (and the farewell) knows whose they are.
pub(super) const PEER_SAYS: &str = "the peer says: ";

/// Text from a peer, short enough for a log line and without control characters.
pub(super) fn printable(text: &str) -> String {
    let clean = |c: char| if c.is_control() { ' ' } else { c };
    text.chars().take(limits::FAILURE_BYTES_MAX).map(clean).collect()
}
