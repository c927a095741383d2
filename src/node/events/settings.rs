//! What is copied where, from `[events]` or from the original's file.
