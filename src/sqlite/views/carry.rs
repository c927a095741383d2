//! Carries out statements in SQLite, each prepared once, and keeps the latest rows.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use rusqlite::types::{Null, ToSqlOutput, ValueRef};
use rusqlite::{CachedStatement, Connection, OptionalExtension, params};

use super::store::{failed, is_of_the_store};
use crate::model::{
    Change, Fingerprint, Kind, Op, Row, TableDef, TableName, ValueClass, decode_changes, decode_table, encode_changes,
    encode_table,
};
use crate::sqlite::apply::{Hint, number, to_sql};
use crate::view::{Cell, Effects, Script, Seen, Slot, ViewError};

/// Versions of tables that rows are kept in, as the database has them.
pub(super) type Defs = HashMap<Fingerprint, Arc<TableDef>>;

/// What is done in one transaction.
pub(super) struct Carry<'c> {
    pub conn: &'c Connection,
    pub script: Arc<Script>,
    pub sqls: &'c [String],
    pub statements: Vec<Option<CachedStatement<'c>>>,
    pub defs: &'c mut Defs,
    pub place: &'c str,
}

impl Carry<'_> {
    fn fail(&self, error: rusqlite::Error) -> ViewError {
        failed(self.place, error)
    }

    fn refused(&self, number: usize, seen: &Seen<'_>, error: rusqlite::Error) -> ViewError {
        if is_of_the_store(&error) {
            return self.fail(error);
        }
        let why = match error {
            rusqlite::Error::SqliteFailure(_, Some(words)) => words,
            other => other.to_string(),
        };
        self.script.failed(number, seen.about.position, why)
    }
}

impl Effects for Carry<'_> {
    fn run(&mut self, number: usize, slots: &[Slot], seen: &Seen<'_>) -> Result<(), ViewError> {
        if self.statements[number].is_none() {
            let prepared = self.conn.prepare_cached(&self.sqls[number]);
            self.statements[number] = Some(prepared.map_err(|error| self.refused(number, seen, error))?);
        }
        let Some(statement) = self.statements[number].as_mut() else { return Ok(()) };
        for (index, slot) in slots.iter().enumerate() {
            let bound = match seen.cell(*slot).and_then(|cell| bind(statement, index + 1, &cell)) {
                Ok(bound) => bound,
                Err(why) => return Err(self.script.failed(number, seen.about.position, why)),
            };
            bound.map_err(|error| failed(self.place, error))?;
        }
        match statement.raw_execute() {
            Ok(_) => Ok(()),
            Err(error) => Err(self.refused(number, seen, error)),
        }
    }

    fn latest(&mut self, table: &TableName, key: &[u8]) -> Result<Option<(Arc<TableDef>, Row)>, ViewError> {
        let sql = "SELECT fingerprint, content FROM watershed_view_row WHERE table_name = ?1 AND key = ?2";
        let found: rusqlite::Result<Option<(String, Vec<u8>)>> =
            self.conn.prepare_cached(sql).and_then(|mut statement| {
                statement.query_row(params![table.as_str(), key], |row| Ok((row.get(0)?, row.get(1)?))).optional()
            });
        let Some((fingerprint, content)) = found.map_err(|error| self.fail(error))? else { return Ok(None) };
        let damaged = |why: String| ViewError::Failed(format!("{}: a kept row of {table}: {why}", self.place));
        let fingerprint = u64::from_str_radix(&fingerprint, 16).map(Fingerprint).map_err(|e| damaged(e.to_string()))?;
        let changes = decode_changes(&Bytes::from(content)).map_err(|error| damaged(error.to_string()))?;
        let row =
            changes.into_iter().next().and_then(|change| change.row).ok_or_else(|| damaged("it is none".into()))?;
        let def = match self.defs.get(&fingerprint) {
            Some(def) => def.clone(),
            None => {
                let sql = "SELECT definition FROM watershed_view_table WHERE fingerprint = ?1";
                let bytes: Vec<u8> = self
                    .conn
                    .query_row(sql, [fingerprint.to_string()], |row| row.get(0))
                    .map_err(|error| self.fail(error))?;
                let def = Arc::new(decode_table(&bytes).map_err(|error| damaged(error.to_string()))?);
                self.defs.insert(fingerprint, def.clone());
                def
            }
        };
        match row.len() == def.columns.len() {
            true => Ok(Some((def, row))),
            false => Err(damaged(format!("{} values for {} columns", row.len(), def.columns.len()))),
        }
    }

    fn keep(&mut self, def: &Arc<TableDef>, key: &[u8], row: &Row) -> Result<(), ViewError> {
        if !self.defs.contains_key(&def.fingerprint) {
            let sql = "INSERT OR IGNORE INTO watershed_view_table(fingerprint, definition) VALUES (?1, ?2)";
            let stored = self.conn.execute(sql, params![def.fingerprint.to_string(), encode_table(def)]);
            stored.map_err(|error| self.fail(error))?;
            self.defs.insert(def.fingerprint, def.clone());
        }
        let sql = "INSERT INTO watershed_view_row(table_name, key, fingerprint, content) VALUES (?1, ?2, ?3, ?4)
                   ON CONFLICT DO UPDATE SET fingerprint = excluded.fingerprint, content = excluded.content";
        let content = encode_changes(&[Change { table: 0, op: Op::Insert, row: Some(row.clone()), old: None }]);
        let kept = self.conn.prepare_cached(sql).and_then(|mut statement| {
            statement.execute(params![def.name.as_str(), key, def.fingerprint.to_string(), &content[..]])
        });
        kept.map(drop).map_err(|error| self.fail(error))
    }

    fn forget(&mut self, table: &TableName, key: Option<&[u8]>) -> Result<(), ViewError> {
        let sql = "DELETE FROM watershed_view_row WHERE table_name = ?1 AND (?2 IS NULL OR key = ?2)";
        let one = "DELETE FROM watershed_view_row WHERE table_name = ?1 AND key = ?2";
        let gone = self
            .conn
            .prepare_cached(if key.is_some() { one } else { sql })
            .and_then(|mut statement| statement.execute(params![table.as_str(), key]));
        gone.map(drop).map_err(|error| self.fail(error))
    }
}

/// Binds a value.
///
/// # Errors
/// Words: the value is none that SQLite has. Inside: SQLite refused.
fn bind(statement: &mut CachedStatement<'_>, index: usize, cell: &Cell<'_>) -> Result<rusqlite::Result<()>, String> {
    Ok(match cell {
        Cell::Null => statement.raw_bind_parameter(index, Null),
        Cell::Boolean(value) => statement.raw_bind_parameter(index, i64::from(*value)),
        Cell::Integer(value) => statement.raw_bind_parameter(index, *value),
        Cell::Number(text) => statement.raw_bind_parameter(index, number(text)),
        Cell::Text(text) | Cell::Json(text) => statement.raw_bind_parameter(index, &**text),
        Cell::Value(value, type_name) => {
            let is_number = value.kind == Kind::Typed && ValueClass::of(type_name) == ValueClass::Number;
            let output = match std::str::from_utf8(&value.text).ok().filter(|_| is_number) {
                Some(text) => number(text),
                None => to_sql(value, Hint::of(type_name))?,
            };
            // Text of a source need not be UTF-8; what is bound must be, or a blob.
            let output = match output {
                ToSqlOutput::Borrowed(ValueRef::Text(text)) if std::str::from_utf8(text).is_err() => {
                    ToSqlOutput::Borrowed(ValueRef::Blob(text))
                }
                output => output,
            };
            statement.raw_bind_parameter(index, output)
        }
    })
}
