//! Events tables in SQLite.

mod compare;
mod error;
mod gather;
mod indexes;
mod init;
mod insert;
mod inspect;
mod restore;
mod source;
mod view;
mod watch;
mod write;

pub use init::init;
pub use insert::SqliteEventsInsert;
pub use inspect::SqliteEventsTable;
pub use restore::SqliteEventsRestore;
pub use source::SqliteEventsSource;
pub use view::{SqliteEventsOptions, SqliteEventsView};
