//! What secondary indexes a table has, for those who have to make it.

use rusqlite::{Connection, Result};

use crate::model::{IndexColumn, TableDef, TableIndex, limits};

/// The definition with its indexes, but that of the primary key. The columns of one are given where they and their direction
/// tell all of it.
pub(super) fn indexed(conn: &Connection, def: TableDef) -> Result<TableDef> {
    let mut list = conn.prepare_cached(
        "SELECT l.name, l.\"unique\", l.partial, s.sql FROM pragma_index_list(?1, 'main') l
         LEFT JOIN sqlite_schema s ON s.type = 'index' AND s.name = l.name WHERE l.origin <> 'pk' ORDER BY l.name",
    )?;
    let mut rows = list.query([def.name.as_str()])?;
    let mut indexes = Vec::new();
    while let Some(row) = rows.next()? {
        let (name, partial): (String, bool) = (row.get(0)?, row.get(2)?);
        let columns = if partial { None } else { columns(conn, &def, &name)? }.unwrap_or_default();
        let sql: Option<String> = row.get(3)?;
        let named: Vec<&str> = columns.iter().map(|of| &*def.columns[of.column].name).collect();
        // That of a constraint has a name that nobody may give.
        let name = match sql {
            Some(_) => name,
            None => format!("{}_{}_key", def.name.as_str().replace('.', "_"), named.join("_")),
        };
        indexes.push(TableIndex {
            definition: TableIndex::shown(&sql.unwrap_or_default()),
            name: name.chars().take(limits::NAME_BYTES_MAX / 4).collect::<String>().into(),
            columns,
            unique: row.get(1)?,
            ..TableIndex::default()
        });
    }
    Ok(def.with_indexes(indexes))
}

/// The index's columns; `None` where one is an expression, not of the definition, or compared in its own way.
fn columns(conn: &Connection, def: &TableDef, index: &str) -> Result<Option<Vec<IndexColumn>>> {
    let mut list = conn.prepare_cached(
        "SELECT name, \"desc\", coll FROM pragma_index_xinfo(?1, 'main') WHERE key = 1 ORDER BY seqno",
    )?;
    let mut rows = list.query([index])?;
    let mut columns = Vec::new();
    while let Some(row) = rows.next()? {
        let (name, descending, collation): (Option<String>, bool, Option<String>) =
            (row.get(0)?, row.get(1)?, row.get(2)?);
        let known = name.and_then(|name| def.column(&name));
        let Some(column) = known.filter(|_| collation.is_none_or(|collation| collation == "BINARY")) else {
            return Ok(None);
        };
        // Where NULLs stand matters to nobody here; elsewhere they stand where they usually do.
        columns.push(IndexColumn { column, descending, nulls_first: descending });
    }
    Ok(Some(columns))
}
