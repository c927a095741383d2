//! Views that are defined in SQL and kept in PostgreSQL: a schema of their own.

mod answer;
mod ask;
mod builds;
mod check;
mod collect;
mod digest;
mod keep;
mod look;
mod meta;
mod notes;
mod part;
mod session;
mod store;
mod text;
mod told;

pub use builds::{PgViewOptions, PgViews};
pub use store::PgViewStore;
