//! PostgreSQL: connections, and events tables.

mod connect;
mod error;
pub mod events;

pub use connect::{Endpoint, Session};
pub use error::PgError;
