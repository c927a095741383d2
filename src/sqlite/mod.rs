//! SQLite: changes captured by triggers, received changes applied, chunks of first copies, and comparisons.

mod apply;
mod assemble;
mod capture;
mod connect;
mod continuity;
mod copy;
mod create;
mod diff;
mod error;
pub mod events;
mod failure;
mod identity;
mod inspect;
mod install;
mod options;
mod polled;
mod range;
mod repair;
mod rivals;
mod scan;
mod schema;
mod start;
mod triggers;
mod trim;
mod types;

pub use apply::{Applier, ApplierOptions};
pub use capture::Capture;
pub use copy::Reader;
pub use create::create_table;
pub use diff::{DiffOptions, RowDiff, RowDiffKind, Side, TableDiff, diff_table, list_tables};
pub use error::CaptureError;
pub use failure::SqliteError;
pub use inspect::inspect;
pub use options::{CaptureOptions, Captured};
pub use repair::{Repaired, repair_table};
pub use schema::uninstall;
