//! The applying half of SQLite, on real files.

mod apply;
mod compare;
mod converge;
mod crash;
mod names;
mod parking;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rusqlite::Connection;
use tempfile::TempDir;
use watershed::model::{
    Batch, Catalog, Change, Column, Cursor, Entry, EntryHeader, Epoch, Fingerprint, Kind, LinkId, LogId, Logged, Op,
    Position, ReadFrom, Row, TableDef, Value, encode_changes,
};
use watershed::sqlite::{Applier, ApplierOptions};

pub const LOG: LogId = LogId(7);
pub const EPOCH: Epoch = Epoch(1);
pub const PEER: LinkId = LinkId(LogId(9));

/// A database in a folder that goes away.
pub struct Database {
    _dir: TempDir,
    pub path: PathBuf,
}

impl Database {
    pub fn new(sql: &str) -> Database {
        let dir = TempDir::new().expect("a temporary folder");
        let path = dir.path().join("shop.db");
        Connection::open(&path).expect("opens").execute_batch(sql).expect("the test's schema");
        Database { _dir: dir, path }
    }

    pub fn conn(&self) -> Connection {
        Connection::open(&self.path).expect("opens")
    }

    pub fn applier(&self) -> Applier {
        let mut options = ApplierOptions::new(&self.path, LOG);
        options.busy_timeout = std::time::Duration::from_millis(20);
        Applier::open(options).expect("opens")
    }

    /// All rows of a query, as text.
    pub fn rows(&self, sql: &str) -> Vec<String> {
        rows(&self.path, sql)
    }
}

pub fn rows(path: &Path, sql: &str) -> Vec<String> {
    let conn = Connection::open(path).expect("opens");
    let mut statement = conn.prepare(sql).expect("the test's query");
    let columns = statement.column_count();
    let found = statement.query_map([], |row| {
        let values: Vec<String> = (0..columns)
            .map(|i| match row.get_ref(i).expect("in range") {
                rusqlite::types::ValueRef::Null => "null".to_owned(),
                rusqlite::types::ValueRef::Integer(i) => i.to_string(),
                rusqlite::types::ValueRef::Real(r) => format!("{r:?}"),
                rusqlite::types::ValueRef::Text(t) => format!("'{}'", String::from_utf8_lossy(t)),
                rusqlite::types::ValueRef::Blob(b) => format!("{b:02x?}"),
            })
            .collect();
        Ok(values.join(" "))
    });
    found.expect("runs").map(|row| row.expect("reads")).collect()
}

pub fn table(name: &str, columns: &[(&str, u16)]) -> Arc<TableDef> {
    let columns = columns.iter().map(|&(name, key)| Column { name: name.into(), type_name: "".into(), key }).collect();
    Arc::new(TableDef::new(name.parse().expect("a table name"), columns))
}

pub fn int(number: i64) -> Value {
    Value::new(Kind::Integer, number.to_string())
}

pub fn text(text: &str) -> Value {
    Value::new(Kind::Text, text.to_owned())
}

pub fn insert(row: Row) -> Change {
    Change { table: 0, op: Op::Insert, row: Some(row), old: None }
}

pub fn update(old: Option<Row>, row: Row) -> Change {
    Change { table: 0, op: Op::Update, row: Some(row), old }
}

pub fn delete(old: Row) -> Change {
    Change { table: 0, op: Op::Delete, row: None, old: Some(old) }
}

/// A log as the tests write it: entries at consecutive positions.
#[derive(Default)]
pub struct Script {
    pub entries: Vec<Logged>,
    pub catalog: Arc<Catalog>,
    last: u64,
}

impl Script {
    /// Appends a transaction; each change names its table by its place in `tables`.
    pub fn commit(&mut self, from: LinkId, tables: &[&Arc<TableDef>], changes: &[Change]) -> Position {
        self.last += 1;
        self.part(from, tables, changes, 0, false)
    }

    /// Appends a transaction from the peer to one table.
    pub fn one(&mut self, table: &Arc<TableDef>, changes: &[Change]) -> Position {
        self.commit(PEER, &[table], changes)
    }

    /// Appends a large transaction.
    pub fn large(&mut self, table: &Arc<TableDef>, parts: &[Vec<Change>]) -> Position {
        self.last += 1;
        for (i, changes) in parts.iter().enumerate() {
            self.part(PEER, &[table], changes, i as u32, i + 1 < parts.len());
        }
        Position(self.last)
    }

    fn part(&mut self, from: LinkId, tables: &[&Arc<TableDef>], changes: &[Change], part: u32, more: bool) -> Position {
        let fingerprints: Vec<Fingerprint> = tables.iter().map(|table| table.fingerprint).collect();
        for table in tables {
            self.catalog.add((*table).clone());
        }
        let header = EntryHeader { part, more, tables: fingerprints, ..EntryHeader::default() };
        let entry = Entry::new(header, encode_changes(changes));
        let position = Position(self.last);
        self.entries.push(Logged { position, from, entry });
        position
    }

    pub fn tail(&self) -> Position {
        Position(self.last)
    }

    /// The entries with `after < position ≤ upto` as one batch.
    pub fn batch(&self, after: u64, upto: u64) -> Batch {
        let inside = |logged: &&Logged| logged.position.0 > after && logged.position.0 <= upto;
        self.batch_of(self.entries.iter().filter(inside).cloned().collect(), upto)
    }

    pub fn all(&self) -> Batch {
        self.batch(0, self.last)
    }

    pub fn batch_of(&self, entries: Vec<Logged>, upto: u64) -> Batch {
        let upto = cursor(upto);
        Batch { entries, upto, next: ReadFrom::from(upto.position), catalog: self.catalog.clone() }
    }
}

pub fn cursor(position: u64) -> Cursor {
    Cursor { log: LOG, epoch: EPOCH, position: Position(position) }
}

/// Runs a future on a runtime of its own.
pub fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().expect("a runtime").block_on(future)
}
