//! Rows of events in the order of their transactions, gathered into entries.

use std::pin::Pin;

use futures_util::StreamExt;
use tokio_postgres::types::{FromSql, ToSql, Type};
use tokio_postgres::{CopyOutStream, RowStream, Statement};

use super::binary;
use crate::log::Limit;
use crate::model::{Event, EventEntries, EventTime, Logged, Position, ReadFrom, limits, put_event};
use crate::postgres::{PgError, Session};
use crate::view::EventIds;

/// Entries under construction.
pub(super) struct Gathering {
    ids: EventIds,
    limit: Limit,
    entries: EventEntries,
    open: Option<Open>,
    /// Where the entries gathered so far end.
    pub(super) next: ReadFrom,
}

/// A transaction whose end has not been seen.
pub(super) struct Open {
    /// What its events have in common: their time, or their transaction's number.
    mark: i64,
    position: Position,
    time: EventTime,
    changes: Vec<u8>,
    part: u32,
}

impl Gathering {
    pub(super) fn new(ids: EventIds, from: ReadFrom, limit: Limit, open: Option<Open>) -> Gathering {
        let entries = EventEntries::with_capacity(limit.bytes.min(limits::PART_BYTES_TARGET));
        Gathering { ids, limit, entries, open, next: from }
    }

    /// Whether a read should return what there is.
    pub(super) fn is_full(&self) -> bool {
        self.entries.bytes() >= self.limit.bytes || self.entries.count() >= self.limit.entries
    }

    pub(super) fn add(&mut self, transaction: u64, event: Event<'_>) {
        let mark = match self.ids {
            EventIds::Table => event.time.0,
            EventIds::Sequence => transaction as i64,
        };
        if self.open.as_ref().is_some_and(|open| open.mark != mark) {
            self.close();
        }
        let fresh = || Open { mark, position: Position::ZERO, time: event.time, changes: Vec::new(), part: 0 };
        let open = self.open.get_or_insert_with(fresh);
        if open.changes.len() >= limits::PART_BYTES_TARGET {
            let part = open.part;
            self.put(true);
            let open = self.open.as_mut().expect("it was there before");
            open.part = part + 1;
            open.changes.clear();
        }
        let open = self.open.as_mut().expect("it was just inserted");
        // The greatest id so far: of a transaction in parts only the last one's position is the transaction's.
        open.position = match self.ids {
            EventIds::Table => Position(event.id as u64),
            EventIds::Sequence => Position(transaction),
        };
        put_event(&mut open.changes, event);
    }

    /// The open transaction is complete.
    pub(super) fn close(&mut self) {
        if self.open.is_some() {
            self.put(false);
            self.open = None;
        }
    }

    fn put(&mut self, more: bool) {
        let Some(open) = &self.open else { return };
        self.entries.put(open.position, open.time, open.part, more, &open.changes);
        self.next = match more {
            true => ReadFrom { after: self.next.after, part: open.part + 1 },
            false => open.position.into(),
        };
    }

    /// The transaction that was left open.
    pub(super) fn take_open(&mut self) -> Option<Open> {
        self.open.take()
    }

    /// The entries.
    pub(super) fn finish(self) -> Vec<Logged> {
        self.entries.finish()
    }
}

/// A query whose rows are being read.
pub(super) struct Scan {
    rows: Rows,
    with_transaction: bool,
    limit: u32,
    count: u32,
    /// The last row's transaction (0 where ids come from a table) and id.
    pub(super) last: (u64, i64),
}

enum Rows {
    /// For few rows: one message there, one back.
    Query(Pin<Box<RowStream>>),
    /// For many.
    Copy(Pin<Box<CopyOutStream>>),
}

/// A value's bytes as they come.
struct Raw<'a>(&'a [u8]);

impl<'a> FromSql<'a> for Raw<'a> {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        Ok(Raw(raw))
    }
    fn accepts(_: &Type) -> bool {
        true
    }
}

impl Raw<'_> {
    fn long(&self) -> Option<i64> {
        Some(i64::from_be_bytes(self.0.try_into().ok()?))
    }
}

/// A transaction's number as a parameter.
#[derive(Debug)]
pub(super) struct Xid(pub(super) u64);

impl<'a> FromSql<'a> for Xid {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        Ok(Xid(u64::from_be_bytes(raw.try_into()?)))
    }
    fn accepts(ty: &Type) -> bool {
        *ty == Type::XID8
    }
}

impl ToSql for Xid {
    fn to_sql(
        &self,
        _: &Type,
        out: &mut bytes::BytesMut,
    ) -> Result<tokio_postgres::types::IsNull, Box<dyn std::error::Error + Sync + Send>> {
        out.extend_from_slice(&self.0.to_be_bytes());
        Ok(tokio_postgres::types::IsNull::No)
    }
    fn accepts(ty: &Type) -> bool {
        *ty == Type::XID8
    }
    tokio_postgres::types::to_sql_checked!();
}

/// The statement that reads at most `limit` rows after the one given; `after` are two expressions, of the transaction
/// and of the id.
fn statement(ids: EventIds, after: (&str, &str), limit: u32) -> String {
    match ids {
        EventIds::Table => format!("SELECT id, ts, event FROM events WHERE id > {} ORDER BY id LIMIT {limit}", after.1),
        // Every transaction below the snapshot's horizon has ended, and no later one gets a number below it: so none
        // is skipped that commits late. (postgresql.org/docs/15/functions-info.html, pg_snapshot_xmin)
        EventIds::Sequence => format!(
            "SELECT t.transaction, e.id, e.ts, e.event FROM event_transactions t JOIN events e ON e.id = t.id \
             WHERE (t.transaction, t.id) > ({}, {}) AND t.transaction < pg_snapshot_xmin(pg_current_snapshot()) \
             ORDER BY t.transaction, t.id LIMIT {limit}",
            after.0, after.1
        ),
    }
}

impl Scan {
    /// The statement for few rows.
    pub(super) async fn prepare(session: &Session, ids: EventIds) -> Result<Statement, PgError> {
        let text = match ids {
            EventIds::Table => statement(ids, ("", "$1"), limits::EVENTS_SCAN_ROWS_FEW),
            EventIds::Sequence => statement(ids, ("$1", "$2"), limits::EVENTS_SCAN_ROWS_FEW),
        };
        session.client.prepare(&text).await.map_err(|e| session.endpoint().failed("preparing to read events", e))
    }

    /// At most [`limits::EVENTS_SCAN_ROWS_FEW`] rows after `last`.
    pub(super) async fn few(
        session: &Session,
        ids: EventIds,
        few: &Statement,
        last: (u64, i64),
    ) -> Result<Scan, PgError> {
        let xid = Xid(last.0);
        let both: [&(dyn ToSql + Sync); 2] = [&xid, &last.1];
        let parameters = if ids == EventIds::Sequence { &both[..] } else { &both[1..] };
        let rows = session.client.query_raw(few, parameters.iter().copied()).await;
        let rows = rows.map_err(|e| session.endpoint().failed("reading events", e))?;
        Ok(Scan::over(Rows::Query(Box::pin(rows)), ids, limits::EVENTS_SCAN_ROWS_FEW, last))
    }

    /// At most [`limits::EVENTS_SCAN_ROWS_MANY`] rows after `last`.
    pub(super) async fn many(session: &Session, ids: EventIds, last: (u64, i64)) -> Result<Scan, PgError> {
        let after = (format!("'{}'::xid8", last.0), format!("({})", last.1));
        let query = statement(ids, (&after.0, &after.1), limits::EVENTS_SCAN_ROWS_MANY);
        let rows = session.client.copy_out(&format!("COPY ({query}) TO STDOUT (FORMAT binary)")).await;
        let rows = rows.map_err(|e| session.endpoint().failed("reading events", e))?;
        Ok(Scan::over(Rows::Copy(Box::pin(rows)), ids, limits::EVENTS_SCAN_ROWS_MANY, last))
    }

    fn over(rows: Rows, ids: EventIds, limit: u32, last: (u64, i64)) -> Scan {
        Scan { rows, with_transaction: ids == EventIds::Sequence, limit, count: 0, last }
    }

    /// Whether the query ended because of its limit.
    pub(super) fn was_cut(&self) -> bool {
        self.count == self.limit
    }

    /// Gathers rows until the gathering is full; `true` when the query has no more.
    pub(super) async fn gather(&mut self, session: &Session, into: &mut Gathering) -> Result<bool, PgError> {
        let endpoint = session.endpoint();
        let failed = |e| endpoint.failed("reading events", e);
        while !into.is_full() {
            let (transaction, id) = match &mut self.rows {
                Rows::Query(rows) => {
                    let Some(row) = rows.next().await.transpose().map_err(failed)? else { return Ok(true) };
                    let at = usize::from(self.with_transaction);
                    let transaction = if self.with_transaction { row.get::<_, Raw>(0).long() } else { Some(0) };
                    let (id, time) = (row.get::<_, Raw>(at).long(), row.get::<_, Raw>(at + 1).long());
                    let json = row.get::<_, Raw>(at + 2).0.strip_prefix(&[1]);
                    let (Some(transaction), Some(id), Some(time), Some(json)) = (transaction, id, time, json) else {
                        return Err(
                            endpoint.unexpected("reading events", "a row that is not (bigint, timestamptz, jsonb)")
                        );
                    };
                    into.add(transaction as u64, Event { id, time: EventTime(time), json });
                    (transaction as u64, id)
                }
                Rows::Copy(rows) => {
                    let Some(bytes) = rows.next().await.transpose().map_err(failed)? else { return Ok(true) };
                    let row = binary::row(&bytes, self.with_transaction);
                    let row = row.map_err(|why| endpoint.unexpected("reading events", why))?;
                    let Some((transaction, event)) = row else { continue };
                    into.add(transaction, event);
                    (transaction, event.id)
                }
            };
            self.count += 1;
            self.last = (transaction, id);
        }
        Ok(false)
    }
}
