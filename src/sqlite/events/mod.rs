//! Events tables in SQLite.

mod compare;
mod init;
mod insert;
mod inspect;
mod source;
mod view;
