//! A SQLite database as one side of a comparison with a database of another engine.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};

use super::apply::{Mode, RowFail, Target, Writer, define};
use super::connect::quote_ident as quote;
use super::copy::open_read_only;
use super::diff::{list_tables, one_row};
use super::failure::SqliteError;
use super::types::from_sql;
use crate::model::{Row, TableDef, TableName, limits};
use crate::view::{BucketSum, Compared, DiffError, Engine, Mend, Repaired};

/// One side, by its file.
pub struct SqliteSide {
    conn: Connection,
    path: PathBuf,
    writer: Option<Connection>,
}

impl SqliteSide {
    /// Opens an existing database for reading.
    ///
    /// # Errors
    /// It cannot be opened.
    pub fn open(path: &Path) -> Result<SqliteSide, SqliteError> {
        Ok(SqliteSide { conn: open_read_only(path)?, path: path.to_path_buf(), writer: None })
    }

    fn failed(&self) -> impl Fn(rusqlite::Error) -> DiffError + use<> {
        let path = self.path.clone();
        move |source| SqliteError::Sql { path: path.clone(), source }.into()
    }

    /// The connection that writes: triggers and foreign keys are off.
    fn writer(&mut self) -> Result<Connection, DiffError> {
        if let Some(conn) = self.writer.take() {
            return Ok(conn);
        }
        let fail = self.failed();
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let conn = Connection::open_with_flags(&self.path, flags).map_err(&fail)?;
        conn.busy_timeout(limits::DATABASE_BUSY_TIMEOUT).map_err(&fail)?;
        conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false).map_err(&fail)?;
        conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_FKEY, false).map_err(&fail)?;
        Ok(conn)
    }
}

impl From<SqliteError> for DiffError {
    fn from(error: SqliteError) -> DiffError {
        DiffError { why: error.to_string(), is_retryable: error.is_retryable() }
    }
}

#[async_trait]
impl Compared for SqliteSide {
    fn engine(&self) -> Engine {
        Engine::Sqlite
    }

    async fn tables(&mut self) -> Result<Vec<TableName>, DiffError> {
        Ok(list_tables(&self.path)?)
    }

    async fn define(&mut self, table: &TableName) -> Result<Option<TableDef>, DiffError> {
        define(&self.conn, table).map_err(self.failed())
    }

    async fn scan(
        &mut self,
        def: &TableDef,
        _: Option<&[u32]>,
        each: &mut (dyn FnMut(Row) + Send),
    ) -> Result<(), DiffError> {
        let fail = self.failed();
        let names: Vec<String> = def.columns.iter().map(|column| quote(&column.name)).collect();
        let sql = format!("SELECT {} FROM main.{}", names.join(","), quote(def.name.as_str()));
        let mut statement = self.conn.prepare(&sql).map_err(&fail)?;
        let mut rows = statement.query([]).map_err(&fail)?;
        while let Some(row) = rows.next().map_err(&fail)? {
            let values = (0..def.columns.len()).map(|i| row.get_ref(i).map(from_sql));
            each(values.collect::<rusqlite::Result<Row>>().map_err(&fail)?);
        }
        Ok(())
    }

    async fn sums(&mut self, _: &TableDef, _: u32) -> Result<Option<Vec<BucketSum>>, DiffError> {
        Ok(None)
    }

    async fn rows(&mut self, def: &TableDef, keys: &[Row]) -> Result<Vec<Option<Row>>, DiffError> {
        let fail = self.failed();
        let each = keys.iter().map(|key| {
            let row = one_row(&self.conn, def, key).map_err(&fail)?;
            Ok(row.map(|row| row.iter().map(|cell| from_sql(cell.value())).collect()))
        });
        each.collect()
    }

    async fn mend(&mut self, def: &TableDef, sent: &TableDef, mends: &[Mend]) -> Result<Repaired, DiffError> {
        let fail = self.failed();
        let conn = self.writer()?;
        let mended = mend(&conn, def, sent, mends, &self.path);
        if mended.is_err() && !conn.is_autocommit() {
            conn.execute_batch("ROLLBACK").map_err(&fail)?;
        }
        self.writer = Some(conn);
        mended.map_err(DiffError::from)
    }
}

fn mend(
    conn: &Connection,
    def: &TableDef,
    sent: &TableDef,
    mends: &[Mend],
    path: &Path,
) -> Result<Repaired, SqliteError> {
    let fail = SqliteError::sql(path);
    let bad = |why: String| SqliteError::Table { path: path.to_path_buf(), table: def.name.clone(), why };
    conn.execute_batch("BEGIN IMMEDIATE").map_err(&fail)?;
    // The rows are read by the sender's types, under the names that the columns have here.
    let columns = def.columns.iter().zip(&sent.columns).map(|(here, there)| {
        let mut column = there.clone();
        column.name = here.name.clone();
        column
    });
    let sent = Arc::new(TableDef::new(def.name.clone(), columns.collect()));
    let mut target = Target::look(conn, sent).map_err(&fail)?.map_err(bad)?;
    let mut writer = Writer { conn, target: &mut target, mode: Mode::Final };
    let row_fail = |error: RowFail| match error {
        RowFail::Sql(source, _) => SqliteError::Sql { path: path.to_path_buf(), source },
        RowFail::Conflict(why) => bad(why),
    };
    let mut done = Repaired::default();
    for mend in mends {
        match mend {
            Mend::Put(row) => done.written += writer.put(row).map_err(row_fail)? as u64,
            Mend::Remove(row) => done.removed += writer.delete(row).map_err(row_fail)? as u64,
        }
    }
    conn.execute_batch("COMMIT").map_err(&fail)?;
    Ok(done)
}
