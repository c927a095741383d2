//! Views of a running node: kept going, asked, rebuilt.

mod bed;
mod calls;
mod changes;
mod checks;
mod clients;
mod digests;
mod digests_nodes;
mod elsewhere;
mod machine;
mod other_log;
mod plain;
mod postgres;
mod publish;
mod random;
mod reading;
mod rebuild;
mod refusals;
mod skip;
mod sql;
mod tables;
mod tokens;
mod trouble;
