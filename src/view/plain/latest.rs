//! `latest`: the last row of every key, found by the key and by the values of indexed columns.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};

use super::super::machine::{RowChange, Rows, Select, Transaction, put};
use super::super::member::merged;
use super::super::{AskError, Bounds, Question, ViewError};
use super::keyed::Keyed;
use super::settings::LatestSettings;
use crate::model::{Op, TableName};

/// The last row of every key of every table.
#[derive(Debug)]
pub(super) struct Latest {
    columns: Vec<String>,
    named: Vec<TableName>,
    tables: BTreeMap<TableName, Keyed>,
}

const COLUMNS: [&str; 3] = ["key", "row", "position"];

/// The table of that name, which is made where there is none yet.
fn table<'a>(tables: &'a mut BTreeMap<TableName, Keyed>, name: &TableName, indexes: usize) -> &'a mut Keyed {
    if !tables.contains_key(name) {
        tables.insert(name.clone(), Keyed::new(indexes));
    }
    tables.get_mut(name).expect("it was inserted")
}

fn put_row(out: &mut dyn Write, (key, position, row): (&str, u64, &str)) -> io::Result<()> {
    put::text(out, key)?;
    put::number(out, position)?;
    put::text(out, row)
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
            table.clear();
        }
        let before = change.key_before.or(change.key).filter(|_| change.partial);
        let older = before.and_then(|key| table.get(key)).map(|(_, row)| row.to_owned());
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
        self.tables.values().map(|table| table.len() as u64).sum()
    }

    pub(super) fn ask(&self, question: &Question, bounds: &Bounds) -> Result<Rows, AskError> {
        let select = Select::of(question)?;
        let unknown = || select.no_table(&self.tables.keys().map(TableName::as_str).collect::<Vec<_>>());
        let mut rows = Rows::new(&COLUMNS, bounds);
        let name = select.table.parse::<TableName>().map_err(|_| unknown())?;
        let table = match self.tables.get(&name) {
            Some(table) => table,
            None if self.named.contains(&name) => return select.found(rows),
            None => return Err(unknown()),
        };
        let most = select.limit.unwrap_or(usize::MAX);
        let mut push =
            |(key, position, row): (&str, u64, &str)| rows.push(vec![key.into(), row.into(), position.into()]);
        match &select.only {
            Some((column, key)) if column == "key" => {
                let found = table.get(key).filter(|_| most > 0);
                found.map_or(Ok(()), |(position, row)| push((key, position, row)))?;
            }
            Some((column, value)) => {
                let index = self.columns.iter().position(|known| known == column);
                let found = [String::from("key")].into_iter().chain(self.columns.clone());
                let index = index.ok_or_else(|| select.no_column(&found.collect::<Vec<_>>()))?;
                table.with(index, value).take(most).try_for_each(push)?;
            }
            None => table.iter().take(most).try_for_each(push)?,
        }
        select.found(rows)
    }

    pub(super) fn save(&self, out: &mut dyn Write) -> io::Result<()> {
        put::number(out, self.tables.len() as u64)?;
        for (name, table) in &self.tables {
            put::text(out, name.as_str())?;
            put::number(out, table.len() as u64)?;
            // In no order: it is read back into a map.
            table.iter().try_for_each(|row| put_row(out, row))?;
        }
        Ok(())
    }

    /// The same, in an order that depends on nothing but the state.
    pub(super) fn save_sorted(&self, out: &mut dyn Write) -> io::Result<()> {
        for (name, table) in self.tables.iter().filter(|(_, table)| table.len() > 0) {
            put::text(out, name.as_str())?;
            table.sorted().try_for_each(|row| put_row(out, row))?;
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
