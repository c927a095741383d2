//! Events tables, on real PostgreSQL servers and SQLite files.

mod append;
mod compare;
mod connect;
mod init;
mod init_sqlite;
mod inspect;
mod kills;
mod load;
mod process;
mod replicate;
mod restore;
mod settings;
mod sqlite;
mod stream;
mod tables;
mod validate;
