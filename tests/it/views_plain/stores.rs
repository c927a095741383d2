//! Stores of SQL views keep the laws of a store of views.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use serde_json::{Value as Json, json};
use tempfile::TempDir;
use watershed::sqlite::{SqlitePlace, SqliteViewOptions, SqliteViews};
use watershed::testing::view_conformance::{Sent, ViewBed, check_all};
use watershed::view::sql::{Definition, Dialect};
use watershed::view::{Question, ViewBuilds, ViewStore};

const TOTALS: &str = "-- setup
create table totals (customer text primary key, orders integer not null, amount integer not null);
-- on insert orders
insert into totals values (:row.customer, 1, :row.amount)
  on conflict (customer) do update set orders = totals.orders + 1, amount = totals.amount + excluded.amount;
";

fn question() -> Question {
    Question::Sql { sql: "select customer, orders, amount from totals".into(), params: json!([]) }
}

fn expected(sent: &[Sent]) -> Vec<Vec<Json>> {
    let mut totals = BTreeMap::new();
    for order in sent {
        let (count, sum) = totals.entry(&*order.customer).or_insert((0, 0));
        *count += 1;
        *sum += order.amount;
    }
    totals.into_iter().map(|(customer, (count, sum))| vec![json!(customer), json!(count), json!(sum)]).collect()
}

struct Sqlite {
    folder: TempDir,
    in_memory: bool,
}

#[async_trait]
impl ViewBed for Sqlite {
    async fn open(&self, name: &str) -> Arc<dyn ViewStore> {
        let path = self.folder.path().join(format!("{name}.db"));
        let place = if self.in_memory { SqlitePlace::Memory(path) } else { SqlitePlace::File(path) };
        let definition = Definition::parse("totals.sql", TOTALS, Dialect::Sqlite).expect("a good definition");
        let views = SqliteViews::new(SqliteViewOptions::new(name, Arc::new(definition), place));
        views.live().await.expect("opened")
    }

    fn question(&self) -> Question {
        question()
    }

    fn expected(&self, sent: &[Sent]) -> Vec<Vec<Json>> {
        expected(sent)
    }

    fn writing(&self) -> Option<Question> {
        Some(Question::Sql { sql: "delete from totals".into(), params: json!([]) })
    }

    fn is_durable_at_once(&self) -> bool {
        !self.in_memory
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sqlite_files_keep_the_laws_of_views() {
    let folder = tempfile::tempdir().expect("a folder");
    check_all(&Sqlite { folder, in_memory: false }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sqlite_in_memory_keeps_the_laws_of_views() {
    let folder = tempfile::tempdir().expect("a folder");
    check_all(&Sqlite { folder, in_memory: true }).await;
}
