//! Room: sqlite.

mod apply;
mod range;

pub use apply::{Applier, ApplierOptions};
