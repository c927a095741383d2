//! Views of a running node: kept going, asked, rebuilt.

mod bed;
mod calls;
mod plain;
mod reading;
mod rebuild;
mod tokens;
mod trouble;
