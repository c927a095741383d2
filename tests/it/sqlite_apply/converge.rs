//! First copies under writing converge.
