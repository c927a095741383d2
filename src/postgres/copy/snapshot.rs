//! All rows of some tables, from one snapshot whose place in the log is marked as that of a table without a key is.

use std::io;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;

use futures_util::TryStreamExt;
use tokio_postgres::{Client, Error};

use super::{FACTS, Facts, Lines, READING, fields, qualified, schema_and_table, select};
use crate::model::{Cursor, TableName, limits};
use crate::postgres::capture::PREFIX_CUT;
use crate::postgres::{Endpoint, PgError};
use crate::view::{Snapshot, SnapshotWriter};

/// Writers of the tables are held up for no longer, in milliseconds.
const LOCK_MS: u32 = 150;

/// A snapshot of some tables.
#[derive(Debug)]
pub struct Marked {
    /// Their rows.
    pub snapshot: Snapshot,
    /// What of the node's log they contain of what was received.
    pub cursor: Option<Cursor>,
    /// The causation id of the entry that marks their place in what was captured; it names the first table.
    pub cut: Box<str>,
}

/// Takes all rows of tables that are captured, at least one, into a file in `dir`.
///
/// # Errors
/// Words for people: the server cannot be reached, a table is not there, or transactions that have written to one stay open
/// (it may be tried again).
pub async fn snapshot(endpoint: &Endpoint, tables: &[TableName], dir: &Path) -> Result<Marked, String> {
    let first = tables.first().ok_or("no table is named")?;
    let taking = |error: Error| endpoint.failed("taking a snapshot of tables", error).words();
    let (beside, reading) = (connect(endpoint).await?, connect(endpoint).await?);
    reading.client.batch_execute(READING).await.map_err(taking)?;
    hold_up(&beside.client, tables).await.map_err(|error| held_back(endpoint, tables, error))?;
    let client = &reading.client;
    // A table that is rewritten or truncated after a snapshot would look empty in it; here nobody can, from before it on.
    let locks: String =
        tables.iter().map(|table| format!("; LOCK TABLE {} IN ACCESS SHARE MODE", qualified(table))).collect();
    client.batch_execute(&format!("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY{locks}")).await.map_err(taking)?;
    let mut found = Vec::with_capacity(tables.len());
    for table in tables {
        let (schema, name) = schema_and_table(table);
        let row = client.query_opt(FACTS, &[&schema, &name]).await.map_err(taking)?;
        let row = row.ok_or_else(|| format!("there is no table {table} to read"))?;
        found.push(Facts::of(table, &row).map_err(taking)?);
    }
    let has_cursor = found.iter().any(|facts| facts.has_cursor);
    let cursor = if has_cursor { cursor(client).await.map_err(taking)? } else { None };
    let cursor = cursor.map(|text| text.parse().map_err(|_| format!("watershed.cursor has no cursor, but {text:?}")));
    let cut = format!("cut-{:032x}", rand::random::<u128>());
    let say = "SELECT pg_catalog.pg_logical_emit_message(true, $1::text, $2::text)";
    beside.client.query_one(say, &[&PREFIX_CUT, &format!("{cut}\n{first}")]).await.map_err(taking)?;
    beside.client.batch_execute("COMMIT").await.map_err(taking)?;
    drop(beside);
    let disk = |error: io::Error| format!("the rows could not be put into a file in {}: {error}", dir.display());
    let mut writer = SnapshotWriter::new(dir).map_err(disk)?;
    for facts in found {
        let def = Arc::new(facts.def);
        writer.table(def.clone()).map_err(disk)?;
        let sql = format!("COPY ({} FROM {}) TO STDOUT", select(&def), facts.from);
        let mut stream = pin!(client.copy_out(&sql).await.map_err(taking)?);
        let mut lines = Lines::default();
        while let Some(piece) = stream.try_next().await.map_err(taking)? {
            lines.push(piece);
            while let Some(line) = lines.next() {
                let row = fields(&line, def.columns.len()).map_err(|why| format!("a row of {}: {why}", def.name))?;
                writer.push(row).map_err(disk)?;
            }
        }
    }
    client.batch_execute("COMMIT").await.map_err(taking)?;
    Ok(Marked { snapshot: writer.finish().map_err(disk)?, cursor: cursor.transpose()?, cut: cut.into() })
}

async fn connect(endpoint: &Endpoint) -> Result<crate::postgres::Session, String> {
    endpoint.connect(limits::CONNECT_TIMEOUT).await.map_err(|error: PgError| error.words())
}

async fn cursor(client: &Client) -> Result<Option<String>, Error> {
    let row = client.query_opt("SELECT cursor FROM watershed.cursor", &[]).await?;
    row.map(|row| row.try_get(0)).transpose()
}

/// Begins a transaction that no writer of the tables overlaps.
async fn hold_up(client: &Client, tables: &[TableName]) -> Result<(), Error> {
    let names: Vec<String> = tables.iter().map(qualified).collect();
    let begin =
        format!("BEGIN READ WRITE; SET LOCAL lock_timeout = {LOCK_MS}; LOCK TABLE {} IN SHARE MODE", names.join(", "));
    client.batch_execute(&begin).await
}

fn held_back(endpoint: &Endpoint, tables: &[TableName], error: Error) -> String {
    if error.code().is_some_and(|code| code.code() == "55P03") {
        let names: Vec<String> = tables.iter().map(ToString::to_string).collect();
        return format!(
            "transactions that have written to {} stay open; the snapshot is taken again",
            names.join(" or ")
        );
    }
    endpoint.failed("holding up writers", error).words()
}
