//! Gives what waits to be published.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use async_trait::async_trait;
use bytes::Bytes;
use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};

use super::store::Shared;
use super::{meta, outbox};
use crate::model::{Change, Op, TableDef, encode_changes, limits};
use crate::sqlite::connect::quote_ident;
use crate::sqlite::types::from_sql;
use crate::view::{ViewError, ViewOutbox, Waiting, Whole};

/// What a build publishes.
pub(super) struct Outgoings(pub Arc<Shared>);

/// The rows' end that reads, and what stands before them.
type Head = oneshot::Sender<(Waiting, Vec<Arc<TableDef>>)>;
type Rows = mpsc::Sender<Result<Option<Bytes>, ViewError>>;

fn at(conn: &Connection) -> rusqlite::Result<Waiting> {
    let waiting = outbox::lineage(conn)?;
    Ok(Waiting { cursors: meta::cursors(conn)?, ..waiting })
}

fn waiting(conn: &Connection, after: u64, bytes_max: usize) -> rusqlite::Result<Waiting> {
    let snapshot = conn.unchecked_transaction()?;
    Ok(Waiting { parts: outbox::read(&snapshot, after, bytes_max)?, ..at(&snapshot)? })
}

/// Gives every row in one snapshot; false: nobody takes them.
fn whole(conn: &Connection, head: Head, mut give: impl FnMut(Bytes) -> bool) -> rusqlite::Result<bool> {
    let snapshot = conn.unchecked_transaction()?;
    let tables = outbox::defined(&snapshot)?;
    if head.send((at(&snapshot)?, tables.clone())).is_err() {
        return Ok(false);
    }
    for (table, def) in tables.iter().enumerate() {
        let columns: Vec<String> = def.columns.iter().map(|column| quote_ident(&column.name)).collect();
        let sql = format!("SELECT {} FROM main.{}", columns.join(", "), quote_ident(def.name.as_str()));
        let mut statement = snapshot.prepare(&sql)?;
        let mut rows = statement.query([])?;
        let (mut some, mut bytes) = (Vec::new(), 0);
        loop {
            let row = rows.next()?;
            let is_last = row.is_none();
            if let Some(row) = row {
                let values = (0..def.columns.len()).map(|index| Ok(from_sql(row.get_ref(index)?)));
                let values = values.collect::<rusqlite::Result<Vec<_>>>()?;
                bytes += values.iter().map(|value| value.text.len() + 8).sum::<usize>();
                some.push(Change { table, op: Op::Insert, row: Some(values), old: None });
            }
            if (is_last || bytes >= limits::PART_BYTES_TARGET / 2) && !some.is_empty() {
                if !give(encode_changes(&std::mem::take(&mut some))) {
                    return Ok(false);
                }
                bytes = 0;
            }
            if is_last {
                break;
            }
        }
    }
    Ok(true)
}

impl Outgoings {
    /// Reads everything, some at a time.
    fn rows(&self, head: Head, to: &Rows) {
        let gone = |error: rusqlite::Error| self.0.fail(error);
        let done = match &self.0.readers {
            Some(readers) => readers.take().map_err(gone).and_then(|conn| {
                let done = whole(&conn, head, |rows| to.blocking_send(Ok(Some(rows))).is_ok()).map_err(gone)?;
                readers.give(conn);
                Ok(done)
            }),
            None => {
                // The only connection is not held up by a log that is slow.
                let mut all = Vec::new();
                let read = whole(&self.0.writer().conn, head, |rows| {
                    all.push(rows);
                    true
                });
                let mut all = all.into_iter();
                read.map(|_| all.all(|rows| to.blocking_send(Ok(Some(rows))).is_ok())).map_err(gone)
            }
        };
        // Who does not take it has gone.
        let _ = match done {
            Ok(true) => to.blocking_send(Ok(None)),
            Ok(false) => Ok(()),
            Err(error) => to.blocking_send(Err(error)),
        };
    }
}

fn ended(error: impl std::fmt::Display) -> ViewError {
    ViewError::Retry(format!("what is to be published was not read: {error}"))
}

#[async_trait]
impl ViewOutbox for Outgoings {
    async fn after(&self, number: u64, bytes_max: usize) -> Result<Waiting, ViewError> {
        let here = self.0.clone();
        let read = tokio::task::spawn_blocking(move || match &here.readers {
            Some(readers) => {
                let conn = readers.take().map_err(|error| here.fail(error))?;
                let read = waiting(&conn, number, bytes_max).map_err(|error| here.fail(error));
                if read.is_ok() {
                    readers.give(conn);
                }
                read
            }
            None => waiting(&here.writer().conn, number, bytes_max).map_err(|error| here.fail(error)),
        });
        read.await.map_err(ended)?
    }

    fn forget(&self, upto: u64) {
        self.0.published.fetch_max(upto, Ordering::AcqRel);
    }

    async fn whole(&self) -> Result<Whole, ViewError> {
        let (to, mut rows) = mpsc::channel(limits::VIEW_OUT_PIECES);
        let (head, first) = oneshot::channel();
        let here = Outgoings(self.0.clone());
        tokio::task::spawn_blocking(move || here.rows(head, &to));
        match first.await {
            Ok((at, tables)) => Ok(Whole { at, tables, rows }),
            // It says why instead.
            Err(_) => match rows.recv().await {
                Some(Err(error)) => Err(error),
                _ => Err(ended("there is no snapshot")),
            },
        }
    }
}
