//! Room: testing. Conformance suites and storage that fails, for tests of ours and of whoever implements a trait.

pub mod log_conformance;
pub mod log_storage;
