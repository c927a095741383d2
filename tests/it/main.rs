//! The one integration-test binary.

mod cli;
mod log;
mod peer;
mod sqlite;
mod sqlite_apply;
mod sqlite_capture;
mod stream;
mod tidy;
mod tree;
