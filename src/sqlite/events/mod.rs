//! Events tables in SQLite.

mod compare;
mod error;
mod init;
mod insert;
mod inspect;
mod source;
mod view;

pub use init::init;
pub use insert::SqliteEventsInsert;
pub use inspect::SqliteEventsTable;
