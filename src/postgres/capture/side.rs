//! What is asked of the database beside the stream, over a connection of its own.

use std::collections::HashMap;
use std::time::Instant;

use tokio_postgres::error::SqlState;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Error};

use super::failure::{self, Failed};
use super::gather::Moved;
use crate::model::{Kind, Row, TableDef, TableName, Value, limits};
use crate::postgres::replication::Lsn;
use crate::postgres::replication::pgoutput::{Tuple, TupleValue};
use crate::postgres::tables::{SESSION, qualified, quoted};
use crate::postgres::{Endpoint, PgError, Session};

/// A page of the server's log, and the headers that stand before a record at its beginning. (xlog_internal.h)
const PAGE_BYTES: u64 = 8192;
const PAGE_HEADER_BYTES: u64 = 24;
const SEGMENT_HEADER_BYTES: u64 = 40;

/// A connection for questions.
pub(super) struct Side {
    session: Session,
    /// The last transaction that was seen to be visible.
    visible: Option<u32>,
    /// Tables that somebody has locked, and until when they are not asked again.
    locked: HashMap<TableName, Instant>,
}

impl Side {
    /// Connects.
    pub async fn open(endpoint: &Endpoint) -> Result<Side, Failed> {
        let session =
            endpoint.connect(limits::CAPTURE_CONNECT_TIMEOUT).await.map_err(|error| failure::asked(&error))?;
        let mut side = Side { session, visible: None, locked: HashMap::new() };
        side.ask("setting up the session", async |client| {
            client.batch_execute(SESSION).await?;
            // What is noted of what was read is on the server's disk; standbys are not waited for.
            let own = "set lock_timeout = '5s'; set idle_in_transaction_session_timeout = '60s'; set synchronous_commit = local";
            client.batch_execute(own).await
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
        if self.visible == Some(xid) {
            return Ok(());
        }
        let sql = "select (xmax - $1) & 4294967295 between 1 and 2147483648 and not $1 = any (running) from (select \
                     pg_snapshot_xmax(s)::text::bigint as xmax, \
                     array(select x::text::bigint & 4294967295 from pg_snapshot_xip(s) x) as running \
                   from pg_current_snapshot() s) t";
        let began = Instant::now();
        loop {
            let seen = async |client: &mut Client| client.query_one(sql, &[&i64::from(xid)]).await?.try_get(0);
            if self.ask("looking whether a transaction can be seen", seen).await? {
                self.visible = Some(xid);
                return Ok(());
            }
            if began.elapsed() > limits::CAPTURE_ASK_TIMEOUT {
                // A standby that the server waits for is away, perhaps.
                return Err(failure::unseen(xid));
            }
            tokio::time::sleep(std::time::Duration::from_micros(500)).await;
        }
    }

    /// The columns that were not sent with an update, as they are now. Where the row is gone, or has moved on, what did that
    /// stands behind in the log, and the columns stay unchanged.
    pub async fn fill(&mut self, moved: &Moved) -> Result<Filled, Failed> {
        let def = &moved.known.def;
        let mut new = moved.new.row();
        let old = moved.old.as_ref().map(|old| key_row(old, &moved.known.key));
        // A key that is stored apart itself is told with the old row.
        for at in def.key_columns() {
            if new[at].kind == Kind::Unchanged
                && let Some(old) = &old
            {
                new[at] = old[at].clone();
            }
        }
        let lacking: Vec<usize> = (0..new.len()).filter(|&at| new[at].kind == Kind::Unchanged).collect();
        if lacking.is_empty() {
            return Ok(Filled { new, old, is_whole: true, is_locked: false });
        }
        let (row, is_locked) = match (one_row(def, &lacking, &new), moved.xid) {
            (Some((sql, key)), Some(xid)) => self.row(def, &sql, &key, xid).await?,
            _ => (None, false),
        };
        let is_whole = row.is_some();
        if let Some(row) = row {
            for (place, at) in lacking.into_iter().enumerate() {
                let text: Option<String> = row.try_get(place).unwrap_or_default();
                new[at] = text.map_or(Value::NULL, |text| Value::new(Kind::Typed, text));
            }
        }
        Ok(Filled { new, old, is_whole, is_locked })
    }

    /// Reads one row as it is after a transaction; says whether somebody has locked the table.
    async fn row(
        &mut self,
        def: &TableDef,
        sql: &str,
        key: &[String],
        xid: u32,
    ) -> Result<(Option<tokio_postgres::Row>, bool), Failed> {
        let now = Instant::now();
        // A table that is locked for long would hold up all others with each of its rows.
        if self.locked.get(&def.name).is_some_and(|until| *until > now) {
            return Ok((None, true));
        }
        self.visible(xid).await?;
        let asking = async |client: &mut Client| {
            let keys: Vec<&(dyn ToSql + Sync)> = key.iter().map(|text| text as _).collect();
            match client.query_opt(sql, &keys).await {
                Err(error) if error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE) => Ok((None, true)),
                row => row.map(|row| (row, false)),
            }
        };
        match self.ask("reading a row", asking).await {
            // The table has changed meanwhile; its old columns cannot be read any more.
            Err(error) if error.kind == crate::log::CaptureTrouble::Failed => {
                tracing::warn!("values of {} that were not sent cannot be read: {error}", def.name);
                Ok((None, false))
            }
            Ok((_, true)) => {
                self.locked.retain(|_, until| *until > now);
                self.locked.insert(def.name.clone(), Instant::now() + limits::CAPTURE_LOCKED_PAUSE);
                Ok((None, true))
            }
            read => read,
        }
    }
}

/// An update with the values that were not sent.
pub(super) struct Filled {
    pub new: Row,
    /// Its key before, where that was told.
    pub old: Option<Row>,
    /// All values are known.
    pub is_whole: bool,
    /// They could not be read because the table is locked.
    pub is_locked: bool,
}

/// An old row of which the key was told.
fn key_row(old: &Tuple, key: &[bool]) -> Row {
    let values = old.values().zip(key.iter()).map(|(value, is_key)| match value {
        TupleValue::Text(text) if *is_key => Value { kind: Kind::Typed, text: old.share(text) },
        TupleValue::Null if *is_key => Value::NULL,
        _ => Value::UNCHANGED,
    });
    values.collect()
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
