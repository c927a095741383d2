//! HTTP: health, status, metrics, the log for readers, orders of operators, and the upgrade to links.

mod access;
mod answer;
mod append;
mod call;
mod connection;
mod consumers;
mod entries;
#[cfg(all(feature = "postgres", feature = "sqlite"))]
mod events;
mod guard;
mod listener;
mod logs;
mod metered;
mod metrics;
mod operate;
mod server;
mod views;
mod views_answer;
mod views_changes;
mod views_digest;
mod views_refused;
mod waiting;
mod wire;

#[cfg(all(feature = "postgres", feature = "sqlite"))]
pub use events::serve_events;
pub use server::{ServeError, serve};
pub use waiting::Waiting;
