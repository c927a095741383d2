//! Makes one table of a database equal to that of another.

use std::path::Path;
use std::sync::Arc;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};

use super::apply::{Mode, RowFail, Target, Writer, define};
use super::copy::open_read_only;
use super::diff::{common, one_row};
use super::failure::SqliteError;
use super::range::{KeyRange, key_of, read_rows};
use super::scan::{Cell, Scan, ordered, same};
use super::types::from_sql;
use crate::model::{Row, TableDef, TableName, limits};
use crate::view::Repaired;

/// Makes B's rows equal to A's in the columns that both have, in transactions of a chunk each; B's triggers do not fire,
/// so nothing of it is captured. `progress` is called after each commit. Interrupted, it leaves B partly repaired, and
/// can be started again. A table without a key is written whole in one transaction.
///
/// # Errors
/// [`SqliteError::NoTable`] if one side does not have the table, [`SqliteError::Table`] if B's cannot take A's rows.
pub fn repair_table(
    a: &Path,
    b: &Path,
    table: &TableName,
    progress: &mut dyn FnMut(Repaired),
) -> Result<Repaired, SqliteError> {
    let source = open_read_only(a)?;
    let fail_b = SqliteError::sql(b);
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let conn = Connection::open_with_flags(b, flags).map_err(&fail_b)?;
    conn.busy_timeout(limits::DATABASE_BUSY_TIMEOUT).map_err(&fail_b)?;
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false).map_err(&fail_b)?;
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_FKEY, false).map_err(&fail_b)?;
    let none = |path: &Path| SqliteError::NoTable { path: path.to_path_buf(), table: table.clone() };
    let def_a = define(&source, table).map_err(SqliteError::sql(a))?.ok_or_else(|| none(a))?;
    let def_b = define(&conn, table).map_err(&fail_b)?.ok_or_else(|| none(b))?;
    let (def, _, _) = common(&def_a, &def_b);
    let def = Arc::new(def);
    let target = Target::look(&conn, def.clone()).map_err(&fail_b)?;
    let bad = |why: String| SqliteError::Table { path: b.to_path_buf(), table: table.clone(), why };
    let mut target = target.map_err(bad)?;
    let mut repair = Repair { source: &source, conn: &conn, def: &def, done: Repaired::default(), a, b };
    if def.key_columns().is_empty() {
        repair.in_transaction(|repair| repair.whole(&mut target))?;
        progress(repair.done);
        return Ok(repair.done);
    }
    let mut after: Option<Row> = None;
    loop {
        let range = KeyRange { after: after.as_ref(), upto: None };
        let chunk = read_rows(&source, &def, range, limits::COPY_CHUNK_ROWS, limits::COPY_CHUNK_BYTES)
            .map_err(SqliteError::sql(a))?;
        let range = KeyRange { after: after.as_ref(), upto: chunk.upto.as_ref() };
        repair.in_transaction(|repair| repair.chunk(&mut target, range, &chunk.rows))?;
        progress(repair.done);
        match chunk.upto {
            Some(upto) => after = Some(upto),
            None => return Ok(repair.done),
        }
    }
}

struct Repair<'r> {
    source: &'r Connection,
    conn: &'r Connection,
    def: &'r Arc<TableDef>,
    done: Repaired,
    a: &'r Path,
    b: &'r Path,
}

impl Repair<'_> {
    fn row_fail(&self, fail: RowFail) -> SqliteError {
        match fail {
            RowFail::Sql(source, _) => SqliteError::Sql { path: self.b.to_path_buf(), source },
            RowFail::Conflict(why) => {
                SqliteError::Table { path: self.b.to_path_buf(), table: self.def.name.clone(), why }
            }
        }
    }

    fn in_transaction(&mut self, write: impl FnOnce(&mut Self) -> Result<(), SqliteError>) -> Result<(), SqliteError> {
        let fail = SqliteError::sql(self.b);
        self.conn.execute_batch("BEGIN IMMEDIATE").map_err(&fail)?;
        let written = write(self).and_then(|()| self.conn.execute_batch("COMMIT").map_err(&fail));
        if written.is_err() && !self.conn.is_autocommit() {
            self.conn.execute_batch("ROLLBACK").map_err(&fail)?;
        }
        written
    }

    /// Makes the rows of a key range those of the chunk.
    fn chunk(&mut self, target: &mut Target, range: KeyRange<'_>, rows: &[Row]) -> Result<(), SqliteError> {
        let fail = SqliteError::sql(self.b);
        let kept: std::collections::HashSet<Vec<(u8, &[u8])>> = rows
            .iter()
            .map(|row| self.def.key_columns().iter().map(|&i| (row[i].kind as u8, &*row[i].text)).collect())
            .collect();
        let mut writer = Writer { conn: self.conn, target, mode: Mode::Final };
        let mut after = range.after.cloned();
        loop {
            let inner = KeyRange { after: after.as_ref(), upto: range.upto };
            let found = read_rows(self.conn, self.def, inner, limits::COPY_CHUNK_ROWS, limits::COPY_CHUNK_BYTES);
            let found = found.map_err(&fail)?;
            for row in &found.rows {
                let key = key_of(self.def, row);
                if !kept.contains(&key.iter().map(|v| (v.kind as u8, &*v.text)).collect::<Vec<_>>()) {
                    self.done.removed += writer.delete(row).map_err(|fail| self.row_fail(fail))? as u64;
                }
            }
            match found.upto {
                Some(upto) => after = Some(upto),
                None => break,
            }
        }
        for row in rows {
            self.done.rows += 1;
            let there = one_row(self.conn, self.def, &key_of(self.def, row)).map_err(&fail)?;
            let is_same =
                |there: &Vec<Cell>| there.iter().zip(row).all(|(cell, value)| from_sql(cell.value()) == *value);
            if !there.as_ref().is_some_and(is_same) {
                self.done.written += 1;
                writer.put(row).map_err(|fail| self.row_fail(fail))?;
            }
        }
        Ok(())
    }

    /// Replaces all rows of a table without a key, unless they are equal.
    fn whole(&mut self, target: &mut Target) -> Result<(), SqliteError> {
        let (fail_a, fail_b) = (SqliteError::sql(self.a), SqliteError::sql(self.b));
        let sql = ordered(self.def);
        let columns = self.def.columns.len();
        let equal = {
            let mut statement_a = self.source.prepare(&sql).map_err(&fail_a)?;
            let mut statement_b = self.conn.prepare(&sql).map_err(&fail_b)?;
            let mut scan_a = Scan::new(statement_a.raw_query(), columns);
            let mut scan_b = Scan::new(statement_b.raw_query(), columns);
            loop {
                match (scan_a.next().map_err(&fail_a)?, scan_b.next().map_err(&fail_b)?) {
                    (None, None) => break true,
                    (Some(a), Some(b)) if a.iter().zip(&b).all(|(a, b)| same(a, b)) => {}
                    _ => break false,
                }
            }
        };
        if equal {
            return Ok(());
        }
        let delete = format!("DELETE FROM main.{}", super::connect::quote_ident(self.def.name.as_str()));
        self.done.removed += self.conn.execute(&delete, []).map_err(&fail_b)? as u64;
        let mut writer = Writer { conn: self.conn, target, mode: Mode::Final };
        let mut statement = self.source.prepare(&sql).map_err(&fail_a)?;
        let mut scan = Scan::new(statement.raw_query(), columns);
        while let Some(row) = scan.next().map_err(&fail_a)? {
            let row: Row = row.iter().map(|cell| from_sql(cell.value())).collect();
            writer.put(&row).map_err(|fail| self.row_fail(fail))?;
            self.done.rows += 1;
            self.done.written += 1;
        }
        Ok(())
    }
}
