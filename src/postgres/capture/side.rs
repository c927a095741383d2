//! What is asked of the database beside the stream, over a connection of its own.

use tokio_postgres::{Client, Error};

use super::failure::{self, Failed};
use super::gather::Moved;
use crate::model::{Kind, Row, TableDef, Value, limits};
use crate::postgres::replication::Lsn;
use crate::postgres::replication::pgoutput::TupleValue;
use crate::postgres::tables::{SESSION, qualified, quoted};
use crate::postgres::{Endpoint, PgError, Session};

/// A page of the server's log, and the headers that stand before a record at its beginning. (xlog_internal.h)
const PAGE_BYTES: u64 = 8192;
const PAGE_HEADER_BYTES: u64 = 24;
const SEGMENT_HEADER_BYTES: u64 = 40;

/// A connection for questions.
pub(super) struct Side {
    session: Session,
}

impl Side {
    /// Connects.
    pub async fn open(endpoint: &Endpoint) -> Result<Side, Failed> {
        let session =
            endpoint.connect(limits::CAPTURE_CONNECT_TIMEOUT).await.map_err(|error| failure::asked(&error))?;
        let mut side = Side { session };
        side.ask("setting up the session", async |client| {
            client.batch_execute(SESSION).await?;
            client.batch_execute("set lock_timeout = '5s'; set idle_in_transaction_session_timeout = '60s'").await
        })
        .await?;
        Ok(side)
    }

    /// Asks, within [`limits::CAPTURE_ASK_TIMEOUT`].
    pub async fn ask<T>(
        &mut self,
        doing: &str,
        asking: impl AsyncFnOnce(&mut Client) -> Result<T, Error>,
    ) -> Result<T, Failed> {
        let limit = limits::CAPTURE_ASK_TIMEOUT;
        let endpoint = self.session.endpoint().clone();
        let answered = tokio::time::timeout(limit, asking(&mut self.session.client)).await;
        let answered = answered.map_err(|_| PgError::Timeout { url: endpoint.name().to_string(), limit });
        let answer = answered.and_then(|answer| answer.map_err(|error| endpoint.failed(doing, error)));
        answer.map_err(|error| failure::asked(&error))
    }

    /// Where the server's log ends: what has committed stands before it.
    pub async fn log_end(&mut self) -> Result<Lsn, Failed> {
        let sql = "select (pg_current_wal_insert_lsn() - '0/0')::text";
        let text: String = self
            .ask("asking where the server's log ends", async |client| client.query_one(sql, &[]).await?.try_get(0))
            .await?;
        Ok(Lsn(before_headers(text.parse().unwrap_or_default())))
    }

    /// Waits until what a committed transaction has written can be seen. The server sends it once its commit is durable,
    /// which is a moment before others see it: until then a row would seem to be missing, or be that of before.
    async fn visible(&mut self, xid: u32) -> Result<(), Failed> {
        let sql = "select (xmax - $1) & 4294967295 between 1 and 2147483648 and not $1 = any (running) from (select \
                     pg_snapshot_xmax(s)::text::bigint as xmax, \
                     array(select x::text::bigint & 4294967295 from pg_snapshot_xip(s) x) as running \
                   from pg_current_snapshot() s) t";
        let began = std::time::Instant::now();
        loop {
            let seen = async |client: &mut Client| client.query_one(sql, &[&i64::from(xid)]).await?.try_get(0);
            if self.ask("looking whether a transaction can be seen", seen).await? {
                return Ok(());
            }
            if began.elapsed() > limits::CAPTURE_ASK_TIMEOUT {
                return Err(failure::stream(format!("transaction {xid} has committed and cannot be seen")));
            }
            tokio::time::sleep(std::time::Duration::from_micros(500)).await;
        }
    }

    /// The columns that were not sent with an update that changed the key, as they are now. Where the row is gone, or has
    /// moved on, what did that stands behind in the log, and the columns stay unchanged until then.
    pub async fn fill(&mut self, moved: &Moved) -> Result<(Row, Row), Failed> {
        let def = &moved.known.def;
        let mut new = moved.new.row();
        let lacking: Vec<usize> = (0..new.len()).filter(|&at| new[at].kind == Kind::Unchanged).collect();
        let old = moved.old.values().zip(moved.known.key.iter()).map(|(value, is_key)| match value {
            TupleValue::Text(text) if *is_key => Value { kind: Kind::Typed, text: moved.old.share(text) },
            TupleValue::Null if *is_key => Value::NULL,
            _ => Value::UNCHANGED,
        });
        let old: Row = old.collect();
        let Some((sql, key)) = one_row(def, &lacking, &new) else { return Ok((new, old)) };
        let Some(xid) = moved.xid else { return Ok((new, old)) };
        self.visible(xid).await?;
        let keys: Vec<&(dyn tokio_postgres::types::ToSql + Sync)> = key.iter().map(|text| text as _).collect();
        let row = self.ask("reading a row", async |client| client.query_opt(&sql, &keys).await).await;
        let row = match row {
            // The table has changed meanwhile; its old columns cannot be read any more.
            Err(error) if error.kind == crate::log::CaptureTrouble::Failed => {
                tracing::warn!("values of {} that were not sent cannot be read: {error}", def.name);
                None
            }
            row => row?,
        };
        if let Some(row) = row {
            for (place, at) in lacking.into_iter().enumerate() {
                let text: Option<String> = row.try_get(place).unwrap_or_default();
                new[at] = text.map_or(Value::NULL, |text| Value::new(Kind::Typed, text));
            }
        }
        Ok((new, old))
    }
}

/// Reads some columns of the row with the key that `new` has.
fn one_row(def: &TableDef, columns: &[usize], new: &Row) -> Option<(String, Vec<String>)> {
    let mut conditions = Vec::new();
    let mut key = Vec::new();
    for at in def.key_columns() {
        let value = new.get(at).filter(|value| value.kind == Kind::Typed)?;
        key.push(String::from_utf8(value.text.to_vec()).ok()?);
        let column = &def.columns[at];
        conditions.push(format!("{} = ${}::text::{}", quoted(&column.name), key.len(), column.type_name));
    }
    if conditions.is_empty() {
        return None;
    }
    let columns: Vec<String> = columns.iter().map(|&at| format!("{}::text", quoted(&def.columns[at].name))).collect();
    let (table, conditions) = (qualified(&def.name), conditions.join(" and "));
    Some((format!("select {} from {table} where {conditions}", columns.join(", ")), key))
}

/// The place where the next record is to begin stands behind the header of its page; where the last one ended stands
/// before it.
fn before_headers(lsn: u64) -> u64 {
    match lsn % PAGE_BYTES {
        header @ (PAGE_HEADER_BYTES | SEGMENT_HEADER_BYTES) => lsn - header,
        _ => lsn,
    }
}
