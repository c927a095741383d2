//! Events tables copied to other databases: what to copy, whether it may begin, the copying itself, and comparisons.

mod compare;
mod endpoint;
mod literal;
mod load;
mod passfile;
mod people;
mod progress;
mod replicate;
mod restore;
mod settings;
mod slate;
mod tokens;
mod validate;
mod worker;

pub use endpoint::{Endpoint, NotAnEndpoint};
pub use load::{LoadOptions, Loaded, load};
pub use progress::{DestinationStatus, Overview, Phase, Progress};
pub use replicate::{Haste, Refusal, Replication};
pub use settings::Settings;
