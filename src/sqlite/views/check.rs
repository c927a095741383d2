//! A definition against its store: its setup carried out, its statements prepared, and every refusal at its place.

use rusqlite::{Connection, Error};

use super::guard::{Refusal, guard_definition, unguard};
use crate::view::sql::{Definition, DefinitionError, Statement, Written};
use crate::view::{Script, ViewError};

/// What a build or its definition is told; the store's own trouble is not the definition's.
pub(super) enum Unfit {
    Definition(DefinitionError),
    Store(Error),
}

impl Unfit {
    pub(super) fn into_view(self, fail: impl Fn(Error) -> ViewError) -> ViewError {
        match self {
            Unfit::Definition(error) => error.into(),
            Unfit::Store(error) => fail(error),
        }
    }
}

impl From<Error> for Unfit {
    fn from(error: Error) -> Unfit {
        Unfit::Store(error)
    }
}

/// The name that SQLite is given for a parameter, by its place among those of its statement.
pub(super) fn parameter(index: usize) -> String {
    format!("?{}", index + 1)
}

/// Carries out the setup, in the transaction that is open.
pub(super) fn set_up(conn: &mut Connection, definition: &Definition) -> Result<(), Unfit> {
    guarded(conn, |conn, refusal| {
        for statement in &definition.setup {
            let run = || -> rusqlite::Result<()> {
                let mut prepared = conn.prepare(&statement.text)?;
                let mut rows = prepared.raw_query();
                while rows.next()?.is_some() {}
                Ok(())
            };
            let written = statement.written(parameter);
            run().map_err(|error| refused(definition, statement, &written, error, refusal))?;
        }
        Ok(())
    })
}

/// Prepares every statement of the handlers, and gives them as SQLite takes them.
pub(super) fn prepare(conn: &mut Connection, script: &Script) -> Result<Vec<String>, Unfit> {
    let definition = &*script.definition;
    guarded(conn, |conn, refusal| {
        let mut sqls = Vec::with_capacity(script.count());
        for number in 0..script.count() {
            let statement = script.statement(number);
            let written = statement.written(parameter);
            let prepared = conn.prepare(&written.sql);
            let prepared = prepared.map_err(|error| refused(definition, statement, &written, error, refusal))?;
            let why = match (prepared.readonly(), prepared.column_count()) {
                (true, _) => "it changes nothing",
                (false, 0) => {
                    sqls.push(written.sql.clone());
                    continue;
                }
                (false, _) => "it gives rows, which nobody takes: leave RETURNING out",
            };
            return Err(Unfit::Definition(definition.error_at(statement, 0, why)));
        }
        Ok(sqls)
    })
}

fn guarded<T>(conn: &mut Connection, work: impl FnOnce(&Connection, &Refusal) -> Result<T, Unfit>) -> Result<T, Unfit> {
    let refusal = guard_definition(conn)?;
    let done = work(conn, &refusal);
    unguard(conn)?;
    done
}

/// SQLite's words, at the place that it means.
fn refused(
    definition: &Definition,
    statement: &Statement,
    written: &Written,
    error: Error,
    refusal: &Refusal,
) -> Unfit {
    if super::store::is_of_the_store(&error) {
        return Unfit::Store(error);
    }
    let (words, offset) = match &error {
        Error::SqlInputError { msg, offset, .. } => {
            let offset = usize::try_from(*offset).unwrap_or(0);
            (msg.clone(), Some(written.original(offset)))
        }
        Error::SqliteFailure(_, Some(words)) => (words.clone(), None),
        other => (other.to_string(), None),
    };
    // What is said of a name stands where the name does.
    let named = || {
        if words == "incomplete input" {
            return Some(statement.text.len());
        }
        let name = words.rsplit([' ', '.']).next().filter(|name| !name.is_empty())?;
        let is_word = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
        let mut found = statement.text.match_indices(name).map(|(at, _)| at);
        found.find(|&at| {
            let (before, after) = (&statement.text[..at], &statement.text[at + name.len()..]);
            !is_word(before.chars().next_back()) && !is_word(after.chars().next())
        })
    };
    let offset = offset.or_else(named).unwrap_or(0);
    Unfit::Definition(definition.error_at(statement, offset, refusal.take().unwrap_or(words)))
}
