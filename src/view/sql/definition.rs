//! What a definition says: statements that make a view's tables, and statements for every change that it looks at.

use sha2::{Digest, Sha256};
use thiserror::Error;

use super::lexer::Lexer;
use super::statement::{Parameter, Statement};
use crate::model::{Fingerprint, Op, TableDef, TableName};

/// How changes are presented to statements. A new number builds every view anew.
const VERSION: u32 = 2;

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
        let definition = super::parse::parse(file, text, dialect)?;
        definition.does_the_same_again()?;
        Ok(definition)
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

    /// For people: of which tables the latest rows are kept, and why; `None` where none are.
    pub fn kept(&self) -> Option<String> {
        let kept: Vec<&str> =
            self.tables().into_iter().filter(|table| self.needs_old(table)).map(TableName::as_str).collect();
        let tables = kept.join(", ");
        let why = "its definition needs the row before a change, or all of one after it; a feed's are not";
        (!kept.is_empty()).then(|| format!("the latest rows of {tables} are kept with it, because {why}"))
    }

    /// The same, at load.
    pub fn tell_kept(&self, view: &str) {
        if let Some(kept) = self.kept() {
            tracing::info!("view {view}: {kept}");
        }
    }

    /// For people: what an earlier text, of another fingerprint, means for a view that was built by it.
    pub fn differs(&self, before: &str) -> String {
        let (old, new): (Vec<&str>, Vec<&str>) = (before.lines().collect(), self.text.lines().collect());
        let same = old.iter().zip(&new).take_while(|(old, new)| old == new).count();
        let file = &self.file;
        match old == new {
            true => "this version presents changes to statements in another way".to_owned(),
            false => format!("{file} is not what it was, from line {} on", same + 1),
        }
    }

    /// A view is built again, and elsewhere, from the same log.
    fn does_the_same_again(&self) -> Result<(), DefinitionError> {
        let handled = self.handlers.iter().flat_map(|handler| &handler.statements);
        for statement in self.setup.iter().chain(handled) {
            if let Some(at) = super::clock::asks_the_time(&statement.text, self.dialect) {
                let why = "it asks what time it is, or where, which is something else each time, so the view could not be built again; \
                           there is :time";
                return Err(self.error_at(statement, at, why));
            }
        }
        Ok(())
    }

    /// Whoever is told of every change of a row would not be told of one by a statement that changes the tables themselves.
    ///
    /// # Errors
    /// There is such a statement.
    pub fn only_changes_rows(&self) -> Result<(), DefinitionError> {
        let statements = self.handlers.iter().flat_map(|handler| &handler.statements);
        for statement in statements {
            let first: String = statement.text.chars().take_while(|c| c.is_alphabetic()).collect();
            if ["create", "drop", "alter"].iter().any(|word| first.eq_ignore_ascii_case(word)) {
                let why = "with `changes` or `publish` the tables are made in the setup: what changes in a table that comes and \
                           goes could not be told";
                return Err(self.error_at(statement, 0, format!("{}: {why}", first.to_uppercase())));
            }
        }
        Ok(())
    }

    /// The tables that it looks at, each once.
    pub fn tables(&self) -> Vec<&TableName> {
        let mut tables: Vec<&TableName> = self.handlers.iter().map(|handler| &handler.table).collect();
        tables.sort();
        tables.dedup();
        tables
    }

    /// For people: what it names of tables that are known, and no version of its table has. A table may be there in several
    /// versions, and may not be known yet.
    pub fn unknown_columns(&self, known: &[std::sync::Arc<TableDef>]) -> Vec<String> {
        let mut found = Vec::new();
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
                        let why = format!("table {} has no column {column:?}, so that this is NULL", handler.table);
                        found.push(self.error_at(statement, range.start, why).to_string());
                    }
                }
            }
        }
        found
    }
}
