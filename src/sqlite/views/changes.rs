//! What changes in the view's own tables: noted by triggers of ours, in the commit that changes it.

use std::sync::Arc;

use async_trait::async_trait;
use rusqlite::{Connection, OptionalExtension, Row, params};
use serde_json::Value as Json;
use tokio::sync::mpsc;

use super::meta;
use super::store::Shared;
use crate::model::{Cursor, limits};
use crate::sqlite::connect::{is_internal, quote_ident};
use crate::view::{AskError, ChangesFrom, RowChange, ViewChanges};

/// The latest changes of the build that answers. Numbers are never given twice.
const TABLE: &str = "CREATE TABLE IF NOT EXISTS watershed_view_change(
  number INTEGER PRIMARY KEY AUTOINCREMENT, cursor TEXT NOT NULL, name TEXT NOT NULL, op TEXT NOT NULL, before TEXT, after TEXT)";
/// As of where the changes are that are made now.
const NOW: &str = "CREATE TEMP TABLE IF NOT EXISTS watershed_view_now(id INTEGER PRIMARY KEY, cursor TEXT NOT NULL);
  INSERT OR REPLACE INTO watershed_view_now VALUES (1, '')";

/// A row as a JSON object, every value as an answer has it; `of` is `NEW` or `OLD`.
fn object(of: &str, columns: &[String]) -> String {
    let pairs = columns.iter().map(|column| {
        let (name, value) = (column.replace('\'', "''"), format!("{of}.{}", quote_ident(column)));
        format!("'{name}', CASE typeof({value}) WHEN 'blob' THEN '\\x' || lower(hex({value})) ELSE {value} END")
    });
    format!("json_object({})", pairs.collect::<Vec<_>>().join(", "))
}

/// Has everything noted that this connection changes in the view's tables from now on.
pub(super) fn install(conn: &Connection) -> rusqlite::Result<()> {
    conn.execute_batch(TABLE)?;
    conn.execute_batch(NOW)?;
    for (table, columns) in tables(conn)? {
        for (op, old, new) in [("insert", false, true), ("update", true, true), ("delete", true, false)] {
            let row = |of: &str, there: bool| if there { object(of, &columns) } else { "NULL".into() };
            let trigger = quote_ident(&format!("watershed_{op}_{table}"));
            let (name, word) = (table.replace('\'', "''"), op.to_uppercase());
            // What is written again as it was is no change.
            let when = if old && new {
                format!("WHEN {} IS NOT {}", row("OLD", true), row("NEW", true))
            } else {
                String::new()
            };
            conn.execute_batch(&format!(
                "CREATE TEMP TRIGGER IF NOT EXISTS {trigger} AFTER {word} ON main.{} {when} BEGIN
                   INSERT INTO watershed_view_change(cursor, name, op, before, after)
                   VALUES ((SELECT cursor FROM watershed_view_now), '{name}', '{op}', {}, {}); END",
                quote_ident(&table),
                row("OLD", old),
                row("NEW", new),
            ))?;
        }
    }
    Ok(())
}

/// The view's tables with their columns.
pub(super) fn tables(conn: &Connection) -> rusqlite::Result<Vec<(String, Vec<String>)>> {
    let sql = "SELECT name FROM pragma_table_list WHERE schema = 'main' AND type = 'table' ORDER BY name";
    let names: Vec<String> = conn.prepare(sql)?.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
    let mut found = Vec::new();
    for name in names.into_iter().filter(|name| !is_internal(name)) {
        let mut columns = conn.prepare("SELECT name FROM pragma_table_info(?1, 'main')")?;
        let columns = columns.query_map([&name], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
        found.push((name, columns));
    }
    Ok(found)
}

/// What is changed from now on in this transaction stands with that cursor; what is old is forgotten.
pub(super) fn begin(conn: &Connection, upto: Cursor) -> rusqlite::Result<()> {
    conn.prepare_cached("UPDATE temp.watershed_view_now SET cursor = ?1")?.execute([upto.to_string()])?;
    let last = "SELECT coalesce(max(number), 0) FROM watershed_view_change";
    let last: i64 = conn.prepare_cached(last)?.query_row([], |row| row.get(0))?;
    let first = last - limits::VIEW_CHANGES_KEPT as i64;
    if first > 0 {
        conn.prepare_cached("DELETE FROM watershed_view_change WHERE number <= ?1")?.execute([first])?;
    }
    Ok(())
}

fn json(text: Option<String>) -> Option<Json> {
    text.map(|text| serde_json::from_str(&text).unwrap_or(Json::String(text)))
}

fn change(row: &Row<'_>) -> rusqlite::Result<RowChange> {
    let cursor: String = row.get(1)?;
    Ok(RowChange {
        number: row.get::<_, i64>(0)?.unsigned_abs(),
        cursor,
        table: row.get(2)?,
        op: row.get(3)?,
        before: json(row.get(4)?),
        after: json(row.get(5)?),
    })
}

/// The changes of a build.
pub(super) struct Changes(pub Arc<Shared>);

impl Changes {
    fn read(&self, conn: &Connection, after: u64, most: usize) -> Result<ChangesFrom, AskError> {
        let failed = |error: rusqlite::Error| AskError::Failed(error.to_string());
        let snapshot = conn.unchecked_transaction().map_err(failed)?;
        let build = self.build(&snapshot)?;
        let sql = "SELECT coalesce(min(number), 0), coalesce(max(number), 0) FROM watershed_view_change";
        let (first, last): (i64, i64) =
            snapshot.query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?))).map_err(failed)?;
        if after > last.unsigned_abs() || (first > 0 && after + 1 < first.unsigned_abs()) {
            return Ok(ChangesFrom { build, gone: true, changes: Vec::new(), last: last.unsigned_abs() });
        }
        let sql = "SELECT number, cursor, name, op, before, after FROM watershed_view_change WHERE number > ?1 ORDER BY number LIMIT ?2";
        let mut statement = snapshot.prepare_cached(sql).map_err(failed)?;
        let rows = statement.query_map(params![after as i64, most as i64], change).map_err(failed)?;
        let changes = rows.collect::<rusqlite::Result<_>>().map_err(failed)?;
        Ok(ChangesFrom { build, gone: false, changes, last: last.unsigned_abs() })
    }

    /// The build that the database has, which is this one.
    fn build(&self, conn: &Connection) -> Result<String, AskError> {
        let sql = "SELECT build FROM watershed_view WHERE id = 1";
        let build: Option<i64> = conn
            .query_row(sql, [], |row| row.get(0))
            .optional()
            .map_err(|error| AskError::Failed(error.to_string()))?;
        Ok(format!("{:016x}", build.unwrap_or_default()))
    }

    /// Every row of every table, in one snapshot; false: whoever asked has gone.
    fn rows_to(&self, conn: &Connection, mut give: impl FnMut(RowChange) -> bool) -> Result<(), AskError> {
        let failed = |error: rusqlite::Error| AskError::Failed(error.to_string());
        let snapshot = conn.unchecked_transaction().map_err(failed)?;
        let last = "SELECT coalesce(max(number), 0) FROM watershed_view_change";
        let last: i64 = snapshot.query_row(last, [], |row| row.get(0)).map_err(failed)?;
        let cursors = meta::cursors(&snapshot).map_err(failed)?;
        let cursor = cursors.iter().map(Cursor::to_string).collect::<Vec<_>>().join(",");
        let row = |table: String, op: &str, after| RowChange {
            number: last.unsigned_abs(),
            cursor: cursor.clone(),
            table,
            op: op.into(),
            before: None,
            after,
        };
        let mut wanted = give(row(self.build(&snapshot)?, "begin", None));
        for (table, columns) in tables(&snapshot).map_err(failed)? {
            let sql = format!("SELECT {} FROM main.{} AS t", object("t", &columns), quote_ident(&table));
            let mut statement = snapshot.prepare(&sql).map_err(failed)?;
            let mut rows = statement.query([]).map_err(failed)?;
            while wanted && let Some(found) = rows.next().map_err(failed)? {
                wanted = give(row(table.clone(), "row", json(found.get(0).map_err(failed)?)));
            }
        }
        Ok(())
    }

    async fn on_reader<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Changes, &Connection) -> Result<T, AskError> + Send + 'static,
    ) -> Result<T, AskError> {
        let here = Changes(self.0.clone());
        let done = tokio::task::spawn_blocking(move || match &here.0.readers {
            Some(readers) => {
                let conn = readers.take().map_err(|error| AskError::Failed(error.to_string()))?;
                let done = work(&here, &conn);
                if done.is_ok() && conn.is_autocommit() {
                    readers.give(conn);
                }
                done
            }
            None => {
                let writer = here.0.writer();
                work(&here, &writer.conn)
            }
        });
        done.await.map_err(|error| AskError::Failed(error.to_string()))?
    }
}

#[async_trait]
impl ViewChanges for Changes {
    async fn after(&self, number: u64, most: usize) -> Result<ChangesFrom, AskError> {
        self.on_reader(move |here, conn| here.read(conn, number, most)).await
    }

    async fn rows(&self) -> mpsc::Receiver<Result<RowChange, AskError>> {
        let (to, rows) = mpsc::channel(limits::VIEW_CHANGES_AT_ONCE);
        let here = Changes(self.0.clone());
        tokio::spawn(async move {
            let sender = to.clone();
            let read = here.on_reader(move |here, conn| match here.0.readers {
                Some(_) => here.rows_to(conn, |row| sender.blocking_send(Ok(row)).is_ok()).map(|()| Vec::new()),
                // The only connection is not held up by whoever reads slowly.
                None => {
                    let mut all = Vec::new();
                    here.rows_to(conn, |row| {
                        all.push(row);
                        true
                    })?;
                    Ok(all)
                }
            });
            let told = match read.await {
                Ok(rows) => rows.into_iter().map(Ok).collect(),
                Err(error) => vec![Err(error)],
            };
            for one in told {
                if to.send(one).await.is_err() {
                    return;
                }
            }
        });
        rows
    }
}
