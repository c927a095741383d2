//! Capture of PostgreSQL's commits, against real servers.

mod ahead;
mod bed;
mod continuity;
mod rows;
mod schema;
mod servers;
mod shapes;
mod tables;
mod writes;

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use watershed::log::CapturesTable;
use watershed::postgres::Endpoint;
use watershed::testing::postgres::Cluster;

/// One server for all tests that do not kill it.
pub static CLUSTER: LazyLock<Cluster> = LazyLock::new(|| Cluster::with(&SETTINGS));

pub const SETTINGS: [(&str, &str); 7] = [
    ("wal_level", "logical"),
    ("fsync", "off"),
    ("shared_buffers", "32MB"),
    ("max_connections", "200"),
    ("max_replication_slots", "60"),
    ("max_wal_senders", "60"),
    ("max_slot_wal_keep_size", "2GB"),
];

pub const LIMIT: Duration = Duration::from_secs(180);

pub fn endpoint(url: &str) -> Endpoint {
    Endpoint::from_url(url).expect("a URL")
}

pub fn every_table() -> CapturesTable {
    Arc::new(|_| true)
}
