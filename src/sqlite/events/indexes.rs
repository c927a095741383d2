//! The secondary indexes of an empty destination, put off until its events are there: building them once is several
//! times quicker than keeping them up to date row by row.
//!
//! What has been put off stands in a table of our own, written in the commit that drops the indexes, and is removed
//! from it in the commit that builds one.

use std::path::Path;
use std::time::Instant;

use rusqlite::{Connection, TransactionBehavior};

use super::error::name;
use crate::sqlite::connect::quote_ident;

const TABLE: &str = "CREATE TABLE IF NOT EXISTS watershed_events_indexes (name TEXT PRIMARY KEY, sql TEXT NOT NULL)";
const EXISTS: &str = "SELECT EXISTS (SELECT 1 FROM main.sqlite_schema WHERE type = ?1 AND name = ?2)";
/// A unique index is more than a quicker way: it stays.
const SECONDARY: &str = "SELECT s.name, s.sql FROM pragma_index_list('events') AS i \
     JOIN main.sqlite_schema AS s ON s.type = 'index' AND s.name = i.name \
     WHERE s.sql IS NOT NULL AND NOT i.\"unique\" ORDER BY s.name";

/// Indexes that are to be built.
pub(super) struct Indexes {
    waiting: Vec<(String, String)>,
}

fn pairs(conn: &Connection, sql: &str) -> rusqlite::Result<Vec<(String, String)>> {
    conn.prepare(sql)?.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect()
}

impl Indexes {
    /// Those that a process before this one put off.
    pub(super) fn look(conn: &Connection) -> rusqlite::Result<Indexes> {
        let noted: bool = conn.query_row(EXISTS, ["table", "watershed_events_indexes"], |row| row.get(0))?;
        let waiting = match noted {
            true => pairs(conn, "SELECT name, sql FROM watershed_events_indexes ORDER BY name")?,
            false => Vec::new(),
        };
        Ok(Indexes { waiting })
    }

    /// Drops the indexes of a table that is still empty, and notes them.
    pub(super) fn put_off(&mut self, conn: &mut Connection, path: &Path) -> rusqlite::Result<()> {
        let transaction = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let is_empty: bool = transaction.query_row("SELECT NOT EXISTS (SELECT 1 FROM events)", [], |row| row.get(0))?;
        let indexes = pairs(&transaction, SECONDARY)?;
        if !is_empty || indexes.is_empty() {
            return Ok(());
        }
        transaction.execute_batch(TABLE)?;
        for (index, sql) in &indexes {
            transaction.execute("INSERT OR REPLACE INTO watershed_events_indexes VALUES (?1, ?2)", [index, sql])?;
            transaction.execute_batch(&format!("DROP INDEX main.{}", quote_ident(index)))?;
        }
        transaction.commit()?;
        tracing::info!("{}: {} indexes are built after the events are there", name(path), indexes.len());
        self.waiting.extend(indexes);
        Ok(())
    }

    /// Builds those that wait, each in a commit of its own.
    pub(super) fn build(&mut self, conn: &mut Connection, path: &Path) -> rusqlite::Result<()> {
        if self.waiting.is_empty() {
            return Ok(());
        }
        let (count, begun) = (self.waiting.len(), Instant::now());
        while let Some((index, sql)) = self.waiting.last() {
            tracing::info!("{}: building index {index}, {} of {count}", name(path), count - self.waiting.len() + 1);
            let transaction = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
            // Somebody may have made it meanwhile.
            if !transaction.query_row(EXISTS, ["index", index], |row| row.get::<_, bool>(0))? {
                transaction.execute_batch(sql)?;
            }
            transaction.execute("DELETE FROM watershed_events_indexes WHERE name = ?1", [index])?;
            transaction.commit()?;
            self.waiting.pop();
        }
        tracing::info!("{}: {count} indexes built in {:.1?}", name(path), begun.elapsed());
        Ok(())
    }
}
