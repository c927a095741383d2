//! Events tables copied to other databases: what to copy, whether it may begin, the copying itself, and comparisons.

mod compare;
mod endpoint;
mod load;
mod replicate;
mod restore;
mod settings;
mod slate;
mod validate;
