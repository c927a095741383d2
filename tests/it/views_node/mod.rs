//! Views of a running node: kept going, asked, rebuilt.

mod bed;
mod calls;
mod changes;
mod clients;
mod elsewhere;
mod plain;
mod postgres;
mod reading;
mod rebuild;
mod sql;
mod tables;
mod tokens;
mod trouble;
