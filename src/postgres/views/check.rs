//! A definition against its schema: its setup carried out, its statements prepared, and every refusal at its place.

use std::cell::Cell;

use tokio_postgres::Client;
use tokio_postgres::error::ErrorPosition;

use super::session::{Trouble, is_of_the_store, words};
use crate::view::Script;
use crate::view::sql::{Definition, Named, Statement, Written, scan};

/// A statement as the server takes it. Every place of a parameter has a number of its own, so that each has the type that it
/// needs where it stands.
#[derive(Clone, Debug)]
pub(super) struct Prepared {
    pub statement: tokio_postgres::Statement,
    /// For `$1` and on, which of the statement's parameters it is.
    pub given: Vec<usize>,
}

fn numbered(statement: &Statement) -> (Written, Vec<usize>) {
    let given = Cell::new(Vec::new());
    let written = statement.written(|index| {
        let mut all = given.take();
        all.push(index);
        let name = format!("${}", all.len());
        given.set(all);
        name
    });
    (written, given.into_inner())
}

/// Carries out the setup, in the transaction that is open.
pub(super) async fn set_up(client: &Client, definition: &Definition) -> Result<(), Trouble> {
    for statement in &definition.setup {
        let (written, _) = numbered(statement);
        // By itself: what ends or begins a transaction would take the rest with it.
        may_stand(definition, statement)?;
        knows(client, definition, statement).await?;
        let run = async {
            let prepared = client.prepare(&written.sql).await?;
            client.execute(&prepared, &[]).await
        };
        run.await.map_err(|error| refused(definition, statement, &written, error))?;
    }
    Ok(())
}

/// Prepares every statement of the handlers.
pub(super) async fn prepare(client: &Client, script: &Script) -> Result<Vec<Prepared>, Trouble> {
    let definition = &*script.definition;
    let mut all = Vec::with_capacity(script.count());
    for number in 0..script.count() {
        let statement = script.statement(number);
        let (written, given) = numbered(statement);
        may_stand(definition, statement)?;
        knows(client, definition, statement).await?;
        let prepared = client.prepare(&written.sql).await;
        let prepared = prepared.map_err(|error| refused(definition, statement, &written, error))?;
        if !prepared.columns().is_empty() {
            let why =
                "it gives rows, which nobody takes: a statement that changes the view is expected, without RETURNING";
            return Err(Trouble::View(definition.error_at(statement, 0, why).into()));
        }
        all.push(Prepared { statement: prepared, given });
    }
    Ok(all)
}

/// What begins a statement that would end the transaction, or change what follows.
const NEVER: [&str; 22] = [
    "begin",
    "start",
    "commit",
    "end",
    "rollback",
    "abort",
    "savepoint",
    "release",
    "prepare",
    "execute",
    "deallocate",
    "set",
    "reset",
    "discard",
    "listen",
    "unlisten",
    "notify",
    "copy",
    "vacuum",
    "lock",
    "do",
    "call",
];
/// What answers something else each time, by itself or called.
const CHANGING: [&str; 5] = ["current_timestamp", "current_time", "current_date", "localtimestamp", "localtime"];
const CHANGING_CALLS: [&str; 9] = [
    "now",
    "random",
    "clock_timestamp",
    "statement_timestamp",
    "transaction_timestamp",
    "timeofday",
    "gen_random_uuid",
    "uuid_generate_v4",
    "txid_current",
];

/// Whether a statement only makes and changes the view's own tables, and would do the same again.
fn may_stand(definition: &Definition, statement: &Statement) -> Result<(), Trouble> {
    let refused = |why: String| Err(Trouble::View(definition.error_at(statement, 0, why).into()));
    let own = "a definition can only make and change the view's own tables";
    let first: String = statement.text.chars().take_while(|c| c.is_alphabetic()).collect();
    if NEVER.iter().any(|never| first.eq_ignore_ascii_case(never)) {
        return refused(format!("{}: {own}", first.to_uppercase()));
    }
    // A body that has statements of its own is left to the server.
    let scanned = scan(&statement.text).unwrap_or_default();
    for Named { name, before } in &scanned.names {
        if name.starts_with("watershed_") {
            return refused(format!("{name} is not the view's: {own}"));
        }
        let calls = *before == Some('(') && CHANGING_CALLS.contains(&name.as_str());
        if calls || CHANGING.contains(&name.as_str()) {
            let why =
                "answers something else each time, so the view could not be built again; there are :time and :position";
            return refused(format!("{name} {why}"));
        }
    }
    Ok(())
}

/// Words behind which a table stands.
const TABLE_FOLLOWS: [&str; 7] = ["into", "update", "join", "table", "truncate", "only", "references"];

/// Whether a statement stays in the view's own schema, and calls nothing of the server's that is volatile. What has the name of a
/// schema may be a table's, too, or stand for one.
async fn knows(client: &Client, definition: &Definition, statement: &Statement) -> Result<(), Trouble> {
    let scanned = scan(&statement.text).unwrap_or_default();
    let refused = |name: &str, sign: char, why: &str| {
        let text = statement.text.to_ascii_lowercase();
        let at = text.find(&format!("{name}{sign}")).or_else(|| text.find(name)).unwrap_or(0);
        Err(Trouble::View(definition.error_at(statement, at, format!("{name}{why}")).into()))
    };
    let schema =
        " is a schema: a view's tables stand in one of its own, which changes its name, so they are named without it";
    let names = &scanned.names;
    let is = |at: Option<usize>, word: &str| at.and_then(|at| names.get(at)).is_some_and(|named| named.name == word);
    let mut before_dots: Vec<&str> = Vec::new();
    for (at, named) in names.iter().enumerate().filter(|(_, named)| named.before == Some('.')) {
        let follows = TABLE_FOLLOWS.iter().any(|word| is(at.checked_sub(1), word));
        if follows || is(at.checked_sub(1), "from") && is(at.checked_sub(2), "delete") {
            return refused(&named.name, '.', schema);
        }
        let stands_alone = |other: &Named| other.name == named.name && other.before != Some('.');
        if !names.iter().any(stands_alone) {
            before_dots.push(&named.name);
        }
    }
    let sql = "SELECT nspname::text FROM pg_catalog.pg_namespace WHERE nspname::text = ANY($1) AND nspname <> current_schema()
               AND NOT EXISTS (SELECT 1 FROM pg_catalog.pg_class c WHERE c.relname = nspname AND c.relnamespace = (SELECT oid FROM pg_catalog.pg_namespace WHERE nspname = current_schema()))
               LIMIT 1";
    if let Some(row) = client.query_opt(sql, &[&before_dots]).await? {
        return refused(row.get(0), '.', schema);
    }
    let called = names.iter().filter(|named| named.before == Some('('));
    let called: Vec<&str> = called.map(|named| named.name.as_str()).collect();
    let sql = "SELECT proname::text FROM pg_catalog.pg_proc WHERE proname::text = ANY($1) AND provolatile = 'v'
               AND pronamespace = 'pg_catalog'::regnamespace LIMIT 1";
    match client.query_opt(sql, &[&called]).await? {
        Some(row) => {
            refused(row.get(0), '(', "() may answer something else each time, or do more than change the view's rows")
        }
        None => Ok(()),
    }
}

/// The server's words, at the place that it means.
fn refused(definition: &Definition, statement: &Statement, written: &Written, error: tokio_postgres::Error) -> Trouble {
    if is_of_the_store(&error) {
        return Trouble::Server(error);
    }
    let Some(db) = error.as_db_error() else { return Trouble::Server(error) };
    // Counted in characters, from 1.
    let offset = match db.position() {
        Some(ErrorPosition::Original(at)) => {
            let at = (*at as usize).saturating_sub(1);
            let offset = written.sql.char_indices().nth(at).map_or(written.sql.len(), |(offset, _)| offset);
            written.original(offset)
        }
        _ => 0,
    };
    Trouble::View(definition.error_at(statement, offset, words(db)).into())
}
