//! Trees of real processes on real files.

mod balances;
mod decisions;
mod first_hours;
mod kills;
mod levels;
mod links;
mod restores;
pub mod site;
mod surfaces;
