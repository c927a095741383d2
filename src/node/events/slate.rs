//! The original's configuration file.
