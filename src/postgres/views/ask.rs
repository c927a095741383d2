//! Questions to a build: answered from one snapshot, within limits, and only reading.
//!
//! A transaction that only reads keeps the server from writing, but not functions from doing other things (reading files,
//! ending sessions), and a session's role may read more than the view. So a question is looked at first: it names no schema
//! but the view's, nothing of the catalog's, and no function that is volatile. It is given to the server as one prepared
//! statement, within another, so that it can only be a query.

use std::sync::{Arc, PoisonError};

use serde_json::Value as Json;
use tokio::time::{Instant, timeout_at};
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{IsolationLevel, Transaction};

use super::answer::{json, numbered};
use super::meta::{self, Found, quoted};
use super::session::{self, Trouble, is_of_the_store, words};
use super::store::Shared;
use super::text::AsText;
use crate::model::limits;
use crate::postgres::Session;
use crate::view::sql::{Scanned, scan};
use crate::view::{Answer, AskError, Bounds, Question, key_asked};

/// Rows that are asked for at once.
const ROWS_AT_ONCE: i32 = 64;
/// Volatile functions that harm nobody.
const HARMLESS: [&str; 4] = ["random", "gen_random_uuid", "clock_timestamp", "timeofday"];
/// Functions that carry out a statement which is their argument, or read a table that is.
const HIDING: [&str; 6] = ["crosstab", "crosstabn", "connectby", "xpath_table", "ts_stat", "ts_rewrite"];

/// Why there is no answer.
enum Unanswered {
    Said(AskError),
    Trouble(Trouble),
    /// Another build took the place of this one meanwhile.
    Moved,
}

impl From<AskError> for Unanswered {
    fn from(error: AskError) -> Unanswered {
        Unanswered::Said(error)
    }
}

impl From<Trouble> for Unanswered {
    fn from(trouble: Trouble) -> Unanswered {
        Unanswered::Trouble(trouble)
    }
}

impl From<tokio_postgres::Error> for Unanswered {
    fn from(error: tokio_postgres::Error) -> Unanswered {
        Unanswered::Trouble(error.into())
    }
}

/// Answers a question, once it is its turn.
pub(super) async fn ask(shared: &Arc<Shared>, question: &Question, bounds: Bounds) -> Result<Answer, AskError> {
    let answered = timeout_at(Instant::now() + bounds.time, in_turn(shared, question, bounds)).await;
    // What is given up with its session is ended by the server at the same time.
    answered.map_err(|_| AskError::Slow(bounds.time))?
}

async fn in_turn(shared: &Arc<Shared>, question: &Question, bounds: Bounds) -> Result<Answer, AskError> {
    let place = shared.places.acquire().await;
    let _place = place.map_err(|_| AskError::Failed("the store is closed".into()))?;
    for last in [false, true] {
        let idle = shared.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut session = match idle.filter(|session| !session.client.is_closed()) {
            Some(session) => session,
            None => session::connect(&shared.endpoint).await.map_err(|error| AskError::Failed(error.to_string()))?,
        };
        let answer = once(&mut session, shared, question, bounds).await;
        match answer {
            Ok(answer) => {
                shared.idle.lock().unwrap_or_else(PoisonError::into_inner).push(session);
                return Ok(answer);
            }
            Err(Unanswered::Moved) if !last => {}
            // A session that another one has closed meanwhile says nothing about the server.
            Err(Unanswered::Trouble(Trouble::Server(error))) if error.is_closed() && !last => {}
            Err(unanswered) => return Err(told(shared, unanswered, bounds)),
        }
    }
    Err(AskError::Failed("the view is being replaced; ask again".into()))
}

fn told(shared: &Shared, unanswered: Unanswered, bounds: Bounds) -> AskError {
    let error = match unanswered {
        Unanswered::Said(error) => return error,
        Unanswered::Moved => return AskError::Failed("the view is being replaced; ask again".into()),
        Unanswered::Trouble(Trouble::View(error)) => return AskError::Failed(error.to_string()),
        Unanswered::Trouble(Trouble::Server(error)) => error,
    };
    let Some(db) = error.as_db_error() else {
        return AskError::Failed(shared.endpoint.failed("answering", error).words());
    };
    match db.code().code() {
        "57014" => AskError::Slow(bounds.time),
        "25006" | "42501" => AskError::Forbidden(words(db)),
        "54000" | "53200" => AskError::Large { what: "bytes in one value", most: limits::VIEW_VALUE_BYTES_MAX },
        _ if is_of_the_store(&error) => AskError::Failed(words(db)),
        _ => AskError::Invalid(words(db)),
    }
}

/// In one transaction that reads from one snapshot.
async fn once(
    session: &mut Session,
    shared: &Shared,
    question: &Question,
    bounds: Bounds,
) -> Result<Answer, Unanswered> {
    let transaction = session.client.build_transaction();
    let transaction = transaction.isolation_level(IsolationLevel::RepeatableRead).read_only(true).start().await?;
    let settings = format!(
        "SET LOCAL statement_timeout = {}; SET LOCAL search_path = {}; SET LOCAL work_mem = '8MB';
         SET LOCAL max_parallel_workers_per_gather = 0",
        bounds.time.as_millis().clamp(1, i32::MAX as u128),
        quoted(&shared.schema)
    );
    transaction.batch_execute(&settings).await?;
    let Found::View(meta) = meta::found(&transaction, &shared.schema).await? else {
        return Err(AskError::Failed(format!("schema {} is no view's any more", shared.schema)).into());
    };
    let cursors = meta::cursors(&transaction, &shared.schema).await?;
    let (columns, rows) = match question {
        Question::Sql { sql, params } => {
            let scanned = looked_at(&transaction, &shared.schema, sql).await?;
            let (sql, values) = numbered(&scanned, params)?;
            rows(&transaction, &sql, &values, bounds).await?
        }
        Question::Row { table, key } => row(&transaction, &shared.schema, table, key, bounds).await?,
    };
    // Names are looked up as they are now, rows as they were: both must be of one build.
    match meta::found(&transaction, &shared.schema).await? {
        Found::View(now) if now.build == meta.build => {}
        _ => return Err(Unanswered::Moved),
    }
    transaction.rollback().await?;
    Ok(Answer { columns, rows, cursors, definition: meta.fingerprint })
}

/// Refuses what could do more than read the view.
async fn looked_at(transaction: &Transaction<'_>, schema: &str, sql: &str) -> Result<Scanned, Unanswered> {
    if sql.len() > limits::VIEW_QUESTION_BYTES_MAX {
        return Err(AskError::Large { what: "bytes in the question", most: limits::VIEW_QUESTION_BYTES_MAX }.into());
    }
    let scanned = scan(sql).map_err(AskError::Invalid)?;
    let reads = "a question can only read the view's tables";
    match scanned.names.first().map(|named| named.name.as_str()) {
        None => return Err(AskError::Invalid("it gives no rows: one SELECT is expected".into()).into()),
        Some("select" | "with" | "values" | "table") => {}
        Some(other) => return Err(AskError::Forbidden(format!("{}: {reads}", other.to_uppercase())).into()),
    }
    let forbidden = |what: &str| Unanswered::Said(AskError::Forbidden(format!("{what}: {reads}")));
    for named in &scanned.names {
        let name = named.name.as_str();
        let of_catalog = name.starts_with("pg_") && !["pg_typeof", "pg_column_size"].contains(&name);
        let hides =
            name.contains("_to_xml") || name.starts_with("dblink") || name.starts_with("lo_") || HIDING.contains(&name);
        if of_catalog || hides || name.starts_with("watershed_") || name == "information_schema" {
            return Err(forbidden(name));
        }
    }
    let before = |sign: char| {
        let names = scanned.names.iter().filter(move |named| named.before == Some(sign));
        names.map(|named| named.name.as_str()).collect::<Vec<_>>()
    };
    let sql = "SELECT nspname FROM pg_catalog.pg_namespace WHERE nspname = ANY($1) AND nspname <> $2 LIMIT 1";
    if let Some(row) = transaction.query_opt(sql, &[&before('.'), &schema]).await? {
        return Err(forbidden(&format!("schema {}", row.get::<_, String>(0))));
    }
    let sql = "SELECT proname FROM pg_catalog.pg_proc WHERE proname = ANY($1) AND NOT proname = ANY($2)
               AND (provolatile = 'v' OR prosecdef) LIMIT 1";
    if let Some(row) = transaction.query_opt(sql, &[&before('('), &&HARMLESS[..]]).await? {
        return Err(forbidden(&format!("{}() may do more than read", row.get::<_, String>(0))));
    }
    Ok(scanned)
}

type Rows = (Vec<String>, Vec<Vec<Json>>);

/// The rows of a query, unless there are too many, or they are too large.
async fn rows(transaction: &Transaction<'_>, sql: &str, values: &[AsText], bounds: Bounds) -> Result<Rows, Unanswered> {
    let asked = transaction.prepare(sql).await?;
    let types: Vec<Type> = asked.columns().iter().map(|column| column.type_().clone()).collect();
    let names: Vec<String> = asked.columns().iter().map(|column| column.name().to_owned()).collect();
    if names.is_empty() {
        return Err(AskError::Invalid("it gives no columns".into()).into());
    }
    if asked.params().len() != values.len() {
        let (has, given) = (asked.params().len(), values.len());
        return Err(AskError::Invalid(format!("the statement has {has} parameters, and {given} were given")).into());
    }
    let most = bounds.bytes.min(limits::VIEW_VALUE_BYTES_MAX);
    let wrapped = transaction.prepare(&within(sql, names.len(), most, bounds.bytes)).await?;
    let parameters: Vec<&(dyn ToSql + Sync)> = values.iter().map(|value| value as _).collect();
    let portal = transaction.bind(&wrapped, &parameters).await?;
    let mut bytes: usize = names.iter().map(String::len).sum();
    let mut answer = Vec::new();
    loop {
        let some = transaction.query_portal(&portal, ROWS_AT_ONCE).await?;
        let is_last = some.len() < ROWS_AT_ONCE as usize;
        for row in some {
            if answer.len() == bounds.rows {
                return Err(AskError::Large { what: "rows", most: bounds.rows }.into());
            }
            let length = usize::try_from(row.get::<_, i64>(0)).unwrap_or(usize::MAX);
            bytes = bytes.saturating_add(length).saturating_add(8 * names.len());
            if length > most || bytes > bounds.bytes {
                return Err(AskError::Large { what: "bytes", most: bounds.bytes }.into());
            }
            answer.push(types.iter().enumerate().map(|(at, of)| json(row.get(at + 1), of)).collect());
        }
        if is_last {
            return Ok((names, answer));
        }
    }
}

/// A query whose rows are texts, with their length before them, and nothing else where they are too long, or where all of them
/// up to there are: the server sends no more than an answer may have.
fn within(sql: &str, columns: usize, most: usize, all_bytes: usize) -> String {
    let all = |form: &dyn Fn(usize) -> String| (1..=columns).map(form).collect::<Vec<_>>();
    let names = all(&|n| format!("c{n}")).join(", ");
    let lengths = all(&|n| format!("coalesce(octet_length(q.c{n}), 0)::bigint")).join(" + ");
    let texts = all(&|n| format!("r.c{n}::text")).join(", ");
    let kept = all(&|n| format!("CASE WHEN t.n <= {most} AND t.total <= {all_bytes} THEN t.c{n} END")).join(", ");
    format!(
        "SELECT t.n, {kept} FROM (SELECT s.n, sum(s.n) OVER (ROWS UNBOUNDED PRECEDING), {names} FROM
           (SELECT {lengths} AS n, q.* FROM (SELECT {texts} FROM (\n{sql}\n) AS r({names})) AS q({names})) AS s(n, {names}))
         AS t(n, total, {names})"
    )
}

/// The row with a key.
async fn row(
    transaction: &Transaction<'_>,
    schema: &str,
    table: &str,
    key: &str,
    bounds: Bounds,
) -> Result<Rows, Unanswered> {
    let sql = "SELECT c.relname, coalesce((SELECT array_agg(a.attname::text ORDER BY k.n)
                 FROM pg_catalog.pg_index i, unnest(i.indkey) WITH ORDINALITY AS k(at, n), pg_catalog.pg_attribute a
                 WHERE i.indrelid = c.oid AND i.indisprimary AND a.attrelid = c.oid AND a.attnum = k.at), '{}')
               FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
               WHERE n.nspname = $1 AND c.relname::text IN ($2::text, lower($2::text)) AND c.relkind IN ('r', 'p', 'v', 'm')
                 AND c.relname NOT LIKE 'watershed\\_%'
               ORDER BY c.relname::text = $2::text DESC LIMIT 1";
    let found = transaction.query_opt(sql, &[&schema, &table]).await?;
    let found = found.ok_or_else(|| AskError::Absent(format!("the view has no table {table:?}")))?;
    let (name, columns): (String, Vec<String>) = (found.get(0), found.get(1));
    let values = key_asked(&name, &columns, key)?;
    let equal = columns.iter().enumerate().map(|(index, column)| format!("{} = ${}", quoted(column), index + 1));
    let equal = equal.collect::<Vec<_>>().join(" AND ");
    let sql = format!("SELECT * FROM {}.{} WHERE {equal}", quoted(schema), quoted(&name));
    let values: Vec<AsText> = values.into_iter().map(|value| AsText(Some(value))).collect();
    let found = rows(transaction, &sql, &values, bounds).await?;
    match found.1.is_empty() {
        true => Err(AskError::Absent(format!("table {name} has no row with the key {key:?}")).into()),
        false => Ok(found),
    }
}
