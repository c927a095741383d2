//! A node: one process with its log, at most one database, and its links; wired from the rooms below.

mod book;
mod capture;
pub mod config;
mod copies;
mod copy_status;
mod database;
pub mod entry_json;
#[cfg(all(feature = "postgres", feature = "sqlite"))]
pub mod events;
mod fell_out;
mod folder;
mod host;
mod lanes;
mod offers;
mod offline;
mod operate;
mod outgoing;
mod policy;
mod preflight;
mod replaced;
mod retention;
mod running;
mod serving;
mod settings;
mod shared;
mod standby;
mod status;
mod store;
mod subtree;
mod tree;
mod twin;
mod uncaptured;
mod wiring;

pub use database::ApplyState;
pub use folder::{Folder, lock};
pub use offline::{drop_database, drop_peer};
pub use operate::{Order, OrderError};
pub use policy::{Policy, SendPolicy};
pub use preflight::{Preflight, Sends, mend_ids, preflight, probe_parent};
pub use running::Node;
pub use settings::{CopySettings, DatabaseSettings, Exit, LogSettings, NodeError, Parent, Settings};
pub use shared::Shared;
pub use status::{Status, ready};
pub use store::Store;
pub use tree::Tree;
pub use wiring::policy;
