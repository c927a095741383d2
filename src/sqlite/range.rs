//! Rows of a table in key order, between two keys.

use rusqlite::{Connection, Result};

use super::apply::{Hint, to_sql};
use super::connect::quote_ident as quote;
use super::types::from_sql;
use crate::model::{Row, TableDef};

/// `after < key ≤ upto`; `None` is unbounded. Keys have the values of the key's columns, in key order.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct KeyRange<'a> {
    pub after: Option<&'a Row>,
    pub upto: Option<&'a Row>,
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
