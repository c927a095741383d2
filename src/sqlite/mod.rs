//! SQLite: changes captured by triggers, and received changes applied.

mod assemble;
mod capture;
mod connect;
mod continuity;
mod error;
mod identity;
mod inspect;
mod install;
mod options;
mod rivals;
mod schema;
mod start;
mod triggers;
mod trim;
mod types;

pub use capture::Capture;
pub use error::CaptureError;
pub use inspect::{InspectedTable, Inspection, inspect};
pub use options::{CaptureOptions, Captured, CapturesTable};
pub use schema::uninstall;
