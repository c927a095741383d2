//! The SQL of the triggers on captured tables.
//!
//! `REPLACE` removes rows without firing DELETE triggers (unless `recursive_triggers` is on). So before an insert or
//! update the rows that share a unique key with the row to be written are logged as its *rivals*. If the row is then
//! written and nothing else happened to a rival, the rival is gone; if not (`OR IGNORE`, an error), it stands.

use super::connect::{quote_ident, quote_text};
use super::inspect::{Table, UniqueKey};
use super::schema::op;

/// A trigger as it stands in `sqlite_master`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Trigger {
    pub name: String,
    pub sql: String,
}

/// Names of the triggers without which changes are missed.
pub(crate) fn essential(definition: i64) -> [String; 3] {
    ["insert", "update", "delete"].map(|event| trigger_name(definition, event))
}

fn trigger_name(definition: i64, event: &str) -> String {
    format!("watershed_{definition}_{event}")
}

/// What matters for reading logged rows and for knowing whether older triggers missed something: the rowid's alias, the
/// number of columns, and the unique keys by column numbers. It survives a RENAME COLUMN.
pub(crate) fn shape(table: &Table) -> String {
    let alias = table.alias.map_or_else(|| "-".to_owned(), |alias| alias.to_string());
    let column = |name: &str| table.def.column(name).map_or_else(|| name.to_owned(), |index| index.to_string());
    let keys = table.keys.iter().map(|key| {
        let columns = key.columns.iter().map(|part| {
            let default = part.default.as_deref().map_or(String::new(), |default| format!(" {default}"));
            format!("{} {}{default}", column(&part.name), part.collation)
        });
        columns.collect::<Vec<_>>().join(",")
    });
    let keys: Vec<String> = keys.collect();
    format!("{alias};{};{}", table.def.columns.len(), keys.join(";"))
}

/// The rowid's alias in a [`shape`].
pub(crate) fn alias_of(shape: &str) -> Option<usize> {
    shape.split(';').next()?.parse().ok()
}

/// All triggers of a table whose changes are logged under that definition.
pub(crate) fn triggers(table: &Table, definition: i64) -> Vec<Trigger> {
    let on = quote_ident(table.def.name.as_str());
    let new = values(table, "NEW");
    let old = values(table, "OLD");
    let log = |op: i64, values: &[String]| {
        let columns: Vec<String> = (0..values.len()).map(|i| format!("c{i}")).collect();
        format!(
            "INSERT INTO watershed_changes(tbl, op, {}) VALUES ({definition}, {op}, {})",
            columns.join(", "),
            values.join(", ")
        )
    };
    let trigger = |event: &str, moment: &str, condition: &str, body: &str| {
        let name = trigger_name(definition, event);
        let sql = format!(
            "CREATE TRIGGER {name} {moment} ON {on} WHEN NOT EXISTS (SELECT 1 FROM watershed_origin){condition} BEGIN {body}; END"
        );
        Trigger { name, sql }
    };
    let both: Vec<String> = new.iter().chain(&old).cloned().collect();
    let mut all = vec![
        trigger("insert", "AFTER INSERT", "", &log(op::INSERT, &new)),
        trigger("update", "AFTER UPDATE", "", &log(op::UPDATE, &both)),
        trigger("delete", "AFTER DELETE", "", &log(op::DELETE, &old)),
    ];
    let is_rival: Vec<String> = table.keys.iter().map(conflict).collect();
    if is_rival.is_empty() {
        return all;
    }
    let exists = |condition: &str| format!("EXISTS (SELECT 1 FROM {on} AS rival WHERE {condition})");
    let found: Vec<String> = is_rival.iter().map(|condition| exists(condition)).collect();
    let condition = format!(" AND ({})", found.join(" OR "));
    all.push(trigger("rival_insert", "BEFORE INSERT", &condition, &log_rivals(table, definition, &is_rival, "")));

    let other = format!(" AND NOT ({})", same_row(table));
    let found = table.keys.iter().zip(&is_rival).map(|(key, condition)| {
        let moved: Vec<String> = key.columns.iter().map(|part| moved(&part.name)).collect();
        format!("(({}) AND {})", moved.join(" OR "), exists(&format!("{condition}{other}")))
    });
    let condition = format!(" AND ({})", found.collect::<Vec<_>>().join(" OR "));
    all.push(trigger("rival_update", "BEFORE UPDATE", &condition, &log_rivals(table, definition, &is_rival, &other)));
    all
}

fn values(table: &Table, of: &str) -> Vec<String> {
    table.def.columns.iter().map(|column| format!("{of}.{}", quote_ident(&column.name))).collect()
}

/// Whether `rival` has the same key as the row to be written. NULLs never do.
fn conflict(key: &UniqueKey) -> String {
    let parts = key.columns.iter().map(|part| {
        let name = quote_ident(&part.name);
        let new = match &part.default {
            // Double quotes in a default may mean a text: such a default is left to the column.
            Some(default) if !default.contains('"') => format!("coalesce(NEW.{name}, ({default}))"),
            _ => format!("NEW.{name}"),
        };
        format!("rival.{name} COLLATE {} = {new}", quote_ident(&part.collation))
    });
    parts.collect::<Vec<_>>().join(" AND ")
}

fn moved(name: &str) -> String {
    let name = quote_ident(name);
    format!("NEW.{name} COLLATE BINARY IS NOT OLD.{name}")
}

/// Whether `rival` is the row that is being updated.
fn same_row(table: &Table) -> String {
    if let Some(rowid) = table.rowid {
        return format!("rival.{rowid} = OLD.{rowid}");
    }
    let key = table.def.key_columns();
    let parts = key.iter().map(|&index| {
        let name = quote_ident(&table.def.columns[index].name);
        format!("rival.{name} COLLATE BINARY IS OLD.{name}")
    });
    parts.collect::<Vec<_>>().join(" AND ")
}

fn log_rivals(table: &Table, definition: i64, is_rival: &[String], other: &str) -> String {
    let width = table.def.columns.len();
    let columns: Vec<String> = (0..2 * width).map(|i| format!("c{i}")).collect();
    let kind = match (table.alias, is_rival) {
        (None, _) => op::RIVAL.to_string(),
        (Some(_), [_]) => op::RIVAL_BY_ALIAS.to_string(),
        (Some(_), [_, others @ ..]) => {
            format!("CASE WHEN {} THEN {} ELSE {} END", any(others), op::RIVAL, op::RIVAL_BY_ALIAS)
        }
        (Some(_), []) => op::RIVAL.to_string(),
    };
    format!(
        "INSERT INTO watershed_changes(tbl, op, {}) SELECT {definition}, {kind}, {}, {} FROM {} AS rival WHERE ({}){other}",
        columns.join(", "),
        values(table, "NEW").join(", "),
        values(table, "rival").join(", "),
        quote_ident(table.def.name.as_str()),
        any(is_rival),
    )
}

fn any(conditions: &[String]) -> String {
    conditions.iter().map(|condition| format!("({condition})")).collect::<Vec<_>>().join(" OR ")
}

/// SQL that drops a trigger.
pub(crate) fn drop_sql(name: &str) -> String {
    format!("DROP TRIGGER {}", quote_ident(name))
}

/// SQL that lists Watershed's triggers: name, table, SQL.
pub(crate) fn list_sql() -> String {
    let pattern = quote_text("watershed\\_%");
    format!("SELECT name, tbl_name, sql FROM sqlite_master WHERE type = 'trigger' AND name LIKE {pattern} ESCAPE '\\'")
}
