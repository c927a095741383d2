//! An events table as a view.
