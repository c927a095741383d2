//! PostgreSQL: connections, capture from the transaction log, received changes applied, first copies, and events tables.

pub mod apply;
pub mod capture;
mod connect;
mod copy;
mod ddl;
mod diff;
mod error;
pub mod events;
mod identity;
mod ids;
mod later;
mod password;
pub(crate) mod range;
pub mod replication;
mod tables;
mod tls;
mod url;
mod views;

pub use apply::{PgApplier, PgApplierOptions};
pub use capture::{PgCapture, PgCaptureOptions, captured_lsn, is_captured, uninstall};
pub(crate) use connect::user_info;
pub use connect::{Endpoint, Session, without_password};
pub use copy::{Marked, PgReader, snapshot};
pub use ddl::{create_schema, create_table, create_table_for};
pub use diff::PgSide;
pub use error::PgError;
pub use identity::identity_of;
pub use ids::{mend_ids, stray_ids};
pub use later::{build, build_leftover};
pub use tables::inspect;
pub use views::{PgViewOptions, PgViewStore, PgViews};
