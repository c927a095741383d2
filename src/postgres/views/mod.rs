//! Views that are defined in SQL and kept in PostgreSQL: a schema of their own.

mod answer;
mod ask;
mod builds;
mod check;
mod collect;
mod digest;
mod meta;
mod part;
mod session;
mod store;
mod text;

pub use builds::{PgViewOptions, PgViews};
pub use store::PgViewStore;
