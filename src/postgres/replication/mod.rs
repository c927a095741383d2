//! The streaming replication protocol: a connection of our own, and what `pgoutput` sends over it.
