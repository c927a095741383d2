//! Room: sqlite.

mod apply;
mod copy;
mod diff;
mod failure;
mod range;
mod repair;
mod scan;

pub use apply::{Applier, ApplierOptions};
pub use copy::{Chunk, Reader};
pub use diff::{DiffOptions, RowDiff, RowDiffKind, Side, TableDiff, diff_table, list_tables};
pub use failure::SqliteError;
pub use repair::{Repaired, repair_table};
