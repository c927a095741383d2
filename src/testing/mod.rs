//! Room: testing. Conformance suites, storage that fails and a network that does, for tests of ours and of whoever
//! implements a trait.

pub mod log_conformance;
pub mod log_storage;
mod ports;
pub mod postgres;
pub mod proxy;
pub mod view_conformance;

pub use ports::free_port;
