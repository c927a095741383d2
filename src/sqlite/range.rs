//! Rows of a table in key order, between two keys.

use rusqlite::{Connection, Result};

use super::apply::{Affinity, Hint, to_sql};
use super::connect::quote_ident as quote;
use super::types::from_sql;
use crate::model::{Kind, Row, TableDef};
use crate::view::CopyChunk;

/// `after < key ≤ upto`; `None` is unbounded. Keys have the values of the key's columns, in key order.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct KeyRange<'a> {
    pub after: Option<&'a Row>,
    pub upto: Option<&'a Row>,
}

/// Whether the sender's rows and this database's are ordered alike by their keys, whatever the keys are; the same for all
/// chunks of a copy. If not, a row that came with one chunk could be in the range of another here. Rows of a SQLite
/// database are; of PostgreSQL's, those whose keys are numbers, bytes or UUIDs (no time of day, no text: collations
/// differ). `own` gives the type and the collation of a key's column here.
pub(super) fn same_order(chunk: &CopyChunk, own: &[(String, String)]) -> bool {
    let Some(bound) = chunk.upto.as_ref().or(chunk.after.as_ref()) else { return true };
    if bound.iter().all(|value| value.kind != Kind::Typed) {
        return true;
    }
    let keys = chunk.table.key_columns();
    keys.len() == own.len()
        && keys.iter().zip(own).all(|(&i, (declared, collation))| {
            let affinity = Affinity::of(declared);
            match &*chunk.table.columns[i].type_name {
                "smallint" | "integer" | "bigint" | "oid" => affinity == Affinity::Numeric,
                "boolean" => matches!(affinity, Affinity::Numeric | Affinity::None),
                "bytea" => true,
                "uuid" => {
                    let collation = collation.to_ascii_uppercase();
                    ["", "BINARY", "NOCASE"].contains(&collation.as_str())
                }
                _ => false,
            }
        })
}

/// Rows in key order.
pub(super) struct Rows {
    pub rows: Vec<Row>,
    /// The last row's key when there may be more; `None` at the range's end.
    pub upto: Option<Row>,
}

/// A row's key: the values of the key's columns, in key order.
pub(super) fn key_of(def: &TableDef, row: &Row) -> Row {
    def.key_columns().into_iter().filter_map(|i| row.get(i).cloned()).collect()
}

/// `SELECT` of the definition's columns in key order. Comparison and order are SQLite's own, so collations and mixed
/// storage classes are as in the table.
pub(super) fn select(def: &TableDef, after: bool, upto: bool, limit: bool) -> String {
    let names: Vec<String> = def.columns.iter().map(|column| quote(&column.name)).collect();
    let keys: Vec<&str> = def.key_columns().into_iter().map(|i| names[i].as_str()).collect();
    let mut sql = format!("SELECT {} FROM main.{}", names.join(","), quote(def.name.as_str()));
    let places = |from: usize| (from..from + keys.len()).map(|n| format!("?{n}")).collect::<Vec<_>>().join(",");
    let mut conditions = Vec::new();
    if after {
        conditions.push(format!("({}) > ({})", keys.join(","), places(1)));
    }
    if upto {
        let from = if after { keys.len() + 1 } else { 1 };
        conditions.push(format!("({}) <= ({})", keys.join(","), places(from)));
    }
    if !conditions.is_empty() {
        sql += &format!(" WHERE {}", conditions.join(" AND "));
    }
    if !keys.is_empty() {
        sql += &format!(" ORDER BY {}", keys.join(","));
    }
    if limit {
        sql += &format!(" LIMIT ?{}", keys.len() * (usize::from(after) + usize::from(upto)) + 1);
    }
    sql
}

/// Reads at most `rows_max` rows, and no further row once `bytes_max` bytes are read (one row always).
pub(super) fn read_rows(
    conn: &Connection,
    def: &TableDef,
    range: KeyRange<'_>,
    rows_max: usize,
    bytes_max: usize,
) -> Result<Rows> {
    let sql = select(def, range.after.is_some(), range.upto.is_some(), true);
    let mut statement = conn.prepare_cached(&sql)?;
    let mut place = 0;
    let keys = def.key_columns();
    for key in [range.after, range.upto].into_iter().flatten() {
        for (value, &i) in key.iter().zip(&keys) {
            place += 1;
            let bound = to_sql(value, Hint::of(&def.columns[i].type_name))
                .map_err(|why| rusqlite::Error::ToSqlConversionFailure(why.into()))?;
            statement.raw_bind_parameter(place, bound)?;
        }
    }
    statement.raw_bind_parameter(place + 1, i64::try_from(rows_max + 1).unwrap_or(i64::MAX))?;
    let mut rows = statement.raw_query();
    let mut read: Vec<Row> = Vec::new();
    let mut bytes = 0;
    while let Some(row) = rows.next()? {
        if read.len() == rows_max || (bytes >= bytes_max && !read.is_empty()) {
            let upto = read.last().map(|row| key_of(def, row));
            return Ok(Rows { rows: read, upto });
        }
        let values: Row = (0..def.columns.len()).map(|i| row.get_ref(i).map(from_sql)).collect::<Result<_>>()?;
        bytes += values.iter().map(|value| value.text.len() + 2).sum::<usize>();
        read.push(values);
    }
    Ok(Rows { rows: read, upto: None })
}
