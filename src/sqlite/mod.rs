//! Room: sqlite.
