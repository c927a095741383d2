//! What transactions have come to, written down for those who are told.

use std::collections::HashMap;
use std::sync::Arc;

use serde_json::{Map, Value as Json};
use tokio_postgres::Client;

use super::answer::json;
use super::notes::{NotedTable, Notes};
use super::session::Trouble;
use crate::model::{Change, Cursor, Kind, Op, Position, Row, TableDef, Value, encode_changes, limits};
use crate::view::Cause;

/// A row as the server gives it.
pub(super) type Texts = Vec<Option<String>>;

/// A state of a row that is gone, of which nobody knows yet what has come in its place.
struct Gone {
    position: Position,
    table: usize,
    key: Texts,
    state: Texts,
}

/// What is written down at the end of a transaction of the store.
pub(super) struct Kept<'k> {
    notes: &'k Notes,
    client: &'k Client,
    causes: &'k HashMap<Position, Cause>,
    upto: String,
    /// The last numbers.
    change: i64,
    out: i64,
    gone: Option<Gone>,
    /// Of the transaction of the log that is being collected.
    position: Position,
    changes: Vec<Change>,
    bytes: usize,
    /// Some parts of it have been written.
    is_large: bool,
}

/// A row as the log has it.
pub(super) fn row(texts: &Texts) -> Row {
    let value = |text: &Option<String>| match text {
        Some(text) => Value::new(Kind::Typed, text.clone()),
        None => Value::NULL,
    };
    texts.iter().map(value).collect()
}

/// A row as answers have it.
pub(super) fn object(table: &NotedTable, texts: &Texts) -> Json {
    let values = table.def.columns.iter().zip(&table.types).zip(texts);
    Json::Object(
        values
            .map(|((column, of), text)| (column.name.to_string(), json(text.as_deref(), of)))
            .collect::<Map<String, Json>>(),
    )
}

pub(super) fn fingerprints<'t>(tables: impl Iterator<Item = &'t Arc<TableDef>>) -> String {
    tables.map(|table| table.fingerprint.to_string()).collect::<Vec<_>>().join(",")
}

impl<'k> Kept<'k> {
    pub(super) fn new(
        notes: &'k Notes,
        client: &'k Client,
        causes: &'k HashMap<Position, Cause>,
        upto: Cursor,
        (change, out): (i64, i64),
    ) -> Kept<'k> {
        Kept {
            notes,
            client,
            causes,
            upto: upto.to_string(),
            change,
            out,
            gone: None,
            position: Position::ZERO,
            changes: Vec::new(),
            bytes: 0,
            is_large: false,
        }
    }

    /// Takes a state that was made (`count` below 0) or ended; of one key first the one that ended.
    pub(super) async fn state(
        &mut self,
        position: Position,
        name: &str,
        key: Texts,
        state: Texts,
        count: i64,
    ) -> Result<(), Trouble> {
        let table = self.notes.tables.iter().position(|table| table.def.name.as_str() == name);
        let table = table.ok_or_else(|| Trouble::failed(format!("a change of {name} was noted, which is no table")))?;
        let before = self.gone.take();
        let same = |gone: &Gone| gone.position == position && gone.table == table && gone.key == key;
        let is_keyed = !self.notes.tables[table].keys.is_empty();
        match before {
            Some(gone) if count < 0 && is_keyed && same(&gone) => {
                return self.change(position, table, Some(gone.state), Some(state)).await;
            }
            Some(gone) => self.change(gone.position, gone.table, Some(gone.state), None).await?,
            None => {}
        }
        if count > 0 && is_keyed {
            self.gone = Some(Gone { position, table, key, state });
            return Ok(());
        }
        for _ in 0..count.unsigned_abs() {
            let (old, new) = if count > 0 { (Some(state.clone()), None) } else { (None, Some(state.clone())) };
            self.change(position, table, old, new).await?;
        }
        Ok(())
    }

    /// Writes down what is left; the last numbers.
    pub(super) async fn end(mut self) -> Result<(i64, i64), Trouble> {
        if let Some(gone) = self.gone.take() {
            self.change(gone.position, gone.table, Some(gone.state), None).await?;
        }
        self.transaction_ends().await?;
        Ok((self.change, self.out))
    }

    async fn change(
        &mut self,
        position: Position,
        table: usize,
        old: Option<Texts>,
        new: Option<Texts>,
    ) -> Result<(), Trouble> {
        if position != self.position {
            self.transaction_ends().await?;
            self.position = position;
        }
        let op = match (&old, &new) {
            (None, _) => Op::Insert,
            (_, None) => Op::Delete,
            _ => Op::Update,
        };
        if self.notes.changes {
            self.tell(table, op, old.as_ref(), new.as_ref()).await?;
        }
        if self.notes.publish {
            let bytes = |texts: &Texts| texts.iter().flatten().map(|text| text.len() + 8).sum::<usize>();
            self.bytes += 16 + old.as_ref().map_or(0, bytes) + new.as_ref().map_or(0, bytes);
            if self.bytes > limits::ENTRY_BYTES_MAX / 2 {
                return Err(Trouble::failed(format!(
                    "a row of {} is too large to be published",
                    self.notes.tables[table].def.name
                )));
            }
            self.changes.push(Change { table, op, row: new.as_ref().map(row), old: old.as_ref().map(row) });
            if self.bytes >= limits::PART_BYTES_TARGET {
                self.is_large = true;
                self.put(true).await?;
            }
        }
        Ok(())
    }

    /// For whoever reads changes.
    async fn tell(&mut self, table: usize, op: Op, old: Option<&Texts>, new: Option<&Texts>) -> Result<(), Trouble> {
        self.change += 1;
        let table = &self.notes.tables[table];
        let shown = |texts: Option<&Texts>| texts.map(|texts| object(table, texts).to_string());
        let sql = "INSERT INTO watershed_view_change(number, cursor, name, op, before, after) VALUES ($1, $2, $3, $4, $5, $6)";
        let name = table.def.name.as_str();
        self.client.execute(sql, &[&self.change, &self.upto, &name, &op.name(), &shown(old), &shown(new)]).await?;
        Ok(())
    }

    async fn transaction_ends(&mut self) -> Result<(), Trouble> {
        if !self.changes.is_empty() || self.is_large {
            self.put(false).await?;
        }
        self.is_large = false;
        Ok(())
    }

    /// Writes down what is to be published: all of a transaction, or a part.
    async fn put(&mut self, more: bool) -> Result<(), Trouble> {
        let position = self.position;
        let cause = self.causes.get(&position);
        let cause = cause
            .ok_or_else(|| Trouble::failed(format!("changes were noted for position {position}, which is none")))?;
        let mut changes = std::mem::take(&mut self.changes);
        self.bytes = 0;
        let all = &self.notes.tables;
        let tables = match self.is_large {
            true => fingerprints(all.iter().map(|table| &table.def)),
            false => {
                let mut used: Vec<usize> = changes.iter().map(|change| change.table).collect();
                used.sort_unstable();
                used.dedup();
                for change in &mut changes {
                    change.table = used.binary_search(&change.table).unwrap_or_default();
                }
                fingerprints(used.iter().map(|&table| &all[table].def))
            }
        };
        self.out += 1;
        let Cause { cursor, time, correlation } = cause;
        let sql = "INSERT INTO watershed_view_out(number, cursor, time, correlation, more, tables, changes) VALUES ($1, $2, $3, $4, $5, $6, $7)";
        let (cursor, changes) = (cursor.to_string(), encode_changes(&changes));
        self.client
            .execute(sql, &[&self.out, &cursor, &time.0, &correlation.as_deref(), &more, &tables, &&changes[..]])
            .await?;
        Ok(())
    }
}
