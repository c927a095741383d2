//! The sending side of first copies: chunks of a table in the order of its key, each from one short snapshot.

mod facts;
mod indexes;
mod snapshot;
mod whole;

use std::collections::HashMap;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures_util::TryStreamExt;
use tokio_postgres::{Client, Statement};

pub(crate) use crate::view::{Lines, fields};
pub(crate) use facts::{FACTS, Facts, qualified, quoted, schema_and_table};
pub use snapshot::{Marked, snapshot};
use whole::Whole;

use super::range::KeyRange;
use super::{Endpoint, PgError, Session};
use crate::model::{Cursor, Position, Row, TableDef, TableName, limits};
use crate::view::{Chunk, CopyLines, TableReader};

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
    /// Where tables without a key wait to be asked for.
    dir: PathBuf,
    open: Option<Open>,
    tables: HashMap<TableName, Progress>,
    whole: HashMap<TableName, Whole>,
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
#[derive(Default)]
struct Found {
    lines: BytesMut,
    rows: usize,
    last: Bytes,
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
        PgReader::spooling(endpoint, std::env::temp_dir()).await
    }

    /// Connects; tables without a key are written to that folder before they are given.
    ///
    /// # Errors
    /// As [`PgReader::open`].
    pub async fn spooling(endpoint: &Endpoint, dir: PathBuf) -> Result<PgReader, PgError> {
        let (endpoint, tables, whole) = (endpoint.clone(), HashMap::new(), HashMap::new());
        let mut reader = PgReader { endpoint, dir, open: None, tables, whole };
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
        if let Some(whole) = self.whole.get_mut(table)
            && whole.goes_on(after)
        {
            let chunk = whole.read(after, rows_max, bytes_max);
            let chunk = chunk.map_err(|error| Failure::Table(format!("the spool of {table}: {error}")))?;
            if chunk.upto.is_none() {
                self.whole.remove(table);
            }
            return Ok(chunk);
        }
        self.whole.remove(table);
        if self.open.as_ref().is_none_or(|open| open.session.client.is_closed()) {
            self.connect().await.map_err(Failure::Server)?;
        }
        // Whatever fails, the connection goes with it: nothing of a transaction can be left over.
        let Some(open) = self.open.take() else { return Err(Failure::Table("there is no connection".into())) };
        let mut before = self.tables.get(table).copied();
        if after.is_none() {
            before = None;
        }
        let reading = Reading {
            endpoint: &self.endpoint,
            dir: &self.dir,
            open: &open,
            table,
            after,
            rows_max,
            bytes_max,
            before,
        };
        match reading.read().await? {
            Read::Part(chunk, progress, is_cut) => {
                self.tables.insert(table.clone(), progress);
                if !is_cut {
                    self.open = Some(open);
                }
                Ok(chunk)
            }
            Read::Whole(mut whole) => {
                self.open = Some(open);
                let chunk = whole.read(None, rows_max, bytes_max);
                let chunk = chunk.map_err(|error| Failure::Table(format!("the spool of {table}: {error}")))?;
                if chunk.upto.is_some() {
                    self.whole.insert(table.clone(), *whole);
                }
                Ok(chunk)
            }
        }
    }
}

/// What a chunk was read into.
enum Read {
    /// Some rows of a table with a key, what they tell of the next chunk, and whether more are under way.
    Part(Chunk, Progress, bool),
    /// All rows of a table without one.
    Whole(Box<Whole>),
}

#[async_trait]
impl TableReader for PgReader {
    async fn read_lines(
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
    dir: &'r std::path::Path,
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

    /// Takes the snapshot: what is known of the table in it, and what of the node's log it contains.
    async fn begin(&self) -> Result<(Facts, Option<Cursor>), Failure> {
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
        Ok((facts, cursor))
    }

    async fn read(&self) -> Result<Read, Failure> {
        let (facts, cursor) = self.begin().await?;
        if facts.def.key_columns().is_empty() {
            self.client().batch_execute("ROLLBACK").await.map_err(self.failed("reading"))?;
            return self.whole().await.map(|whole| Read::Whole(Box::new(whole)));
        }
        let before = match self.before {
            Some(before) => before,
            None => {
                Progress { left: self.estimate(&facts).await?, row_bytes: facts.row_bytes.unwrap_or(ROW_BYTES_GUESS) }
            }
        };
        // Whoever has to make the table makes it before the first row.
        let def = match self.after {
            None => self.indexed(facts.def.clone()).await?,
            Some(_) => facts.def.clone(),
        };
        let found = self.rows(&facts, before.row_bytes).await?;
        if !found.is_cut {
            self.client().batch_execute("COMMIT").await.map_err(self.failed("reading"))?;
        }
        let keys = facts.def.key_columns();
        let mut upto = None;
        if !found.is_end && found.rows > 0 {
            let last = fields(&found.last, facts.def.columns.len());
            let last = last.map_err(|why| Failure::Table(format!("a row of {}: {why}", self.table)))?;
            upto = Some(keys.iter().map(|&i| last[i].clone()).collect());
        }
        let left = before.left.saturating_sub(found.rows as u64);
        let left_estimate = if upto.is_some() { left.max(1) } else { 0 };
        let row_bytes = match found.rows {
            0 => before.row_bytes,
            rows => found.lines.len() as f64 / rows as f64,
        };
        let progress = Progress { left: left_estimate, row_bytes };
        let lines = Some(CopyLines { bytes: found.lines.freeze(), rows: found.rows });
        let (def, rows) = (Arc::new(def), Vec::new());
        let chunk = Chunk { def, rows, lines, upto, left_estimate, cursor, cut: None };
        Ok(Read::Part(chunk, progress, found.is_cut))
    }

    /// What of the node's log the snapshot contains of the table: it may have a lane, and be behind the others.
    async fn cursor(&self, facts: &Facts) -> Result<Option<Cursor>, Failure> {
        if !facts.has_cursor {
            return Ok(None);
        }
        let failed = self.failed("reading the cursor beside");
        let sql = "SELECT cursor, (SELECT after FROM watershed.lane WHERE table_name = $1) FROM watershed.cursor";
        let row = self.client().query_opt(sql, &[&self.table.as_str()]).await;
        let Some(row) = row.map_err(&failed)? else { return Ok(None) };
        let text: String = row.try_get(0).map_err(&failed)?;
        let lane: Option<i64> = row.try_get(1).map_err(&failed)?;
        let mut cursor: Cursor =
            text.parse().map_err(|_| Failure::Table(format!("watershed.cursor has no cursor, but {text:?}")))?;
        if let Some(lane) = lane {
            cursor.position = cursor.position.min(Position(lane.cast_unsigned()));
        }
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
        self.copy(&select, limit, self.bytes_max, 2 * self.bytes_max).await
    }

    /// Reads what a query gives: at most `rows_max` rows, and none more once `bytes_max` bytes are read; what comes
    /// beyond is dropped, up to `dropped_max` bytes.
    async fn copy(
        &self,
        select: &str,
        rows_max: usize,
        bytes_max: usize,
        dropped_max: usize,
    ) -> Result<Found, Failure> {
        let failed = self.failed("reading");
        let stream = self.client().copy_out(&format!("COPY ({select}) TO STDOUT")).await.map_err(&failed)?;
        let mut stream = pin!(stream);
        let mut lines = Lines::default();
        let mut found = Found { is_end: true, ..Found::default() };
        let mut dropped = 0;
        while let Some(bytes) = stream.try_next().await.map_err(&failed)? {
            lines.push(bytes);
            while let Some(line) = lines.next() {
                // A row that is too large for what is left of the chunk is the first of the next one.
                let bytes = found.lines.len();
                let is_full = bytes >= bytes_max || line.len() > bytes_max && bytes > 0;
                if !found.is_end || found.rows == rows_max || is_full && found.rows > 0 {
                    found.is_end = false;
                    dropped += line.len();
                    continue;
                }
                found.lines.extend_from_slice(&line);
                found.lines.extend_from_slice(b"\n");
                found.rows += 1;
                found.last = line;
            }
            if dropped > dropped_max {
                found.is_cut = true;
                break;
            }
        }
        Ok(found)
    }
}

/// `SELECT` of the definition's columns.
pub(crate) fn select(def: &TableDef) -> String {
    let names: Vec<String> = def.columns.iter().map(|column| facts::quoted(&column.name)).collect();
    format!("SELECT {}", names.join(","))
}
