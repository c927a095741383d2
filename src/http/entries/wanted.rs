//! Which entries are for a reader.

use std::sync::Arc;

use crate::model::{Catalog, Change, FeedRows, Kind, Logged, TableDef, TableName, Timestamp};
use crate::stream::{Expression, Scope};

/// Which entries a reader wants: those with at least one such change.
pub struct Wanted {
    /// Of one of these tables.
    pub tables: Option<Vec<TableName>>,
    /// With that key.
    pub key: Option<String>,
    /// With that correlation id.
    pub correlation: Option<String>,
    /// For which it is true.
    pub expression: Option<Expression>,
    /// Not older.
    pub since: Option<Timestamp>,
}

impl Wanted {
    /// Whether nothing is left out.
    pub fn is_everything(&self) -> bool {
        self.tables.is_none()
            && self.key.is_none()
            && self.correlation.is_none()
            && self.expression.is_none()
            && self.since.is_none()
    }

    /// Whether an entry is for this reader.
    pub fn wants(&self, logged: &Logged, catalog: &Catalog) -> bool {
        if self.is_everything() {
            return true;
        }
        let header = logged.entry.header();
        if self.since.is_some_and(|since| header.time < since) {
            return false;
        }
        if self.correlation.is_some() && header.correlation.as_deref() != self.correlation.as_deref() {
            return false;
        }
        let tables: Vec<Option<Arc<TableDef>>> = header.tables.iter().map(|print| catalog.get(*print)).collect();
        let named = |table: &TableDef| self.tables.as_ref().is_none_or(|names| names.contains(&table.name));
        if !tables.iter().flatten().any(|table| named(table)) {
            return self.tables.is_none() && self.key.is_none() && self.expression.is_none();
        }
        if self.key.is_none() && self.expression.is_none() {
            return true;
        }
        for row in FeedRows::new(logged.entry.changes_slice()) {
            let Some(row) = row else { return self.wants_changes(logged, &tables) };
            let Some(table) = tables.get(row.table).and_then(Option::as_ref).filter(|table| named(table)) else {
                continue;
            };
            if !table.is_feed() {
                return self.wants_changes(logged, &tables);
            }
            let keyed = self.key.is_none() || row.key == self.key.as_deref();
            if keyed
                && self.passes(|expression| {
                    let row = serde_json::from_str(row.row).unwrap_or_default();
                    expression.test_json(table, &header.node, &row)
                })
            {
                return true;
            }
        }
        false
    }

    /// A row on which the expression fails does not pass: rows of a log differ in what they have.
    fn passes(&self, test: impl FnOnce(&Expression) -> Result<bool, crate::stream::ExpressionError>) -> bool {
        self.expression.as_ref().is_none_or(|expression| test(expression).unwrap_or(false))
    }

    fn wants_changes(&self, logged: &Logged, tables: &[Option<Arc<TableDef>>]) -> bool {
        let named = |table: &&Arc<TableDef>| self.tables.as_ref().is_none_or(|names| names.contains(&table.name));
        let Ok(changes) = logged.entry.changes() else { return true };
        changes.iter().any(|change| {
            let Some(table) = tables.get(change.table).and_then(Option::as_ref).filter(named) else { return false };
            let keyed = self.key.as_deref().is_none_or(|key| has_key(table, change, key));
            keyed
                && self.passes(|expression| {
                    let (row, old, origin) = (change.row.as_ref(), change.old.as_ref(), &logged.entry.header().node);
                    expression.test(&Scope { table, row: row.or(old), old, origin, destination: "" })
                })
        })
    }
}

/// Whether a change is of the row with that key; keys of several columns are written with `,` between them.
fn has_key(table: &TableDef, change: &Change, key: &str) -> bool {
    let rows = [change.row.as_ref(), change.old.as_ref()];
    rows.into_iter().flatten().any(|row| {
        let columns = table.key_columns();
        let texts: Vec<_> = columns
            .iter()
            .filter_map(|column| row.get(*column))
            .filter(|value| !matches!(value.kind, Kind::Unchanged | Kind::Same))
            .map(|value| String::from_utf8_lossy(&value.text))
            .collect();
        !columns.is_empty() && texts.len() == columns.len() && texts.join(",") == key
    })
}
