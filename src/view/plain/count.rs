//! `count`: how many entries and rows there are, by table, and rows by the values of a column.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, Read, Write};

use serde_json::Value as Json;

use super::super::machine::{RowChange, Rows, Select, Transaction, put};
use super::super::member::member;
use super::super::{AskError, Bounds, Question, ViewError};
use super::settings::CountSettings;
use crate::model::{Fingerprint, Op, TableName};

/// What a row has in the column by which is counted.
type Value = Option<Box<str>>;

/// Figures of one table.
#[derive(Debug, Default)]
struct Counted {
    entries: u64,
    inserts: u64,
    updates: u64,
    deletes: u64,
    /// That are there.
    rows: i64,
    /// Rows by value.
    values: HashMap<Box<str>, i64>,
    /// The rows that are there, with their values, where rows can change.
    of_key: HashMap<Box<str>, Value>,
}

/// Entries and rows, counted.
#[derive(Debug)]
pub(super) struct Count {
    by: Option<String>,
    tables: BTreeMap<TableName, Counted>,
}

const COUNTS: [&str; 6] = ["table", "entries", "rows", "inserts", "updates", "deletes"];
const VALUES: [&str; 3] = ["table", "value", "rows"];

impl Counted {
    fn count(&mut self, change: &RowChange<'_>) {
        match change.op {
            Op::Insert => self.inserts += 1,
            Op::Update => self.updates += 1,
            Op::Delete => self.deletes += 1,
            _ => {}
        }
    }

    fn add(&mut self, value: &str, rows: i64) {
        match self.values.get_mut(value) {
            Some(known) => {
                *known += rows;
                if *known == 0 {
                    self.values.remove(value);
                }
            }
            None if rows != 0 => drop(self.values.insert(value.into(), rows)),
            None => {}
        }
    }

    /// Rows of feeds are only ever added.
    fn count_added(&mut self, by: Option<&str>, change: &RowChange<'_>) {
        self.rows += 1;
        if let (Some(row), Some(by)) = (change.row, by)
            && let Some(value) = member(row, by)
        {
            self.add(&value, 1);
        }
    }

    /// Of a table whose rows change: one that was never here may be said to go, or to change, behind a filter.
    fn count_changed(&mut self, by: Option<&str>, change: &RowChange<'_>) {
        if change.op == Op::Truncate {
            (self.rows, self.values, self.of_key) = (0, HashMap::new(), HashMap::new());
            return;
        }
        let value = |row: Option<&str>| -> Value { member(row?, by?).map(|value| value.into()) };
        let Some(key) = change.key else {
            self.rows += i64::from(change.op == Op::Insert) - i64::from(change.op == Op::Delete);
            self.moved(value(change.old), value(change.row));
            return;
        };
        let before = self.of_key.remove(change.key_before.unwrap_or(key));
        self.rows -= i64::from(before.is_some());
        let before = before.flatten();
        let now = value(change.row);
        let now = if change.partial { now.or(before.clone()) } else { now };
        self.moved(before, now.clone());
        if change.row.is_some() {
            self.rows += 1;
            if let Some(there) = self.of_key.insert(key.into(), now) {
                self.rows -= 1;
                self.moved(there, None);
            }
        }
    }

    fn moved(&mut self, before: Value, now: Value) {
        if let Some(before) = before {
            self.add(&before, -1);
        }
        if let Some(now) = now {
            self.add(&now, 1);
        }
    }
}

impl Count {
    pub(super) fn new(settings: &CountSettings) -> Count {
        Count { by: settings.by.clone(), tables: BTreeMap::new() }
    }

    pub(super) fn apply(&mut self, transaction: &Transaction<'_>) -> Result<(), ViewError> {
        let mut seen: Vec<Fingerprint> = Vec::new();
        transaction.rows(|change| {
            let counted = match self.tables.get_mut(&change.table.name) {
                Some(counted) => counted,
                None => self.tables.entry(change.table.name.clone()).or_default(),
            };
            let table = change.table.fingerprint;
            if !seen.contains(&table) {
                seen.push(table);
                counted.entries += 1;
            }
            counted.count(&change);
            match change.table.is_feed() {
                true => counted.count_added(self.by.as_deref(), &change),
                false => counted.count_changed(self.by.as_deref(), &change),
            }
            Ok(())
        })
    }

    pub(super) fn rows(&self) -> u64 {
        self.tables.values().map(|counted| 1 + counted.values.len() as u64).sum()
    }

    pub(super) fn ask(&self, question: &Question, bounds: &Bounds) -> Result<Rows, AskError> {
        let select = Select::of(question)?;
        match &*select.table {
            "counts" => self.counts(&select, bounds),
            "values" if self.by.is_some() => self.values(&select, bounds),
            _ if self.by.is_some() => Err(select.no_table(&["counts", "values"])),
            _ => Err(select.no_table(&["counts"])),
        }
    }

    fn counts(&self, select: &Select, bounds: &Bounds) -> Result<Rows, AskError> {
        let wanted = select.value_of(&["key", "table"])?;
        let mut rows = Rows::new(&COUNTS, bounds);
        let all = self.tables.iter().filter(|(name, _)| wanted.is_none_or(|wanted| wanted == name.as_str()));
        for (name, counted) in all.take(select.limit.unwrap_or(usize::MAX)) {
            let Counted { entries, inserts, updates, deletes, .. } = counted;
            let mut row: Vec<Json> = vec![name.as_str().into(), (*entries).into(), counted.rows.into()];
            row.extend([*inserts, *updates, *deletes].map(Json::from));
            rows.push(row)?;
        }
        select.found(rows)
    }

    fn values(&self, select: &Select, bounds: &Bounds) -> Result<Rows, AskError> {
        let key = select.value_of(&["key", "table", "value"])?;
        let column = select.only.as_ref().map_or("", |(column, _)| column);
        let mut rows = Rows::new(&VALUES, bounds);
        for (name, counted) in &self.tables {
            let wanted = match (column, key) {
                ("table", Some(table)) if table != name.as_str() => continue,
                ("value", Some(value)) => Some(value),
                ("key", Some(key)) => {
                    let value = key.strip_prefix(name.as_str()).and_then(|rest| rest.strip_prefix(','));
                    let Some(value) = value else { continue };
                    Some(value)
                }
                _ => None,
            };
            let mut found: Vec<(&str, i64)> = match wanted {
                Some(value) => counted.values.get_key_value(value).into_iter().map(|(v, n)| (&**v, *n)).collect(),
                None => counted.values.iter().map(|(value, count)| (&**value, *count)).collect(),
            };
            found.sort_unstable();
            for (value, count) in found {
                if rows.rows.len() < select.limit.unwrap_or(usize::MAX) {
                    rows.push(vec![name.as_str().into(), value.into(), count.into()])?;
                }
            }
        }
        select.found(rows)
    }

    pub(super) fn save(&self, out: &mut dyn Write) -> io::Result<()> {
        put::number(out, self.tables.len() as u64)?;
        for (name, counted) in &self.tables {
            put::text(out, name.as_str())?;
            for figure in [counted.entries, counted.inserts, counted.updates, counted.deletes, counted.rows as u64] {
                put::number(out, figure)?;
            }
            let mut values: Vec<_> = counted.values.iter().collect();
            values.sort_unstable();
            put::number(out, values.len() as u64)?;
            for (value, rows) in values {
                put::text(out, value)?;
                put::number(out, *rows as u64)?;
            }
            let mut keys: Vec<_> = counted.of_key.iter().collect();
            keys.sort_unstable();
            put::number(out, keys.len() as u64)?;
            for (key, value) in keys {
                put::text(out, key)?;
                put::number(out, u64::from(value.is_some()))?;
                put::text(out, value.as_deref().unwrap_or_default())?;
            }
        }
        Ok(())
    }

    pub(super) fn load(&mut self, from: &mut dyn Read) -> io::Result<()> {
        self.tables.clear();
        for _ in 0..put::read_number(from)? {
            let name =
                put::read_text(from)?.parse().map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
            let mut figures = [0; 5];
            for figure in &mut figures {
                *figure = put::read_number(from)?;
            }
            let [entries, inserts, updates, deletes, rows] = figures;
            let mut counted = Counted { entries, inserts, updates, deletes, rows: rows as i64, ..Counted::default() };
            for _ in 0..put::read_number(from)? {
                let value = put::read_text(from)?;
                counted.values.insert(value.into(), put::read_number(from)? as i64);
            }
            for _ in 0..put::read_number(from)? {
                let key = put::read_text(from)?;
                let has = put::read_number(from)? > 0;
                let value = put::read_text(from)?;
                counted.of_key.insert(key.into(), has.then(|| value.into()));
            }
            self.tables.insert(name, counted);
        }
        Ok(())
    }
}
