//! The tables of a database: their definitions, their unique keys, and what stands against capturing them.

use std::path::Path;
use std::sync::Arc;

use rusqlite::Connection;

use super::connect::{Access, connect, is_internal, quote_ident};
use super::error::CaptureError;
use super::schema::CAPTURED_COLUMNS_MAX;
use crate::model::{Column, TableDef, TableName, limits};
use crate::view::{InspectedTable, Inspection};

/// Looks at a database without changing it.
pub fn inspect(path: &Path) -> Result<Inspection, CaptureError> {
    let fail = |error| CaptureError::sqlite(path, "inspecting", error);
    let conn = connect(path, Access::Read, limits::DATABASE_BUSY_TIMEOUT).map_err(fail)?;
    let transaction = conn.unchecked_transaction().map_err(fail)?;
    let (found, unnamed) = tables(&conn).map_err(fail)?;
    let mut tables = Vec::with_capacity(found.len());
    for table in found {
        let rows_estimate = if table.is_virtual { 0 } else { rows_estimate(&conn, &table).map_err(fail)? };
        let capturable = table.refusal.is_none();
        let problems = table.refusal.into_iter().chain(table.warnings).collect();
        tables.push(InspectedTable { def: table.def, problems, rows_estimate, capturable, old_rows: None });
    }
    transaction.commit().map_err(fail)?;
    let journal_mode: String = conn.query_row("PRAGMA journal_mode", [], |row| row.get(0)).map_err(fail)?;
    let warnings = (journal_mode != "wal").then(|| {
        format!(
            "the database's journal mode is {journal_mode} / why: readers and writers wait for each other, and a program without a busy \
             timeout meets \"database is locked\" / do: run `PRAGMA journal_mode = wal` once; it stays so"
        )
    });
    Ok(Inspection { tables, unnamed, warnings: warnings.into_iter().collect(), refusals: Vec::new() })
}

/// A table as the triggers need to know it.
#[derive(Clone, Debug)]
pub(crate) struct Table {
    pub def: Arc<TableDef>,
    /// A name under which the rowid can be reached; `None` for a table WITHOUT ROWID or if all are taken.
    pub rowid: Option<&'static str>,
    /// The column that is an alias of the rowid.
    pub alias: Option<usize>,
    /// The unique keys, the primary key first.
    pub keys: Vec<UniqueKey>,
    pub is_virtual: bool,
    /// Why it cannot be captured.
    pub refusal: Option<String>,
    pub warnings: Vec<String>,
}

/// Columns whose values together may not occur twice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct UniqueKey {
    pub columns: Vec<KeyColumn>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KeyColumn {
    pub name: String,
    /// The index's, which may differ from the column's.
    pub collation: String,
    /// What a NULL is replaced by before the key is checked: the default of a NOT NULL column.
    pub default: Option<String>,
}

struct ColumnInfo {
    name: String,
    type_name: String,
    not_null: bool,
    default: Option<String>,
    key: u16,
    generated: bool,
}

/// All tables of the schema `main`, by name, and those whose names cannot travel.
pub(crate) fn tables(conn: &Connection) -> rusqlite::Result<(Vec<Table>, Vec<String>)> {
    let sql = "SELECT name, type, wr FROM pragma_table_list WHERE schema = 'main' AND type IN ('table', 'virtual')
               ORDER BY name";
    let mut statement = conn.prepare(sql)?;
    let list: Vec<(String, String, bool)> =
        statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?.collect::<rusqlite::Result<_>>()?;
    let (mut tables, mut unnamed) = (Vec::new(), Vec::new());
    for (name, kind, without_rowid) in list {
        if is_internal(&name) {
            continue;
        }
        match name.parse::<TableName>() {
            Ok(parsed) if parsed.as_str() == name => {
                tables.push(describe(conn, parsed, kind == "virtual", without_rowid)?);
            }
            Ok(parsed) => {
                unnamed.push(format!("{name:?} cannot be told from the table {parsed} of the default schema"))
            }
            Err(error) => unnamed.push(error.to_string()),
        }
    }
    Ok((tables, unnamed))
}

fn columns(conn: &Connection, table: &str) -> rusqlite::Result<Vec<ColumnInfo>> {
    let sql = "SELECT name, type, \"notnull\", dflt_value, pk, hidden FROM pragma_table_xinfo(?1, 'main') ORDER BY cid";
    let mut statement = conn.prepare_cached(sql)?;
    let rows = statement.query_map([table], |row| {
        Ok(ColumnInfo {
            name: row.get(0)?,
            type_name: row.get(1)?,
            not_null: row.get(2)?,
            default: row.get(3)?,
            key: row.get(4)?,
            generated: row.get::<_, i64>(5)? != 0,
        })
    })?;
    rows.collect()
}

fn describe(conn: &Connection, name: TableName, is_virtual: bool, without_rowid: bool) -> rusqlite::Result<Table> {
    let infos = columns(conn, name.as_str())?;
    let kept = infos.iter().filter(|info| !info.generated);
    let kept = kept.map(|info| Column {
        name: info.name.as_str().into(),
        type_name: info.type_name.as_str().into(),
        key: info.key,
    });
    let def = Arc::new(TableDef::new(name, kept.collect()));
    let taken = |rowid: &&str| infos.iter().any(|info| info.name.eq_ignore_ascii_case(rowid));
    let rowid = ["rowid", "_rowid_", "oid"].into_iter().find(|rowid| !without_rowid && !taken(rowid));
    let mut table =
        Table { def, rowid, alias: None, keys: Vec::new(), is_virtual, refusal: None, warnings: Vec::new() };
    if is_virtual {
        table.refusal = Some("it is a virtual table: triggers cannot stand on it".into());
        return Ok(table);
    }
    find_keys(conn, &mut table, &infos, without_rowid)?;
    let columns = table.def.columns.len();
    if table.def.key_columns().is_empty() {
        table.refusal = Some("it has no PRIMARY KEY, so its rows cannot be told apart".into());
    } else if columns > CAPTURED_COLUMNS_MAX {
        table.refusal = Some(format!("it has {columns} columns; at most {CAPTURED_COLUMNS_MAX} can be captured"));
    } else if let Some(info) = infos.iter().find(|info| info.name.len() > limits::NAME_BYTES_MAX) {
        let max = limits::NAME_BYTES_MAX;
        table.refusal = Some(format!("the name of its column {:.40}… is longer than {max} bytes", info.name));
    }
    for info in infos.iter().filter(|info| info.key > 0 && !info.not_null) {
        if !without_rowid && table.alias.is_none() {
            let column = &info.name;
            table.warnings.push(format!(
                "its key column {column} may be NULL: rows with a NULL key cannot be told apart; declare it NOT NULL"
            ));
        }
    }
    Ok(table)
}

/// Finds the rowid's alias and the unique keys.
fn find_keys(conn: &Connection, table: &mut Table, infos: &[ColumnInfo], without_rowid: bool) -> rusqlite::Result<()> {
    let sql = "SELECT name, origin, partial FROM pragma_index_list(?1, 'main') WHERE \"unique\" ORDER BY seq DESC";
    let mut statement = conn.prepare_cached(sql)?;
    let indexes: Vec<(String, String, bool)> = statement
        .query_map([table.def.name.as_str()], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?
        .collect::<rusqlite::Result<_>>()?;
    let key = table.def.key_columns();
    // A key without an index of its own is the rowid.
    if let (&[only], false, true) = (&key[..], without_rowid, indexes.iter().all(|(_, origin, _)| origin != "pk")) {
        table.alias = Some(only);
        let name = table.def.columns[only].name.to_string();
        let column = KeyColumn { name, collation: "BINARY".into(), default: None };
        table.keys.push(UniqueKey { columns: vec![column] });
    }
    for (index, origin, partial) in indexes {
        match index_key(conn, &index, infos)? {
            Some(key) if !partial => {
                let place = if origin == "pk" { 0 } else { table.keys.len() };
                table.keys.insert(place, key);
            }
            _ => table.warnings.push(format!(
                "its unique index {index} is {}: a row that REPLACE removes because of it is not seen",
                if partial { "partial" } else { "on an expression" }
            )),
        }
    }
    Ok(())
}

/// The columns of a unique index; `None` where one is an expression.
fn index_key(conn: &Connection, index: &str, infos: &[ColumnInfo]) -> rusqlite::Result<Option<UniqueKey>> {
    let sql = "SELECT cid, coll FROM pragma_index_xinfo(?1, 'main') WHERE key ORDER BY seqno";
    let mut statement = conn.prepare_cached(sql)?;
    let parts: Vec<(i64, Option<String>)> =
        statement.query_map([index], |row| Ok((row.get(0)?, row.get(1)?)))?.collect::<rusqlite::Result<_>>()?;
    let columns = parts.into_iter().map(|(cid, collation)| {
        let info = infos.get(usize::try_from(cid).ok()?)?;
        let default = info.default.clone().filter(|_| info.not_null);
        Some(KeyColumn { name: info.name.clone(), collation: collation.unwrap_or_else(|| "BINARY".into()), default })
    });
    Ok(columns.collect::<Option<Vec<_>>>().map(|columns| UniqueKey { columns }))
}

/// Exact for small tables, else the span of rowids or what ANALYZE found.
fn rows_estimate(conn: &Connection, table: &Table) -> rusqlite::Result<u64> {
    const COUNTED_MAX: u64 = 10_000;
    let name = quote_ident(table.def.name.as_str());
    let sql = format!("SELECT count(*) FROM (SELECT 1 FROM {name} LIMIT {COUNTED_MAX})");
    let counted = conn.query_row(&sql, [], |row| row.get::<_, i64>(0))?.unsigned_abs();
    let Some(rowid) = table.rowid.filter(|_| counted == COUNTED_MAX) else { return Ok(counted) };
    let sql = format!("SELECT (SELECT max({rowid}) FROM {name}), (SELECT min({rowid}) FROM {name})");
    let (max, min): (i64, i64) = conn.query_row(&sql, [], |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok(max.abs_diff(min).saturating_add(1).max(counted))
}
