//! One connection that writes events with their cursor, in one commit.

use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt, TryFutureExt, future};
use tokio::sync::oneshot;
use tokio_postgres::types::ToSql;
use tokio_postgres::{CopyInSink, Statement};

use super::binary::{HEADER, TRAILER, put_row};
use crate::model::{CodecError, Cursor, Epoch, Event, Logged, Position, limits, scan_events};
use crate::postgres::{Endpoint, PgError, Session};
use crate::view::{EventIds, ViewError};

/// For a writing session. A commit that the server loses in a crash is read again, because the cursor is lost with
/// it: so it need not be waited for until it is on disk. The greatest id is looked up in the index, also by a plan that
/// was made while the table was empty, to which all plans looked equal.
const SETTINGS: &str = "SET synchronous_commit = off; SET enable_seqscan = off; SET enable_bitmapscan = off; SET statement_timeout = 0; SET lock_timeout = 0; \
     SET idle_in_transaction_session_timeout = 0; SET idle_session_timeout = 0; SET jit = off; \
     SET default_transaction_isolation = 'read committed'";
/// Serialises the writers of one events table, also with a zombie of the previous run, until the end of the
/// transaction. The key is two numbers: "wsev", and the table.
pub(super) const BEGIN: &str = "BEGIN; SELECT pg_advisory_xact_lock(2004053366, 'events'::regclass::oid::int)";
/// The same lock without waiting: who holds it is another process, which may wait for what has been copied here.
const TRY_LOCK: &str = "SELECT pg_try_advisory_xact_lock(2004053366, 'events'::regclass::oid::int)";
const COPY: &str = "COPY events (id, ts, event) FROM STDIN (FORMAT binary)";
const CURSOR_TABLE: &str = "CREATE SCHEMA IF NOT EXISTS watershed; \
     CREATE TABLE IF NOT EXISTS watershed.events_cursor \
     (one boolean PRIMARY KEY DEFAULT true CHECK (one), transaction xid8 NOT NULL, id bigint NOT NULL)";
/// Not max(id): its plan, made while the table is empty, would go through the whole index later on.
const POSITION: &str = "SELECT coalesce((SELECT id FROM events ORDER BY id DESC LIMIT 1), 0)::text";
const POSITION_OF_SEQUENCE: &str = "SELECT coalesce(max(transaction), '0')::text FROM watershed.events_cursor";
/// What the rows from an id on continue.
const BELOW: &str = "SELECT coalesce((SELECT id FROM events WHERE id < $1 ORDER BY id DESC LIMIT 1), 0)::text";
const BELOW_OF_SEQUENCE: &str =
    "SELECT coalesce(max(transaction), '0')::text FROM watershed.events_cursor WHERE $1::bigint IS NOT NULL";

/// A connection, and its statements.
pub(super) struct Pen {
    pub(super) session: Session,
    ids: EventIds,
    position: Statement,
    below: Statement,
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
            WriteError::Codec(error) => unreadable(&error),
            WriteError::Pg(error) => error.into(),
        }
    }
}

pub(super) fn unreadable(error: &CodecError) -> ViewError {
    ViewError::Failed(error.to_string())
}

impl Pen {
    pub(super) async fn open(endpoint: &Endpoint, ids: EventIds, limit: Duration) -> Result<Pen, PgError> {
        let session = endpoint.connect(limit).await?;
        let failed = |e| endpoint.failed("preparing to write events", e);
        session.client.batch_execute(SETTINGS).await.map_err(failed)?;
        let (position, below) = match ids {
            EventIds::Table => (POSITION, BELOW),
            EventIds::Sequence => {
                session.client.batch_execute(CURSOR_TABLE).await.map_err(failed)?;
                (POSITION_OF_SEQUENCE, BELOW_OF_SEQUENCE)
            }
        };
        let position = session.client.prepare(position).await.map_err(failed)?;
        let below = session.client.prepare(below).await.map_err(failed)?;
        Ok(Pen { session, ids, position, below })
    }

    /// An error of this connection.
    pub(super) fn failed(&self, doing: &str, error: tokio_postgres::Error) -> PgError {
        self.session.endpoint().failed(doing, error)
    }

    /// How far the table has come, as of now.
    pub(super) async fn position(&self) -> Result<Position, PgError> {
        self.look(&self.position, &[]).await
    }

    async fn look(&self, statement: &Statement, parameters: &[&(dyn ToSql + Sync)]) -> Result<Position, PgError> {
        let doing = "reading the greatest id";
        let row = self.session.client.query_one(statement, parameters).await.map_err(|e| self.failed(doing, e))?;
        let text: &str = row.try_get(0).map_err(|e| self.failed(doing, e))?;
        let position = text.parse().map(Position);
        position.map_err(|_| self.session.endpoint().unexpected(doing, format!("{text} is no position")))
    }

    /// The statement that advances a cursor that is not the table itself.
    fn advance(&self, from: Position, to: Position, last_id: i64) -> Option<String> {
        let advance = match from {
            _ if self.ids == EventIds::Table => return None,
            Position(0) => format!("INSERT INTO watershed.events_cursor (transaction, id) VALUES ('{to}', {last_id})"),
            from => format!(
                "UPDATE watershed.events_cursor SET transaction = '{to}', id = {last_id} WHERE transaction = '{from}'"
            ),
        };
        Some(advance)
    }

    /// Begins a transaction, and compares the cursor under its lock.
    pub(super) async fn begin(&self, at: Position) -> Result<(), ViewError> {
        let begin = self.session.client.batch_execute(BEGIN);
        let begin = begin.map_err(|e| self.failed("beginning to write events", e));
        let ((), found) = future::try_join(begin, self.position()).await?;
        if found != at {
            self.rollback().await;
            return Err(moved(at, found));
        }
        Ok(())
    }

    pub(super) async fn rollback(&self) {
        // A connection that cannot even roll back is dropped by who sees the error, and the server rolls back.
        if let Err(error) = self.session.client.batch_execute("ROLLBACK").await {
            tracing::debug!("{}: rolling back: {error}", self.session.endpoint().name());
        }
    }

    pub(super) async fn commit(&self, from: Position, to: Position, last_id: i64) -> Result<(), PgError> {
        let text = self.advance(from, to, last_id).map_or("COMMIT".to_string(), |advance| format!("{advance}; COMMIT"));
        self.session.client.batch_execute(&text).await.map_err(|e| self.failed("committing events", e))
    }

    /// Copies the entries, in one transaction, after what is there.
    pub(super) async fn copy(&self, at: Position, run: &[Logged]) -> Result<Position, ViewError> {
        self.begin(at).await?;
        let (_, last_id) = match self.copy_rows(run).await {
            Ok(ids) => ids,
            Err(error) => {
                self.rollback().await;
                return Err(error.into());
            }
        };
        let to = run.last().map_or(at, |last| last.position);
        self.commit(at, to, last_id).await?;
        Ok(to)
    }

    /// The same while what comes before, up to `at`, is being written over another connection, which says when it is
    /// committed. Only then is this committed, under the same lock, and only where it continues what is there.
    ///
    /// Neither waits for the other's rows, as far as can be foreseen; where it does all the same, `None`: nothing has been
    /// written, and the other goes on.
    pub(super) async fn copy_after(
        &self,
        at: Position,
        run: &[Logged],
        before: &mut oneshot::Receiver<()>,
    ) -> Result<Option<Position>, ViewError> {
        let begun = self.session.client.batch_execute("BEGIN").await;
        begun.map_err(|e| self.failed("beginning to write events", e))?;
        let (first_id, last_id) = self.copy_rows(run).await?;
        match tokio::time::timeout(limits::EVENTS_BESIDE_WAIT_MAX, before).await {
            Ok(committed) => committed.map_err(|_| not_continued())?,
            Err(_) => {
                self.rollback().await;
                return Ok(None);
            }
        }
        let locked = self.session.client.query_one(TRY_LOCK, &[]).await;
        let locked = locked.map_err(|e| self.failed("locking the events table", e))?;
        if !locked.get::<_, bool>(0) {
            let name = self.session.endpoint().name();
            return Err(ViewError::Lost(format!("{name}: another process writes it too")));
        }
        let found = self.look(&self.below, &[&first_id]).await?;
        if found != at {
            return Err(moved(at, found));
        }
        let to = run.last().map_or(at, |last| last.position);
        self.commit(at, to, last_id).await?;
        Ok(Some(to))
    }

    /// Returns the first and the last id.
    async fn copy_rows(&self, run: &[Logged]) -> Result<(i64, i64), WriteError> {
        let mut copying = Copying::begin(self).await?;
        for logged in run {
            copying.put_rows(logged).await?;
        }
        Ok(copying.finish().await?)
    }
}

/// The cursor is not where it was left.
pub(super) fn moved(expected: Position, found: Position) -> ViewError {
    let cursor = |position| Some(Cursor { position, epoch: Epoch(0), ..Cursor::default() });
    ViewError::Fenced { expected: cursor(expected), found: cursor(found) }
}

/// What comes before was not written.
pub(super) fn not_continued() -> ViewError {
    ViewError::Lost("what comes before was not written".to_owned())
}

/// Rows on their way, in the transaction that has begun.
pub(super) struct Copying {
    endpoint: Endpoint,
    sink: Pin<Box<CopyInSink<Bytes>>>,
    buffer: Vec<u8>,
    first_id: Option<i64>,
    last_id: i64,
    rows: u64,
}

impl Copying {
    pub(super) async fn begin(pen: &Pen) -> Result<Copying, PgError> {
        let sink = pen.session.client.copy_in(COPY).await.map_err(|e| pen.failed("beginning to copy events", e))?;
        let mut buffer = Vec::with_capacity(2 * limits::EVENTS_COPY_CHUNK_BYTES);
        buffer.extend_from_slice(HEADER);
        let endpoint = pen.session.endpoint().clone();
        Ok(Copying { endpoint, sink: Box::pin(sink), buffer, first_id: None, last_id: 0, rows: 0 })
    }

    pub(super) async fn put(&mut self, logged: &Logged) -> Result<(), ViewError> {
        Ok(self.put_rows(logged).await?)
    }

    async fn put_rows(&mut self, logged: &Logged) -> Result<(), WriteError> {
        let mut full = Vec::new();
        scan_events(logged.entry.changes_bytes(), |event: Event<'_>| -> Result<(), CodecError> {
            put_row(&mut self.buffer, event);
            self.first_id.get_or_insert(event.id);
            (self.last_id, self.rows) = (event.id, self.rows + 1);
            if self.buffer.len() >= limits::EVENTS_COPY_CHUNK_BYTES {
                let fresh = Vec::with_capacity(2 * limits::EVENTS_COPY_CHUNK_BYTES);
                full.push(std::mem::replace(&mut self.buffer, fresh));
            }
            Ok(())
        })?;
        for chunk in full {
            self.send(chunk).await?;
        }
        Ok(())
    }

    async fn send(&mut self, chunk: Vec<u8>) -> Result<(), PgError> {
        self.sink.feed(chunk.into()).await.map_err(|e| self.endpoint.failed("copying events", e))
    }

    /// Returns the first and the last id.
    pub(super) async fn finish(mut self) -> Result<(i64, i64), PgError> {
        self.buffer.extend_from_slice(&TRAILER);
        let buffer = std::mem::take(&mut self.buffer);
        self.send(buffer).await?;
        let written = self.sink.as_mut().finish().await.map_err(|e| self.endpoint.failed("copying events", e))?;
        if written != self.rows {
            let why = format!("{written} rows were written, {} were sent", self.rows);
            return Err(self.endpoint.unexpected("copying events", why));
        }
        Ok((self.first_id.unwrap_or_default(), self.last_id))
    }
}
