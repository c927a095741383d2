//! Capture of SQLite databases that other processes write.
#![allow(clippy::unwrap_used)]

mod bed;
mod continuity;
mod pace;
mod replace;
mod schema;
mod writes;
