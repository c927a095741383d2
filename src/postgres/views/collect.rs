//! What a batch asks for, collected before any of it is sent: statements with their values, and the latest rows.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream::{FuturesOrdered, StreamExt};
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Statement};

use super::check::Prepared;
use super::session::{Trouble, is_of_the_store, words};
use super::text::AsText;
use crate::model::{
    Change, Fingerprint, Op, Position, Row, TableDef, TableName, decode_changes, decode_table, encode_changes,
    encode_table, limits,
};
use crate::view::{Effects, Script, Seen, Slot, ViewError};

/// A statement that is to be carried out.
struct Run {
    statement: usize,
    position: Position,
    values: Vec<AsText>,
}

type Key = (TableName, Vec<u8>);
type Latest = Option<(Arc<TableDef>, Row)>;

/// Statements and rows of one transaction.
pub(super) struct Collected {
    script: Arc<Script>,
    /// For each statement, which of its parameters each of its values is.
    given: Arc<Vec<Prepared>>,
    runs: Vec<Run>,
    bytes: usize,
    /// Rows by key, as far as they were asked for or written.
    rows: BTreeMap<Key, Latest>,
    written: BTreeSet<Key>,
    cleared: BTreeSet<TableName>,
    /// Says of which transaction what follows is, where somebody is told.
    mark: Option<Statement>,
    marked: Option<Position>,
}

impl Collected {
    pub(super) fn new(script: Arc<Script>, given: Arc<Vec<Prepared>>, mark: Option<Statement>) -> Collected {
        Collected {
            script,
            given,
            runs: Vec::new(),
            bytes: 0,
            rows: BTreeMap::new(),
            written: BTreeSet::new(),
            cleared: BTreeSet::new(),
            mark,
            marked: None,
        }
    }

    /// Whether so much has come together that it is sent.
    pub(super) fn is_much(&self) -> bool {
        self.runs.len() >= limits::VIEW_SENT_STATEMENTS || self.bytes >= limits::VIEW_SENT_BYTES
    }

    /// How many rows are in memory.
    pub(super) fn rows(&self) -> usize {
        self.rows.len()
    }

    /// Rows that are written down need not be in memory.
    pub(super) fn forget_rows(&mut self) {
        self.rows.clear();
    }

    /// Sends the statements, all at once, and waits for them.
    pub(super) async fn send(&mut self, client: &Client) -> Result<(), Trouble> {
        let runs = std::mem::take(&mut self.runs);
        self.bytes = 0;
        let prepared = &self.given;
        for some in runs.chunks(limits::VIEW_SENT_STATEMENTS) {
            let marks = marks(self.mark.as_ref(), &mut self.marked, some);
            let mut sent: Vec<(&Statement, &[AsText], &Run)> = Vec::with_capacity(some.len());
            for (run, mark) in some.iter().zip(&marks) {
                if let (Some(place), Some(mark)) = (mark, &self.mark) {
                    sent.push((mark, place, run));
                }
                sent.push((&prepared[run.statement].statement, &run.values, run));
            }
            let mut flights: FuturesOrdered<_> = sent
                .iter()
                .map(|(statement, values, _)| async move {
                    let values: Vec<&(dyn ToSql + Sync)> = values.iter().map(|value| value as _).collect();
                    client.execute(*statement, &values).await
                })
                .collect();
            let mut at = 0;
            while let Some(done) = flights.next().await {
                if let Err(error) = done {
                    return Err(self.refused(sent[at].2, error));
                }
                at += 1;
            }
        }
        Ok(())
    }

    fn refused(&self, run: &Run, error: tokio_postgres::Error) -> Trouble {
        match error.as_db_error().filter(|_| !is_of_the_store(&error)) {
            Some(db) => Trouble::View(self.script.failed(run.statement, run.position, words(db))),
            None => Trouble::Server(error),
        }
    }

    /// Reads the latest rows with these keys, those that are not known yet.
    pub(super) async fn prefetch(&mut self, client: &Client, keys: Vec<Key>) -> Result<(), Trouble> {
        let wanted: Vec<Key> =
            keys.into_iter().filter(|key| !self.rows.contains_key(key) && !self.cleared.contains(&key.0)).collect();
        for some in wanted.chunks(limits::VIEW_SENT_STATEMENTS) {
            let tables: Vec<&str> = some.iter().map(|(table, _)| table.as_str()).collect();
            let forms: Vec<&[u8]> = some.iter().map(|(_, form)| form.as_slice()).collect();
            let sql = "SELECT r.table_name, r.key, r.content, t.definition FROM watershed_view_row r
                       JOIN watershed_view_table t USING (fingerprint)
                       JOIN unnest($1::text[], $2::bytea[]) AS k(t, k) ON r.table_name = k.t AND r.key = k.k";
            let found = client.query(sql, &[&tables, &forms]).await?;
            for key in some {
                self.rows.insert(key.clone(), None);
            }
            let mut defs: BTreeMap<Vec<u8>, Arc<TableDef>> = BTreeMap::new();
            for row in found {
                let damaged = |why: String| Trouble::failed(format!("a kept row: {why}"));
                let table: &str = row.get(0);
                let table: TableName = table.parse().map_err(|error| damaged(format!("{error}")))?;
                let bytes: Vec<u8> = row.get(3);
                let def = match defs.get(&bytes) {
                    Some(def) => def.clone(),
                    None => {
                        let def = Arc::new(decode_table(&bytes).map_err(|error| damaged(error.to_string()))?);
                        defs.insert(bytes, def.clone());
                        def
                    }
                };
                let content: Vec<u8> = row.get(2);
                let changes = decode_changes(&Bytes::from(content)).map_err(|error| damaged(error.to_string()))?;
                let latest = changes.into_iter().next().and_then(|change| change.row);
                let latest = latest.filter(|row| row.len() == def.columns.len());
                let latest = latest.ok_or_else(|| damaged("it does not fit its table".into()))?;
                self.rows.insert((table, row.get(1)), Some((def, latest)));
            }
        }
        Ok(())
    }

    /// Writes the latest rows that have changed.
    pub(super) async fn keep_rows(&mut self, client: &Client) -> Result<(), Trouble> {
        for table in std::mem::take(&mut self.cleared) {
            client.execute("DELETE FROM watershed_view_row WHERE table_name = $1", &[&table.as_str()]).await?;
        }
        let mut defs: BTreeMap<Fingerprint, Arc<TableDef>> = BTreeMap::new();
        let (mut gone, mut kept) = (Vec::new(), Vec::new());
        for key in std::mem::take(&mut self.written) {
            match self.rows.get(&key).and_then(Option::as_ref) {
                None => gone.push(key),
                Some((def, row)) => {
                    defs.insert(def.fingerprint, def.clone());
                    let change = Change { table: 0, op: Op::Insert, row: Some(row.clone()), old: None };
                    kept.push((key, def.fingerprint.to_string(), encode_changes(&[change]).to_vec()));
                }
            }
        }
        for (fingerprint, def) in defs {
            let sql = "INSERT INTO watershed_view_table VALUES ($1, $2) ON CONFLICT DO NOTHING";
            client.execute(sql, &[&fingerprint.to_string(), &encode_table(&def)]).await?;
        }
        if !gone.is_empty() {
            let tables: Vec<&str> = gone.iter().map(|(table, _)| table.as_str()).collect();
            let forms: Vec<&[u8]> = gone.iter().map(|(_, form)| form.as_slice()).collect();
            let sql = "DELETE FROM watershed_view_row r USING unnest($1::text[], $2::bytea[]) AS k(t, k)
                       WHERE r.table_name = k.t AND r.key = k.k";
            client.execute(sql, &[&tables, &forms]).await?;
        }
        if !kept.is_empty() {
            let tables: Vec<&str> = kept.iter().map(|((table, _), _, _)| table.as_str()).collect();
            let forms: Vec<&[u8]> = kept.iter().map(|((_, form), _, _)| form.as_slice()).collect();
            let fingerprints: Vec<&str> = kept.iter().map(|(_, fingerprint, _)| fingerprint.as_str()).collect();
            let contents: Vec<&[u8]> = kept.iter().map(|(_, _, content)| content.as_slice()).collect();
            let sql = "INSERT INTO watershed_view_row SELECT * FROM unnest($1::text[], $2::bytea[], $3::text[], $4::bytea[])
                       ON CONFLICT (table_name, key) DO UPDATE SET fingerprint = excluded.fingerprint, content = excluded.content";
            client.execute(sql, &[&tables, &forms, &fingerprints, &contents]).await?;
        }
        Ok(())
    }
}

/// Where the transaction of the log is another one than before, its place.
fn marks(mark: Option<&Statement>, marked: &mut Option<Position>, runs: &[Run]) -> Vec<Option<[AsText; 1]>> {
    let mut place = |run: &Run| {
        (mark.is_some() && marked.replace(run.position) != Some(run.position))
            .then(|| [AsText(Some(run.position.to_string()))])
    };
    runs.iter().map(&mut place).collect()
}

impl Effects for Collected {
    fn run(&mut self, number: usize, slots: &[Slot], seen: &Seen<'_>) -> Result<(), ViewError> {
        let position = seen.about.position;
        let mut values = Vec::with_capacity(slots.len());
        for &parameter in &self.given[number].given {
            let value = seen.cell(slots[parameter]).and_then(|cell| AsText::of(&cell));
            let value = value.map_err(|why| self.script.failed(number, position, why))?;
            self.bytes += 16 + value.0.as_ref().map_or(0, String::len);
            values.push(value);
        }
        self.runs.push(Run { statement: number, position, values });
        Ok(())
    }

    fn latest(&mut self, table: &TableName, key: &[u8]) -> Result<Latest, ViewError> {
        Ok(self.rows.get(&(table.clone(), key.to_vec())).cloned().flatten())
    }

    fn keep(&mut self, def: &Arc<TableDef>, key: &[u8], row: &Row) -> Result<(), ViewError> {
        let key = (def.name.clone(), key.to_vec());
        self.rows.insert(key.clone(), Some((def.clone(), row.clone())));
        self.written.insert(key);
        Ok(())
    }

    fn forget(&mut self, table: &TableName, key: Option<&[u8]>) -> Result<(), ViewError> {
        match key {
            Some(key) => {
                let key = (table.clone(), key.to_vec());
                self.rows.insert(key.clone(), None);
                self.written.insert(key);
            }
            None => {
                self.rows.iter_mut().filter(|((of, _), _)| of == table).for_each(|(_, row)| *row = None);
                self.written.retain(|(of, _)| of != table);
                self.cleared.insert(table.clone());
            }
        }
        Ok(())
    }
}
