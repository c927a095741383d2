//! Capture of SQLite databases that other processes write.

mod bed;
mod continuity;
mod replace;
mod schema;
mod writes;
