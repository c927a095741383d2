//! Everything is a log, or a view of a log.

pub mod cli;
pub mod http;
pub mod log;
pub mod model;
pub mod node;
#[cfg(doc)]
mod pages;
pub mod peer;
#[cfg(feature = "postgres")]
pub mod postgres;
#[cfg(feature = "sqlite")]
pub mod sqlite;
pub mod stream;
#[cfg(feature = "testing")]
pub mod testing;
pub mod view;
