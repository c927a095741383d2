//! Events tables in PostgreSQL.

mod binary;
mod compare;
mod flights;
mod indexes;
mod init;
mod insert;
mod inspect;
mod pen;
mod restore;
mod scan;
mod source;
mod view;
mod watch;
mod write;

pub(super) use indexes::Shown;
pub use init::init;
pub use insert::PgEventsInsert;
pub use inspect::PgEventsTable;
pub use restore::PgEventsRestore;
pub use source::PgEventsSource;
pub use view::{PgEventsOptions, PgEventsView};
