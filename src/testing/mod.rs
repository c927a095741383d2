//! Room: testing.
