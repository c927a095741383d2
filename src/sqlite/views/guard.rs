//! What statements may do: those of a definition only what concerns the view's tables, questions only read.

use std::sync::{Arc, Mutex, PoisonError};

use rusqlite::Connection;
use rusqlite::hooks::{AuthAction, AuthContext, Authorization};

use crate::sqlite::connect::is_internal;

/// Functions that load code, or tell of the process.
const NEVER: [&str; 4] = ["load_extension", "fts3_tokenizer", "sqlite_log", "sqlite_compileoption_get"];
/// Functions that answer something else each time, so that a view could not be built again.
const CHANGING: [&str; 8] = [
    "random",
    "randomblob",
    "current_time",
    "current_date",
    "current_timestamp",
    "changes",
    "total_changes",
    "last_insert_rowid",
];
/// Tables that show a database's bytes.
const RAW: [&str; 3] = ["sqlite_dbpage", "dbstat", "sqlite_stmt"];
/// What may be asked of a schema.
const PRAGMAS: [&str; 6] = ["table_info", "table_xinfo", "table_list", "index_list", "index_info", "foreign_key_list"];

/// Why the last statement was refused.
#[derive(Clone, Debug, Default)]
pub(super) struct Refusal(Arc<Mutex<Option<String>>>);

impl Refusal {
    fn set(&self, why: String) -> Authorization {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(why);
        Authorization::Deny
    }

    /// The reason, once.
    pub(super) fn take(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

fn is_one_of(name: &str, names: &[&str]) -> bool {
    names.iter().any(|known| name.eq_ignore_ascii_case(known))
}

/// Tables and functions of ours, which are no part of the view.
fn is_ours(name: &str) -> bool {
    name.get(..10).is_some_and(|start| start.eq_ignore_ascii_case("watershed_"))
}

/// From here on only questions are prepared.
pub(super) fn guard_questions(conn: &mut Connection) -> rusqlite::Result<Refusal> {
    let refusal = Refusal::default();
    let noted = refusal.clone();
    conn.authorizer(Some(move |context: AuthContext<'_>| question(&context, &noted)))?;
    Ok(refusal)
}

/// From here on only statements of definitions are prepared: of its setup, or of its handlers.
pub(super) fn guard_definition(conn: &mut Connection) -> rusqlite::Result<Refusal> {
    let refusal = Refusal::default();
    let noted = refusal.clone();
    conn.authorizer(Some(move |context: AuthContext<'_>| definition(&context, &noted)))?;
    Ok(refusal)
}

/// From here on everything is prepared.
pub(super) fn unguard(conn: &mut Connection) -> rusqlite::Result<()> {
    conn.authorizer(None::<fn(AuthContext<'_>) -> Authorization>)
}

fn question(context: &AuthContext<'_>, refusal: &Refusal) -> Authorization {
    let reads = "a question can only read the view's tables";
    match context.action {
        AuthAction::Select | AuthAction::Recursive => Authorization::Allow,
        AuthAction::Read { table_name, .. } if is_ours(table_name) || is_one_of(table_name, &RAW) => {
            refusal.set(format!("{table_name} is not the view's: {reads}"))
        }
        AuthAction::Read { .. } => Authorization::Allow,
        AuthAction::Function { function_name } if is_one_of(function_name, &NEVER) || is_ours(function_name) => {
            refusal.set(format!("{function_name}() cannot be used: {reads}"))
        }
        AuthAction::Function { .. } => Authorization::Allow,
        AuthAction::Pragma { pragma_name, .. } if is_one_of(pragma_name, &PRAGMAS) => Authorization::Allow,
        AuthAction::Pragma { pragma_name, .. } => refusal.set(format!("PRAGMA {pragma_name} cannot be used: {reads}")),
        action => refusal.set(format!("{}: {reads}", does(&action))),
    }
}

fn definition(context: &AuthContext<'_>, refusal: &Refusal) -> Authorization {
    use AuthAction as Action;
    let own = "a definition can only make and change the view's own tables";
    let table = match context.action {
        Action::Read { table_name, .. }
        | Action::Insert { table_name }
        | Action::Update { table_name, .. }
        | Action::Delete { table_name }
        | Action::CreateTable { table_name }
        | Action::DropTable { table_name }
        | Action::AlterTable { table_name, .. }
        | Action::CreateVtable { table_name, .. } => Some(table_name),
        _ => None,
    };
    if let Some(table) = table.filter(|table| is_ours(table) || is_one_of(table, &RAW)) {
        return refusal.set(format!("{table} is not the view's: {own}"));
    }
    match context.action {
        Action::Function { function_name } if is_one_of(function_name, &NEVER) || is_ours(function_name) => {
            refusal.set(format!("{function_name}() cannot be used: {own}"))
        }
        Action::Function { function_name } if is_one_of(function_name, &CHANGING) => refusal.set(format!(
            "{function_name}() answers something else each time, so the view could not be built again; there are :time and :position"
        )),
        Action::Attach { .. }
        | Action::Detach { .. }
        | Action::Pragma { .. }
        | Action::Transaction { .. }
        | Action::Savepoint { .. }
        | Action::CreateTempTable { .. }
        | Action::CreateTempIndex { .. }
        | Action::CreateTempTrigger { .. }
        | Action::CreateTempView { .. }
        | Action::Unknown { .. } => refusal.set(format!("{}: {own}", does(&context.action))),
        _ => Authorization::Allow,
    }
}

/// What an action does, for people.
fn does(action: &AuthAction<'_>) -> String {
    use AuthAction as Action;
    match action {
        Action::Insert { table_name } if is_internal(table_name) => "it changes the schema".into(),
        Action::Insert { table_name } => format!("it inserts into {table_name}"),
        Action::Update { table_name, .. } => format!("it updates {table_name}"),
        Action::Delete { table_name } => format!("it deletes from {table_name}"),
        Action::Attach { .. } => "ATTACH".into(),
        Action::Detach { .. } => "DETACH".into(),
        Action::Pragma { pragma_name, .. } => format!("PRAGMA {pragma_name}"),
        Action::Transaction { .. } => "BEGIN, COMMIT or ROLLBACK".into(),
        Action::Savepoint { .. } => "SAVEPOINT".into(),
        Action::Analyze { .. } => "ANALYZE".into(),
        Action::Reindex { .. } => "REINDEX".into(),
        _ => "it changes the schema".into(),
    }
}
