//! Trees of real processes on real files.

mod levels;
mod site;
