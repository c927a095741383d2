//! What can be known of views before a node runs: whether their stores can be used, and whether their definitions fit them.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::settings::ViewSettings;
use crate::model::{TableDef, TableName};
use crate::node::preflight::Preflight;
use crate::node::settings::{Exit, NodeError, Settings};
use crate::view::{Look, ViewError};

/// A view, looked at.
#[derive(Debug)]
pub struct ViewFound {
    /// Its name.
    pub name: String,
    /// What it would do, in words; or what keeps it from that.
    pub found: Result<String, NodeError>,
    /// What an operator should know.
    pub warnings: Vec<String>,
}

/// Looks at the store of every view, and changes nothing. `found` is what was found of the node's database.
pub async fn look_at_views(settings: &Settings, found: &Preflight) -> Vec<ViewFound> {
    let mut all = Vec::new();
    for (name, view) in &settings.views {
        let mut warnings = Vec::new();
        let of_tables = &*view.log == "main" && settings.database.is_some();
        if of_tables {
            warnings.extend(missing(name, view, &found.present));
        }
        let known: &[_] = if of_tables { &found.tables } else { &[] };
        let found = looked(name, view, known, &mut warnings).await;
        warnings.extend(shared(name, view, &settings.views));
        all.push(ViewFound { name: name.clone(), found, warnings });
    }
    all
}

async fn looked(
    name: &str,
    view: &ViewSettings,
    known: &[Arc<TableDef>],
    warned: &mut Vec<String>,
) -> Result<String, NodeError> {
    let builds = tokio::task::block_in_place(|| (view.make)())?;
    let look = builds.look(known).await.map_err(|error| unfit(name, view, &error))?;
    let ViewSettings { kind, log, store, .. } = view;
    let (wanted, Look { live, notes, warnings }) = (builds.wanted(), look);
    warned.extend(warnings.iter().map(|warning| {
        format!(
            "the view {name}: {warning} / why: what a row does not have is NULL / do: correct the name, if it is one"
        )
    }));
    let does = match live {
        None => format!("is built by {wanted}"),
        Some(live) if live == wanted => format!("goes on, by {wanted}"),
        Some(live) => format!("answers by {live}, and is built anew beside that by {wanted}"),
    };
    let notes: String = notes.iter().map(|note| format!("; {note}")).collect();
    Ok(format!("{kind} over {log} in {store}: {does}{notes}"))
}

fn unfit(name: &str, view: &ViewSettings, error: &ViewError) -> NodeError {
    let (code, exit, why, advice) = match error {
        ViewError::Definition(_) => (
            "WS-VIEW-122",
            Exit::Configuration,
            "its setup is carried out, and its statements are prepared, in a store like its own",
            "correct the definition there",
        ),
        ViewError::Lost(_) | ViewError::Retry(_) | ViewError::Fenced { .. } => (
            "WS-VIEW-123",
            Exit::Unreachable,
            "a view is kept in its store; a node that runs waits for it, and answers nobody from it until then",
            "see that it runs, and that its address and password are right",
        ),
        _ => (
            "WS-VIEW-124",
            Exit::Configuration,
            "a view has a store of its own, which it may write and replace",
            "give it one: a file in a folder that can be written, or a database in which it may make a schema",
        ),
    };
    NodeError::new(code, exit, format!("the view {name} in {}: {error}", view.store), why, advice)
}

/// A view of main is of what is captured.
fn missing(name: &str, view: &ViewSettings, present: &[TableName]) -> Option<String> {
    let tables = view.tables.iter().flatten().filter(|table| !present.contains(table));
    let missing: Vec<&str> = tables.map(TableName::as_str).collect();
    (!missing.is_empty()).then(|| {
        format!(
            "the view {name} looks at {}, which the database does not have / why: a view of main sees the tables of the node's \
             database, and what comes from other nodes / do: correct the name, or make the table",
            missing.join(", ")
        )
    })
}

/// Said once, of the first of them.
fn shared(name: &str, view: &ViewSettings, all: &BTreeMap<String, ViewSettings>) -> Option<String> {
    let with: Vec<&str> = all.iter().filter(|(_, other)| other.store == view.store).map(|(name, _)| &**name).collect();
    (with.len() > 1 && with[0] == name && view.store.starts_with("sqlite:")).then(|| {
        format!(
            "the views {} name one file, {} / why: a view has a file of its own, so only the first one to come is kept there, and the \
             others beside it, each with its name at the end of the file's / do: name a file for each",
            with.join(", "),
            view.store
        )
    })
}
