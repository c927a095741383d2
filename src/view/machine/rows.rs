//! What a transaction means to a machine: rows with their keys, as JSON texts, whatever they were captured from.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::sync::Arc;

use super::super::spool::Spools;
use super::super::{ViewError, put_key_value};
use crate::model::{
    Catalog, Change, Entry, EntryHeader, FeedRows, Fingerprint, Glance, Kind, LogId, Op, Position, Row, TableDef,
    TableName, put_json_text, put_json_value,
};

/// A change of one row (or of a whole table), as a machine sees it.
#[derive(Clone, Copy, Debug)]
pub struct RowChange<'a> {
    /// The table.
    pub table: &'a TableDef,
    /// What happened: insert, update, delete or truncate.
    pub op: Op,
    /// Its key as text; of several columns with `,` between them, and a `\` before each `,` and `\` in them. `None` where there is none.
    pub key: Option<&'a str>,
    /// The key before an update that changed it.
    pub key_before: Option<&'a str>,
    /// The row as JSON: of a feed the text that was appended, else an object of the table's columns.
    pub row: Option<&'a str>,
    /// What is told of the row before, as JSON.
    pub old: Option<&'a str>,
    /// The row lacks columns that the source did not send, because they did not change.
    pub partial: bool,
}

/// A table, as far as transactions are concerned.
#[derive(Debug)]
pub(super) struct Known {
    def: Arc<TableDef>,
    is_feed: bool,
    keys: Vec<usize>,
    wanted: bool,
}

/// The tables that were named so far.
#[derive(Debug, Default)]
pub(super) struct Tables {
    /// All, where it is empty.
    selected: Vec<TableName>,
    known: HashMap<Fingerprint, Arc<Known>>,
    last: Option<(Fingerprint, Arc<Known>)>,
}

/// The tables of one transaction.
pub(super) enum Named {
    One(Arc<Known>),
    Many(Vec<Arc<Known>>),
}

impl Named {
    fn get(&self, index: usize) -> Option<&Known> {
        match self {
            Named::One(known) => (index == 0).then_some(known),
            Named::Many(all) => all.get(index).map(Arc::as_ref),
        }
    }

    fn any_wanted(&self) -> bool {
        match self {
            Named::One(known) => known.wanted,
            Named::Many(all) => all.iter().any(|known| known.wanted),
        }
    }
}

impl Tables {
    pub(super) fn selecting(selected: Vec<TableName>) -> Tables {
        Tables { selected, ..Tables::default() }
    }

    fn one(&mut self, fingerprint: Fingerprint, catalogs: &[Arc<Catalog>]) -> Result<Arc<Known>, ViewError> {
        if let Some((last, known)) = &self.last
            && *last == fingerprint
        {
            return Ok(known.clone());
        }
        let known = match self.known.get(&fingerprint) {
            Some(known) => known.clone(),
            None => {
                let def = catalogs.iter().find_map(|catalog| catalog.get(fingerprint));
                let unknown = || ViewError::Failed(format!("an entry names the unknown table {fingerprint}"));
                let def = def.ok_or_else(unknown)?;
                let wanted = self.selected.is_empty() || self.selected.contains(&def.name);
                let known = Known { is_feed: def.is_feed(), keys: def.key_columns(), wanted, def };
                self.known.entry(fingerprint).or_insert(Arc::new(known)).clone()
            }
        };
        self.last = Some((fingerprint, known.clone()));
        Ok(known)
    }

    /// The tables that an entry names; `None` where nothing of it is wanted.
    pub(super) fn of(
        &mut self,
        entry: &Entry,
        glance: Glance,
        catalogs: &[Arc<Catalog>],
    ) -> Result<Option<Named>, ViewError> {
        let named = match glance.tables {
            1 => Named::One(self.one(glance.table, catalogs)?),
            _ => {
                let all = entry.header().tables.iter().map(|fingerprint| self.one(*fingerprint, catalogs));
                Named::Many(all.collect::<Result<_, _>>()?)
            }
        };
        Ok(named.any_wanted().then_some(named))
    }
}

/// A transaction that is to be applied, whole.
pub struct Transaction<'a> {
    log: LogId,
    position: Position,
    named: Named,
    /// The entry, or the first part of a large one.
    first: &'a Entry,
    /// Where the parts of a large one are.
    parts: Option<RefCell<&'a mut Spools>>,
    /// Its parts could not all be read, after some had been given.
    torn: Cell<bool>,
}

impl<'a> Transaction<'a> {
    pub(super) fn whole(log: LogId, position: Position, named: Named, entry: &'a Entry) -> Transaction<'a> {
        Transaction { log, position, named, first: entry, parts: None, torn: Cell::new(false) }
    }

    pub(super) fn large(
        log: LogId,
        position: Position,
        named: Named,
        first: &'a Entry,
        spools: &'a mut Spools,
    ) -> Transaction<'a> {
        Transaction { log, position, named, first, parts: Some(RefCell::new(spools)), torn: Cell::new(false) }
    }

    /// Its place in its log.
    pub fn position(&self) -> Position {
        self.position
    }

    /// The log that the position counts in.
    pub fn log(&self) -> LogId {
        self.log
    }

    /// What stands around its changes: time, origin, correlation. (Of a large one: of its first part.)
    pub fn header(&self) -> &EntryHeader {
        self.first.header()
    }

    /// Gives every change in order, until one is refused. May be called again, and gives the same again.
    ///
    /// # Errors
    /// What `each` says; or the entry is not readable.
    pub fn rows(&self, mut each: impl FnMut(RowChange<'_>) -> Result<(), ViewError>) -> Result<(), ViewError> {
        let Some(spools) = &self.parts else { return self.rows_of(self.first, &mut each) };
        let torn = |error| {
            self.torn.set(true);
            error
        };
        let mut parts = spools.borrow_mut().read(self.position).map_err(torn)?;
        while let Some(part) = parts.next().map_err(torn)? {
            self.rows_of(&part, &mut each)?;
        }
        Ok(())
    }

    /// Reads all of it once, so that what cannot be read is found before anything is applied.
    pub(super) fn check(&self) -> Result<(), ViewError> {
        // One row is read before it is given.
        match self.parts.is_none() && FeedRows::new(self.first.changes_slice()).is_one() {
            true => Ok(()),
            false => self.rows(|_| Ok(())),
        }
    }

    pub(super) fn is_torn(&self) -> bool {
        self.torn.get()
    }

    /// An error that names this transaction: the view cannot go on past it.
    pub fn refuse(&self, table: &TableName, why: impl ToString) -> ViewError {
        ViewError::Table { table: table.clone(), position: self.position, why: why.to_string() }
    }

    fn unreadable(&self, why: impl std::fmt::Display) -> ViewError {
        ViewError::Entry { position: self.position, why: format!("it is not readable: {why}") }
    }

    #[inline]
    fn rows_of(
        &self,
        entry: &Entry,
        each: &mut impl FnMut(RowChange<'_>) -> Result<(), ViewError>,
    ) -> Result<(), ViewError> {
        let mut first = true;
        for row in FeedRows::new(entry.changes_slice()) {
            let found = row.and_then(|row| Some((row, self.named.get(row.table).filter(|known| known.is_feed)?)));
            let Some((row, known)) = found else {
                if !first {
                    return Err(self.unreadable("rows of feeds and other changes stand together"));
                }
                return self.changes_of(entry, each);
            };
            first = false;
            if known.wanted {
                let (key, row) = (row.key, Some(row.row));
                let (op, key_before, old, partial) = (Op::Insert, None, None, false);
                each(RowChange { table: &known.def, op, key, key_before, row, old, partial })?;
            }
        }
        Ok(())
    }

    fn changes_of(
        &self,
        entry: &Entry,
        each: &mut impl FnMut(RowChange<'_>) -> Result<(), ViewError>,
    ) -> Result<(), ViewError> {
        for change in entry.changes().map_err(|error| self.unreadable(error))? {
            let known = self.named.get(change.table);
            let known = known.ok_or_else(|| self.unreadable(format!("it has no table number {}", change.table)))?;
            if known.wanted {
                self.change(known, &change, each)?;
            }
        }
        Ok(())
    }

    fn change(
        &self,
        known: &Known,
        change: &Change,
        each: &mut impl FnMut(RowChange<'_>) -> Result<(), ViewError>,
    ) -> Result<(), ViewError> {
        let table = &*known.def;
        match change.op {
            Op::Insert | Op::Update | Op::Delete | Op::Truncate => {}
            Op::Cut => return Ok(()),
            Op::Copied => {
                let why = "its content was replaced outside of the log: build the view anew (watershed view rebuild)";
                return Err(self.refuse(&table.name, why));
            }
        }
        let resolved = change.old_resolved();
        for row in change.row.iter().chain(&resolved) {
            if row.len() != table.columns.len() {
                let why = format!("a row of {} values in {}", row.len(), table.name);
                return Err(self.unreadable(why));
            }
        }
        let json = |row: &Row| {
            let mut out = String::new();
            put_row(&mut out, table, row);
            out
        };
        let (row, old) = (change.row.as_ref().map(json), resolved.as_ref().map(json));
        let text_of = |row: &Row| key_of(&known.keys, row);
        let (now, before) = (change.row.as_ref().and_then(text_of), resolved.as_ref().and_then(text_of));
        let key = if change.op == Op::Delete { &before } else { &now };
        let moved = change.op == Op::Update && before.is_some() && before != now;
        let is_missing = |row: &Row| row.iter().any(|value| value.kind == Kind::Unchanged);
        each(RowChange {
            table,
            op: change.op,
            key: key.as_deref(),
            key_before: before.as_deref().filter(|_| moved),
            row: row.as_deref(),
            old: old.as_deref(),
            partial: change.row.as_ref().is_some_and(is_missing),
        })
    }
}

/// The texts of a key's columns with `,` between them (then `,` and `\` in them with a `\` before); `None` without a key, or where the row does not have it.
fn key_of(keys: &[usize], row: &Row) -> Option<String> {
    let mut out = String::new();
    for (number, &index) in keys.iter().enumerate() {
        let value = &row[index];
        if matches!(value.kind, Kind::Unchanged | Kind::Same) {
            return None;
        }
        if number > 0 {
            out.push(',');
        }
        match keys.len() {
            1 => out.push_str(&String::from_utf8_lossy(&value.text)),
            // So that no two keys are one text.
            _ => put_key_value(&mut out, &String::from_utf8_lossy(&value.text)),
        }
    }
    (!keys.is_empty()).then_some(out)
}

/// Appends a row as an object of the columns that it has.
fn put_row(out: &mut String, table: &TableDef, row: &Row) {
    out.push('{');
    let begun = out.len();
    for (column, value) in table.columns.iter().zip(row) {
        if matches!(value.kind, Kind::Unchanged | Kind::Same) {
            continue;
        }
        if out.len() > begun {
            out.push(',');
        }
        put_json_text(out, &column.name);
        out.push(':');
        put_json_value(out, value, &column.type_name);
    }
    out.push('}');
}
