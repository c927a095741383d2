//! Digests and rows of an events table, to compare it with another.
