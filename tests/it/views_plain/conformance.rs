//! Every store without SQL keeps the laws of a store of views.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use serde_json::{Value as Json, json};
use tempfile::TempDir;
use watershed::testing::view_conformance::{Sent, ViewBed, check_all};
use watershed::view::machine::{Machine, MachineOptions, MachineStore, Rows, Select, Transaction};
use watershed::view::plain::{CountSettings, LatestSettings, Plain, PlainSettings, ReduceSettings};
use watershed::view::{AskError, Bounds, Question, ViewError, ViewStore};

struct Bed {
    folder: TempDir,
    settings: PlainSettings,
    table: &'static str,
    expected: fn(&[Sent]) -> Vec<Vec<Json>>,
}

impl Bed {
    fn new(settings: PlainSettings, table: &'static str, expected: fn(&[Sent]) -> Vec<Vec<Json>>) -> Bed {
        Bed { folder: tempfile::tempdir().expect("a folder"), settings, table, expected }
    }
}

fn path(folder: &TempDir, name: &str) -> PathBuf {
    folder.path().join(format!("{name}.state"))
}

#[async_trait]
impl ViewBed for Bed {
    async fn open(&self, name: &str) -> Arc<dyn ViewStore> {
        let options =
            MachineOptions { path: Some(path(&self.folder, name)), ..MachineOptions::in_memory(self.folder.path()) };
        let new = || Plain::new(&self.settings).expect("good settings");
        Arc::new(MachineStore::open(new, options).expect("opened"))
    }

    fn question(&self) -> Question {
        Question::Sql { sql: format!("select * from {}", self.table), params: Json::Null }
    }

    fn expected(&self, sent: &[Sent]) -> Vec<Vec<Json>> {
        (self.expected)(sent)
    }

    fn is_durable_at_once(&self) -> bool {
        false
    }
}

fn by_customer(sent: &[Sent]) -> BTreeMap<&str, (i64, i64)> {
    let mut sums = BTreeMap::new();
    for order in sent {
        let (count, sum) = sums.entry(&*order.customer).or_insert((0, 0));
        *count += 1;
        *sum += order.amount;
    }
    sums
}

#[tokio::test(flavor = "multi_thread")]
async fn count_keeps_the_laws_of_views() {
    let settings = CountSettings { by: Some("customer".into()), ..CountSettings::default() };
    let expected = |sent: &[Sent]| {
        by_customer(sent)
            .into_iter()
            .map(|(customer, (count, _))| vec![json!("orders"), json!(customer), json!(count)])
            .collect()
    };
    check_all(&Bed::new(PlainSettings::Count(settings), "values", expected)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn latest_keeps_the_laws_of_views() {
    let settings = LatestSettings { indexes: vec!["customer".into()], tables: vec!["orders".into()] };
    let expected = |sent: &[Sent]| {
        let last: BTreeMap<&str, &Sent> = sent.iter().map(|order| (&*order.key, order)).collect();
        let row = |(key, order): (&str, &Sent)| {
            let text = format!(r#"{{"customer":"{}","amount":{}}}"#, order.customer, order.amount);
            vec![json!(key), json!(text), json!(order.position)]
        };
        last.into_iter().map(row).collect()
    };
    check_all(&Bed::new(PlainSettings::Latest(settings), "orders", expected)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reduce_keeps_the_laws_of_views() {
    let settings = ReduceSettings {
        tables: vec!["orders".into()],
        init: "{'count': 0, 'sum': 0}".into(),
        step: "{'count': state.count + 1, 'sum': state.sum + row.amount}".into(),
        by: Some("row.customer".into()),
    };
    let expected = |sent: &[Sent]| {
        let state = |(customer, (count, sum))| vec![json!(customer), json!({"count": count, "sum": sum})];
        by_customer(sent).into_iter().map(state).collect()
    };
    check_all(&Bed::new(PlainSettings::Reduce(settings), "states", expected)).await;
}

/// A program's own: what every customer has ordered.
#[derive(Default)]
struct Sums(BTreeMap<String, i64>);

impl Machine for Sums {
    fn definition(&self) -> String {
        "sums 1".into()
    }

    fn apply(&mut self, transaction: &Transaction<'_>) -> Result<(), ViewError> {
        transaction.rows(|change| {
            let row: Json = serde_json::from_str(change.row.unwrap_or("null")).unwrap_or(Json::Null);
            let customer = row["customer"].as_str().unwrap_or_default();
            *self.0.entry(customer.into()).or_default() += row["amount"].as_i64().unwrap_or_default();
            Ok(())
        })
    }

    fn save(&self, out: &mut dyn Write) -> io::Result<()> {
        Ok(serde_json::to_writer(out, &self.0)?)
    }

    fn load(&mut self, state: &mut dyn Read) -> io::Result<()> {
        self.0 = serde_json::from_reader(state)?;
        Ok(())
    }

    fn ask(&self, question: &Question, bounds: &Bounds) -> Result<Rows, AskError> {
        let select = Select::of(question)?;
        if select.table != "sums" {
            return Err(select.no_table(&["sums"]));
        }
        let mut rows = Rows::new(&["customer", "sum"], bounds);
        self.0.iter().try_for_each(|(customer, sum)| rows.push(vec![json!(customer), json!(sum)]))?;
        Ok(rows)
    }

    fn rows(&self) -> u64 {
        self.0.len() as u64
    }
}

struct MachineBed(TempDir);

#[async_trait]
impl ViewBed for MachineBed {
    async fn open(&self, name: &str) -> Arc<dyn ViewStore> {
        let options = MachineOptions {
            path: Some(path(&self.0, name)),
            compared: true,
            ..MachineOptions::in_memory(self.0.path())
        };
        Arc::new(MachineStore::open(Sums::default, options).expect("opened"))
    }

    fn question(&self) -> Question {
        Question::Sql { sql: "select * from sums".into(), params: Json::Null }
    }

    fn expected(&self, sent: &[Sent]) -> Vec<Vec<Json>> {
        by_customer(sent).into_iter().map(|(customer, (_, sum))| vec![json!(customer), json!(sum)]).collect()
    }

    fn is_durable_at_once(&self) -> bool {
        false
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn machines_of_programs_keep_the_laws_of_views() {
    check_all(&MachineBed(tempfile::tempdir().expect("a folder"))).await;
}
