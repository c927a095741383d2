//! Definitions of SQL views: files of plain SQL with comments as markers, read into statements that know their place.

mod clock;
mod definition;
mod lexer;
mod parse;
#[cfg(feature = "postgres")]
mod scan;
mod statement;

pub use definition::{Definition, DefinitionError, Dialect, Handler};
#[cfg(feature = "postgres")]
pub(crate) use scan::{Named, Scanned, scan};
pub use statement::{Parameter, Place, Statement, Written};
