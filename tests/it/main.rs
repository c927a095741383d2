//! The one integration-test binary.

mod cli;
mod conformance;
mod errors;
mod events;
mod examples;
mod feeds;
mod log;
mod peer;
mod postgres_apply;
mod postgres_capture;
mod postgres_copy;
mod postgres_diff;
mod postgres_replication;
mod readme;
mod sqlite_apply;
mod sqlite_capture;
mod tidy;
mod tree;
mod views;
mod views_node;
mod views_plain;
