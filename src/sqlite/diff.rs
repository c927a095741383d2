//! Whether one table is equal in two databases: by key, value and storage class, with a digest as proof.

use std::cmp::Ordering;
use std::path::Path;
use std::sync::Arc;

use rusqlite::Connection;

use super::apply::{Hint, define, to_sql};
use super::connect::quote_ident as quote;
use super::copy::open_read_only;
use super::failure::SqliteError;
use super::scan::{Cell, Scan, Scanned, compare_rows, ordered, same};
use super::types::from_sql;
use crate::model::{Row, TableDef, TableName, Value, limits};
use crate::view::{DiffOptions, RowDiff, RowDiffKind, Side, TableDiff};

/// The user's tables of a database, by name; Watershed's and SQLite's own are left out.
pub fn list_tables(path: &Path) -> Result<Vec<TableName>, SqliteError> {
    let fail = SqliteError::sql(path);
    let conn = open_read_only(path)?;
    let sql = "SELECT name FROM pragma_table_list WHERE schema = 'main' AND type = 'table'
               AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' AND name NOT LIKE 'watershed\\_%' ESCAPE '\\' ORDER BY name";
    let mut statement = conn.prepare(sql).map_err(&fail)?;
    let names = statement.query_map([], |row| row.get::<_, String>(0)).map_err(&fail)?;
    let mut tables = Vec::new();
    for name in names {
        tables.extend(name.map_err(&fail)?.parse::<TableName>().ok());
    }
    Ok(tables)
}

/// The two sides of a comparison, opened.
pub(super) struct Pair<'p> {
    pub a: Connection,
    pub b: Connection,
    pub path_a: &'p Path,
    pub path_b: &'p Path,
}

impl<'p> Pair<'p> {
    fn open(path_a: &'p Path, path_b: &'p Path) -> Result<Pair<'p>, SqliteError> {
        Ok(Pair { a: open_read_only(path_a)?, b: open_read_only(path_b)?, path_a, path_b })
    }
}

/// The columns that both sides have, under A's key; and those of one side only.
pub(super) fn common(a: &TableDef, b: &TableDef) -> (TableDef, Vec<Box<str>>, Vec<Box<str>>) {
    let has = |def: &TableDef, name: &str| def.columns.iter().any(|column| column.name.eq_ignore_ascii_case(name));
    let only = |def: &TableDef, other: &TableDef| -> Vec<Box<str>> {
        def.columns.iter().filter(|column| !has(other, &column.name)).map(|column| column.name.clone()).collect()
    };
    let keyed = a.columns.iter().all(|column| column.key == 0 || has(b, &column.name));
    let mut columns: Vec<_> = a.columns.iter().filter(|column| has(b, &column.name)).cloned().collect();
    if !keyed {
        columns.iter_mut().for_each(|column| column.key = 0);
    }
    (TableDef::new(a.name.clone(), columns), only(a, b), only(b, a))
}

/// Compares one table. Both sides are read in one snapshot each; writers are not kept waiting (in WAL mode).
pub fn diff_table(a: &Path, b: &Path, table: &TableName, options: DiffOptions) -> Result<TableDiff, SqliteError> {
    let pair = Pair::open(a, b)?;
    let def_a = define(&pair.a, table).map_err(SqliteError::sql(a))?;
    let def_b = define(&pair.b, table).map_err(SqliteError::sql(b))?;
    let (Some(def_a), Some(def_b)) = (&def_a, &def_b) else {
        let sides = [(Side::A, def_a.is_none()), (Side::B, def_b.is_none())];
        let missing_in = sides.into_iter().filter(|(_, missing)| *missing).map(|(side, _)| side).collect();
        return Ok(TableDiff { missing_in, ..TableDiff::default() });
    };
    let (def, columns_only_a, columns_only_b) = common(def_a, def_b);
    if def.columns.is_empty() {
        return Ok(TableDiff { columns_only_a, columns_only_b, ..TableDiff::default() });
    }
    let mut diff = Comparison { pair: &pair, def: Arc::new(def), options }.run()?;
    diff.columns_only_a = columns_only_a;
    diff.columns_only_b = columns_only_b;
    Ok(diff)
}

struct Comparison<'p> {
    pair: &'p Pair<'p>,
    def: Arc<TableDef>,
    options: DiffOptions,
}

impl Comparison<'_> {
    fn run(&self) -> Result<TableDiff, SqliteError> {
        let mut diff = self.stream()?;
        for _ in 0..self.options.rechecks {
            if diff.different == 0 {
                break;
            }
            std::thread::sleep(self.options.settle);
            let before = diff.different;
            if self.def.key_columns().is_empty() {
                let settled = diff.settled;
                diff = self.stream()?;
                diff.settled = settled + before.saturating_sub(diff.different);
            } else {
                let looked_at = diff.rows.len();
                diff.rows = self.recheck(&diff.rows)?;
                let equal = (looked_at - diff.rows.len()) as u64;
                diff.different -= equal;
                diff.settled += equal;
            }
        }
        diff.rows.truncate(self.options.rows_max);
        Ok(diff)
    }

    /// Both sides once, in order.
    fn stream(&self) -> Result<TableDiff, SqliteError> {
        let (fail_a, fail_b) = (SqliteError::sql(self.pair.path_a), SqliteError::sql(self.pair.path_b));
        let sql = ordered(&self.def);
        let columns = self.def.columns.len();
        let mut statement_a = self.pair.a.prepare(&sql).map_err(&fail_a)?;
        let mut statement_b = self.pair.b.prepare(&sql).map_err(&fail_b)?;
        let mut scan_a = Scan::new(statement_a.raw_query(), columns);
        let mut scan_b = Scan::new(statement_b.raw_query(), columns);
        let keys = self.def.key_columns();
        let mut diff = TableDiff::default();
        let mut row_a = scan_a.next().map_err(&fail_a)?;
        let mut row_b = scan_b.next().map_err(&fail_b)?;
        loop {
            let order = match (&row_a, &row_b) {
                (None, None) => break,
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some(a), Some(b)) => compare_rows(&keys, a, b),
            };
            if let Some(found) = self.differs(order, row_a.as_ref(), row_b.as_ref()) {
                diff.different += 1;
                if diff.rows.len() < limits::DIFF_RECHECK_MAX {
                    diff.rows.push(found);
                }
            }
            if order.is_le() {
                row_a = scan_a.next().map_err(&fail_a)?;
            }
            if order.is_ge() {
                row_b = scan_b.next().map_err(&fail_b)?;
            }
        }
        (diff.rows_a, diff.rows_b) = (scan_a.count, scan_b.count);
        (diff.digest_a, diff.digest_b) = (scan_a.digest(), scan_b.digest());
        Ok(diff)
    }

    fn differs(&self, order: Ordering, a: Option<&Scanned>, b: Option<&Scanned>) -> Option<RowDiff> {
        let keys = self.def.key_columns();
        let key = |row: &Scanned| -> Row {
            match keys.is_empty() {
                true => row.iter().map(value).collect(),
                false => keys.iter().map(|&i| value(&row[i])).collect(),
            }
        };
        match (order, a, b) {
            (Ordering::Less, Some(a), _) => Some(RowDiff { key: key(a), kind: RowDiffKind::Only(Side::A) }),
            (Ordering::Greater, _, Some(b)) => Some(RowDiff { key: key(b), kind: RowDiffKind::Only(Side::B) }),
            (Ordering::Equal, Some(a), Some(b)) => {
                let pairs = self.def.columns.iter().zip(a.iter().zip(b));
                let values: Vec<_> = pairs
                    .filter(|(_, (a, b))| !same(a, b))
                    .map(|(column, (a, b))| (column.name.clone(), value(a), value(b)))
                    .collect();
                (!values.is_empty()).then(|| RowDiff { key: key(a), kind: RowDiffKind::Values(values) })
            }
            _ => None,
        }
    }

    /// Those of the rows that still differ.
    fn recheck(&self, rows: &[RowDiff]) -> Result<Vec<RowDiff>, SqliteError> {
        let (fail_a, fail_b) = (SqliteError::sql(self.pair.path_a), SqliteError::sql(self.pair.path_b));
        let mut still = Vec::new();
        for row in rows {
            let a = one_row(&self.pair.a, &self.def, &row.key).map_err(&fail_a)?;
            let b = one_row(&self.pair.b, &self.def, &row.key).map_err(&fail_b)?;
            let order = match (&a, &b) {
                (None, None) => continue,
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some(_), Some(_)) => Ordering::Equal,
            };
            still.extend(self.differs(order, a.as_ref(), b.as_ref()));
        }
        Ok(still)
    }
}

fn value(cell: &Cell) -> Value {
    from_sql(cell.value())
}

/// The row of that key, compared bytewise.
pub(super) fn one_row(conn: &Connection, def: &TableDef, key: &Row) -> rusqlite::Result<Option<Scanned>> {
    let names: Vec<String> = def.columns.iter().map(|column| quote(&column.name)).collect();
    let keys = def.key_columns();
    // The plain comparison finds the row by its index, the bytewise one makes it exact.
    let same: Vec<String> = keys
        .iter()
        .enumerate()
        .map(|(n, &i)| format!("{0} IS ?{1} AND {0} COLLATE BINARY IS ?{1}", names[i], n + 1))
        .collect();
    let (names, table) = (names.join(","), quote(def.name.as_str()));
    let mut statement =
        conn.prepare_cached(&format!("SELECT {names} FROM main.{table} WHERE {}", same.join(" AND ")))?;
    for (n, (value, &i)) in key.iter().zip(&keys).enumerate() {
        let bound = to_sql(value, Hint::of(&def.columns[i].type_name))
            .map_err(|why| rusqlite::Error::ToSqlConversionFailure(why.into()))?;
        statement.raw_bind_parameter(n + 1, bound)?;
    }
    Scan::new(statement.raw_query(), def.columns.len()).next()
}
