//! The streaming replication protocol: a connection of our own, and what `pgoutput` sends over it.
//!
//! ```no_run
//! # async fn example(endpoint: watershed::postgres::Endpoint) -> Result<(), Box<dyn std::error::Error>> {
//! use watershed::postgres::replication::{Event, Lsn, ReplicationClient, StartOptions, pgoutput::Message};
//! let mut client = ReplicationClient::connect(&endpoint, std::time::Duration::from_secs(10)).await?;
//! client.create_slot("a_slot").await?;
//! let mut stream = client.start("a_slot", Lsn::NONE, "a_publication", StartOptions::default()).await?;
//! loop {
//!     match stream.next().await? {
//!         // What was stored durably is acknowledged, and not sent again.
//!         Event::Data(data) if let Message::Commit(commit) = data.message => stream.acknowledge(commit.end),
//!         event => println!("{event:?}"),
//!     }
//! }
//! # }
//! ```

mod client;
mod connection;
mod error;
mod lsn;
pub mod pgoutput;
mod socket;
mod startup;
mod status;
mod stream;
mod wire;

pub use client::{CreatedSlot, Identification, ReplicationClient, StartOptions};
pub use error::{ReplicationError, ServerError};
pub use lsn::{Lsn, LsnError};
pub use stream::{Data, Event, ReplicationStream};
