//! What changes in the view's tables, as entries of another log will have it: noted by triggers of ours, kept in the commit
//! that changes it.

use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use rusqlite::functions::{Context, FunctionFlags};
use rusqlite::{Connection, Error, OptionalExtension, params};
use tempfile::SpooledTempFile;

use super::changes::tables as names;
use crate::model::{
    Change, Cursor, Entry, Op, Row, TableDef, TableName, Timestamp, decode_table, encode_changes, encode_table, limits,
};
use crate::sqlite::apply::define;
use crate::sqlite::connect::quote_ident;
use crate::sqlite::types::from_sql;
use crate::view::{Cause, Outgoing, Waiting};

/// What waits. Numbers are never given twice. A lineage is drawn whenever this begins to be kept; up to `forgotten` nothing is.
const TABLES: &str = "
CREATE TABLE IF NOT EXISTS watershed_view_out(
  number INTEGER PRIMARY KEY AUTOINCREMENT, cursor TEXT NOT NULL, time INTEGER NOT NULL, correlation TEXT, more INTEGER NOT NULL,
  tables TEXT NOT NULL, changes BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS watershed_view_lineage(id INTEGER PRIMARY KEY CHECK (id = 1), lineage INTEGER NOT NULL, forgotten INTEGER NOT NULL DEFAULT 0);
";
/// Values that one call of a function is given.
const VALUES_AT_ONCE: usize = 100;

/// What has changed since the last transaction of the log ended.
#[derive(Default)]
struct Noted {
    old: Row,
    new: Row,
    changes: Vec<Change>,
    /// About, of `changes`.
    bytes: usize,
    /// Of what is much, the parts that are full, each behind its length.
    full: Option<SpooledTempFile>,
    /// How many of them.
    parts: usize,
}

impl Noted {
    /// Takes a change; of what has been written again as it was there is none.
    fn take(&mut self, table: usize, op: Op, folder: &Path) -> std::io::Result<()> {
        let (old, new) = (std::mem::take(&mut self.old), std::mem::take(&mut self.new));
        if op == Op::Update && old == new {
            return Ok(());
        }
        let bytes = |row: &Row| row.iter().map(|value| value.text.len() + 8).sum::<usize>();
        let (all, max) = (bytes(&old) + bytes(&new), limits::ENTRY_BYTES_MAX / 2);
        if all > max {
            return Err(std::io::Error::other(format!("a row before and after its change has more than {max} bytes")));
        }
        self.bytes += all + 16;
        let (row, old) = ((op != Op::Delete).then_some(new), (op != Op::Insert).then_some(old));
        self.changes.push(Change { table, op, row, old });
        if self.bytes >= limits::PART_BYTES_TARGET { self.put_away(folder) } else { Ok(()) }
    }

    fn put_away(&mut self, folder: &Path) -> std::io::Result<()> {
        let part = encode_changes(&std::mem::take(&mut self.changes));
        self.bytes = 0;
        let max = limits::VIEW_OUT_MEMORY_BYTES;
        let file = self.full.get_or_insert_with(|| tempfile::spooled_tempfile_in(max, folder));
        file.write_all(&(part.len() as u64).to_le_bytes())?;
        file.write_all(&part)?;
        self.parts += 1;
        Ok(())
    }
}

/// What is noted on the connection that writes.
pub(super) struct Outbox {
    noted: Arc<Mutex<Noted>>,
    tables: Vec<Arc<TableDef>>,
    folder: PathBuf,
    /// What waits has a beginning that nobody knows of yet.
    pub is_new: bool,
}

fn locked(noted: &Mutex<Noted>) -> MutexGuard<'_, Noted> {
    noted.lock().unwrap_or_else(PoisonError::into_inner)
}

fn told(why: impl std::fmt::Display) -> Error {
    Error::UserFunctionError(why.to_string().into())
}

impl Outbox {
    /// Has everything noted that this connection changes in the view's tables from now on.
    pub(super) fn install(conn: &Connection, folder: &Path) -> rusqlite::Result<Outbox> {
        conn.execute_batch(TABLES)?;
        let drawn = "INSERT OR IGNORE INTO watershed_view_lineage(id, lineage) VALUES (1, ?1)";
        let is_new = conn.execute(drawn, [rand::random::<i64>()])? > 0;
        let tables = defined(conn)?;
        let outbox = Outbox { noted: Arc::default(), tables, folder: folder.to_path_buf(), is_new };
        outbox.functions(conn)?;
        for (index, table) in outbox.tables.iter().enumerate() {
            let sql = "INSERT OR IGNORE INTO watershed_view_table(fingerprint, definition) VALUES (?1, ?2)";
            conn.execute(sql, params![table.fingerprint.to_string(), encode_table(table)])?;
            for op in [Op::Insert, Op::Update, Op::Delete] {
                conn.execute_batch(&trigger(table, index, op))?;
            }
        }
        Ok(outbox)
    }

    fn functions(&self, conn: &Connection) -> rusqlite::Result<()> {
        let flags = FunctionFlags::SQLITE_UTF8;
        let row = |name: &str, of: fn(&mut Noted) -> &mut Row| {
            let noted = self.noted.clone();
            conn.create_scalar_function(name, -1, flags, move |context: &Context<'_>| {
                let mut noted = locked(&noted);
                let row = of(&mut noted);
                row.extend((0..context.len()).map(|index| from_sql(context.get_raw(index))));
                Ok(0)
            })
        };
        row("watershed_old", |noted| &mut noted.old)?;
        row("watershed_new", |noted| &mut noted.new)?;
        let (noted, folder) = (self.noted.clone(), self.folder.clone());
        let widths: Vec<usize> = self.tables.iter().map(|table| table.columns.len()).collect();
        conn.create_scalar_function("watershed_changed", 2, flags, move |context: &Context<'_>| {
            let (table, op): (i64, u32) = (context.get(0)?, context.get(1)?);
            let op = Op::from_code(op).ok_or_else(|| told("no operation"))?;
            let table = usize::try_from(table).map_err(told)?;
            let width = widths.get(table).ok_or_else(|| told("no table"))?;
            let mut noted = locked(&noted);
            let old = if op == Op::Insert { 0 } else { *width };
            let new = if op == Op::Delete { 0 } else { *width };
            if (noted.old.len(), noted.new.len()) != (old, new) {
                return Err(told("the values of a row are not those of its table"));
            }
            noted.take(table, op, &folder).map_err(told)?;
            Ok(0)
        })
    }

    /// What was noted is not kept: it has been rolled back.
    pub(super) fn clear(&self) {
        *locked(&self.noted) = Noted::default();
    }

    /// Keeps what a transaction of the log has changed.
    pub(super) fn keep(&self, conn: &Connection, cursor: Cursor, entry: &Entry) -> rusqlite::Result<()> {
        let mut noted = std::mem::take(&mut *locked(&self.noted));
        if noted.changes.is_empty() && noted.parts == 0 {
            return Ok(());
        }
        let header = entry.header();
        let cause = Cause { cursor, time: header.time, correlation: header.correlation.clone() };
        let Some(mut file) = noted.full.take() else {
            let (tables, changes) = named(&self.tables, noted.changes);
            return put(conn, &cause, false, &tables, &encode_changes(&changes));
        };
        if !noted.changes.is_empty() {
            noted.full = Some(file);
            noted.put_away(&self.folder).map_err(told)?;
            file = noted.full.take().ok_or_else(|| told("what was put away is gone"))?;
        }
        let all = fingerprints(&self.tables);
        file.seek(SeekFrom::Start(0)).map_err(told)?;
        for part in 1..=noted.parts {
            let mut length = [0; 8];
            file.read_exact(&mut length).map_err(told)?;
            let mut changes = vec![0; u64::from_le_bytes(length) as usize];
            file.read_exact(&mut changes).map_err(told)?;
            put(conn, &cause, part < noted.parts, &all, &changes)?;
        }
        Ok(())
    }
}

/// Nothing is kept any more, so what comes later has a gap before it.
pub(super) fn remove(conn: &Connection) -> rusqlite::Result<()> {
    let sql = "SELECT count(*) FROM sqlite_schema WHERE name IN ('watershed_view_out', 'watershed_view_lineage')";
    match conn.query_row(sql, [], |row| row.get::<_, i64>(0))? {
        0 => Ok(()),
        _ => conn.execute_batch("DROP TABLE IF EXISTS watershed_view_lineage; DROP TABLE IF EXISTS watershed_view_out"),
    }
}

/// What follows may be something else than what was told of a state that was lost.
pub(super) fn draw_again(conn: &Connection) -> rusqlite::Result<()> {
    conn.execute("UPDATE watershed_view_lineage SET lineage = ?1", [rand::random::<i64>()]).map(drop)
}

/// What stands in another log is not needed here any more.
pub(super) fn forget(conn: &Connection, upto: u64) -> rusqlite::Result<()> {
    let upto = upto.cast_signed();
    conn.prepare_cached("DELETE FROM watershed_view_out WHERE number <= ?1")?.execute([upto])?;
    let noted = "UPDATE watershed_view_lineage SET forgotten = max(forgotten, ?1)";
    conn.prepare_cached(noted)?.execute([upto]).map(drop)
}

/// The view's tables as they travel, by name.
pub(super) fn defined(conn: &Connection) -> rusqlite::Result<Vec<Arc<TableDef>>> {
    let mut tables = Vec::new();
    for (name, columns) in names(conn)? {
        let parsed: Option<TableName> = name.parse().ok().filter(|parsed: &TableName| parsed.as_str() == name);
        let def = parsed.map(|parsed| define(conn, &parsed)).transpose()?.flatten();
        let def = def.filter(|def| def.columns.len() == columns.len());
        tables.push(Arc::new(def.ok_or_else(|| told(format!("the table {name:?} cannot be published")))?));
    }
    Ok(tables)
}

/// Calls of a function with the values of a row, some at a time.
fn calls(function: &str, of: &str, table: &TableDef) -> Vec<String> {
    let columns: Vec<String> =
        table.columns.iter().map(|column| format!("{of}.{}", quote_ident(&column.name))).collect();
    columns.chunks(VALUES_AT_ONCE).map(|some| format!("{function}({})", some.join(", "))).collect()
}

fn trigger(table: &TableDef, index: usize, op: Op) -> String {
    let name = table.name.as_str();
    let trigger = quote_ident(&format!("watershed_out_{}_{name}", op.name()));
    let mut done = Vec::new();
    if op != Op::Insert {
        done.extend(calls("watershed_old", "OLD", table));
    }
    if op != Op::Delete {
        done.extend(calls("watershed_new", "NEW", table));
    }
    done.push(format!("watershed_changed({index}, {})", op as u8));
    let selected: Vec<String> = done.into_iter().map(|call| format!("SELECT {call};")).collect();
    format!(
        "CREATE TEMP TRIGGER IF NOT EXISTS {trigger} AFTER {} ON main.{} BEGIN {} END",
        op.name().to_uppercase(),
        quote_ident(name),
        selected.join(" ")
    )
}

fn fingerprints(tables: &[Arc<TableDef>]) -> String {
    tables.iter().map(|table| table.fingerprint.to_string()).collect::<Vec<_>>().join(",")
}

/// Only those tables that the changes are of, so that who wants others need not read them.
fn named(all: &[Arc<TableDef>], mut changes: Vec<Change>) -> (String, Vec<Change>) {
    let mut used: Vec<usize> = Vec::new();
    for change in &mut changes {
        let at = used.iter().position(|&known| known == change.table).unwrap_or_else(|| {
            used.push(change.table);
            used.len() - 1
        });
        change.table = at;
    }
    let tables: Vec<Arc<TableDef>> = used.into_iter().map(|table| all[table].clone()).collect();
    (fingerprints(&tables), changes)
}

fn put(conn: &Connection, cause: &Cause, more: bool, tables: &str, changes: &[u8]) -> rusqlite::Result<()> {
    let sql = "INSERT INTO watershed_view_out(cursor, time, correlation, more, tables, changes) VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
    let Cause { cursor, time, correlation } = cause;
    let mut statement = conn.prepare_cached(sql)?;
    statement.execute(params![cursor.to_string(), time.0, correlation.as_deref(), more, tables, changes]).map(drop)
}

/// What is drawn when this begins to be kept, and which numbers were given and forgotten.
pub(super) fn lineage(conn: &Connection) -> rusqlite::Result<Waiting> {
    let sql =
        "SELECT lineage, coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'watershed_view_out'), 0), forgotten
               FROM watershed_view_lineage WHERE id = 1";
    let number = |row: &rusqlite::Row<'_>, index| row.get::<_, i64>(index).map(i64::cast_unsigned);
    let found = conn.query_row(sql, [], |row| {
        let (lineage, last, forgotten) = (number(row, 0)?, number(row, 1)?, number(row, 2)?);
        Ok(Waiting { lineage, last, forgotten, ..Waiting::default() })
    });
    found.optional()?.ok_or_else(|| told("what waits to be published is not kept"))
}

/// What waits behind a number: about so many bytes, one part at least.
pub(super) fn read(conn: &Connection, after: u64, bytes_max: usize) -> rusqlite::Result<Vec<Outgoing>> {
    let sql = "SELECT number, cursor, time, correlation, more, tables, changes FROM watershed_view_out WHERE number > ?1 ORDER BY number";
    let mut statement = conn.prepare_cached(sql)?;
    let mut rows = statement.query([after.cast_signed()])?;
    let (mut parts, mut bytes) = (Vec::new(), 0);
    while bytes < bytes_max
        && let Some(row) = rows.next()?
    {
        let (cursor, correlation): (String, Option<String>) = (row.get(1)?, row.get(3)?);
        let (tables, changes): (String, Vec<u8>) = (row.get(5)?, row.get(6)?);
        bytes += changes.len() + 128;
        parts.push(Outgoing {
            number: row.get::<_, i64>(0)?.cast_unsigned(),
            cause: Cause {
                cursor: cursor.parse().map_err(told)?,
                time: Timestamp(row.get(2)?),
                correlation: correlation.map(Into::into),
            },
            more: row.get(4)?,
            tables: tables.split(',').map(|fingerprint| table(conn, fingerprint)).collect::<rusqlite::Result<_>>()?,
            changes: Bytes::from(changes),
        });
    }
    Ok(parts)
}

fn table(conn: &Connection, fingerprint: &str) -> rusqlite::Result<Arc<TableDef>> {
    let mut statement = conn.prepare_cached("SELECT definition FROM watershed_view_table WHERE fingerprint = ?1")?;
    let bytes: Vec<u8> = statement.query_row([fingerprint], |row| row.get(0))?;
    decode_table(&bytes).map(Arc::new).map_err(told)
}
