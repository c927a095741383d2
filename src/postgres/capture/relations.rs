//! Tables as the stream of changes tells them, with their definitions.

use std::collections::HashMap;
use std::sync::Arc;

use tokio_postgres::Client;

use crate::model::{Column, TableDef, TableName};
use crate::postgres::replication::pgoutput::{Identity as Told, Relation, Tuple, TupleValue};
use crate::postgres::tables::{Identity, Table};

/// Versions of a table's definition that are remembered, so that changes logged under them find their key's order.
const VERSIONS_MAX: usize = 8;

/// A table of the stream.
#[derive(Clone, Debug)]
pub(super) struct Known {
    pub def: Arc<TableDef>,
    /// For every column whether old rows that are only a key have it.
    pub key: Arc<[bool]>,
    /// For every column whether somebody looks at it though it does not change; `None`: nobody at any.
    pub needed: Option<Arc<[bool]>>,
    /// Whether it is captured.
    pub is_wanted: bool,
    /// It is the table of cursors: only those who apply write to it.
    pub is_mark: bool,
}

impl Known {
    /// Whether somebody looks at a value that was not sent.
    pub fn needs(&self, new: &Tuple) -> bool {
        let needed = self.needed.iter().flat_map(|needed| needed.iter());
        new.values().zip(needed).any(|(value, needed)| *needed && value == TupleValue::Unchanged)
    }
}

/// What the catalog said of tables, and still says.
#[derive(Debug, Default)]
pub(super) struct Versions {
    by_oid: HashMap<u32, Vec<Arc<Table>>>,
}

impl Versions {
    /// Takes note of the tables that are there.
    pub fn note(&mut self, tables: &[Arc<Table>]) {
        for table in tables {
            let versions = self.by_oid.entry(table.oid).or_default();
            let is_new = versions.last().is_none_or(|last| last.def != table.def || last.columns != table.columns);
            if is_new {
                versions.push(Arc::clone(table));
                if versions.len() > VERSIONS_MAX {
                    versions.remove(0);
                }
            }
        }
    }

    /// The version that a relation of the stream is.
    pub fn find(&self, relation: &Relation, name: &TableName) -> Option<&Arc<Table>> {
        self.by_oid.get(&relation.id)?.iter().rev().find(|table| is_same(relation, name, table))
    }

    /// The newest one.
    pub fn newest(&self, oid: u32) -> Option<&Arc<Table>> {
        self.by_oid.get(&oid)?.last()
    }
}

/// The name under which a relation travels; `None` where it cannot travel.
pub(super) fn name_of(relation: &Relation) -> Option<TableName> {
    let (schema, table) = (&*relation.schema, &*relation.name);
    let text = if schema == "public" { table.to_string() } else { format!("{schema}.{table}") };
    text.parse().ok()
}

fn is_same(relation: &Relation, name: &TableName, table: &Table) -> bool {
    let columns = &table.def.columns;
    let same_columns = columns.len() == relation.columns.len()
        && columns.iter().zip(&table.columns).zip(&relation.columns).all(|((column, facts), told)| {
            *column.name == *told.name && facts.type_oid == told.type_id && facts.type_modifier == told.modifier
        });
    let same_key = || match relation.identity {
        Told::Full => table.identity == Identity::Full,
        _ => columns.iter().zip(&relation.columns).all(|(column, told)| (column.key > 0) == told.key),
    };
    table.def.name == *name && same_columns && same_key()
}

/// A definition from what the stream says alone: the catalog has gone on. The order of a composite key is then that of
/// its columns.
pub(super) async fn define(
    client: &Client,
    relation: &Relation,
    name: TableName,
    newest: Option<&Arc<Table>>,
    types: &HashMap<u32, String>,
) -> Result<TableDef, tokio_postgres::Error> {
    let ids: Vec<u32> = relation.columns.iter().map(|column| column.type_id).collect();
    let modifiers: Vec<i32> = relation.columns.iter().map(|column| column.modifier).collect();
    let sql =
        "select format_type(t, m) from unnest($1::oid[], $2::int4[]) with ordinality u(t, m, place) order by place";
    let rows = client.query(sql, &[&ids, &modifiers]).await?;
    let mut columns = Vec::with_capacity(relation.columns.len());
    for (told, row) in relation.columns.iter().zip(&rows) {
        let found: String = row.try_get(0)?;
        // A type that has been dropped meanwhile.
        let type_name = match found.starts_with("???") {
            true => types.get(&told.type_id).cloned().unwrap_or(found),
            false => found,
        };
        columns.push(Column { name: (*told.name).into(), type_name: type_name.into(), key: 0 });
    }
    let known: Vec<&str> = newest.map_or(Vec::new(), |table| {
        table.def.key_columns().into_iter().map(|place| &*table.def.columns[place].name).collect()
    });
    let told: Vec<&str> = relation.columns.iter().filter(|column| column.key).map(|column| &*column.name).collect();
    let key = match relation.identity {
        Told::Nothing => Vec::new(),
        Told::Full if known.iter().all(|key| columns.iter().any(|column| *column.name == **key)) => known,
        Told::Full => Vec::new(),
        _ if known.len() == told.len() && told.iter().all(|name| known.contains(name)) => known,
        _ => told,
    };
    for (place, name) in key.iter().enumerate() {
        if let Some(column) = columns.iter_mut().find(|column| *column.name == **name) {
            column.key = place as u16 + 1;
        }
    }
    Ok(TableDef::new(name, columns))
}
