//! PostgreSQL: connections, and events tables.

mod connect;
mod error;
pub mod events;
mod password;
mod tls;
mod url;

pub(crate) use connect::user_info;
pub use connect::{Endpoint, Session, without_password};
pub use error::PgError;
