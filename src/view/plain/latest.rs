//! `latest`: the last row of every key, found by the key and by the values of indexed columns.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::{self, Read, Write};
use std::sync::Arc;

use super::super::machine::{RowChange, Rows, Select, Transaction, put};
use super::super::member::{member_at, merged, plain};
use super::super::{AskError, Bounds, Question, ViewError};
use super::settings::LatestSettings;
use crate::model::{Op, TableName};

/// The last row of a key.
#[derive(Debug)]
struct Kept {
    position: u64,
    /// JSON, as it was sent. Its room is used again by the next row.
    row: String,
    /// Where the values of the indexed columns stand in it.
    indexed: Box<[Option<(u32, u32)>]>,
}

/// Keys by value.
type Index = HashMap<Box<str>, BTreeSet<Arc<str>>>;

#[derive(Debug, Default)]
struct Table {
    rows: HashMap<Arc<str>, Kept>,
    /// One for each indexed column.
    indexes: Vec<Index>,
}

/// The last row of every key of every table.
#[derive(Debug)]
pub(super) struct Latest {
    columns: Vec<String>,
    named: Vec<TableName>,
    tables: BTreeMap<TableName, Table>,
}

const COLUMNS: [&str; 3] = ["key", "row", "position"];

impl Kept {
    fn value(&self, index: usize) -> Option<Cow<'_, str>> {
        value(&self.row, self.indexed[index])
    }
}

/// What stands there in a row.
fn value(row: &str, place: Option<(u32, u32)>) -> Option<Cow<'_, str>> {
    place.map(|(start, end)| plain(&row[start as usize..end as usize]))
}

fn places(columns: &[String], row: &str) -> Box<[Option<(u32, u32)>]> {
    let place = |column: &String| member_at(row, column).map(|(start, end)| (start as u32, end as u32));
    columns.iter().map(place).collect()
}

impl Table {
    fn put(&mut self, columns: &[String], key: &str, position: u64, row: &str) {
        let Some(kept) = self.rows.get_mut(key) else {
            let key: Arc<str> = key.into();
            let kept = Kept { position, row: row.into(), indexed: places(columns, row) };
            for (index, keys) in self.indexes.iter_mut().enumerate() {
                if let Some(value) = kept.value(index) {
                    add(keys, &value, &key);
                }
            }
            self.rows.insert(key, kept);
            return;
        };
        kept.position = position;
        if columns.is_empty() {
            kept.row.clear();
            kept.row.push_str(row);
            return;
        }
        let new = places(columns, row);
        if (0..columns.len()).all(|index| value(&kept.row, kept.indexed[index]) == value(row, new[index])) {
            kept.row.clear();
            kept.row.push_str(row);
            kept.indexed = new;
            return;
        }
        let old = std::mem::replace(kept, Kept { position, row: row.into(), indexed: new });
        self.reindex(key, &old);
    }

    /// Moves a key between values, after its row was replaced.
    fn reindex(&mut self, key: &str, old: &Kept) {
        let Some((key, new)) = self.rows.get_key_value(key) else { return };
        for (index, keys) in self.indexes.iter_mut().enumerate() {
            let (before, now) = (old.value(index), new.value(index));
            if before == now {
                continue;
            }
            if let Some(before) = before {
                take(keys, &before, key);
            }
            if let Some(now) = now {
                add(keys, &now, key);
            }
        }
    }

    fn remove(&mut self, key: &str) {
        let Some((key, kept)) = self.rows.remove_entry(key) else { return };
        for (index, keys) in self.indexes.iter_mut().enumerate() {
            if let Some(value) = kept.value(index) {
                take(keys, &value, &key);
            }
        }
    }
}

fn add(index: &mut Index, value: &str, key: &Arc<str>) {
    match index.get_mut(value) {
        Some(keys) => drop(keys.insert(key.clone())),
        None => drop(index.insert(value.into(), BTreeSet::from([key.clone()]))),
    }
}

fn take(index: &mut Index, value: &str, key: &str) {
    let Some(keys) = index.get_mut(value) else { return };
    keys.remove(key);
    if keys.is_empty() {
        index.remove(value);
    }
}

/// The table of that name, which is made where there is none yet.
fn table<'a>(tables: &'a mut BTreeMap<TableName, Table>, name: &TableName, indexes: usize) -> &'a mut Table {
    if !tables.contains_key(name) {
        let indexes = (0..indexes).map(|_| Index::new()).collect();
        tables.insert(name.clone(), Table { indexes, ..Table::default() });
    }
    tables.get_mut(name).expect("it was inserted")
}

impl Latest {
    pub(super) fn new(settings: &LatestSettings) -> Latest {
        // Those that are named are there before their first row.
        let named = settings.tables.iter().filter_map(|name| name.parse().ok());
        Latest { columns: settings.indexes.clone(), tables: BTreeMap::new(), named: named.collect() }
    }

    #[inline]
    pub(super) fn apply(&mut self, transaction: &Transaction<'_>) -> Result<(), ViewError> {
        let position = transaction.position().0;
        transaction.rows(|change| {
            self.change(position, &change);
            Ok(())
        })
    }

    #[inline]
    fn change(&mut self, position: u64, change: &RowChange<'_>) {
        let Latest { columns, tables, .. } = self;
        let table = table(tables, &change.table.name, columns.len());
        if change.op == Op::Truncate {
            table.rows.clear();
            table.indexes.iter_mut().for_each(HashMap::clear);
        }
        let before = change.key_before.or(change.key).filter(|_| change.partial);
        let older = before.and_then(|key| table.rows.get(key)).map(|kept| kept.row.clone());
        if let Some(key) = change.key_before {
            table.remove(key);
        }
        match (change.key, change.row) {
            (Some(key), Some(row)) => match older {
                Some(older) => table.put(columns, key, position, &merged(&older, row)),
                None => table.put(columns, key, position, row),
            },
            (Some(key), None) => table.remove(key),
            // A row without a key is nobody's last one.
            (None, _) => {}
        }
    }

    pub(super) fn rows(&self) -> u64 {
        self.tables.values().map(|table| table.rows.len() as u64).sum()
    }

    pub(super) fn ask(&self, question: &Question, bounds: &Bounds) -> Result<Rows, AskError> {
        let select = Select::of(question)?;
        let known: Vec<&str> = self.tables.keys().map(TableName::as_str).collect();
        let mut rows = Rows::new(&COLUMNS, bounds);
        let name = select.table.parse::<TableName>().map_err(|_| select.no_table(&known))?;
        let table = match self.tables.get(&name) {
            Some(table) => table,
            None if self.named.contains(&name) => return select.found(rows),
            None => return Err(select.no_table(&known)),
        };
        let most = select.limit.unwrap_or(usize::MAX);
        let mut push = |key: &str, kept: &Kept| {
            let row = vec![key.into(), kept.row.as_str().into(), kept.position.into()];
            rows.push(row)
        };
        match &select.only {
            Some((column, key)) if column == "key" => {
                table.rows.get_key_value(&**key).filter(|_| most > 0).map_or(Ok(()), |(key, kept)| push(key, kept))?;
            }
            Some((column, value)) => {
                let index = self.columns.iter().position(|known| known == column);
                let found = [String::from("key")].into_iter().chain(self.columns.clone());
                let index = index.ok_or_else(|| select.no_column(&found.collect::<Vec<_>>()))?;
                for key in table.indexes[index].get(&**value).into_iter().flatten().take(most) {
                    table.rows.get(key).map_or(Ok(()), |kept| push(key, kept))?;
                }
            }
            None => table.rows.iter().take(most).try_for_each(|(key, kept)| push(key, kept))?,
        }
        select.found(rows)
    }

    pub(super) fn save(&self, out: &mut dyn Write) -> io::Result<()> {
        put::number(out, self.tables.len() as u64)?;
        for (name, table) in &self.tables {
            put::text(out, name.as_str())?;
            put::number(out, table.rows.len() as u64)?;
            // In no order: it is read back into a map.
            for (key, kept) in &table.rows {
                put::text(out, key)?;
                put::number(out, kept.position)?;
                put::text(out, &kept.row)?;
            }
        }
        Ok(())
    }

    /// The same, in an order that depends on nothing but the state.
    pub(super) fn save_sorted(&self, out: &mut dyn Write) -> io::Result<()> {
        for (name, table) in self.tables.iter().filter(|(_, table)| !table.rows.is_empty()) {
            put::text(out, name.as_str())?;
            let mut keys: Vec<&Arc<str>> = table.rows.keys().collect();
            keys.sort_unstable();
            for key in keys {
                let kept = &table.rows[key];
                put::text(out, key)?;
                put::number(out, kept.position)?;
                put::text(out, &kept.row)?;
            }
        }
        Ok(())
    }

    pub(super) fn load(&mut self, from: &mut dyn Read) -> io::Result<()> {
        let Latest { columns, tables, .. } = self;
        tables.clear();
        for _ in 0..put::read_number(from)? {
            let invalid = |error| io::Error::new(io::ErrorKind::InvalidData, error);
            let name: TableName = put::read_text(from)?.parse().map_err(invalid)?;
            let rows = put::read_number(from)?;
            let table = table(tables, &name, columns.len());
            for _ in 0..rows {
                let key = put::read_text(from)?;
                let position = put::read_number(from)?;
                table.put(columns, &key, position, &put::read_text(from)?);
            }
        }
        Ok(())
    }
}
