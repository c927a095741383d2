//! Batches of events become transactions of a destination: a few by one statement, many by COPY, very many side by side.

use std::sync::Arc;

use futures_util::{TryFutureExt, future};
use tokio_postgres::Statement;
use tokio_postgres::types::{IsNull, ToSql, Type, to_sql_checked};

use super::flights::Flights;
use super::pen::{BEGIN, Copying, Pen, moved, unreadable};
use super::scan::Xid;
use super::view::PgEventsOptions;
use crate::model::{Batch, CodecError, Logged, Position, count_events, limits, scan_events};
use crate::postgres::PgError;
use crate::view::{EventIds, ViewError};

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
/// Writes events into one destination.
pub(super) struct Writer {
    options: PgEventsOptions,
    pen: Arc<Pen>,
    insert: Statement,
    /// The transaction that is being written, while it is not whole.
    open: Option<Copying>,
    flights: Flights,
    /// How far the table has come.
    at: Position,
    /// How far it will have come when all that is under way is written.
    taken: Position,
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

impl Writer {
    pub(super) async fn new(pen: Arc<Pen>, options: PgEventsOptions) -> Result<Writer, PgError> {
        let insert = if options.ids == EventIds::Table { INSERT } else { INSERT_AFTER };
        let insert =
            pen.session.client.prepare(insert).await.map_err(|e| pen.failed("preparing to write events", e))?;
        let at = pen.position().await?;
        Ok(Writer { options, insert, open: None, flights: Flights::new(pen.clone()), pen, at, taken: at })
    }

    /// Whether a transaction has been begun whose end has not come.
    pub(super) fn is_open(&self) -> bool {
        self.open.is_some()
    }

    /// Whether the table was empty, and nothing has been taken.
    pub(super) fn is_empty(&self) -> bool {
        self.taken == Position::ZERO
    }

    /// How far the table has come, by what is known to be written.
    pub(super) async fn position(&mut self) -> Result<Position, ViewError> {
        let landed = self.flights.landed().await?;
        self.at = landed.unwrap_or(self.at);
        Ok(self.at)
    }

    /// Waits until all that was taken is written.
    pub(super) async fn flush(&mut self) -> Result<(), ViewError> {
        let landed = self.flights.land_all().await?;
        self.at = landed.unwrap_or(self.at);
        Ok(())
    }

    /// Writes a batch in transactions of at most so many events as the options say. Of much, the end may still be under way
    /// on return.
    pub(super) async fn write(&mut self, batch: &Batch) -> Result<(), ViewError> {
        let mut rest = &batch.entries[..];
        while let Some(first) = rest.first() {
            if first.entry.header().more || self.open.is_some() {
                self.flush().await?;
                self.write_part(first).await?;
                rest = &rest[1..];
                continue;
            }
            let (rows, count, bytes) = self.next_run(rest)?;
            let (run, after) = rest.split_at(count);
            if bytes >= limits::EVENTS_BESIDE_BYTES_MIN {
                let PgEventsOptions { ids, connect_limit, .. } = self.options;
                let landed = self.flights.begin(self.taken, run.to_vec(), ids, connect_limit).await?;
                self.at = landed.unwrap_or(self.at);
                self.taken = run.last().map_or(self.taken, |last| last.position);
            } else {
                self.flush().await?;
                self.at = match rows <= limits::EVENTS_FEW && bytes <= limits::EVENTS_FEW_BYTES {
                    true => self.insert(run).await?,
                    false => self.pen.copy(self.at, run).await?,
                };
                self.taken = self.at;
            }
            rest = after;
        }
        Ok(())
    }

    /// How many of the first entries go into one transaction: rows, entries, bytes.
    fn next_run(&self, entries: &[Logged]) -> Result<(usize, usize, usize), ViewError> {
        let (mut rows, mut count, mut bytes) = (0, 0, 0);
        for logged in entries {
            let own = count_events(logged.entry.changes_bytes()).map_err(|error| unreadable(&error))?;
            if count > 0 && (rows + own > self.options.events_per_write_max || logged.entry.header().more) {
                break;
            }
            (rows, count, bytes) = (rows + own, count + 1, bytes + logged.entry.changes_bytes().len());
        }
        Ok((rows, count, bytes))
    }

    /// A few events: all statements are sent at once.
    async fn insert(&mut self, run: &[Logged]) -> Result<Position, ViewError> {
        let (mut ids, mut times, mut texts) = (Vec::new(), Vec::new(), Vec::new());
        for logged in run {
            let taken = scan_events(logged.entry.changes_bytes(), |event| -> Result<(), CodecError> {
                ids.push(event.id);
                times.push(Time(event.time.0));
                texts.push(Json(event.json));
                Ok(())
            });
            taken.map_err(|error| unreadable(&error))?;
        }
        let (Some(last), Some(&last_id)) = (run.last(), ids.last()) else { return Ok(self.at) };
        let failed = |e| self.pen.failed("writing events", e);
        let client = &self.pen.session.client;
        let begin = client.batch_execute(BEGIN).map_err(failed);
        let (from, to, at_id) = (Xid(self.at.0), Xid(last.position.0), self.at.0 as i64);
        let table: [&(dyn ToSql + Sync); 4] = [&ids, &times, &texts, &at_id];
        let sequence: [&(dyn ToSql + Sync); 6] = [&ids, &times, &texts, &from, &to, &last_id];
        let parameters = if self.options.ids == EventIds::Table { &table[..] } else { &sequence[..] };
        let insert = client.query_one(&self.insert, parameters).map_err(failed);
        // A failed insert makes the COMMIT a ROLLBACK.
        let commit = client.batch_execute("COMMIT").map_err(failed);
        let (begun, written, committed) = future::join3(begin, insert, commit).await;
        begun?;
        let written: i64 = written?.try_get(0).map_err(failed)?;
        committed?;
        if written != ids.len() as i64 {
            return Err(moved(self.at, self.pen.position().await?));
        }
        Ok(last.position)
    }

    /// One part of a transaction that is too large for one batch: committed with its last one.
    async fn write_part(&mut self, logged: &Logged) -> Result<(), ViewError> {
        let mut open = match self.open.take() {
            Some(open) => open,
            None => {
                self.pen.begin(self.at).await?;
                Copying::begin(&self.pen).await?
            }
        };
        open.put(logged).await?;
        if logged.entry.header().more {
            self.open = Some(open);
            return Ok(());
        }
        let (_, last_id) = open.finish().await?;
        self.pen.commit(self.at, logged.position, last_id).await?;
        (self.at, self.taken) = (logged.position, logged.position);
        Ok(())
    }
}
