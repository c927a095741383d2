//! Whole copies between databases of both engines: what is stale at the receiver goes, and nothing else does.

use watershed::model::{LinkId, LogId, Position};
use watershed::postgres::{PgApplier, PgApplierOptions, PgSide};
use watershed::sqlite::{Applier, ApplierOptions, Reader, SqliteSide};
use watershed::view::{
    Compare, Compared, CopyChunk, CopyScope, DiffOptions, Lane, LaneState, LaneView, TableDiff, ViewError,
};

use super::*;

static NEXT_LOG: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0xc0b1);

/// One end of a copy.
pub enum End {
    Server(Database),
    File(std::path::PathBuf, #[expect(dead_code)] tempfile::TempDir),
}

impl End {
    pub fn server(schema: &str) -> End {
        End::Server(Database::new(schema))
    }

    pub fn file(schema: &str) -> End {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a.db");
        rusqlite::Connection::open(&path).expect("a database").execute_batch(schema).expect("the statements run");
        End::File(path, folder)
    }

    async fn reader(&self) -> Box<dyn TableReader> {
        match self {
            End::Server(database) => Box::new(database.reader().await),
            End::File(path, _) => Box::new(Reader::open(path).expect("opens")),
        }
    }

    async fn view(&self, spool: &std::path::Path) -> Box<dyn LaneView> {
        let number = NEXT_LOG.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let log = LogId(u128::from(number) << 64);
        match self {
            End::File(path, _) => Box::new(Applier::open(ApplierOptions::new(path, log)).expect("opens")),
            End::Server(database) => {
                let endpoint = Endpoint::from_url(&database.url).expect("a URL");
                let spool_dir = spool.to_path_buf();
                let options =
                    PgApplierOptions { endpoint, log, fire_triggers: false, exact: false, spool_dir, copy: None };
                Box::new(PgApplier::open(options).await.expect("opens"))
            }
        }
    }

    async fn side(&self) -> Box<dyn Compared> {
        match self {
            End::Server(database) => {
                let endpoint = Endpoint::from_url(&database.url).expect("a URL");
                Box::new(PgSide::open(&endpoint).await.expect("connects"))
            }
            End::File(path, _) => Box::new(SqliteSide::open(path).expect("opens")),
        }
    }
}

/// The table is copied in chunks of a few rows, all of it the sender's.
pub async fn copy(from: &End, to: &End, rows_max: usize) -> Result<(), ViewError> {
    let spool = tempfile::tempdir().expect("a folder");
    let (mut reader, mut view) = (from.reader().await, to.view(spool.path()).await);
    let table = name("t");
    let peer = LinkId(LogId(9));
    let state = LaneState::Copying { from: peer, done: None, rows: 0, received: Position::ZERO };
    let lane = Lane { table: table.clone(), after: Position::ZERO, state };
    view.set_lane(&table, Some(lane)).await?;
    let mut after = None;
    loop {
        let read = reader.read_chunk(&table, after.as_ref(), rows_max, 1 << 20).await.expect("a chunk");
        let chunk = CopyChunk { table: read.def, after, upto: read.upto.clone(), rows: read.rows, lines: read.lines };
        view.copy_chunk(&chunk, &CopyScope::All, &|_, _| false).await?;
        after = read.upto;
        if after.is_none() {
            return Ok(());
        }
    }
}

async fn compare(from: &End, to: &End) -> TableDiff {
    let (mut a, mut b) = (from.side().await, to.side().await);
    let options = DiffOptions { rechecks: 0, ..DiffOptions::default() };
    Compare { a: &mut *a, b: &mut *b }.table(&name("t"), options).await.expect("compares")
}

/// The key's type there and here, and keys: the receiver orders some of them otherwise than the sender.
const KEYS: &[(&str, &str, &[&str])] = &[
    ("integer", "integer", &["-5", "0", "3", "9", "10", "70", "100"]),
    ("text", "text", &["'a'", "'B'", "'c'", "'D'", "'é'", "'Z'", "'_'"]),
    ("numeric(6,2)", "numeric(6,2)", &["-1", "2", "10", "9.5", "100", "20.25"]),
    ("date", "text", &["'2000-01-01'", "'1999-12-31'", "'2000-01-02'", "'1970-01-01'"]),
    ("double precision", "real", &["-1.5", "0", "10", "9", "1e10"]),
];

fn schema(key: &str, values: &[&str], stale: &[&str]) -> String {
    let insert = |value: &&str, note: &str| format!("insert into t values ({value}, '{note}');");
    let rows: String = values.iter().map(|value| insert(value, "theirs")).collect();
    let stale: String = stale.iter().map(|value| insert(value, "stale")).collect();
    format!("create table t (k {key} primary key, note text); {rows}{stale}")
}

#[tokio::test(flavor = "multi_thread")]
async fn copies_between_all_engines_leave_the_senders_rows_and_no_other() {
    for (server, file, values) in KEYS {
        let (sent, stale) = values.split_at(values.len() / 2);
        let both: Vec<&str> = stale.iter().chain(&sent[..1]).copied().collect();
        for rows_max in [1, 2, 100] {
            let senders = [
                End::server(&schema(server, values, &[])),
                End::server(&schema(server, sent, &[])),
                End::file(&schema(file, values, &[])),
                End::file(&schema(file, sent, &[])),
            ];
            for sender in &senders {
                for receiver in [End::server(&schema(server, &[], &both)), End::file(&schema(file, &[], &both))] {
                    if let (End::File(..), End::File(..)) = (sender, &receiver) {
                        continue;
                    }
                    copy(sender, &receiver, rows_max).await.expect("copied");
                    let diff = compare(sender, &receiver).await;
                    assert!(diff.is_equal(), "{server} {file} by {rows_max}: {diff:?}");
                }
            }
        }
    }
}

/// Orders that a server alone has: the receiver's collation is another than the sender's.
#[tokio::test(flavor = "multi_thread")]
async fn collations_that_differ_lose_no_row() {
    let collation = "create collation german (provider = icu, locale = 'de');";
    let values: Vec<String> = (0..60).map(|n| format!("'{}{n}'", if n % 2 == 0 { 'a' } else { 'B' })).collect();
    let values: Vec<&str> = values.iter().map(String::as_str).collect();
    let sender = End::server(&format!("{collation}{}", schema("text collate german", &values, &[])));
    for receiver in [
        End::server(&schema("text collate \"C\"", &values[..10], &["'stale'", "'Stale'"])),
        End::file(&schema("text collate nocase", &values[..10], &["'stale'"])),
        End::server("select 1"),
        End::file("select 1"),
    ] {
        copy(&sender, &receiver, 7).await.expect("copied");
        let diff = compare(&sender, &receiver).await;
        assert!(diff.is_equal() && diff.rows_a == 60, "{diff:?}");
    }
}

/// What SQLite would change is refused, in words.
#[tokio::test(flavor = "multi_thread")]
async fn values_that_a_column_would_not_keep_park_the_table() {
    let sender = End::server("create table t (k int primary key, v bit(3)); insert into t values (1, '001')");
    let receiver = End::file("create table t (k integer primary key, v bit(3))");
    let error = copy(&sender, &receiver, 10).await.expect_err("refused");
    let words = error.to_string();
    assert!(words.contains("declare the column TEXT") && words.contains("\"v\""), "{words}");
}
