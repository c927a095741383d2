//! Room: node.

pub mod config;
pub mod entry_json;
