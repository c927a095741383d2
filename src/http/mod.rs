//! HTTP: health, status, metrics, the log for readers, orders of operators, and the upgrade to links.

mod access;
mod entries;
mod listener;
mod metrics;
mod operate;
mod server;
mod waiting;

pub use server::{ServeError, serve};
pub use waiting::Waiting;
