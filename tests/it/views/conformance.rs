//! Stores of SQL views keep the laws of a store of views.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use serde_json::{Value as Json, json};
use tempfile::TempDir;
use watershed::postgres::{Endpoint, PgViewOptions, PgViews};
use watershed::sqlite::{SqlitePlace, SqliteViewOptions, SqliteViews};
use watershed::testing::view_conformance::{Sent, ViewBed, check_all};
use watershed::view::sql::{Definition, Dialect};
use watershed::view::{Question, ViewBuilds, ViewStore};

use super::bed::sqlite;
use super::postgres::CLUSTER;

pub const SUMS: &str = "-- setup
create table orders (customer text primary key, n integer not null, amount integer not null);
-- on insert orders
insert into orders values (:row.customer, 1, :row.amount)
  on conflict (customer) do update set n = orders.n + 1, amount = orders.amount + excluded.amount;
";

/// Customers with how many orders they have, and what these come to.
pub fn sums(sent: &[Sent]) -> Vec<Vec<Json>> {
    let mut sums: BTreeMap<&str, (i64, i64)> = BTreeMap::new();
    for order in sent {
        let (count, amount) = sums.entry(&order.customer).or_default();
        *count += 1;
        *amount += order.amount;
    }
    sums.into_iter().map(|(customer, (count, amount))| vec![json!(customer), json!(count), json!(amount)]).collect()
}

pub fn all_sums() -> Question {
    Question::Sql { sql: "select customer, n, amount from orders".into(), params: Json::Null }
}

struct Sqlite {
    dir: TempDir,
    place: fn(PathBuf) -> SqlitePlace,
}

#[async_trait]
impl ViewBed for Sqlite {
    async fn open(&self, name: &str) -> Arc<dyn ViewStore> {
        let place = (self.place)(self.dir.path().join(format!("{name}.db")));
        let views = SqliteViews::new(SqliteViewOptions::new(name, sqlite(SUMS), place));
        views.live().await.expect("opens")
    }

    fn question(&self) -> Question {
        all_sums()
    }

    fn expected(&self, sent: &[Sent]) -> Vec<Vec<Json>> {
        sums(sent)
    }

    fn is_durable_at_once(&self) -> bool {
        matches!((self.place)(PathBuf::new()), SqlitePlace::File(_))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_view_in_a_file_keeps_every_law() {
    check_all(&Sqlite { dir: tempfile::tempdir().expect("a folder"), place: SqlitePlace::File }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_view_in_memory_keeps_every_law() {
    check_all(&Sqlite { dir: tempfile::tempdir().expect("a folder"), place: SqlitePlace::Memory }).await;
}

struct Postgres {
    url: String,
    spool_dir: TempDir,
}

#[async_trait]
impl ViewBed for Postgres {
    async fn open(&self, name: &str) -> Arc<dyn ViewStore> {
        let definition = Arc::new(Definition::parse("view.sql", SUMS, Dialect::Postgres).expect("a definition"));
        let endpoint = Endpoint::from_url(&self.url).expect("a URL");
        let spool_dir = self.spool_dir.path().to_path_buf();
        let options =
            PgViewOptions { name: name.into(), definition, endpoint, spool_dir, changes: false, publish: false };
        PgViews::new(options).expect("a name").live().await.expect("opens")
    }

    fn question(&self) -> Question {
        all_sums()
    }

    fn expected(&self, sent: &[Sent]) -> Vec<Vec<Json>> {
        sums(sent)
    }

    fn is_durable_at_once(&self) -> bool {
        true
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_view_in_postgres_keeps_every_law() {
    check_all(&Postgres { url: CLUSTER.database(), spool_dir: tempfile::tempdir().expect("a folder") }).await;
}
