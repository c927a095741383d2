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
