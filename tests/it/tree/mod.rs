//! Trees of real processes on real files.

mod away;
mod balances;
mod cases;
mod checks;
mod copies;
mod copies_under_fire;
mod decisions;
mod failover;
mod filters;
mod first_hours;
mod ids;
mod kills;
mod levels;
mod links;
mod locked;
mod names;
mod owners;
mod parents;
mod parking;
mod pgbench;
mod postgres;
mod restores;
mod retention;
mod servers;
pub mod site;
mod standby;
mod surfaces;
