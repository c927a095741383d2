//! Conformance suites, faulty storage and proxies, for tests of ours and of whoever implements a trait.

pub mod proxy;
