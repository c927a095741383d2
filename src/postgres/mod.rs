//! PostgreSQL: connections, and events tables.

mod connect;
mod error;
pub mod events;

pub(crate) use connect::user_info;
pub use connect::{Endpoint, Session, without_password};
pub use error::PgError;
