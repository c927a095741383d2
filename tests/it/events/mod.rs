//! Events tables, on real PostgreSQL servers and SQLite files.

mod inspect;
mod tables;
mod stream;
