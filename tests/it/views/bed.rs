//! A log in memory, definitions, and stores that follow it.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value as Json, json};
use watershed::log::memory::MemoryLog;
use watershed::log::{Append, Draft, Limit, Log, Source};
use watershed::model::{
    Batch, Change, Column, Cursor, Entry, EntryHeader, Epoch, FeedRow, Kind, LinkId, LogId, Logged, Op, Position, Row,
    TableDef, Timestamp, Value, encode_changes, feed_table, put_feed_row,
};
use watershed::sqlite::{SqlitePlace, SqliteViewOptions, SqliteViews};
use watershed::view::sql::{Definition, Dialect};
use watershed::view::{Answer, AskError, Bounds, Question, View, ViewBuilds, ViewError, ViewStore};

pub const BOUNDS: Bounds = Bounds { time: Duration::from_secs(20), rows: 10_000, bytes: 1 << 20 };

pub const TOTALS: &str = "-- setup
create table totals (customer text primary key, orders integer not null, amount numeric not null);
-- on insert orders
insert into totals values (:row.customer, 1, :row.amount)
  on conflict (customer) do update set orders = orders + 1, amount = amount + excluded.amount;
";

/// A log, and how entries come into it.
pub struct Feed {
    pub log: MemoryLog,
    id: LogId,
}

/// The log of [`Feed::fixed`].
pub const FIXED: LogId = LogId(7);

impl Feed {
    pub fn new() -> Feed {
        let log = MemoryLog::new();
        Feed { id: log.id(), log }
    }

    /// For [`Feed::numbers`], the same log in every process.
    pub fn fixed() -> Feed {
        Feed { id: FIXED, log: MemoryLog::new() }
    }

    async fn draft(&self, tables: Vec<Arc<TableDef>>, header: EntryHeader, changes: bytes::Bytes) -> Cursor {
        let header = EntryHeader {
            tables: tables.iter().map(|table| table.fingerprint).collect(),
            node: "shop".into(),
            time: Timestamp(1_700_000_000_000_001),
            ..header
        };
        let drafts = vec![Draft::Local { header, changes }];
        self.log.append(Append { from: LinkId::LOCAL, tables, drafts, upto: None }).await.expect("appended")
    }

    /// One entry of rows of a feed's table, as HTTP appends them.
    pub async fn append(&self, table: &str, rows: &[(Option<&str>, &str)]) -> Cursor {
        let def = Arc::new(feed_table(table.parse().expect("a name")));
        let mut changes = Vec::new();
        for (key, row) in rows {
            put_feed_row(&mut changes, &FeedRow { table: 0, key: *key, row });
        }
        let header = EntryHeader { correlation: Some("c-1".into()), ..EntryHeader::default() };
        self.draft(vec![def], header, changes.into()).await
    }

    /// One entry of many parts, a row in each.
    pub async fn large(&self, table: &str, rows: &[String]) -> Cursor {
        struct Parts(Vec<bytes::Bytes>);
        impl watershed::log::Parts for Parts {
            fn next(&mut self) -> std::io::Result<Option<bytes::Bytes>> {
                Ok(self.0.pop())
            }
        }
        let def = Arc::new(feed_table(table.parse().expect("a name")));
        let part = |row: &String| {
            let mut changes = Vec::new();
            put_feed_row(&mut changes, &FeedRow { table: 0, key: None, row });
            changes.into()
        };
        let header = EntryHeader { tables: vec![def.fingerprint], ..EntryHeader::default() };
        let parts = Box::new(Parts(rows.iter().rev().map(part).collect()));
        let drafts = vec![Draft::Large { header, parts }];
        self.log.append(Append { from: LinkId::LOCAL, tables: vec![def], drafts, upto: None }).await.expect("appended")
    }

    /// Orders without a log behind them: the amount is the position.
    pub fn numbers(&self, after: u64, count: u64) -> Batch {
        let def = Arc::new(feed_table("orders".parse().expect("a name")));
        let catalog = watershed::model::Catalog::default();
        let header = EntryHeader { tables: vec![def.fingerprint], ..EntryHeader::default() };
        catalog.add(def);
        let entry = |position: u64| {
            let mut changes = Vec::new();
            put_feed_row(&mut changes, &FeedRow { table: 0, key: None, row: &format!("{{\"amount\":{position}}}") });
            let entry = Entry::new(header.clone(), changes.into());
            Logged { position: Position(position), from: LinkId::LOCAL, entry }
        };
        let upto = Cursor { log: FIXED, epoch: Epoch(1), position: Position(after + count) };
        let entries = (after + 1..=after + count).map(entry).collect();
        Batch { entries, upto, next: upto.position.into(), catalog: Arc::new(catalog) }
    }

    /// An order of a customer.
    pub async fn order(&self, customer: &str, amount: i64) -> Cursor {
        self.append("orders", &[(None, &json!({"customer": customer, "amount": amount}).to_string())]).await
    }

    /// One entry of changes of a database's table.
    pub async fn commit(&self, table: &Arc<TableDef>, changes: &[Change]) -> Cursor {
        self.draft(vec![table.clone()], EntryHeader::default(), encode_changes(changes)).await
    }

    pub fn id(&self) -> LogId {
        self.id
    }

    /// What follows a position, at most so many entries.
    pub async fn batch(&self, after: u64, entries: usize) -> Batch {
        self.log.read(Position(after).into(), Limit { entries, ..Limit::default() }).await.expect("read")
    }

    /// Has a view take what it lacks, so many entries at once.
    pub async fn follow_by(&self, view: &mut dyn View, entries: usize) -> Result<(), ViewError> {
        let mut after = view.cursor().await?.map_or(0, |cursor| cursor.position.0);
        loop {
            let batch = self.batch(after, entries).await;
            if batch.next.after.0 == after {
                return view.caught_up().await;
            }
            view.apply(&batch).await?;
            after = batch.next.after.0;
        }
    }

    /// The same for a store.
    pub async fn follow(&self, store: &dyn ViewStore) -> Result<(), ViewError> {
        let mut view = store.part(self.id()).await?;
        self.follow_by(&mut *view, 1_000).await
    }
}

pub fn table(name: &str, columns: &[(&str, &str, u16)]) -> Arc<TableDef> {
    let column =
        |&(name, type_name, key): &(&str, &str, u16)| Column { name: name.into(), type_name: type_name.into(), key };
    Arc::new(TableDef::new(name.parse().expect("a name"), columns.iter().map(column).collect()))
}

pub fn typed(text: &str) -> Value {
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

pub fn sqlite(sql: &str) -> Arc<Definition> {
    Arc::new(Definition::parse("view.sql", sql, Dialect::Sqlite).expect("a definition"))
}

/// The builds of a view in a file.
pub fn views_at(path: &Path, sql: &str) -> SqliteViews {
    let place = SqlitePlace::File(path.to_path_buf());
    SqliteViews::new(SqliteViewOptions::new("totals", sqlite(sql), place))
}

/// A view in a file of a folder that goes away.
pub struct Kept {
    pub store: Arc<dyn ViewStore>,
    _dir: tempfile::TempDir,
}

/// A view of that definition.
pub async fn kept(sql: &str) -> Kept {
    let dir = tempfile::tempdir().expect("a folder");
    let store = views_at(&dir.path().join("views.db"), sql).live().await.expect("opens");
    Kept { store, _dir: dir }
}

/// Why a definition is refused.
pub async fn refused(sql: &str) -> String {
    let dir = tempfile::tempdir().expect("a folder");
    let definition = match Definition::parse("view.sql", sql, Dialect::Sqlite) {
        Ok(definition) => Arc::new(definition),
        Err(error) => return error.to_string(),
    };
    let place = SqlitePlace::File(dir.path().join("views.db"));
    let views = SqliteViews::new(SqliteViewOptions::new("totals", definition, place));
    match views.live().await {
        Ok(_) => "accepted".into(),
        Err(error) => error.to_string(),
    }
}

pub async fn ask_within(store: &dyn ViewStore, sql: &str, params: Json, bounds: Bounds) -> Result<Answer, AskError> {
    store.ask(&Question::Sql { sql: sql.into(), params }, &bounds).await
}

pub async fn ask(store: &dyn ViewStore, sql: &str) -> Result<Answer, AskError> {
    ask_within(store, sql, Json::Null, BOUNDS).await
}

/// The rows of an answer, as JSON.
pub async fn rows(store: &dyn ViewStore, sql: &str) -> Json {
    json!(ask(store, sql).await.expect("answered").rows)
}

/// Nothing can be applied, and nothing was: the cursor stays where it was, whether at none or at the beginning.
pub async fn check_nothing_before_what_fails(store: &dyn ViewStore) {
    let feed = Feed::fixed();
    let mut part = store.part(feed.id()).await.expect("opens");
    part.cursor().await.expect("read");
    let error = part.apply(&feed.numbers(49, 3)).await.expect_err("no entry can be applied");
    assert_eq!(error.stops_at(), Some(Position(50)), "{error}");
    assert_eq!(store.cursors().await.expect("read"), []);
    let start = Batch { entries: Vec::new(), ..feed.numbers(0, 0) };
    part.apply(&start).await.expect("the beginning");
    let error = part.apply(&feed.numbers(49, 3)).await.expect_err("no entry can be applied");
    assert_eq!(error.stops_at(), Some(Position(50)), "{error}");
    assert_eq!(store.cursors().await.expect("read")[0].position, Position::ZERO);
}

/// A definition of which every statement fails.
pub const FAILING: &str = "-- setup
create table seen (id integer not null);
-- on insert orders
insert into seen values (:row.none);
";
