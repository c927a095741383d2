//! The sending side of first copies: chunks of a table in the order of its key, each from one short snapshot.

mod facts;
mod text;

use std::collections::HashMap;
use std::pin::pin;
use std::sync::Arc;

use async_trait::async_trait;
use futures_util::TryStreamExt;
use tokio_postgres::{Client, Statement};

pub(crate) use facts::{FACTS, Facts, qualified, quoted, schema_and_table};
pub(crate) use text::{Lines, fields};

use super::range::KeyRange;
use super::{Endpoint, PgError, Session};
use crate::model::{Cursor, Row, TableDef, TableName, limits};
use crate::view::{Chunk, TableReader};

/// What a session sets that reads values as text, so that they are the same everywhere. A policy that would hide rows
/// is an error then; only with this `search_path` are own types qualified.
pub(crate) const READING: &str = "SET datestyle = 'ISO'; SET intervalstyle = 'postgres'; SET extra_float_digits = 3; \
    SET bytea_output = 'hex'; SET timezone = 'UTC'; SET client_encoding = 'UTF8'; SET search_path = pg_catalog; \
    SET row_security = off; SET standard_conforming_strings = on; SET default_transaction_read_only = on; \
    SET lock_timeout = '5s'";

/// A row's bytes as they are guessed before the first have been read.
const ROW_BYTES_GUESS: f64 = 256.0;

/// Reads chunks over a connection of its own; holds no transaction between them. A connection that broke is made anew.
#[derive(Debug)]
pub struct PgReader {
    endpoint: Endpoint,
    open: Option<Open>,
    tables: HashMap<TableName, Progress>,
}

struct Open {
    session: Session,
    facts: Statement,
}

impl std::fmt::Debug for Open {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Open")
    }
}

/// What the chunks so far tell of the next.
#[derive(Clone, Copy, Debug)]
struct Progress {
    left: u64,
    row_bytes: f64,
}

/// Why a chunk was not read.
enum Failure {
    /// At the server; the same may succeed on a new connection.
    Server(PgError),
    /// The table is at fault, or the request.
    Table(String),
}

/// The rows that were read of a range.
struct Found {
    rows: Vec<Row>,
    bytes: usize,
    /// The range has no further rows.
    is_end: bool,
    /// Rows are still under way on the connection.
    is_cut: bool,
}

impl PgReader {
    /// Connects.
    ///
    /// # Errors
    /// The server cannot be reached, or refuses.
    pub async fn open(endpoint: &Endpoint) -> Result<PgReader, PgError> {
        let mut reader = PgReader { endpoint: endpoint.clone(), open: None, tables: HashMap::new() };
        reader.connect().await?;
        Ok(reader)
    }

    async fn connect(&mut self) -> Result<(), PgError> {
        let session = self.endpoint.connect(limits::CONNECT_TIMEOUT).await?;
        let failed = |error| self.endpoint.failed("preparing to read tables", error);
        session.client.batch_execute(READING).await.map_err(failed)?;
        let facts = session.client.prepare(FACTS).await.map_err(failed)?;
        self.open = Some(Open { session, facts });
        Ok(())
    }

    async fn chunk(
        &mut self,
        table: &TableName,
        after: Option<&Row>,
        rows_max: usize,
        bytes_max: usize,
    ) -> Result<Chunk, Failure> {
        if self.open.as_ref().is_none_or(|open| open.session.client.is_closed()) {
            self.connect().await.map_err(Failure::Server)?;
        }
        // Whatever fails, the connection goes with it: nothing of a transaction can be left over.
        let Some(open) = self.open.take() else { return Err(Failure::Table("there is no connection".into())) };
        let mut before = self.tables.get(table).copied();
        if after.is_none() {
            before = None;
        }
        let reading = Reading { endpoint: &self.endpoint, open: &open, table, after, rows_max, bytes_max, before };
        let (chunk, progress, is_cut) = reading.read().await?;
        self.tables.insert(table.clone(), progress);
        if !is_cut {
            self.open = Some(open);
        }
        Ok(chunk)
    }
}

#[async_trait]
impl TableReader for PgReader {
    async fn read_chunk(
        &mut self,
        table: &TableName,
        after: Option<&Row>,
        rows_max: usize,
        bytes_max: usize,
    ) -> Result<Chunk, String> {
        let reused = self.open.is_some();
        match self.chunk(table, after, rows_max, bytes_max).await {
            Err(Failure::Server(error)) if reused && error.db().is_none() => {
                // The server was restarted since the last chunk, perhaps.
                let again = self.chunk(table, after, rows_max, bytes_max).await;
                again.map_err(Failure::words)
            }
            read => read.map_err(Failure::words),
        }
    }
}

impl Failure {
    fn words(self) -> String {
        match self {
            Failure::Server(error) => error.words(),
            Failure::Table(why) => why,
        }
    }
}

/// One chunk.
struct Reading<'r> {
    endpoint: &'r Endpoint,
    open: &'r Open,
    table: &'r TableName,
    after: Option<&'r Row>,
    rows_max: usize,
    bytes_max: usize,
    before: Option<Progress>,
}

impl Reading<'_> {
    fn client(&self) -> &Client {
        &self.open.session.client
    }

    fn failed(&self, doing: &str) -> impl Fn(tokio_postgres::Error) -> Failure {
        let (endpoint, doing) = (self.endpoint.clone(), format!("{doing} {}", self.table));
        move |error| Failure::Server(endpoint.failed(doing.clone(), error))
    }

    async fn read(&self) -> Result<(Chunk, Progress, bool), Failure> {
        // The lock comes before the snapshot: a table that is rewritten or truncated after the snapshot would look empty.
        // (postgresql.org/docs/15/mvcc-caveats.html)
        let (schema, name) = facts::schema_and_table(self.table);
        let begin = format!(
            "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; LOCK TABLE {} IN ACCESS SHARE MODE",
            facts::qualified(self.table)
        );
        self.client().batch_execute(&begin).await.map_err(self.failed("locking"))?;
        let row = self.client().query_opt(&self.open.facts, &[&schema, &name]).await;
        let row = row.map_err(self.failed("looking at"))?;
        let row = row.ok_or_else(|| Failure::Table(format!("there is no table {} to read", self.table)))?;
        let facts = Facts::of(self.table, &row).map_err(self.failed("looking at"))?;
        let cursor = self.cursor(&facts).await?;
        let before = match self.before {
            Some(before) => before,
            None => {
                Progress { left: self.estimate(&facts).await?, row_bytes: facts.row_bytes.unwrap_or(ROW_BYTES_GUESS) }
            }
        };
        if facts.def.key_columns().is_empty() {
            return self.whole(facts, cursor).await;
        }
        let found = self.rows(&facts, before.row_bytes).await?;
        if !found.is_cut {
            self.client().batch_execute("COMMIT").await.map_err(self.failed("reading"))?;
        }
        let keys = facts.def.key_columns();
        let key = |row: &Row| keys.iter().map(|&i| row[i].clone()).collect();
        let upto = if found.is_end { None } else { found.rows.last().map(key) };
        let left = before.left.saturating_sub(found.rows.len() as u64);
        let left_estimate = if upto.is_some() { left.max(1) } else { 0 };
        let row_bytes = match found.rows.len() {
            0 => before.row_bytes,
            rows => found.bytes as f64 / rows as f64,
        };
        let progress = Progress { left: left_estimate, row_bytes };
        Ok((Chunk { def: Arc::new(facts.def), rows: found.rows, upto, left_estimate, cursor }, progress, found.is_cut))
    }

    /// What of the node's log the snapshot contains.
    async fn cursor(&self, facts: &Facts) -> Result<Option<Cursor>, Failure> {
        if !facts.has_cursor {
            return Ok(None);
        }
        let row = self.client().query_opt("SELECT cursor FROM watershed.cursor", &[]).await;
        let Some(row) = row.map_err(self.failed("reading the cursor beside"))? else { return Ok(None) };
        let text: String = row.try_get(0).map_err(self.failed("reading the cursor beside"))?;
        let cursor =
            text.parse().map_err(|_| Failure::Table(format!("watershed.cursor has no cursor, but {text:?}")))?;
        Ok(Some(cursor))
    }

    /// About how many rows there are, counted where nothing is known and it is quick.
    async fn estimate(&self, facts: &Facts) -> Result<u64, Failure> {
        if let Some(rows) = facts.rows_estimate {
            return Ok(rows);
        }
        let count =
            format!("SELECT count(*) FROM (SELECT FROM {} LIMIT {}) t", facts.from, limits::COPY_COUNT_ROWS_MAX);
        let row = self.client().query_one(&count, &[]).await.map_err(self.failed("counting the rows of"))?;
        let count: i64 = row.try_get(0).map_err(self.failed("counting the rows of"))?;
        Ok(count.unsigned_abs())
    }

    /// The rows after the key, in its order.
    async fn rows(&self, facts: &Facts, row_bytes: f64) -> Result<Found, Failure> {
        if self.after.is_some_and(|key| key.len() != facts.def.key_columns().len()) {
            return Err(Failure::Table(format!(
                "the key of {} to go on after has another number of columns",
                self.table
            )));
        }
        let bad = |why| Failure::Table(format!("the key of {} to go on after: {why}", self.table));
        let range = KeyRange { after: self.after, upto: None };
        let condition = facts.order.condition(range).map_err(bad)?;
        // What the server sends beyond the chunk is thrown away, so as little as may be is asked for.
        let wanted = (self.bytes_max as f64 / row_bytes.max(1.0) * 1.25) as usize;
        let limit = wanted.clamp(1, self.rows_max.max(1));
        let select = format!(
            "{} FROM {}{condition}{} LIMIT {}",
            select(&facts.def),
            facts.from,
            facts.order.order_by(),
            limit + 1
        );
        if !facts.operators.is_empty() {
            let path = facts.search_path("LOCAL");
            self.client().batch_execute(&path).await.map_err(self.failed("reading"))?;
        }
        self.copy(&facts.def, &select, limit, self.bytes_max, 2 * self.bytes_max).await
    }

    /// Reads what a query gives: at most `rows_max` rows, and none more once `bytes_max` bytes are read; what comes
    /// beyond is dropped, up to `dropped_max` bytes.
    async fn copy(
        &self,
        def: &TableDef,
        select: &str,
        rows_max: usize,
        bytes_max: usize,
        dropped_max: usize,
    ) -> Result<Found, Failure> {
        let failed = self.failed("reading");
        let stream = self.client().copy_out(&format!("COPY ({select}) TO STDOUT")).await.map_err(&failed)?;
        let mut stream = pin!(stream);
        let mut lines = Lines::default();
        let mut found = Found { rows: Vec::new(), bytes: 0, is_end: true, is_cut: false };
        let mut dropped = 0;
        while let Some(bytes) = stream.try_next().await.map_err(&failed)? {
            lines.push(bytes);
            while let Some(line) = lines.next() {
                if !found.is_end || found.rows.len() == rows_max || (found.bytes >= bytes_max && !found.rows.is_empty())
                {
                    found.is_end = false;
                    dropped += line.len();
                    continue;
                }
                found.bytes += line.len();
                let row = fields(&line, def.columns.len());
                found.rows.push(row.map_err(|why| Failure::Table(format!("a row of {}: {why}", self.table)))?);
            }
            if dropped > dropped_max {
                found.is_cut = true;
                break;
            }
        }
        Ok(found)
    }

    /// A table without a key: all of it, or nothing.
    async fn whole(&self, facts: Facts, cursor: Option<Cursor>) -> Result<(Chunk, Progress, bool), Failure> {
        if self.after.is_some() {
            return Err(Failure::Table(format!("{} has no key to go on after", self.table)));
        }
        let (rows_max, bytes_max) = (limits::COPY_CHUNK_ROWS_MAX, limits::COPY_KEYLESS_BYTES_MAX);
        let select = format!("{} FROM {} LIMIT {}", select(&facts.def), facts.from, rows_max + 1);
        let found = self.copy(&facts.def, &select, rows_max, bytes_max, 0).await?;
        if !found.is_end {
            return Err(Failure::Table(format!(
                "{0} has no key, so that its rows cannot be told apart and it can only be copied in one piece, which takes at most \
                 {rows_max} rows and {bytes_max} bytes; it has more: give it a key (ALTER TABLE {1} ADD PRIMARY KEY (…); or a \
                 unique index over columns that are NOT NULL, and ALTER TABLE {1} REPLICA IDENTITY USING INDEX …)",
                self.table,
                facts::qualified(self.table)
            )));
        }
        self.client().batch_execute("COMMIT").await.map_err(self.failed("reading"))?;
        let progress = Progress { left: 0, row_bytes: ROW_BYTES_GUESS };
        let chunk = Chunk { def: Arc::new(facts.def), rows: found.rows, upto: None, left_estimate: 0, cursor };
        Ok((chunk, progress, false))
    }
}

/// `SELECT` of the definition's columns.
pub(crate) fn select(def: &TableDef) -> String {
    let names: Vec<String> = def.columns.iter().map(|column| facts::quoted(&column.name)).collect();
    format!("SELECT {}", names.join(","))
}
