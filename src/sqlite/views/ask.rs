//! Questions to a build: answered from one snapshot, within limits, and only reading.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Instant;

use rusqlite::{Connection, ErrorCode, OptionalExtension};
use serde_json::Value as Json;

use super::answer::{bind, read};
use super::guard::{guard_questions, unguard};
use super::meta::{self, Found};
use super::readers::{limit_question, unlimit};
use super::store::{Shared, is_of_the_store};
use crate::model::limits;
use crate::sqlite::connect::{is_internal, quote_ident};
use crate::view::{Answer, AskError, Bounds, Question, key_asked};

/// Instructions of SQLite between two looks at the clock.
const OPS_BETWEEN_LOOKS: i32 = 1_000;

/// Answers a question, once it is its turn.
pub(super) async fn ask(shared: &Arc<Shared>, question: &Question, bounds: &Bounds) -> Result<Answer, AskError> {
    let deadline = Instant::now() + bounds.time;
    let place = tokio::time::timeout(bounds.time, shared.places.clone().acquire_owned())
        .await
        .map_err(|_| AskError::Slow(bounds.time))?
        .map_err(|_| AskError::Failed("the store is closed".into()))?;
    let (here, question, bounds) = (shared.clone(), question.clone(), *bounds);
    // The work keeps the place until it has ended, also where nobody waits for it any more.
    let work = move || {
        let _place = place;
        let Some(readers) = &here.readers else {
            return within(&mut here.writer().conn, &question, bounds, deadline);
        };
        let mut conn = readers.take().map_err(|error| AskError::Failed(error.to_string()))?;
        let answer = within(&mut conn, &question, bounds, deadline);
        // One that could not be put back as it was is closed.
        if conn.is_autocommit() && !matches!(answer, Err(AskError::Failed(_))) {
            readers.give(conn);
        }
        answer
    };
    // The clock is not looked at within one instruction of SQLite, which may take long over long values.
    let answer = tokio::time::timeout(2 * bounds.time, tokio::task::spawn_blocking(work)).await;
    let answer = answer.map_err(|_| AskError::Slow(bounds.time))?;
    answer.map_err(|error| AskError::Failed(format!("the question was not answered: {error}")))?
}

/// Why there is no answer.
pub(super) enum Trouble {
    /// SQLite's.
    Sql(rusqlite::Error),
    /// Ours.
    Said(AskError),
}

impl From<rusqlite::Error> for Trouble {
    fn from(error: rusqlite::Error) -> Trouble {
        Trouble::Sql(error)
    }
}

impl From<AskError> for Trouble {
    fn from(error: AskError) -> Trouble {
        Trouble::Said(error)
    }
}

impl Trouble {
    /// For whoever asked.
    fn told(self, refusal: Option<String>, bounds: Bounds) -> AskError {
        let error = match self {
            Trouble::Said(said) => return said,
            Trouble::Sql(error) => error,
        };
        let words = match &error {
            rusqlite::Error::SqlInputError { msg, .. } => msg.clone(),
            rusqlite::Error::SqliteFailure(_, Some(words)) => words.clone(),
            rusqlite::Error::MultipleStatement => "one statement is expected".to_owned(),
            other => other.to_string(),
        };
        match error.sqlite_error_code() {
            Some(ErrorCode::OperationInterrupted) => AskError::Slow(bounds.time),
            _ if refusal.is_some() => AskError::Forbidden(refusal.unwrap_or(words)),
            Some(ErrorCode::AuthorizationForStatementDenied) => AskError::Forbidden(words),
            Some(ErrorCode::TooBig) => {
                AskError::Large { what: "bytes in one value", most: limits::VIEW_VALUE_BYTES_MAX }
            }
            _ if is_of_the_store(&error) => AskError::Failed(error.to_string()),
            _ => AskError::Invalid(words),
        }
    }
}

/// In one read transaction, with the guard and the limits in place; afterwards everything is as it was.
fn within(conn: &mut Connection, question: &Question, bounds: Bounds, deadline: Instant) -> Result<Answer, AskError> {
    conn.execute_batch("BEGIN").map_err(|error| Trouble::Sql(error).told(None, bounds))?;
    let answer = snapshot(conn, question, bounds, deadline);
    let restored = unguard(conn)
        .and_then(|()| conn.progress_handler(0, None::<fn() -> bool>))
        .and_then(|()| conn.execute_batch("ROLLBACK"));
    restored.map_err(|error| AskError::Failed(error.to_string()))?;
    answer
}

fn snapshot(conn: &mut Connection, question: &Question, bounds: Bounds, deadline: Instant) -> Result<Answer, AskError> {
    let look = || -> Result<_, Trouble> {
        // The first read is what the snapshot is of.
        let Found::View(meta) = meta::found(conn)? else {
            return Err(AskError::Failed("the view's file was replaced".into()).into());
        };
        let widest = "SELECT coalesce(max((SELECT count(*) FROM pragma_table_info(name))), 0) FROM sqlite_schema";
        let columns: u32 = conn.query_row(widest, [], |row| row.get(0))?;
        Ok((meta.fingerprint, meta::cursors(conn)?, Asked::new(conn, question)?, columns))
    };
    let (definition, cursors, asked, columns) = look().map_err(|trouble| trouble.told(None, bounds))?;
    let plain = |error| Trouble::Sql(error).told(None, bounds);
    conn.progress_handler(OPS_BETWEEN_LOOKS, Some(move || Instant::now() >= deadline)).map_err(plain)?;
    let before = limit_question(conn, columns as usize).map_err(plain)?;
    let refusal = guard_questions(conn).map_err(plain)?;
    let answered = asked.answer(conn, bounds, deadline);
    unlimit(conn, before).map_err(|error| AskError::Failed(error.to_string()))?;
    let (columns, rows) = answered.map_err(|trouble| trouble.told(refusal.take(), bounds))?;
    Ok(Answer { columns, rows, cursors, definition })
}

/// A question as SQL.
struct Asked<'q> {
    sql: Cow<'q, str>,
    parameters: Parameters<'q>,
}

enum Parameters<'q> {
    Given(&'q Json),
    /// A key's values, and what to say if there is no such row.
    Key(Vec<String>, String),
}

impl<'q> Asked<'q> {
    fn new(conn: &Connection, question: &'q Question) -> Result<Asked<'q>, Trouble> {
        match question {
            Question::Sql { sql, .. } if sql.len() > limits::VIEW_QUESTION_BYTES_MAX => {
                Err(AskError::Large { what: "bytes in the question", most: limits::VIEW_QUESTION_BYTES_MAX }.into())
            }
            Question::Sql { sql, params } => {
                Ok(Asked { sql: sql.as_str().into(), parameters: Parameters::Given(params) })
            }
            Question::Row { table, key } => Asked::row(conn, table, key),
        }
    }

    fn row(conn: &Connection, table: &str, key: &str) -> Result<Asked<'q>, Trouble> {
        let absent = || AskError::Absent(format!("the view has no table {table:?}"));
        if is_internal(table) {
            return Err(absent().into());
        }
        let sql = "SELECT name FROM sqlite_schema WHERE type IN ('table', 'view') AND name = ?1 COLLATE NOCASE";
        let name: Option<String> = conn.query_row(sql, [table], |row| row.get(0)).optional()?;
        let name = name.ok_or_else(absent)?;
        let mut statement = conn.prepare("SELECT name FROM pragma_table_info(?1) WHERE pk > 0 ORDER BY pk")?;
        let columns: Vec<String> = statement.query_map([&name], |row| row.get(0))?.collect::<Result<_, _>>()?;
        let values = key_asked(&name, &columns, key)?;
        let columns = columns.iter().enumerate();
        let equal: Vec<_> =
            columns.map(|(index, column)| format!("{} = ?{}", quote_ident(column), index + 1)).collect();
        let sql = format!("SELECT * FROM {} WHERE {}", quote_ident(&name), equal.join(" AND "));
        let absent = format!("table {name} has no row with the key {key:?}");
        Ok(Asked { sql: sql.into(), parameters: Parameters::Key(values, absent) })
    }

    fn answer(&self, conn: &Connection, bounds: Bounds, deadline: Instant) -> Result<Rows, Trouble> {
        let mut statement = conn.prepare(&self.sql)?;
        if !statement.readonly() {
            return Err(AskError::Forbidden("a question can only read the view's tables".into()).into());
        }
        if statement.column_count() == 0 {
            return Err(AskError::Invalid("it gives no rows: one SELECT is expected".into()).into());
        }
        match &self.parameters {
            Parameters::Given(given) => {
                bind(&mut statement, given)?;
                read(&mut statement, bounds, deadline)
            }
            Parameters::Key(values, absent) => {
                for (index, value) in values.iter().enumerate() {
                    statement.raw_bind_parameter(index + 1, value)?;
                }
                let found = read(&mut statement, bounds, deadline)?;
                if !found.1.is_empty() {
                    return Ok(found);
                }
                // A column without a type keeps numbers and texts apart.
                for (index, value) in values.iter().enumerate() {
                    match value.parse::<i64>() {
                        Ok(number) => statement.raw_bind_parameter(index + 1, number)?,
                        Err(_) => statement.raw_bind_parameter(index + 1, value)?,
                    }
                }
                let found = read(&mut statement, bounds, deadline)?;
                if found.1.is_empty() { Err(AskError::Absent(absent.clone()).into()) } else { Ok(found) }
            }
        }
    }
}

/// Columns, and rows of values in their order.
pub(super) type Rows = (Vec<String>, Vec<Vec<Json>>);
