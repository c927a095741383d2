//! A source rebuilt from a destination.
