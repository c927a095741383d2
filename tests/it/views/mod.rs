//! Views that are defined in SQL, over logs as feeds and databases write them.

mod bed;
mod conformance;
pub mod postgres;
mod postgres_outbox;
mod sqlite_ask;
mod sqlite_builds;
mod sqlite_crash;
mod sqlite_outbox;
mod sqlite_statements;
