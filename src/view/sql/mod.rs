//! Definitions of SQL views: files of plain SQL with comments as markers, read into statements that know their place.

mod definition;
mod lexer;
mod parse;
mod statement;

pub use definition::{Definition, DefinitionError, Dialect, Handler};
pub use statement::{Parameter, Place, Statement, Written};
