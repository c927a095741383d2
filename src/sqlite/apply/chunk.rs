//! One chunk of a first copy, written together with the lane's progress.

use std::collections::HashSet;
use std::sync::Arc;

use rusqlite::Connection;

use super::evicted::{is_typed, key_form};
use super::pass::{restore_sequence, sequence};
use super::write::{Mode, RowFail, Writer};
use super::{Applier, view_error};
use crate::model::{Row, TableDef, limits};
use crate::sqlite::connect::is_internal;
use crate::sqlite::create::{create_index, create_table_for};
use crate::sqlite::range::{KeyRange, key_of, read_rows, same_order};
use crate::view::{CopyChunk, CopyScope, Lane, LaneState, RowGuard, ViewError};

impl Applier {
    pub(super) fn write_chunk(
        &mut self,
        chunk: &CopyChunk,
        scope: &CopyScope,
        mine: RowGuard<'_>,
    ) -> Result<(), ViewError> {
        let name = &chunk.table.name;
        let lane = self.lanes.get(name).cloned();
        let Some(Lane { after, state: LaneState::Copying { from, done, rows, received }, .. }) = lane else {
            return Err(ViewError::Failed(format!("{name} is not being copied: {:?}", lane.map(|lane| lane.state))));
        };
        if done != chunk.after {
            return Err(ViewError::Failed(format!(
                "a chunk of {name} does not continue the copy: expected after {done:?}, got {:?}",
                chunk.after
            )));
        }
        let mut decoded = None;
        if chunk.lines.is_some() {
            let mut taken = chunk.clone();
            let trouble = |why| ViewError::Table { table: name.clone(), position: after, why };
            taken.decode().map_err(trouble)?;
            decoded = Some(taken);
        }
        let chunk = decoded.as_ref().unwrap_or(chunk);
        self.write_rows(chunk, scope, mine, after)?;
        let last = chunk.rows.last().map(|row| key_of(&chunk.table, row));
        let state = LaneState::Copying {
            from,
            done: chunk.upto.clone().or(last).or(done),
            rows: rows.saturating_add(chunk.rows.len() as u64),
            received,
        };
        self.put_lane(Lane { table: name.clone(), after, state })
    }

    fn write_rows(
        &mut self,
        chunk: &CopyChunk,
        scope: &CopyScope,
        mine: RowGuard<'_>,
        position: crate::model::Position,
    ) -> Result<(), ViewError> {
        let options = &self.options;
        let def = &chunk.table;
        let fail = |error| view_error(options, error);
        let table = |why: String| ViewError::Table { table: def.name.clone(), position, why };
        let row_fail = |row_fail: RowFail| match row_fail {
            RowFail::Sql(error, sql) if super::write::is_tables(&error) => table(format!("{error}; statement: {sql}")),
            RowFail::Sql(error, _) => fail(error),
            RowFail::Conflict(why) => table(why),
        };
        match create_missing(&self.conn, def, &chunk.rows) {
            Ok(true) => self.targets.revise(&self.conn).map_err(fail)?,
            Ok(false) => {}
            // A table that cannot be made is that table's trouble.
            Err(error) if super::write::is_tables(&error) => {
                return Err(table(format!("{} is not there and could not be created: {error}", def.name)));
            }
            Err(error) => return Err(fail(error)),
        }
        let target = match self.targets.get(&self.conn, def).map_err(fail)? {
            Ok(target) => target,
            Err(why) => return Err(table(why)),
        };
        // What tells the chunks of a table without a key apart is known to its sender only.
        let is_key = |key: &Row| {
            target.key.is_empty() || key.len() == target.key.len() && key.iter().all(|value| value.kind.has_text())
        };
        if [&chunk.after, &chunk.upto].into_iter().flatten().any(|key| !is_key(key)) {
            return Err(table("the chunk's bounds are not values of the table's key".to_owned()));
        }
        let has_sequence = target.sequence;
        let before = if has_sequence { sequence(&self.conn, &def.name).map_err(fail)? } else { None };
        if let Some(bad) = chunk.rows.iter().find(|row| row.len() != def.columns.len()) {
            let (expected, got) = (def.columns.len(), bad.len());
            return Err(table(format!("a row has {got} values, its definition {expected} columns")));
        }
        let mut writer = Writer { conn: &self.conn, target, mode: Mode::Convergent };
        if *scope == CopyScope::All {
            let range = KeyRange { after: chunk.after.as_ref(), upto: chunk.upto.as_ref() };
            // Without a key there are no ranges, whatever the sender tells its chunks apart by.
            match !def.key_columns().is_empty() && same_order(chunk, &writer.target.key_order) {
                true => remove_missing(&mut writer, chunk, range, mine, &fail, &row_fail)?,
                // Where this chunk's rows stand among those here is not known: all go before the first.
                false if chunk.after.is_none() => {
                    remove_missing(&mut writer, chunk, KeyRange::default(), mine, &fail, &row_fail)?;
                }
                false => {}
            }
        }
        for row in chunk.rows.iter().filter(|row| !mine(def, row)) {
            writer.put(row).map_err(row_fail)?;
        }
        if has_sequence {
            restore_sequence(&self.conn, &def.name, before).map_err(fail)?;
        }
        Ok(())
    }
}

/// Removes the rows of the key range that the chunk does not have, a bounded number at a time.
fn remove_missing(
    writer: &mut Writer<'_>,
    chunk: &CopyChunk,
    range: KeyRange<'_>,
    mine: RowGuard<'_>,
    fail: &dyn Fn(rusqlite::Error) -> ViewError,
    row_fail: &dyn Fn(RowFail) -> ViewError,
) -> Result<(), ViewError> {
    let def: &Arc<TableDef> = &chunk.table;
    let keyless = def.key_columns().is_empty();
    // Keys equal only under a collation count as different: the row is then removed and written as it came.
    let is_typed = chunk.rows.iter().any(is_typed);
    let kept: HashSet<Vec<u8>> = match keyless {
        true => HashSet::new(),
        false => chunk.rows.iter().map(|row| key_form(def, row, is_typed)).collect(),
    };
    let mut after: Option<Row> = range.after.cloned();
    loop {
        let range = KeyRange { after: after.as_ref(), upto: range.upto };
        let rows =
            read_rows(writer.conn, def, range, limits::COPY_CHUNK_ROWS, limits::COPY_CHUNK_BYTES).map_err(fail)?;
        let mut removed = 0;
        for row in &rows.rows {
            let there = !keyless && kept.contains(&key_form(def, row, is_typed));
            if !there && !mine(def, row) {
                removed += writer.delete(row).map_err(row_fail)?;
            }
        }
        match rows.upto {
            Some(upto) if !keyless => after = Some(upto),
            Some(_) if removed > 0 => {}
            _ => return Ok(()),
        }
    }
}

/// Creates the table that a copy is about to fill, where nothing of that name is there, with its primary key and what indexes
/// can be; says whether it did.
fn create_missing(conn: &Connection, def: &TableDef, rows: &[Row]) -> rusqlite::Result<bool> {
    let name = def.name.as_str();
    if is_there(conn, name)? || is_internal(name) {
        return Ok(false);
    }
    conn.execute_batch(&create_table_for(def, rows))?;
    let mut made = 0;
    for index in &def.indexes {
        // Those of constraints have names that nobody may give.
        let mut own = index.name.to_string();
        if is_internal(&own) || is_there(conn, &own)? {
            own = format!("{name}_{own}");
        }
        let done = match create_index(def, index, &own) {
            None => Err("it has a condition, an expression or an order of its own".to_owned()),
            Some(sql) => match conn.execute_batch(&sql) {
                // The table is as good without.
                Err(error) if super::write::is_tables(&error) => Err(error.to_string()),
                made => made.map(Ok)?,
            },
        };
        match done {
            Ok(()) => made += 1,
            Err(why) => {
                let definition = &index.definition;
                tracing::warn!(table = name, "index {} of {name} is not made: {why}: {definition}", index.name);
            }
        }
    }
    tracing::warn!(
        table = name,
        "table {name} was not there and has been created for its copy, with its columns, primary key and {made} indexes; constraints, \
         defaults and triggers do not travel: add those that are needed"
    );
    Ok(true)
}

/// Whether something is called that.
fn is_there(conn: &Connection, name: &str) -> rusqlite::Result<bool> {
    let there = "SELECT count(*) FROM sqlite_schema WHERE name = ?1 COLLATE NOCASE";
    let there: i64 = conn.prepare_cached(there)?.query_row([name], |row| row.get(0))?;
    Ok(there > 0)
}
