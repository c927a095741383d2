//! Trees of real processes on real files.

mod away;
mod balances;
mod copies;
mod decisions;
mod filters;
mod first_hours;
mod kills;
mod levels;
mod links;
mod locked;
mod owners;
mod parents;
mod parking;
mod pgbench;
mod postgres;
mod restores;
mod retention;
pub mod site;
mod standby;
mod surfaces;
