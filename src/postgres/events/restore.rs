//! A source filled with the events of a copy.

use std::pin::Pin;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::SinkExt;
use tokio_postgres::CopyInSink;

use super::binary::{HEADER, TRAILER, put_row};
use crate::model::limits;
use crate::postgres::{Endpoint, PgError, Session};
use crate::view::{EventIds, EventsError, EventsRestore, StoredEvent, Trouble};

/// Writes the events of a copy into a source.
///
/// All of them come in one transaction, so nobody ever sees a part of them, and a restore that was killed left nothing.
/// While it runs those who append wait; from its commit until the next id is set they fail with a duplicate key (`id` says
/// 1 still), or, with a sequence, get ids after those of the copy.
pub struct PgEventsRestore {
    session: Session,
    ids: EventIds,
    copy: Option<Copy>,
    /// Whether the trigger that notifies for each row is off until the commit.
    silenced: bool,
}

struct Copy {
    sink: Pin<Box<CopyInSink<Bytes>>>,
    buffer: Vec<u8>,
    rows: u64,
}

const SETTINGS: &str = "SET statement_timeout = 0; SET lock_timeout = 0; SET idle_in_transaction_session_timeout = 0; \
     SET default_transaction_isolation = 'read committed'";
/// In the order in which `insert_events` locks.
const LOCK: [&str; 2] = ["LOCK TABLE id IN SHARE ROW EXCLUSIVE MODE", "LOCK TABLE events IN SHARE ROW EXCLUSIVE MODE"];
const FOUND: &str = "SELECT coalesce(max(id), 0), count(*) FROM events";
const NEXT: &str = "SELECT id FROM id";
/// Notifies for each row, perhaps with the event in it, which fails on events over 8,000 bytes.
const ROW_TRIGGER: &str = "SELECT EXISTS (SELECT FROM pg_trigger WHERE tgrelid = 'events'::regclass \
     AND tgname = 'notify_insert' AND tgtype & 1 = 1 AND tgenabled <> 'D')";
const COPY: &str = "COPY events (id, ts, event) FROM STDIN (FORMAT binary)";
const SEQUENCE: &str = "SELECT coalesce(pg_get_serial_sequence('events', 'id'), (SELECT d.refobjid::regclass::text \
     FROM pg_attrdef f JOIN pg_depend d ON d.classid = 'pg_attrdef'::regclass AND d.objid = f.oid \
         AND d.refclassid = 'pg_class'::regclass \
     JOIN pg_class s ON s.oid = d.refobjid AND s.relkind = 'S' \
     JOIN pg_attribute a ON a.attrelid = f.adrelid AND a.attnum = f.adnum \
     WHERE f.adrelid = 'events'::regclass AND a.attname = 'id' LIMIT 1), to_regclass('events_id_seq')::text)";

impl PgEventsRestore {
    /// Connects, or gives up after `limit`.
    ///
    /// # Errors
    /// The server cannot be reached, or refuses.
    pub async fn open(endpoint: &Endpoint, ids: EventIds, limit: Duration) -> Result<PgEventsRestore, EventsError> {
        let session = endpoint.connect(limit).await?;
        let restore = PgEventsRestore { session, ids, copy: None, silenced: false };
        restore.run(SETTINGS, "preparing to restore events").await?;
        Ok(restore)
    }

    async fn run(&self, sql: &str, doing: &str) -> Result<(), PgError> {
        let done = self.session.client.batch_execute(sql).await;
        done.map_err(|error| self.session.endpoint().failed(doing, error))
    }

    async fn row(&self, sql: &str) -> Result<tokio_postgres::Row, PgError> {
        let row = self.session.client.query_one(sql, &[]).await;
        row.map_err(|error| self.session.endpoint().failed("looking at the source to restore", error))
    }

    /// Locks out whoever appends, until the transaction ends.
    async fn lock(&self) -> Result<(), PgError> {
        let [id, events] = LOCK;
        self.run("BEGIN", "beginning to restore events").await?;
        if self.ids == EventIds::Table {
            self.run(id, "locking the table id").await?;
        }
        self.run(events, "locking the table events").await
    }

    fn moved(&self, why: String) -> EventsError {
        EventsError {
            code: "WS-PG-030",
            trouble: Trouble::Operator,
            what: format!("{}: the source has changed since it was looked at", self.session.endpoint().name()),
            why,
            fix: "stop whoever appends to it, and run it again".into(),
        }
    }

    /// The sequence goes on after `last`, at once and for everybody: sequences know no transactions.
    async fn advance_sequence(&self, last: i64) -> Result<i64, PgError> {
        let failed = |error| self.session.endpoint().failed("advancing the sequence of ids", error);
        let sequence: Option<String> = self.row(SEQUENCE).await?.try_get(0).map_err(failed)?;
        let why = "ids are to come from a sequence, but there is none";
        let sequence = sequence.ok_or_else(|| self.session.endpoint().unexpected("looking for the sequence", why))?;
        let sql = "SELECT setval($1::text::regclass, greatest($2, nextval($1::text::regclass) - 1, 1)) + 1";
        let row = self.session.client.query_one(sql, &[&sequence, &last]).await.map_err(failed)?;
        row.try_get(0).map_err(failed)
    }
}

#[async_trait]
impl EventsRestore for PgEventsRestore {
    async fn begin(&mut self, after: i64, last: i64) -> Result<(), EventsError> {
        if self.ids == EventIds::Sequence {
            self.advance_sequence(last).await?;
        }
        self.lock().await?;
        let found: i64 = self.row(FOUND).await?.get(0);
        if found != after {
            return Err(self.moved(format!("its last event was {after}, now it is {found}")));
        }
        if self.ids == EventIds::Table {
            let next: i64 = self.row(NEXT).await?.get(0);
            if next > after.saturating_add(1) {
                return Err(EventsError {
                    code: "WS-PG-031",
                    trouble: Trouble::Operator,
                    what: format!("{}: ids were given that have no events", self.session.endpoint().name()),
                    why: format!("its last event is {after}, and the table id says that the next id is {next}"),
                    fix: "restore into a new source: `watershed events init --role source`".into(),
                });
            }
        }
        self.silenced = self.row(ROW_TRIGGER).await?.get(0);
        if self.silenced {
            self.run("ALTER TABLE events DISABLE TRIGGER notify_insert", "silencing notify_insert").await?;
        }
        let sink = self.session.client.copy_in(COPY).await;
        let sink = sink.map_err(|error| self.session.endpoint().failed("beginning to copy events", error))?;
        self.copy = Some(Copy { sink: Box::pin(sink), buffer: HEADER.to_vec(), rows: 0 });
        Ok(())
    }

    async fn put(&mut self, events: Vec<StoredEvent>) -> Result<(), EventsError> {
        let copy = self.copy.as_mut().expect("a restore has begun before it puts");
        let failed = |error| self.session.endpoint().failed("copying events", error);
        for event in events {
            put_row(&mut copy.buffer, event.event());
            copy.rows += 1;
            if copy.buffer.len() >= limits::EVENTS_COPY_CHUNK_BYTES {
                copy.sink.feed(std::mem::take(&mut copy.buffer).into()).await.map_err(failed)?;
            }
        }
        Ok(())
    }

    async fn commit(&mut self) -> Result<(), EventsError> {
        let mut copy = self.copy.take().expect("a restore has begun before it commits");
        let failed = |error| self.session.endpoint().failed("copying events", error);
        copy.buffer.extend_from_slice(&TRAILER);
        copy.sink.feed(copy.buffer.into()).await.map_err(failed)?;
        let written = copy.sink.as_mut().finish().await.map_err(failed)?;
        if written != copy.rows {
            let why = format!("{written} rows were written, {} were sent", copy.rows);
            return Err(self.session.endpoint().unexpected("copying events", why).into());
        }
        if self.silenced {
            self.run("ALTER TABLE events ENABLE TRIGGER notify_insert", "enabling notify_insert").await?;
        }
        Ok(self.run("COMMIT", "committing the restored events").await?)
    }

    async fn open_after(&mut self, last: i64) -> Result<i64, EventsError> {
        if self.ids == EventIds::Sequence {
            return Ok(self.advance_sequence(last).await?);
        }
        self.lock().await?;
        let (max, next): (i64, i64) = (self.row(FOUND).await?.get(0), self.row(NEXT).await?.get(0));
        if max != last {
            return Err(self.moved(format!("its last event was {last}, now it is {max}")));
        }
        if next <= last {
            self.run(&format!("UPDATE id SET id = {}", last.saturating_add(1)), "setting the next id").await?;
        }
        // For those who listen: there is much to read.
        let notify = format!("SELECT pg_notify('eventsinsert', '{{\"table\" : \"events\", \"id\" : {last}}}')");
        self.run(&notify, "notifying").await?;
        self.run("COMMIT", "committing the next id").await?;
        Ok(next.max(last.saturating_add(1)))
    }
}
