//! Links between nodes: the protocol, its state machine without I/O, and the WebSockets that carry it.
//!
//! ```text
//! Outgoing ─▶ send ─▶ write ═▶ WebSocket ═▶ read ─▶ session ─▶ receive ─▶ Host::receive
//!              ▲ credits                                │          │ durable
//!              └──────────── Acknowledge ◀══════════════╪══════════┘
//! ```

mod client;
mod dial;
mod feed;
mod handle;
mod handshake;
mod host;
mod large;
mod link;
mod outbox;
pub mod protocol;
mod proxy;
mod receive;
mod refusal;
mod replicas;
mod retry;
mod send;
mod server;
pub mod session;
mod socket;
mod tls;
mod topology;
mod url;
mod write;

pub use client::{DialState, probe, run_child, run_child_timed};
pub use dial::Dial;
pub use feed::code as feed_code;
pub use feed::{FeedEntries, FeedFacts, FeedMessage, FeedPart};
pub use handle::{Control, LinkHandle};
pub use host::{Below, CopyMessage, Head, Hello, Host, NodeRef, Offer, Outbound, Outgoing, PeerChange, Refusal, Role};
pub use proxy::reach;
pub use refusal::code;
pub use replicas::{DigestAt, ReplicaDigests};
pub use retry::Retry;
pub use server::{Serving, serve_peer};
pub use session::Timing;
pub use socket::SUBPROTOCOL;
pub use tls::{Named, roots};
pub use url::ParentUrl;
