//! What a definition says: statements that make a view's tables, and statements for every change that it looks at.

use sha2::{Digest, Sha256};
use thiserror::Error;

use super::lexer::Lexer;
use super::statement::{Parameter, Statement};
use crate::model::{Fingerprint, Op, TableDef, TableName};

/// How changes are presented to statements. A new number builds every view anew.
const VERSION: u32 = 1;

/// Whose SQL it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// SQLite's.
    Sqlite,
    /// PostgreSQL's.
    Postgres,
}

/// Something is wrong with a definition.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("{file}:{line}:{column}: {why}")]
pub struct DefinitionError {
    /// As it was given.
    pub file: String,
    /// Counted from 1.
    pub line: u32,
    /// Counted from 1, in characters.
    pub column: u32,
    /// What it is.
    pub why: String,
}

/// What is done for the changes of one kind in one table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Handler {
    /// Insert, update, delete or truncate.
    pub op: Op,
    /// Of the log.
    pub table: TableName,
    /// At least one, in order.
    pub statements: Vec<Statement>,
}

/// A view's definition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Definition {
    /// Where it stands, for people.
    pub file: String,
    /// As it stands there.
    pub text: String,
    /// Whose SQL it is.
    pub dialect: Dialect,
    /// Makes the view's tables; run once, when a build begins.
    pub setup: Vec<Statement>,
    /// At least one, in the order in which they are carried out.
    pub handlers: Vec<Handler>,
}

impl Definition {
    /// Reads a definition.
    ///
    /// # Errors
    /// The first thing that is wrong with it, and where.
    pub fn parse(file: &str, text: &str, dialect: Dialect) -> Result<Definition, DefinitionError> {
        super::parse::parse(file, text, dialect)
    }

    /// An error at a byte of one of its statements.
    pub fn error_at(&self, statement: &Statement, offset: usize, why: impl Into<String>) -> DefinitionError {
        let place = statement.place_of(offset);
        DefinitionError { file: self.file.clone(), line: place.line, column: place.column, why: why.into() }
    }

    /// Over everything that decides what the state is: what is done, how changes are presented, and the kind of store.
    /// Comments and the length of blanks do not matter.
    pub fn fingerprint(&self, store: &str) -> Fingerprint {
        let mut hash = Sha256::new();
        let mut part = |bytes: &[u8]| {
            hash.update((bytes.len() as u64).to_le_bytes());
            hash.update(bytes);
        };
        part(b"watershed view");
        part(&VERSION.to_le_bytes());
        part(store.as_bytes());
        for statement in &self.setup {
            part(self.plain(statement).as_bytes());
        }
        for handler in &self.handlers {
            part(format!("on {} {}", handler.op.name(), handler.table).as_bytes());
            for statement in &handler.statements {
                part(self.plain(statement).as_bytes());
            }
        }
        let digest = hash.finalize();
        Fingerprint(digest.iter().take(8).fold(0, |number, &byte| number << 8 | u64::from(byte)))
    }

    /// A statement with one space where it has blanks or comments.
    fn plain(&self, statement: &Statement) -> String {
        let mut plain = String::with_capacity(statement.text.len());
        for (piece, range) in Lexer::new(&statement.text, self.dialect).flatten() {
            match piece.is_silent() {
                true if plain.ends_with(' ') => {}
                true => plain.push(' '),
                false => plain.push_str(&statement.text[range]),
            }
        }
        plain
    }

    /// Whether it asks for the row before a change of that table, so that the latest rows must be known.
    pub fn needs_old(&self, table: &TableName) -> bool {
        let of_row = |parameter: &Parameter| matches!(parameter, Parameter::Row(_) | Parameter::Json);
        let of_old = |parameter: &Parameter| matches!(parameter, Parameter::Old(_));
        self.handlers.iter().filter(|handler| handler.table == *table).any(|handler| {
            let mut named = handler.statements.iter().flat_map(|statement| &statement.parameters);
            match handler.op {
                // A source may leave out large values that have not changed.
                Op::Update => named.any(|parameter| of_old(parameter) || of_row(parameter)),
                Op::Delete => named.any(|parameter| of_old(parameter) || matches!(parameter, Parameter::Json)),
                _ => false,
            }
        })
    }

    /// For people, at load: whether the latest rows of tables are kept, and why.
    pub fn tell_kept(&self, view: &str) {
        let mut kept: Vec<&str> =
            self.tables().into_iter().filter(|table| self.needs_old(table)).map(TableName::as_str).collect();
        kept.dedup();
        if !kept.is_empty() {
            let tables = kept.join(", ");
            tracing::info!(
                "view {view}: the latest rows of {tables} are kept with it, because its definition needs the row before a change, or all of one after it; a feed's are not"
            );
        }
    }

    /// The tables that it looks at, each once.
    pub fn tables(&self) -> Vec<&TableName> {
        let mut tables: Vec<&TableName> = self.handlers.iter().map(|handler| &handler.table).collect();
        tables.sort();
        tables.dedup();
        tables
    }

    /// Compares what it names with tables that are known: a table may be there in several versions, and may not be known yet.
    ///
    /// # Errors
    /// A column that no version of its table has.
    pub fn check(&self, known: &[std::sync::Arc<TableDef>]) -> Result<(), DefinitionError> {
        for handler in &self.handlers {
            let versions: Vec<_> = known.iter().filter(|def| def.name == handler.table).collect();
            if versions.is_empty() || versions.iter().any(|def| def.is_feed()) {
                continue;
            }
            for statement in &handler.statements {
                for (range, parameter) in &statement.uses {
                    let (Parameter::Row(column) | Parameter::Old(column)) = &statement.parameters[*parameter] else {
                        continue;
                    };
                    if versions.iter().all(|def| def.column(column).is_none()) {
                        let why = format!("table {} has no column {column:?}", handler.table);
                        return Err(self.error_at(statement, range.start, why));
                    }
                }
            }
        }
        Ok(())
    }
}
