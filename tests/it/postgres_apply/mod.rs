//! The applying half of PostgreSQL, on real servers.

mod apply;
mod converge;

mod crash;
mod edges;
mod gather;
mod merge;
mod names;

mod parking;
mod wings;

use std::sync::{Arc, LazyLock};

use tempfile::TempDir;
use watershed::model::{
    Batch, Catalog, Change, Column, Cursor, Entry, EntryHeader, Epoch, Fingerprint, Kind, LinkId, LogId, Logged, Op,
    Position, ReadFrom, Row, TableDef, Value, encode_changes,
};
use watershed::postgres::{Endpoint, PgApplier, PgApplierOptions};
use watershed::testing::postgres::Cluster;
use watershed::view::ViewError;

pub const EPOCH: Epoch = Epoch(1);
pub const PEER: LinkId = LinkId(LogId(9));

static CLUSTER: LazyLock<Cluster> = LazyLock::new(|| {
    Cluster::with(&[
        ("fsync", "off"),
        ("wal_level", "logical"),
        ("shared_buffers", "32MB"),
        ("max_connections", "100"),
        ("max_replication_slots", "3000"),
    ])
});

static NEXT_LOG: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(7);

/// A database of its own, and a log of its own, because replication origins are the cluster's.
pub struct Database {
    pub url: String,
    pub log: LogId,
    pub dir: TempDir,
}

impl Database {
    pub fn new(sql: &str) -> Database {
        let url = CLUSTER.database();
        CLUSTER.sql(&url, sql);
        Database::at(url)
    }

    pub fn at(url: String) -> Database {
        let number = NEXT_LOG.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let dir = TempDir::new().expect("a temporary folder");
        Database { url, log: LogId(u128::from(number) << 64), dir }
    }

    pub fn options(&self) -> PgApplierOptions {
        PgApplierOptions {
            endpoint: Endpoint::from_url(&self.url).expect("a URL"),
            log: self.log,
            fire_triggers: false,
            exact: false,
            spool_dir: self.dir.path().to_path_buf(),
            copy: None,
        }
    }

    pub fn applier(&self) -> PgApplier {
        self.applier_with(|_| ())
    }

    /// Opened as soon as the session before it has ended.
    pub fn applier_with(&self, change: impl Fn(&mut PgApplierOptions)) -> PgApplier {
        let mut options = self.options();
        change(&mut options);
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(180);
        loop {
            match run(PgApplier::open(options.clone())) {
                Ok(applier) => return applier,
                Err(ViewError::Retry(why)) => assert!(std::time::Instant::now() < deadline, "{why}"),
                Err(error) => panic!("opens: {error}"),
            }
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }

    /// A new session, which knows nothing of what the one before it has seen.
    pub fn applier_again(&self, before: PgApplier) -> PgApplier {
        drop(before);
        let mut view = self.applier();
        run(watershed::view::View::cursor(&mut view)).expect("looks");
        view
    }

    pub fn sql(&self, sql: &str) {
        CLUSTER.sql(&self.url, sql);
    }

    /// All rows of a query, as psql prints them.
    pub fn rows(&self, sql: &str) -> Vec<String> {
        CLUSTER.sql(&self.url, &format!("SET extra_float_digits = 3; {sql}")).lines().map(str::to_owned).collect()
    }

    pub fn script(&self) -> Script {
        Script { log: self.log, ..Script::default() }
    }

    pub fn cursor(&self, position: u64) -> Cursor {
        Cursor { log: self.log, epoch: EPOCH, position: Position(position) }
    }
}

pub fn table(name: &str, columns: &[(&str, u16)]) -> Arc<TableDef> {
    let columns =
        columns.iter().map(|&(name, key)| Column { name: name.into(), type_name: "integer".into(), key }).collect();
    Arc::new(TableDef::new(name.parse().expect("a table name"), columns))
}

pub fn int(number: i64) -> Value {
    Value::new(Kind::Integer, number.to_string())
}

pub fn text(text: &str) -> Value {
    Value::new(Kind::Typed, text.to_owned())
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

pub fn truncate() -> Change {
    Change { table: 0, op: Op::Truncate, row: None, old: None }
}

/// A log as the tests write it: entries at consecutive positions.
#[derive(Default)]
pub struct Script {
    pub log: LogId,
    pub entries: Vec<Logged>,
    pub catalog: Arc<Catalog>,
    pub last: u64,
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
        let upto = Cursor { log: self.log, epoch: EPOCH, position: Position(upto) };
        Batch { entries, upto, next: ReadFrom::from(upto.position), catalog: self.catalog.clone() }
    }
}

static RUNTIME: LazyLock<tokio::runtime::Runtime> = LazyLock::new(|| {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime")
});

/// Runs a future on the one runtime that also drives the connections.
pub fn run<T>(future: impl Future<Output = T>) -> T {
    RUNTIME.block_on(future)
}
