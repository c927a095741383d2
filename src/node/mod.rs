//! Room: node.

pub mod config;
