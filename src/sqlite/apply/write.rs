//! Writes one change into its destination table.

use std::sync::Arc;

use rusqlite::{Connection, ErrorCode};

use super::bind::to_sql;
use super::evicted;
use super::target::{Shape, Target};
use crate::model::{Change, Kind, Op, Row, Value};

/// What happens when rows are not as the change expects them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// It is a conflict, and the table is parked.
    Strict,
    /// The database may be ahead of the log (first copies): the change wins over whatever is in its way, and that is set
    /// aside until its own change comes.
    Convergent,
    /// The row wins over whatever is in its way, and that is removed.
    Final,
}

/// Why a row was not written.
#[derive(Debug)]
pub(crate) enum RowFail {
    /// The row and this table do not fit.
    Conflict(String),
    /// SQLite's error, with the statement.
    Sql(rusqlite::Error, Arc<str>),
}

impl RowFail {
    fn is_unique(&self) -> bool {
        let RowFail::Sql(rusqlite::Error::SqliteFailure(error, _), _) = self else { return false };
        use rusqlite::ffi;
        matches!(
            error.extended_code,
            ffi::SQLITE_CONSTRAINT_UNIQUE | ffi::SQLITE_CONSTRAINT_PRIMARYKEY | ffi::SQLITE_CONSTRAINT_ROWID
        )
    }

    /// Whether the table's content or definition is at fault, and not the database or the disk.
    pub(super) fn is_tables(&self) -> bool {
        match self {
            RowFail::Conflict(_) => true,
            RowFail::Sql(error, _) => is_tables(error),
        }
    }
}

impl From<rusqlite::Error> for RowFail {
    fn from(error: rusqlite::Error) -> RowFail {
        RowFail::Sql(error, "setting rows aside".into())
    }
}

/// Whether an error of SQLite is about a table's content or definition.
pub(super) fn is_tables(error: &rusqlite::Error) -> bool {
    match error {
        rusqlite::Error::SqliteFailure(error, _) => matches!(
            error.code,
            ErrorCode::ConstraintViolation | ErrorCode::TypeMismatch | ErrorCode::TooBig | ErrorCode::Unknown
        ),
        rusqlite::Error::SqlInputError { .. } => true,
        _ => false,
    }
}

type Written = Result<usize, RowFail>;

/// A destination table, ready to be written.
pub(crate) struct Writer<'a> {
    pub conn: &'a Connection,
    pub target: &'a mut Target,
    pub mode: Mode,
}

impl Writer<'_> {
    /// Writes the change; says whether a row (or, for truncate, the table) was to be touched at all.
    pub(crate) fn change(&mut self, change: &Change) -> Result<(), RowFail> {
        match (change.op, &change.row, &change.old) {
            (Op::Insert, Some(row), _) => self.put(row).map(drop),
            (Op::Update, Some(row), _) => self.update(row, change),
            (Op::Delete, _, Some(old)) => self.delete(old).map(drop),
            (Op::Truncate, ..) => self.truncate(),
            (Op::Copied | Op::Cut, ..) => Ok(()),
            _ => Err(RowFail::Conflict(format!("{} without its row", change.op.name()))),
        }
    }

    fn check(&self, row: &Row) -> Result<(), RowFail> {
        if row.len() != self.target.def.columns.len() {
            let (expected, got) = (self.target.def.columns.len(), row.len());
            return Err(RowFail::Conflict(format!("the row has {got} values, its definition {expected} columns")));
        }
        if self.target.key.iter().any(|&i| row[i].kind == Kind::Null) {
            return Err(RowFail::Conflict("a column of the row's key is NULL".to_owned()));
        }
        Ok(())
    }

    fn is_full(&self, row: &Row) -> bool {
        self.target.written.iter().all(|&i| row[i].kind != Kind::Unchanged)
    }

    /// Runs a statement of that shape with the row's present values, then those of `key`.
    fn run(&mut self, shape: Shape, row: Option<&Row>, key: Option<&Row>) -> Written {
        let present: Option<Box<[bool]>> = match row {
            Some(row) if !self.is_full(row) => Some(row.iter().map(|v| v.kind != Kind::Unchanged).collect()),
            _ => None,
        };
        let sql = self.target.sql(shape, present.as_deref());
        let wrap = |error| RowFail::Sql(error, sql.clone());
        let mut statement = self.conn.prepare_cached(&sql).map_err(wrap)?;
        let mut next = 0;
        let skip_key = shape == Shape::Update;
        let target = &*self.target;
        let mut bind = |i: usize, value: &Value| {
            next += 1;
            let value = to_sql(value, target.hints[i])
                .map_err(|why| RowFail::Conflict(format!("column {:?}: {why}", target.def.columns[i].name)))?;
            statement.raw_bind_parameter(next, value).map_err(wrap)
        };
        if let Some(row) = row {
            for &i in &target.written {
                if row[i].kind != Kind::Unchanged && !(skip_key && target.key.contains(&i)) {
                    bind(i, &row[i])?;
                }
            }
        }
        if let Some(key) = key {
            let columns = if target.key.is_empty() { &target.written } else { &target.key };
            for &i in columns {
                bind(i, &key[i])?;
            }
        }
        statement.raw_execute().map_err(wrap)
    }

    /// Runs a statement that removes whatever is in the row's way.
    fn replace(&mut self, shape: Shape, row: &Row, key: Option<&Row>) -> Written {
        if self.mode == Mode::Final {
            return self.run(shape, Some(row), key);
        }
        let (conn, mode) = (self.conn, self.mode);
        evicted::aside(conn, self.target, evicted::is_typed(row), |target| {
            Writer { conn, target, mode }.run(shape, Some(row), key)
        })
    }

    /// Inserts the row, or overwrites the row of its key.
    pub(crate) fn put(&mut self, row: &Row) -> Written {
        self.check(row)?;
        match self.run(Shape::Upsert, Some(row), None) {
            Err(fail) if self.mode != Mode::Strict && fail.is_unique() && !self.target.key.is_empty() => {
                match self.replace(Shape::MoveReplace, row, Some(row))? {
                    0 => self.replace(Shape::InsertReplace, row, None),
                    changed => Ok(changed),
                }
            }
            written => written,
        }
    }

    /// Deletes the row of that key; that it is missing is no error.
    pub(crate) fn delete(&mut self, old: &Row) -> Written {
        self.check(old)?;
        if self.target.key.is_empty() && !self.is_full(old) {
            return Err(RowFail::Conflict("the table has no key, and the old row is not whole".to_owned()));
        }
        self.run(Shape::Delete, None, Some(old))
    }

    fn update(&mut self, row: &Row, change: &Change) -> Result<(), RowFail> {
        let mut row = std::borrow::Cow::Borrowed(row);
        let Some(old) = change.old_resolved() else {
            return self.update_by(&row, &row, false);
        };
        if old.len() != row.len() {
            return Err(RowFail::Conflict(format!("the row has {} values, its old row {}", row.len(), old.len())));
        }
        if self.target.key.is_empty() {
            return match self.delete(&old)? {
                0 if self.mode == Mode::Strict => Err(RowFail::Conflict("the row to update is missing".to_owned())),
                _ => self.put(&row).map(drop),
            };
        }
        let mut key = old;
        for &i in &self.target.key {
            match (key[i].kind, row[i].kind) {
                (Kind::Unchanged, _) => key[i] = row[i].clone(),
                (_, Kind::Unchanged) => row.to_mut()[i] = key[i].clone(),
                _ => {}
            }
        }
        let moved = self.target.key.iter().any(|&i| key[i] != row[i]);
        self.update_by(&row, &key, moved)
    }

    fn update_by(&mut self, row: &Row, key: &Row, moved: bool) -> Result<(), RowFail> {
        self.check(row)?;
        self.check(key)?;
        let full = self.is_full(row);
        if self.mode != Mode::Strict && full {
            if moved {
                self.delete(key)?;
            }
            return self.put(row).map(drop);
        }
        let only_key =
            self.target.written.iter().all(|i| self.target.key.contains(i) || row[*i].kind == Kind::Unchanged);
        let changed = match (self.mode, moved) {
            (_, false) if only_key && full => self.put(row)?,
            // Nothing to write, and the row cannot be made.
            (_, false) if only_key => return Ok(()),
            (mode, moved) => {
                let shape = if moved { Shape::Move } else { Shape::Update };
                match self.run(shape, Some(row), Some(key)) {
                    Err(fail) if mode != Mode::Strict && fail.is_unique() => {
                        self.replace(Shape::MoveReplace, row, Some(key))?
                    }
                    changed => changed?,
                }
            }
        };
        match (changed, self.mode) {
            (0, _) if full => self.put(row).map(drop),
            (0, Mode::Strict) => Err(RowFail::Conflict("the row to update is missing".to_owned())),
            (0, Mode::Convergent) => match evicted::filled(self.conn, &self.target.def, row, key)? {
                Some(row) if self.is_full(&row) => self.put(&row).map(drop),
                _ => Ok(()),
            },
            _ => Ok(()),
        }
    }

    fn truncate(&mut self) -> Result<(), RowFail> {
        let sql: Arc<str> =
            format!("DELETE FROM main.{}", crate::sqlite::connect::quote_ident(self.target.def.name.as_str())).into();
        self.conn.execute(&sql, []).map(drop).map_err(|error| RowFail::Sql(error, sql))
    }
}
