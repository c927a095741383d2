//! Events written with their cursor, in one commit.

use std::pin::Pin;

use bytes::Bytes;
use futures_util::{SinkExt, TryFutureExt, future};
use tokio_postgres::types::{IsNull, ToSql, Type, to_sql_checked};
use tokio_postgres::{CopyInSink, Statement};

use super::binary::{HEADER, TRAILER, put_row};
use super::scan::Xid;
use super::view::PgEventsOptions;
use crate::model::{Batch, CodecError, Cursor, Epoch, Event, Logged, Position, count_events, limits, scan_events};
use crate::postgres::{PgError, Session};
use crate::view::{EventIds, ViewError};

/// Serialises the writers of one events table, also with a zombie of the previous run, until the end of the
/// transaction. The key is two numbers: "wsev", and the table.
const BEGIN: &str = "BEGIN; SELECT pg_advisory_xact_lock(2004053366, 'events'::regclass::oid::int)";
const COPY: &str = "COPY events (id, ts, event) FROM STDIN (FORMAT binary)";
/// Writes nothing when the cursor is not where it was expected.
const INSERT: &str = "WITH written AS (INSERT INTO events (id, ts, event) \
         SELECT * FROM unnest($1::bigint[], $2::timestamptz[], $3::jsonb[]) \
         WHERE coalesce((SELECT id FROM events ORDER BY id DESC LIMIT 1), 0) = $4 RETURNING 1) SELECT count(*) FROM written";
/// The same where the cursor has a table of its own: one row, that the insert depends on.
const INSERT_AFTER: &str = "WITH moved AS (UPDATE watershed.events_cursor SET transaction = $5, id = $6 WHERE transaction = $4 RETURNING 1), \
     begun AS (INSERT INTO watershed.events_cursor (transaction, id) \
         SELECT $5, $6 WHERE $4 = '0'::xid8 AND NOT EXISTS (SELECT FROM watershed.events_cursor) RETURNING 1), \
     written AS (INSERT INTO events (id, ts, event) \
         SELECT * FROM unnest($1::bigint[], $2::timestamptz[], $3::jsonb[]) \
         WHERE EXISTS (SELECT FROM moved) OR EXISTS (SELECT FROM begun) RETURNING 1) \
     SELECT count(*) FROM written";
const CURSOR_TABLE: &str = "CREATE SCHEMA IF NOT EXISTS watershed; \
     CREATE TABLE IF NOT EXISTS watershed.events_cursor \
     (one boolean PRIMARY KEY DEFAULT true CHECK (one), transaction xid8 NOT NULL, id bigint NOT NULL)";

/// Writes events into one destination.
pub(super) struct Writer {
    options: PgEventsOptions,
    position: Statement,
    insert: Statement,
    /// The transaction that is being written, while it is not whole.
    open: Option<Open>,
}

struct Open {
    sink: Pin<Box<CopyInSink<Bytes>>>,
    buffer: Vec<u8>,
    last_id: i64,
    rows: u64,
}

/// A time as a parameter.
#[derive(Debug)]
struct Time(i64);

impl ToSql for Time {
    fn to_sql(&self, _: &Type, out: &mut bytes::BytesMut) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        out.extend_from_slice(&self.0.to_be_bytes());
        Ok(IsNull::No)
    }
    fn accepts(ty: &Type) -> bool {
        *ty == Type::TIMESTAMPTZ
    }
    to_sql_checked!();
}

/// JSON text as a parameter.
#[derive(Debug)]
struct Json<'a>(&'a [u8]);

impl ToSql for Json<'_> {
    fn to_sql(&self, _: &Type, out: &mut bytes::BytesMut) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        out.extend_from_slice(&[1]);
        out.extend_from_slice(self.0);
        Ok(IsNull::No)
    }
    fn accepts(ty: &Type) -> bool {
        *ty == Type::JSONB
    }
    to_sql_checked!();
}

/// What goes wrong while entries become rows.
enum WriteError {
    Codec(CodecError),
    Pg(PgError),
}

impl From<CodecError> for WriteError {
    fn from(error: CodecError) -> Self {
        WriteError::Codec(error)
    }
}

impl From<PgError> for WriteError {
    fn from(error: PgError) -> Self {
        WriteError::Pg(error)
    }
}

impl From<WriteError> for ViewError {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::Codec(error) => ViewError::Failed(error.to_string()),
            WriteError::Pg(error) => error.into(),
        }
    }
}

impl Writer {
    pub(super) async fn new(session: &Session, options: PgEventsOptions) -> Result<Writer, PgError> {
        let failed = |e| session.endpoint().failed("preparing to write events", e);
        if options.ids == EventIds::Sequence {
            session.client.batch_execute(CURSOR_TABLE).await.map_err(failed)?;
        }
        let position = match options.ids {
            // Not max(id): its plan, made while the table is empty, would go through the whole index later on.
            EventIds::Table => "SELECT coalesce((SELECT id FROM events ORDER BY id DESC LIMIT 1), 0)::text",
            EventIds::Sequence => "SELECT coalesce(max(transaction), '0')::text FROM watershed.events_cursor",
        };
        let position = session.client.prepare(position).await.map_err(failed)?;
        let insert = session
            .client
            .prepare(if options.ids == EventIds::Table { INSERT } else { INSERT_AFTER })
            .await
            .map_err(failed)?;
        Ok(Writer { options, position, insert, open: None })
    }

    /// How far the table has come, as of now.
    pub(super) async fn position(&self, session: &Session) -> Result<Position, PgError> {
        let doing = "reading the greatest id";
        let row = session.client.query_one(&self.position, &[]).await;
        let row = row.map_err(|e| session.endpoint().failed(doing, e))?;
        let text: &str = row.try_get(0).map_err(|e| session.endpoint().failed(doing, e))?;
        text.parse().map(Position).map_err(|_| session.endpoint().unexpected(doing, format!("{text} is no position")))
    }

    /// Whether a transaction has been begun whose end has not come.
    pub(super) fn is_open(&self) -> bool {
        self.open.is_some()
    }

    /// Writes a batch in transactions of at most so many events as the options say, and returns where the table is then.
    pub(super) async fn write(
        &mut self,
        session: &Session,
        at: Position,
        batch: &Batch,
    ) -> Result<Position, ViewError> {
        let mut at = at;
        let mut rest = &batch.entries[..];
        while let Some(first) = rest.first() {
            if first.entry.header().more || self.open.is_some() {
                at = self.write_part(session, at, first).await?;
                rest = &rest[1..];
                continue;
            }
            let (rows, count, bytes) = self.next_run(rest)?;
            let (run, after) = rest.split_at(count);
            at = match rows <= limits::EVENTS_FEW && bytes <= limits::EVENTS_FEW_BYTES {
                true => self.insert(session, at, run).await?,
                false => self.copy(session, at, run).await?,
            };
            rest = after;
        }
        Ok(at)
    }

    /// How many of the first entries go into one transaction: rows, entries, bytes.
    fn next_run(&self, entries: &[Logged]) -> Result<(usize, usize, usize), ViewError> {
        let (mut rows, mut count, mut bytes) = (0, 0, 0);
        for logged in entries {
            let own = count_events(logged.entry.changes_bytes());
            let own = own.map_err(|error| ViewError::Failed(error.to_string()))?;
            if count > 0 && (rows + own > self.options.events_per_write_max || logged.entry.header().more) {
                break;
            }
            (rows, count, bytes) = (rows + own, count + 1, bytes + logged.entry.changes_bytes().len());
        }
        Ok((rows, count, bytes))
    }

    /// The statement that advances a cursor that is not the table itself.
    fn advance(&self, from: Position, to: Position, last_id: i64) -> Option<String> {
        let advance = match from {
            _ if self.options.ids == EventIds::Table => return None,
            Position(0) => format!("INSERT INTO watershed.events_cursor (transaction, id) VALUES ('{to}', {last_id})"),
            from => format!(
                "UPDATE watershed.events_cursor SET transaction = '{to}', id = {last_id} WHERE transaction = '{from}'"
            ),
        };
        Some(advance)
    }

    fn moved(&self, expected: Position, found: Position) -> ViewError {
        let cursor = |position| Some(Cursor { position, epoch: Epoch(0), ..Cursor::default() });
        ViewError::Fenced { expected: cursor(expected), found: cursor(found) }
    }

    /// Begins a transaction, and compares the cursor under its lock.
    async fn begin(&self, session: &Session, at: Position) -> Result<(), ViewError> {
        let failed = |e| session.endpoint().failed("beginning to write events", e);
        let begin = session.client.batch_execute(BEGIN).map_err(failed);
        let ((), found) = future::try_join(begin, self.position(session)).await?;
        if found != at {
            self.rollback(session).await;
            return Err(self.moved(at, found));
        }
        Ok(())
    }

    async fn rollback(&self, session: &Session) {
        // A connection that cannot even roll back is dropped by who sees the error, and the server rolls back.
        if let Err(error) = session.client.batch_execute("ROLLBACK").await {
            tracing::debug!("{}: rolling back: {error}", session.endpoint().name());
        }
    }

    async fn commit(&self, session: &Session, from: Position, to: Position, last_id: i64) -> Result<(), PgError> {
        let text = self.advance(from, to, last_id).map_or("COMMIT".to_string(), |advance| format!("{advance}; COMMIT"));
        session.client.batch_execute(&text).await.map_err(|e| session.endpoint().failed("committing events", e))
    }

    /// A few events: all statements are sent at once.
    async fn insert(&mut self, session: &Session, at: Position, run: &[Logged]) -> Result<Position, ViewError> {
        let (mut ids, mut times, mut texts) = (Vec::new(), Vec::new(), Vec::new());
        for logged in run {
            let taken = scan_events(logged.entry.changes_bytes(), |event| -> Result<(), CodecError> {
                ids.push(event.id);
                times.push(Time(event.time.0));
                texts.push(Json(event.json));
                Ok(())
            });
            taken.map_err(|error| ViewError::Failed(error.to_string()))?;
        }
        let (Some(last), Some(&last_id)) = (run.last(), ids.last()) else { return Ok(at) };
        let failed = |e| session.endpoint().failed("writing events", e);
        let begin = session.client.batch_execute(BEGIN).map_err(failed);
        let (from, to, at_id) = (Xid(at.0), Xid(last.position.0), at.0 as i64);
        let table: [&(dyn ToSql + Sync); 4] = [&ids, &times, &texts, &at_id];
        let sequence: [&(dyn ToSql + Sync); 6] = [&ids, &times, &texts, &from, &to, &last_id];
        let parameters = if self.options.ids == EventIds::Table { &table[..] } else { &sequence[..] };
        let insert = session.client.query_one(&self.insert, parameters).map_err(failed);
        // A failed insert makes the COMMIT a ROLLBACK.
        let commit = session.client.batch_execute("COMMIT").map_err(failed);
        let (begun, written, committed) = future::join3(begin, insert, commit).await;
        begun?;
        let written: i64 = written?.try_get(0).map_err(failed)?;
        committed?;
        if written != ids.len() as i64 {
            return Err(self.moved(at, self.position(session).await?));
        }
        Ok(last.position)
    }

    /// Many events: by COPY.
    async fn copy(&mut self, session: &Session, at: Position, run: &[Logged]) -> Result<Position, ViewError> {
        self.begin(session, at).await?;
        let done = self.copy_rows(session, run).await;
        let last_id = match done {
            Ok(last_id) => last_id,
            Err(error) => {
                self.rollback(session).await;
                return Err(error.into());
            }
        };
        let to = run.last().map_or(at, |last| last.position);
        self.commit(session, at, to, last_id).await?;
        Ok(to)
    }

    async fn copy_rows(&mut self, session: &Session, run: &[Logged]) -> Result<i64, WriteError> {
        let mut open = Open::begin(session).await?;
        for logged in run {
            open.put(session, logged).await?;
        }
        Ok(open.finish(session).await?)
    }

    /// One part of a transaction that is too large for one batch: committed with its last one.
    async fn write_part(&mut self, session: &Session, at: Position, logged: &Logged) -> Result<Position, ViewError> {
        let mut open = match self.open.take() {
            Some(open) => open,
            None => {
                self.begin(session, at).await?;
                Open::begin(session).await?
            }
        };
        open.put(session, logged).await?;
        if logged.entry.header().more {
            self.open = Some(open);
            return Ok(at);
        }
        let last_id = open.finish(session).await?;
        self.commit(session, at, logged.position, last_id).await?;
        Ok(logged.position)
    }
}

impl Open {
    async fn begin(session: &Session) -> Result<Open, PgError> {
        let sink = session.client.copy_in(COPY).await;
        let sink = sink.map_err(|e| session.endpoint().failed("beginning to copy events", e))?;
        let mut buffer = Vec::with_capacity(2 * limits::EVENTS_COPY_CHUNK_BYTES);
        buffer.extend_from_slice(HEADER);
        Ok(Open { sink: Box::pin(sink), buffer, last_id: 0, rows: 0 })
    }

    async fn put(&mut self, session: &Session, logged: &Logged) -> Result<(), WriteError> {
        let mut full = Vec::new();
        scan_events(logged.entry.changes_bytes(), |event: Event<'_>| -> Result<(), CodecError> {
            put_row(&mut self.buffer, event);
            (self.last_id, self.rows) = (event.id, self.rows + 1);
            if self.buffer.len() >= limits::EVENTS_COPY_CHUNK_BYTES {
                let fresh = Vec::with_capacity(2 * limits::EVENTS_COPY_CHUNK_BYTES);
                full.push(std::mem::replace(&mut self.buffer, fresh));
            }
            Ok(())
        })?;
        for chunk in full {
            self.send(session, chunk).await?;
        }
        Ok(())
    }

    async fn send(&mut self, session: &Session, chunk: Vec<u8>) -> Result<(), PgError> {
        self.sink.feed(chunk.into()).await.map_err(|e| session.endpoint().failed("copying events", e))
    }

    /// Returns the greatest id.
    async fn finish(mut self, session: &Session) -> Result<i64, PgError> {
        self.buffer.extend_from_slice(&TRAILER);
        let buffer = std::mem::take(&mut self.buffer);
        self.send(session, buffer).await?;
        let written = self.sink.as_mut().finish().await.map_err(|e| session.endpoint().failed("copying events", e))?;
        if written != self.rows {
            let why = format!("{written} rows were written, {} were sent", self.rows);
            return Err(session.endpoint().unexpected("copying events", why));
        }
        Ok(self.last_id)
    }
}
