//! Two databases can be proved equal, and made equal: PostgreSQL with PostgreSQL, and with SQLite.

mod command;
mod mixed;
mod servers;
mod types;

use std::path::PathBuf;
use std::sync::LazyLock;
use std::time::Duration;

use tempfile::TempDir;
use watershed::model::{Kind, TableName, Value};
use watershed::postgres::{Endpoint, PgSide};
use watershed::sqlite::SqliteSide;
use watershed::testing::postgres::Cluster;
use watershed::view::{Compare, Compared, DiffOptions, Repaired, RowDiffKind, Side, TableDiff};

/// One server for all tests of this folder; each test has databases of its own.
static CLUSTER: LazyLock<Cluster> = LazyLock::new(Cluster::start);

fn database(schema: &str) -> String {
    let url = CLUSTER.database();
    CLUSTER.sql(&url, schema);
    url
}

async fn server(url: &str) -> Box<dyn Compared> {
    Box::new(PgSide::open(&Endpoint::from_url(url).expect("a URL")).await.expect("connects"))
}

struct File {
    path: PathBuf,
    _folder: TempDir,
}

impl File {
    fn new(schema: &str) -> File {
        let folder = tempfile::tempdir().expect("a folder");
        let file = File { path: folder.path().join("a.db"), _folder: folder };
        file.sql(schema);
        file
    }

    fn conn(&self) -> rusqlite::Connection {
        rusqlite::Connection::open(&self.path).expect("a database")
    }

    fn sql(&self, statements: &str) {
        self.conn().execute_batch(statements).expect("the statements run");
    }

    fn side(&self) -> Box<dyn Compared> {
        Box::new(SqliteSide::open(&self.path).expect("opens"))
    }
}

fn name(table: &str) -> TableName {
    table.parse().expect("a name")
}

fn value(kind: Kind, text: &str) -> Value {
    Value::new(kind, text.to_string())
}

async fn compare(a: &mut Box<dyn Compared>, b: &mut Box<dyn Compared>, table: &str) -> TableDiff {
    let options = DiffOptions { settle: Duration::ZERO, ..DiffOptions::default() };
    Compare { a: &mut **a, b: &mut **b }.table(&name(table), options).await.expect("compares")
}

async fn repair(a: &mut Box<dyn Compared>, b: &mut Box<dyn Compared>, table: &str) -> Repaired {
    Compare { a: &mut **a, b: &mut **b }.repair(&name(table)).await.expect("repairs")
}

#[track_caller]
fn expect_equal(diff: &TableDiff) {
    assert!(diff.is_equal() && diff.digest_a == diff.digest_b && diff.rows_a == diff.rows_b, "{diff:?}");
}
