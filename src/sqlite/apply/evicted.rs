//! Rows that are in the way of others while their table is copied, set aside until their own change comes: an update may
//! leave values out, and would not bring them back.
//!
//! SQLite tells of the rows that `OR REPLACE` removes, whatever index they stand in the way by, only to triggers on
//! deletion, if those are recursive. So one of our own stands on the table for that one statement; temporary triggers work
//! where those of the database are off. (sqlite.org/lang_conflict.html, sqlite.org/c3ref/c_dbconfig_defensive.html)

use rusqlite::{Connection, OptionalExtension, Result, params};

use super::target::Target;
use crate::model::{
    Change, Kind, Op, Row, TableDef, TableName, Value, ValueClass, decode_changes, encode_changes, put_canonical,
};
use crate::sqlite::connect::quote_ident as quote;
use crate::sqlite::types::from_sql;

/// What a key is told by: of PostgreSQL's values the form that they have in both databases, of SQLite's class and bytes.
pub(super) fn key_form(def: &TableDef, row: &Row, is_typed: bool) -> Vec<u8> {
    let mut form = Vec::new();
    for i in def.key_columns() {
        match is_typed {
            true => put_canonical(&mut form, &row[i], ValueClass::of(&def.columns[i].type_name)),
            false => {
                form.push(row[i].kind as u8);
                form.extend_from_slice(&(row[i].text.len() as u64).to_le_bytes());
                form.extend_from_slice(&row[i].text);
            }
        }
    }
    form
}

/// Whether a row comes from a database whose columns have one type each.
pub(super) fn is_typed(row: &Row) -> bool {
    row.iter().any(|value| value.kind == Kind::Typed)
}

/// Has the rows noted that are removed from now on.
fn watch(conn: &Connection, target: &Target) -> Result<()> {
    let places: Vec<String> = (0..target.written.len()).map(|n| format!("c{n}")).collect();
    let old: Vec<String> =
        target.written.iter().map(|&i| format!("OLD.{}", quote(&target.def.columns[i].name))).collect();
    conn.execute_batch(&format!(
        "PRAGMA recursive_triggers = ON; CREATE TEMP TABLE watershed_victims({});
         CREATE TEMP TRIGGER watershed_victim AFTER DELETE ON main.{} BEGIN INSERT INTO watershed_victims VALUES ({}); END",
        places.join(", "),
        quote(target.def.name.as_str()),
        old.join(", ")
    ))
}

/// Sets aside what was noted; nothing is noted any more.
fn keep(conn: &Connection, target: &Target, is_typed: bool) -> Result<()> {
    let def = &target.def;
    let mut statement = conn.prepare("SELECT * FROM temp.watershed_victims")?;
    let mut rows = statement.query([])?;
    let names: Row = def.columns.iter().map(|column| Value::new(Kind::Text, column.name.to_string())).collect();
    let mut kept: Vec<(Vec<u8>, bytes::Bytes)> = Vec::new();
    while let Some(found) = rows.next()? {
        let mut row: Row = vec![Value::UNCHANGED; def.columns.len()];
        for (n, &i) in target.written.iter().enumerate() {
            row[i] = from_sql(found.get_ref(n)?);
        }
        let key = key_form(def, &row, is_typed);
        // The names beside the values: the definition may be another one when the row is put back.
        let content = Change { table: 0, op: Op::Update, row: Some(row), old: Some(names.clone()) };
        kept.push((key, encode_changes(&[content])));
    }
    drop(rows);
    drop(statement);
    for (key, content) in kept {
        conn.prepare_cached(
            "INSERT OR REPLACE INTO main.watershed_evicted(table_name, key, content) VALUES (?1, ?2, ?3)",
        )?
        .execute(params![def.name.as_str(), key, &content[..]])?;
    }
    Ok(())
}

/// Runs a statement that removes whatever is in a row's way, and sets aside what it removes.
pub(super) fn aside<T, E: From<rusqlite::Error>>(
    conn: &Connection,
    target: &mut Target,
    is_typed: bool,
    replace: impl FnOnce(&mut Target) -> std::result::Result<T, E>,
) -> std::result::Result<T, E> {
    watch(conn, target)?;
    let done = replace(target);
    let done = match done {
        Ok(value) => keep(conn, target, is_typed).map(|()| value).map_err(E::from),
        failed => failed,
    };
    let ended = conn.execute_batch(
        "DROP TRIGGER temp.watershed_victim; DROP TABLE temp.watershed_victims; PRAGMA recursive_triggers = OFF",
    );
    let value = done?;
    ended?;
    Ok(value)
}

/// What of a change is not known, from the row as it was when it was set aside, if it was.
pub(super) fn filled(conn: &Connection, def: &TableDef, row: &Row, key: &Row) -> Result<Option<Row>> {
    let form = key_form(def, key, is_typed(key));
    let sql = "SELECT content FROM main.watershed_evicted WHERE table_name = ?1 AND key = ?2";
    let content: Option<Vec<u8>> =
        conn.prepare_cached(sql)?.query_row(params![def.name.as_str(), form], |found| found.get(0)).optional()?;
    let change = content.and_then(|bytes| decode_changes(&bytes.into()).ok()?.pop());
    let Some(Change { row: Some(values), old: Some(names), .. }) = change else { return Ok(None) };
    let before = |name: &str| {
        let at = names.iter().position(|known| known.text.eq_ignore_ascii_case(name.as_bytes()))?;
        values.get(at).cloned()
    };
    let value = |(i, value): (usize, &Value)| match value.kind {
        Kind::Unchanged => before(&def.columns[i].name).unwrap_or(Value::UNCHANGED),
        _ => value.clone(),
    };
    Ok(Some(row.iter().enumerate().map(value).collect()))
}

/// Forgets what was set aside of a table.
pub(super) fn forget(conn: &Connection, table: &TableName) -> Result<()> {
    conn.prepare_cached("DELETE FROM main.watershed_evicted WHERE table_name = ?1")?.execute([table.as_str()]).map(drop)
}
