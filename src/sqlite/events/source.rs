//! An events table as a source.
