//! Events tables in PostgreSQL.

mod compare;
mod init;
mod insert;
mod inspect;
mod source;
mod view;

pub use inspect::PgEventsTable;
