//! Brings triggers and definitions in line with the tables that are there.

use std::collections::HashMap;

use rusqlite::{Connection, params};

use super::connect::quote_ident;
use super::inspect::{Table, tables};
use super::schema::{op, widen};
use super::triggers::{Trigger, drop_sql, essential, list_sql, shape, triggers};
use crate::model::{TableName, encode_table};

/// Tables that are captured, by name.
pub(crate) type Captures<'a> = &'a dyn Fn(&TableName) -> bool;

/// When the triggers are looked at.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Occasion {
    /// Nothing was captured here before: nobody follows these tables yet.
    First,
    /// Everything up to and including this change has been read.
    Read(i64),
}

/// A definition under which a table's changes are logged now.
struct Current {
    id: i64,
    name: String,
    def: Vec<u8>,
    shape: String,
}

struct Found {
    table: String,
    sql: String,
}

/// Installs, renews and removes triggers, in the write transaction that the caller has begun. A table whose rows may
/// have changed unseen gets a `COPIED` row in the change table: after all changes logged before, in the same commit as
/// its triggers. Gives back the tables that are gone, or were rebuilt so that they
/// cannot be captured any more.
pub(crate) fn reconcile(
    conn: &Connection,
    captures: Captures<'_>,
    occasion: Occasion,
) -> rusqlite::Result<Vec<TableName>> {
    let mut found = found_triggers(conn)?;
    let current = current(conn)?;
    let (all, _) = tables(conn)?;
    for table in all.iter().filter(|table| table.refusal.is_none() && captures(&table.def.name)) {
        let before = current.iter().find(|before| before.name == table.def.name.as_str());
        align(conn, table, before, &mut found, occasion)?;
    }
    let mut dropped = Vec::new();
    for before in &current {
        let table = all.iter().find(|table| table.def.name.as_str() == before.name);
        let wanted = table.is_none_or(|table| captures(&table.def.name));
        if wanted && table.is_some_and(|table| table.refusal.is_none()) {
            continue;
        }
        conn.execute("UPDATE watershed_tables SET current = 0 WHERE id = ?1", [before.id])?;
        if let (true, Ok(name)) = (wanted, before.name.parse()) {
            dropped.push(name);
        }
    }
    // What is left belongs to no captured table: it hangs on a renamed one, or on one that is not captured any more.
    for name in found.keys() {
        conn.execute_batch(&drop_sql(name))?;
    }
    Ok(dropped)
}

fn found_triggers(conn: &Connection) -> rusqlite::Result<HashMap<String, Found>> {
    let mut statement = conn.prepare(&list_sql())?;
    let rows = statement.query_map([], |row| Ok((row.get(0)?, Found { table: row.get(1)?, sql: row.get(2)? })))?;
    rows.collect()
}

fn current(conn: &Connection) -> rusqlite::Result<Vec<Current>> {
    let mut statement = conn.prepare("SELECT id, name, def, keys FROM watershed_tables WHERE current")?;
    let rows = statement.query_map([], |row| {
        Ok(Current { id: row.get(0)?, name: row.get(1)?, def: row.get(2)?, shape: row.get(3)? })
    })?;
    rows.collect()
}

/// Sees to one table. Takes its triggers out of `found`.
fn align(
    conn: &Connection,
    table: &Table,
    before: Option<&Current>,
    found: &mut HashMap<String, Found>,
    occasion: Occasion,
) -> rusqlite::Result<()> {
    let here = |found: &Found| found.table.eq_ignore_ascii_case(table.def.name.as_str());
    let same_def = before.is_some_and(|before| before.def == encode_table(&table.def) && before.shape == shape(table));
    let intact = before.is_some_and(|before| {
        let names = essential(before.id);
        names.iter().all(|name| found.get(name).is_some_and(here))
    });
    if let (Some(before), true, true) = (before, same_def, intact) {
        let expected = triggers(table, before.id);
        let is_there =
            |trigger: &Trigger| found.get(&trigger.name).is_some_and(|found| here(found) && found.sql == trigger.sql);
        if expected.iter().all(is_there) {
            for trigger in &expected {
                found.remove(&trigger.name);
            }
            return Ok(());
        }
    }
    let missed = match (before, occasion) {
        (_, Occasion::First) => false,
        // Logged under the old shape, perhaps after the table had changed: a new column's values would be missing.
        (Some(before), Occasion::Read(seq)) if intact && !same_def => {
            before.shape != shape(table) && has_unread(conn, before.id, seq)?
        }
        (Some(_), _) => true,
        (None, _) => was_captured(conn, table)? || has_rows(conn, table)?,
    };
    renew(conn, table, found, missed)
}

/// Gives the table a new definition and new triggers.
fn renew(conn: &Connection, table: &Table, found: &mut HashMap<String, Found>, missed: bool) -> rusqlite::Result<()> {
    let name = table.def.name.as_str();
    let old: Vec<String> = found
        .iter()
        .filter(|(_, found)| found.table.eq_ignore_ascii_case(name))
        .map(|(name, _)| name.clone())
        .collect();
    for trigger in old {
        conn.execute_batch(&drop_sql(&trigger))?;
        found.remove(&trigger);
    }
    widen(conn, table.def.columns.len())?;
    conn.execute("UPDATE watershed_tables SET current = 0 WHERE name = ?1", [name])?;
    conn.execute(
        "INSERT INTO watershed_tables(name, def, keys, current) VALUES (?1, ?2, ?3, 1)",
        params![name, encode_table(&table.def), shape(table)],
    )?;
    let definition = conn.last_insert_rowid();
    for trigger in triggers(table, definition) {
        conn.execute_batch(&trigger.sql)?;
    }
    match missed {
        true => log_copied(conn, definition),
        false => Ok(()),
    }
}

/// Logs that the table's content was replaced unseen.
fn log_copied(conn: &Connection, definition: i64) -> rusqlite::Result<()> {
    conn.execute("INSERT INTO watershed_changes(tbl, op) VALUES (?1, ?2)", params![definition, op::COPIED]).map(drop)
}

/// Logs a captured table, or all of them, as replaced; a table that is not captured is left out.
pub(crate) fn log_all_copied(conn: &Connection, only: Option<&TableName>) -> rusqlite::Result<()> {
    for current in current(conn)? {
        if only.is_none_or(|only| only.as_str() == current.name) {
            log_copied(conn, current.id)?;
        }
    }
    Ok(())
}

fn has_unread(conn: &Connection, definition: i64, read: i64) -> rusqlite::Result<bool> {
    let sql = "SELECT EXISTS (SELECT 1 FROM watershed_changes WHERE seq > ?1 AND tbl = ?2)";
    conn.query_row(sql, [read, definition], |row| row.get(0))
}

/// Whether followers may have rows of an earlier table of that name.
fn was_captured(conn: &Connection, table: &Table) -> rusqlite::Result<bool> {
    let sql = "SELECT EXISTS (SELECT 1 FROM watershed_tables WHERE name = ?1)";
    conn.query_row(sql, [table.def.name.as_str()], |row| row.get(0))
}

fn has_rows(conn: &Connection, table: &Table) -> rusqlite::Result<bool> {
    let sql = format!("SELECT EXISTS (SELECT 1 FROM {})", quote_ident(table.def.name.as_str()));
    conn.query_row(&sql, [], |row| row.get(0))
}
