//! Events tables, on real PostgreSQL servers and SQLite files.

mod inspect;
mod settings;
mod stream;
mod tables;
