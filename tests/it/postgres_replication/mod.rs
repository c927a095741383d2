//! The transaction log of a real server, streamed and read.
#![allow(clippy::unwrap_used)]

mod access;
mod bed;
mod continuity;
mod decode;
mod messages;
mod parts;
mod signs_of_life;
mod transactions;
