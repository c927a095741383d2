//! What can be known before a node runs: the database's tables against the configuration. Changes nothing.

use std::sync::Arc;

use super::policy::Policy;
use super::settings::{Exit, NodeError, Settings};
use super::standby::refuse_own;
use super::store::Store;
use crate::model::{Epoch, LinkId, LogId, TableDef, TableName};
use crate::peer::{Hello, NodeRef, Offer, Refusal, Role, probe};
use crate::stream::{Owner, Sieve};
use crate::view::{Ids, InspectedTable, StrayIds};

/// What was found.
#[derive(Debug, Default)]
pub struct Preflight {
    /// The definitions of the tables that are captured.
    pub tables: Vec<Arc<TableDef>>,
    /// A line for each table that is sent somewhere: table, to whom, columns.
    pub sends: Vec<Sends>,
    /// What an operator should know and what does not keep the node from running.
    pub warnings: Vec<String>,
    /// Tables whose new ids do not keep to the range.
    pub strays: Vec<StrayIds>,
    /// Every table of the database, captured or not.
    pub present: Vec<TableName>,
}

/// A parent that has answered.
#[derive(Debug)]
pub struct ParentFound {
    /// Who it is and what it sends.
    pub text: String,
    /// What an operator should know.
    pub warnings: Vec<String>,
}

/// A table on its way.
#[derive(Debug)]
pub struct Sends {
    /// The table.
    pub table: String,
    /// `parent`, `children`, `child NAME`, or `feed` (readers over HTTP).
    pub to: String,
    /// The columns that leave.
    pub columns: Vec<String>,
    /// Rows in the database, estimated.
    pub rows: u64,
}

fn invalid(code: &'static str, what: impl ToString, why: &str, advice: &str) -> NodeError {
    NodeError::new(code, Exit::Configuration, what, why, advice)
}

/// Looks at the database and at every filter.
pub async fn preflight(settings: &Settings) -> Result<Preflight, NodeError> {
    let Some(database) = &settings.database else {
        let warnings = no_copies(&settings.policy).into_iter().collect();
        return Ok(Preflight { warnings, ..Preflight::default() });
    };
    let mut found = tables(&settings.policy, &database.store).await?;
    let policy = &settings.policy;
    for (to, sieve) in destinations(policy) {
        for (table, rows) in &found.all {
            let why =
                "nothing is sent by mistake, so a filter that does not suit its table keeps the node from starting";
            let out = sieve.table(table).map_err(|error| {
                invalid(
                    "WS-SEND-003",
                    format!("[send.{}]: {error}", to.replace(' ', ".")),
                    why,
                    "correct the filter, or the table",
                )
            })?;
            let Some(out) = out else { continue };
            let columns = out.columns.iter().map(|column| column.name.to_string()).collect();
            found.preflight.sends.push(Sends { table: table.name.to_string(), to: to.clone(), columns, rows: *rows });
        }
    }
    check_owners(policy, &found.preflight.tables)?;
    if let Some(range) = database.ids {
        let strays = database.store.stray_ids(range, &policy.captures_table()).await?;
        found.preflight.warnings.extend(strays.iter().map(|stray| stray_warning(range, stray)));
        found.preflight.strays = strays;
    }
    Ok(found.preflight)
}

/// A node that is only a log passes on what comes.
fn no_copies(policy: &Policy) -> Option<String> {
    let sends = std::iter::once(&policy.children).chain(policy.child.values()).any(|send| !send.selection.is_empty());
    sends.then(|| {
        "this node has no database, so its children can copy nothing from it: a child gets what is written from when it first links, \
         and no rows that were there before / why: first copies come out of a database / do: nothing where its children's \
         tables begin empty with the first link; else give the node a [database], or link such children with a node that has one"
            .to_owned()
    })
}

fn stray_warning(range: Ids, stray: &StrayIds) -> String {
    let Ids { first, last } = range;
    let advice = match &stray.mend {
        Some(mend) => format!("run `watershed check --apply`, or: {mend}"),
        None => "as it says; until then, ids of this site may be given elsewhere too".to_owned(),
    };
    format!(
        "table {}: {} / why: id_range is {first}..{last}, so that no two sites give the same id / do: {advice}",
        stray.table, stray.what
    )
}

/// Has sequences keep to the range of ids.
pub async fn mend_ids(settings: &Settings, preflight: &Preflight) -> Result<(), NodeError> {
    let Some(database) = settings.database.as_ref().filter(|_| !preflight.strays.is_empty()) else { return Ok(()) };
    database.store.mend_ids(&preflight.strays).await
}

/// The destinations that the configuration knows, with what may go to each.
fn destinations(policy: &Policy) -> Vec<(String, Sieve)> {
    let sieve = |role, name: &str| policy.sieve(role, name, LinkId::LOCAL);
    let children = policy.child.keys().map(|name| (format!("child {name}"), sieve(Role::Parent, name)));
    let all = [("parent".to_owned(), sieve(Role::Child, "")), ("children".to_owned(), sieve(Role::Parent, ""))];
    let feed = policy.feed_sieve("").map(|sieve| ("feed".to_owned(), sieve));
    all.into_iter().chain(children).chain(feed).collect()
}

/// Owners are expressions over columns that must be there.
fn check_owners(policy: &Policy, tables: &[Arc<TableDef>]) -> Result<(), NodeError> {
    for table in tables {
        if let Some(Owner::By(expression)) = policy.ownership.of(&table.name) {
            expression.check_columns(table).map_err(|error| {
                let why = "without its owner a row could be written by two nodes";
                invalid(
                    "WS-OWN-003",
                    format!("[table.{}] owner_by: {error}", table.name),
                    why,
                    "correct the expression, or the table",
                )
            })?;
        }
    }
    Ok(())
}

/// Whose a deleted row was cannot be told where only its key is.
fn unknown_owner(policy: &Policy, table: &InspectedTable) -> Option<String> {
    let Some(Owner::By(expression)) = policy.ownership.of(&table.def.name) else { return None };
    let mend = table.old_rows.as_ref()?;
    let key: Vec<&str> = table.def.key_columns().into_iter().map(|index| &*table.def.columns[index].name).collect();
    let lacks: Vec<&str> = expression.columns().filter(|column| !key.contains(column)).collect();
    let first = lacks.first()?;
    Some(format!(
        "table {}: owner_by needs {}, and of deleted rows, and of those whose key changes, the server tells the key only / why: such \
         deletes and updates are left out, because nobody could tell whose row it was / do: {mend} or have a key with \
         {first} in it",
        table.def.name,
        lacks.join(", "),
    ))
}

/// What keeps the databases of `[copy.NAME]` from being followed. They hold up nobody, so these are warnings.
///
/// # Errors
/// A copy is the node's own database.
pub async fn look_at_copies(settings: &Settings) -> Result<Vec<String>, NodeError> {
    let mut warnings = Vec::new();
    for copy in &settings.copies {
        if let Some(own) = &settings.database {
            match refuse_own(&copy.name, &own.store, &copy.database.store).await {
                Err(error) if error.exit == Exit::Configuration => return Err(error),
                // What cannot be reached is told below.
                _ => {}
            }
        }
        if let Err(error) = copy.database.store.inspect_copy().await {
            warnings.push(format!("copy {}: {error}", copy.name));
        }
    }
    Ok(warnings)
}

struct Found {
    preflight: Preflight,
    all: Vec<(Arc<TableDef>, u64)>,
}

/// Named tables must be capturable; a star passes over what cannot be captured, and says so.
async fn tables(policy: &Policy, store: &Store) -> Result<Found, NodeError> {
    let inspection = store.inspect(policy).await?;
    let present = inspection.tables.iter().map(|table| table.def.name.clone()).collect();
    let mut found = Found { preflight: Preflight { present, ..Preflight::default() }, all: Vec::new() };
    found.preflight.warnings.extend(inspection.warnings.iter().cloned());
    let mut wrong = Vec::new();
    for table in &inspection.tables {
        let name = &table.def.name;
        if !policy.captures(name) {
            continue;
        }
        if table.capturable {
            found.preflight.warnings.extend(table.problems.iter().map(|problem| format!("table {name}: {problem}")));
            found.preflight.warnings.extend(unknown_owner(policy, table));
            found.preflight.tables.push(table.def.clone());
            found.all.push((table.def.clone(), table.rows_estimate));
            continue;
        }
        let problem = format!("table {name} cannot be followed: {}", table.problems.join("; "));
        match policy.names(name) {
            true => wrong.push(problem),
            false => found
                .preflight
                .warnings
                .push(format!("{problem}; a star or an owner names it only, so its local changes are left out")),
        }
    }
    let mut absent: Vec<_> = policy.selections().flat_map(|selection| selection.named()).collect();
    absent.retain(|named| inspection.tables.iter().all(|table| table.def.name != **named));
    absent.sort();
    absent.dedup();
    for named in absent {
        let text = format!(
            "table {named} is selected and does not exist in the database yet; it is captured from when it is created"
        );
        found.preflight.warnings.push(text);
    }
    if wrong.is_empty() {
        return Ok(found);
    }
    let why = "rows that cannot be told apart cannot be updated or deleted elsewhere";
    let wrong = wrong.join("\n");
    match wrong.contains(" / do: ") {
        true => {
            let why = "a table is captured by its owner's rights, and copied by who may read it";
            Err(invalid(
                "WS-NODE-024",
                wrong,
                why,
                "do what stands behind each `do:`, or take the table out of the selection",
            ))
        }
        false => {
            Err(invalid("WS-NODE-024", wrong, why, "give the table a PRIMARY KEY, or take it out of the selection"))
        }
    }
}

/// Asks the parent for its hello, and looks whether the link could stand. Records nothing at either end.
pub async fn probe_parent(settings: &Settings, preflight: &Preflight) -> Result<Option<ParentFound>, NodeError> {
    let Some(parent) = &settings.parent else { return Ok(None) };
    let refused = |exit, refusal: &Refusal| {
        let what = format!("the parent does not answer as it should: {}", refusal.what());
        if refusal.code == "WS-OWN-002" {
            return NodeError::new("WS-OWN-002", Exit::Configuration, what, refusal.why(), refusal.advice());
        }
        NodeError::new("WS-NODE-019", exit, what, refusal.why(), refusal.advice())
    };
    let dial = parent.dial().map_err(|error| refused(Exit::Configuration, &error))?;
    let url = dial.url.clone();
    let node = NodeRef { name: settings.name.clone().into(), log: LogId::draw() };
    let policy = &settings.policy;
    let offer = |table: &Arc<TableDef>| Offer {
        table: table.clone(),
        under: table.fingerprint,
        owned: policy.ownership.of(&table.name).is_some(),
        may_diverge: policy.may_diverge.contains(&table.name),
        whole: false,
    };
    let sent = preflight.tables.iter().filter(|table| policy.parent.selection.matches(&table.name));
    let hello = Hello {
        path: vec![node.clone()],
        node,
        epoch: Epoch::draw(),
        probe: true,
        below: Vec::new(),
        offers: sent.map(offer).collect(),
        received: None,
        mirrors: true,
    };
    let answer = probe(&dial, hello).await;
    if answer.as_ref().is_err_and(|refusal| &*refusal.code == super::host::NAMED_TWICE)
        && super::folder::is_taken(&settings.data_dir)
    {
        let text = format!("at {url}, linked with this node, which runs");
        return Ok(Some(ParentFound { text, warnings: Vec::new() }));
    }
    let answer = answer.map_err(|refusal| {
        let exit = match (&*refusal.code, refusal.retryable) {
            ("WS-OWN-002", _) => Exit::Configuration,
            (_, true) => Exit::Unreachable,
            (_, false) => Exit::Operator,
        };
        refused(exit, &refusal)
    })?;
    check_two_way(settings, &answer)?;
    let tables: Vec<&str> = answer.offers.iter().map(|offer| offer.table.name.as_str()).collect();
    let text = if tables.is_empty() { "nothing".into() } else { tables.join(", ") };
    let text = format!("{} at {url}, sends {text}", answer.node.name);
    let missing = answer.offers.iter().filter(|offer| !preflight.present.contains(&offer.table.name));
    let warnings = match &settings.database {
        Some(database) => missing.map(|offer| not_here(&database.store, &answer.node.name, &offer.table)).collect(),
        None => Vec::new(),
    };
    Ok(Some(ParentFound { text, warnings }))
}

fn not_here(store: &Store, parent: &str, table: &TableDef) -> String {
    format!(
        "{parent} sends the table {}, which this database does not have / why: its first copy makes it, with columns and primary \
         key only / do: nothing, or make it yourself before, with the indexes and constraints that you want: {}",
        table.name,
        store.create_table(table)
    )
}

/// A table sent both ways needs an owner at both ends, as the link will ask for.
fn check_two_way(settings: &Settings, answer: &Hello) -> Result<(), NodeError> {
    let policy = &settings.policy;
    for offer in &answer.offers {
        let table = &offer.table.name;
        let both = policy.parent.selection.matches(table);
        let owned = offer.owned && policy.ownership.of(table).is_some();
        if both && !owned && !(offer.may_diverge && policy.may_diverge.contains(table)) {
            let what = format!(
                "table {table} is sent both ways between {:?} and {:?} without an owner at both ends",
                settings.name, answer.node.name
            );
            let advice =
                "set [table.NAME] owner or owner_by at both, or accept it with conflicts = \"may-diverge\" at both";
            return Err(invalid(
                "WS-OWN-002",
                what,
                "two nodes could write one row, and nobody could say which is right",
                advice,
            ));
        }
    }
    Ok(())
}
