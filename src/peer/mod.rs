//! Links between nodes: the protocol, its state machine without I/O, and the WebSockets that carry it.

mod handle;
mod host;

pub use handle::{Control, LinkHandle};
pub use host::{Below, CopyMessage, Head, Hello, Host, NodeRef, Offer, Outbound, Outgoing, PeerChange, Refusal, Role};
