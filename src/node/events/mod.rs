//! Events tables copied to other databases: what to copy, whether it may begin, the copying itself, and comparisons.

mod compare;
mod diff_settings;
mod endpoint;
mod findings;
mod groups;
mod literal;
mod load;
mod pages;
mod people;
mod progress;
mod replicate;
mod restore;
mod settings;
mod slate;
mod tokens;
mod validate;
mod worker;

pub use compare::{CompareOptions, Comparison, Findings, Tables, compare};
pub use diff_settings::DiffSettings;
pub use endpoint::{Endpoint, NotAnEndpoint};
pub use findings::{Both, EventsSide, Finding};
pub use load::{LoadOptions, Loaded, load};
pub use progress::{DestinationStatus, Overview, Phase, Progress};
pub use replicate::{Haste, Refusal, Replication};
pub use restore::{RestoreProgress, RestoreStep, Restored, restore};
pub use settings::Settings;
