//! SQLite: changes captured by triggers, and received changes applied.

mod assemble;
mod capture;
mod connect;
mod continuity;
mod error;
mod identity;
mod inspect;
mod install;
mod rivals;
mod schema;
mod triggers;
mod types;

pub use capture::{Capture, CaptureOptions, Captured, CapturesTable, uninstall};
pub use error::CaptureError;
pub use inspect::{InspectedTable, Inspection, inspect};
