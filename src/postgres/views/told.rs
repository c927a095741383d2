//! Gives what changes: to readers, and to whoever publishes.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use async_trait::async_trait;
use bytes::Bytes;
use serde_json::Value as Json;
use tokio::sync::{mpsc, oneshot};
use tokio_postgres::{IsolationLevel, Transaction};

use super::keep::{Texts, object, row};
use super::meta::{self, Found, quoted};
use super::notes::{self, NotedTable};
use super::session::{self, Trouble};
use super::store::Shared;
use crate::model::{Change, Op, TableDef, Timestamp, decode_table, encode_changes, limits};
use crate::postgres::Session;
use crate::view::{
    AskError, Cause, ChangesFrom, Outgoing, RowChange, ViewChanges, ViewError, ViewOutbox, Waiting, Whole,
};

/// Rows that are asked for at once; parts of what is published are larger.
const ROWS_AT_ONCE: i32 = 500;
const PARTS_AT_ONCE: i32 = 16;

/// The changes of a build.
pub(super) struct Tells(pub Arc<Shared>);

fn asked(error: ViewError) -> AskError {
    AskError::Failed(error.to_string())
}

/// One snapshot of the view's schema.
async fn snapshot<'s>(session: &'s mut Session, schema: &str) -> Result<Transaction<'s>, Trouble> {
    let transaction = session.client.build_transaction();
    let transaction = transaction.isolation_level(IsolationLevel::RepeatableRead).read_only(true).start().await?;
    transaction.batch_execute(&format!("SET LOCAL search_path = {}", quoted(schema))).await?;
    Ok(transaction)
}

/// The build that the schema has.
async fn build(transaction: &Transaction<'_>, schema: &str) -> Result<String, Trouble> {
    match meta::found(transaction, schema).await? {
        Found::View(meta) => Ok(format!("{:016x}", meta.build)),
        _ => Err(Trouble::failed(format!("schema {schema} is no view's any more"))),
    }
}

async fn changes_after(
    transaction: &Transaction<'_>,
    schema: &str,
    after: u64,
    most: usize,
) -> Result<ChangesFrom, Trouble> {
    let build = build(transaction, schema).await?;
    let sql = "SELECT change, coalesce((SELECT min(number) FROM watershed_view_change), change + 1) FROM watershed_view_noting";
    let row = transaction.query_one(sql, &[]).await?;
    let (last, first) = (row.get::<_, i64>(0).cast_unsigned(), row.get::<_, i64>(1).cast_unsigned());
    if after > last || after + 1 < first {
        return Ok(ChangesFrom { build, gone: true, changes: Vec::new(), last });
    }
    let sql = "SELECT number, cursor, name, op, before, after FROM watershed_view_change WHERE number > $1 ORDER BY number LIMIT $2";
    let rows = transaction.query(sql, &[&after.cast_signed(), &(most as i64)]).await?;
    let json = |text: Option<String>| text.map(|text| serde_json::from_str(&text).unwrap_or(Json::String(text)));
    let change = |row: &tokio_postgres::Row| RowChange {
        number: row.get::<_, i64>(0).cast_unsigned(),
        cursor: row.get(1),
        table: row.get(2),
        op: row.get(3),
        before: json(row.get(4)),
        after: json(row.get(5)),
    };
    Ok(ChangesFrom { build, gone: false, changes: rows.iter().map(change).collect(), last })
}

async fn at(transaction: &Transaction<'_>, schema: &str) -> Result<Waiting, Trouble> {
    let row = transaction.query_one("SELECT lineage, out, forgotten FROM watershed_view_noting", &[]).await?;
    let [lineage, last, forgotten] = [0, 1, 2].map(|index| row.get::<_, i64>(index).cast_unsigned());
    Ok(Waiting { lineage, last, forgotten, cursors: meta::cursors(transaction, schema).await?, parts: Vec::new() })
}

async fn waiting(
    transaction: &Transaction<'_>,
    schema: &str,
    after: u64,
    bytes_max: usize,
) -> Result<Waiting, Trouble> {
    let mut waiting = at(transaction, schema).await?;
    let mut known: Vec<(String, Arc<TableDef>)> = Vec::new();
    for row in transaction.query("SELECT fingerprint, definition FROM watershed_view_table", &[]).await? {
        let def = decode_table(row.get(1)).map_err(|error| Trouble::failed(error.to_string()))?;
        known.push((row.get(0), Arc::new(def)));
    }
    let sql = "SELECT number, cursor, time, correlation, more, tables, changes FROM watershed_view_out WHERE number > $1 ORDER BY number";
    let portal = transaction.bind(sql, &[&after.cast_signed()]).await?;
    let mut bytes = 0;
    while bytes < bytes_max {
        let rows = transaction.query_portal(&portal, PARTS_AT_ONCE).await?;
        for row in &rows {
            let (tables, changes, cursor): (&str, &[u8], &str) = (row.get(5), row.get(6), row.get(1));
            let table =
                |fingerprint: &str| known.iter().find(|(known, _)| known == fingerprint).map(|(_, def)| def.clone());
            let tables: Option<Vec<Arc<TableDef>>> = tables.split(',').map(table).collect();
            bytes += changes.len() + 128;
            waiting.parts.push(Outgoing {
                number: row.get::<_, i64>(0).cast_unsigned(),
                cause: Cause {
                    cursor: cursor.parse().map_err(|error| Trouble::failed(format!("watershed_view_out: {error}")))?,
                    time: Timestamp(row.get(2)),
                    correlation: row.get::<_, Option<&str>>(3).map(Into::into),
                },
                more: row.get(4),
                tables: tables.ok_or_else(|| Trouble::failed("watershed_view_out names an unknown table".into()))?,
                changes: Bytes::copy_from_slice(changes),
            });
        }
        if rows.len() < PARTS_AT_ONCE as usize {
            break;
        }
    }
    Ok(waiting)
}

/// Gives every row of a table, some at a time; false: nobody takes them.
async fn every_row<T>(
    transaction: &Transaction<'_>,
    schema: &str,
    table: &NotedTable,
    to: &mpsc::Sender<T>,
    made: impl Fn(Vec<Texts>) -> Vec<T>,
) -> Result<bool, Trouble> {
    let columns = table.def.columns.iter().map(|column| format!("t.{}::text", quoted(&column.name)));
    let (columns, name) = (columns.collect::<Vec<_>>().join(", "), quoted(table.def.name.as_str()));
    let sql = format!("SELECT ARRAY[{columns}]::text[] FROM {}.{name} AS t", quoted(schema));
    let portal = transaction.bind(&sql, &[]).await?;
    loop {
        let rows = transaction.query_portal(&portal, ROWS_AT_ONCE).await?;
        for one in made(rows.iter().map(|row| row.get(0)).collect()) {
            if to.send(one).await.is_err() {
                return Ok(false);
            }
        }
        if rows.len() < ROWS_AT_ONCE as usize {
            return Ok(true);
        }
    }
}

type RowsTo = mpsc::Sender<Result<RowChange, AskError>>;
type WholeTo = mpsc::Sender<Result<Option<Bytes>, ViewError>>;

impl Tells {
    /// With the session that is kept for this.
    async fn held(&self) -> Result<(tokio::sync::MutexGuard<'_, Option<Session>>, Session), ViewError> {
        let mut held = self.0.telling.lock().await;
        let session = match held.take().filter(|session| !session.client.is_closed()) {
            Some(session) => session,
            None => session::connect(&self.0.endpoint).await?,
        };
        Ok((held, session))
    }

    async fn rows_to(&self, to: &RowsTo) -> Result<(), Trouble> {
        let mut session = session::connect(&self.0.endpoint).await?;
        let schema = &*self.0.schema;
        let transaction = snapshot(&mut session, schema).await?;
        let last = transaction.query_one("SELECT change FROM watershed_view_noting", &[]).await?;
        let (number, build) = (last.get::<_, i64>(0).cast_unsigned(), build(&transaction, schema).await?);
        let cursors = meta::cursors(&transaction, schema).await?;
        let cursor = cursors.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
        let change = |table: String, op: &str, after| {
            let (cursor, op) = (cursor.clone(), op.to_owned());
            RowChange { number, cursor, table, op, before: None, after }
        };
        if to.send(Ok(change(build, "begin", None))).await.is_err() {
            return Ok(());
        }
        for table in notes::tables(&transaction, schema).await? {
            let name = table.def.name.as_str();
            let made = |rows: Vec<Texts>| {
                let row = |texts: &Texts| Ok(change(name.to_owned(), "row", Some(object(&table, texts))));
                rows.iter().map(row).collect()
            };
            if !every_row(&transaction, schema, &table, to, made).await? {
                return Ok(());
            }
        }
        Ok(())
    }

    async fn whole_to(
        &self,
        head: oneshot::Sender<(Waiting, Vec<Arc<TableDef>>)>,
        to: &WholeTo,
    ) -> Result<(), Trouble> {
        let mut session = session::connect(&self.0.endpoint).await?;
        let schema = &*self.0.schema;
        let transaction = snapshot(&mut session, schema).await?;
        let tables = notes::tables(&transaction, schema).await?;
        let defs = tables.iter().map(|table| table.def.clone()).collect();
        if head.send((at(&transaction, schema).await?, defs)).is_err() {
            return Ok(());
        }
        for (number, table) in tables.iter().enumerate() {
            let made = |rows: Vec<Texts>| pieces(number, rows).into_iter().map(|piece| Ok(Some(piece))).collect();
            if !every_row(&transaction, schema, table, to, made).await? {
                return Ok(());
            }
        }
        // Who does not take it has gone.
        let _ = to.send(Ok(None)).await;
        Ok(())
    }
}

/// Rows as inserts, in pieces that may stand in a part.
fn pieces(table: usize, rows: Vec<Texts>) -> Vec<Bytes> {
    let (mut pieces, mut some, mut bytes) = (Vec::new(), Vec::new(), 0);
    for texts in &rows {
        bytes += texts.iter().flatten().map(|text| text.len() + 8).sum::<usize>();
        some.push(Change { table, op: Op::Insert, row: Some(row(texts)), old: None });
        if bytes >= limits::PART_BYTES_TARGET / 2 {
            pieces.push(encode_changes(&std::mem::take(&mut some)));
            bytes = 0;
        }
    }
    if !some.is_empty() {
        pieces.push(encode_changes(&some));
    }
    pieces
}

#[async_trait]
impl ViewChanges for Tells {
    async fn after(&self, number: u64, most: usize) -> Result<ChangesFrom, AskError> {
        let (mut held, mut session) = self.held().await.map_err(asked)?;
        let read = async {
            let transaction = snapshot(&mut session, &self.0.schema).await?;
            let found = changes_after(&transaction, &self.0.schema, number, most).await?;
            transaction.rollback().await?;
            Ok(found)
        };
        let found = read.await.map_err(|trouble: Trouble| asked(self.0.told(trouble)))?;
        *held = Some(session);
        Ok(found)
    }

    async fn rows(&self) -> mpsc::Receiver<Result<RowChange, AskError>> {
        let (to, rows) = mpsc::channel(limits::VIEW_CHANGES_AT_ONCE);
        let here = Tells(self.0.clone());
        tokio::spawn(async move {
            if let Err(trouble) = here.rows_to(&to).await {
                // Who does not take it has gone.
                let _ = to.send(Err(asked(here.0.told(trouble)))).await;
            }
        });
        rows
    }
}

#[async_trait]
impl ViewOutbox for Tells {
    async fn after(&self, number: u64, bytes_max: usize) -> Result<Waiting, ViewError> {
        let (mut held, mut session) = self.held().await?;
        let read = async {
            let transaction = snapshot(&mut session, &self.0.schema).await?;
            let found = waiting(&transaction, &self.0.schema, number, bytes_max).await?;
            transaction.rollback().await?;
            Ok(found)
        };
        let found = read.await.map_err(|trouble: Trouble| self.0.told(trouble))?;
        *held = Some(session);
        Ok(found)
    }

    fn forget(&self, upto: u64) {
        self.0.published.fetch_max(upto, Ordering::AcqRel);
    }

    async fn whole(&self) -> Result<Whole, ViewError> {
        let (to, mut rows) = mpsc::channel(limits::VIEW_OUT_PIECES);
        let (head, first) = oneshot::channel();
        let here = Tells(self.0.clone());
        tokio::spawn(async move {
            if let Err(trouble) = here.whole_to(head, &to).await {
                // Who does not take it has gone.
                let _ = to.send(Err(here.0.told(trouble))).await;
            }
        });
        match first.await {
            Ok((at, tables)) => Ok(Whole { at, tables, rows }),
            // It says why instead.
            Err(_) => match rows.recv().await {
                Some(Err(error)) => Err(error),
                _ => Err(ViewError::Retry("there is no snapshot of what is to be published".into())),
            },
        }
    }
}
