//! Events tables copied to other databases: what to copy, whether it may begin, the copying itself, and comparisons.

mod compare;
mod endpoint;
mod literal;
mod load;
mod replicate;
mod restore;
mod settings;
mod slate;
mod tokens;
mod validate;

pub use endpoint::{Endpoint, NotAnEndpoint, without_password};
pub use settings::Settings;
