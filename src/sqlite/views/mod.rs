//! Views that are defined in SQL and kept in SQLite: a file of their own, or memory that is written down now and then.

mod answer;
mod ask;
mod bounded;
mod builds;
mod carry;
mod changes;
mod check;
mod digest;
mod flight;
mod guard;
mod look;
mod meta;
mod open;
mod outbox;
mod outgoing;
mod part;
mod place;
mod readers;
mod store;

pub use builds::SqliteViews;
pub use place::{SqlitePlace, SqliteViewOptions};
pub use store::SqliteViewStore;
