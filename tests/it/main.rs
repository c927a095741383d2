//! The one integration-test binary.

mod cli;
mod errors;
mod log;
mod peer;
mod sqlite_apply;
mod sqlite_capture;
mod tidy;
mod tree;
