//! Views that need no SQL, and machines of programs.

mod conformance;
mod machines;
mod plain;
mod replicas;
mod stores;

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use serde_json::Value as Json;
use watershed::log::memory::MemoryLog;
use watershed::log::{Append, Draft, Limit, Log, Source};
use watershed::model::{EntryHeader, FeedRow, LinkId, Position, TableDef, feed_table, put_feed_row};
use watershed::testing::view_conformance::BOUNDS;
use watershed::view::machine::{Machine, MachineOptions, MachineStore};
use watershed::view::plain::{Plain, PlainSettings};
use watershed::view::{Answer, AskError, Question, ViewError, ViewStore};

fn feed(name: &str) -> Arc<TableDef> {
    Arc::new(feed_table(name.parse().expect("a name")))
}

/// Encoded rows of one feed's table.
fn rows(rows: &[(Option<&str>, &str)]) -> Bytes {
    let mut changes = Vec::new();
    rows.iter().for_each(|(key, row)| put_feed_row(&mut changes, &FeedRow { table: 0, key: *key, row }));
    changes.into()
}

async fn append(log: &dyn Log, table: &Arc<TableDef>, changes: Bytes) {
    let header = EntryHeader { tables: vec![table.fingerprint], ..EntryHeader::default() };
    let drafts = vec![Draft::Local { header, changes }];
    let append = Append { from: LinkId::LOCAL, tables: vec![table.clone()], drafts, upto: None };
    log.append(append).await.expect("appended");
}

/// Has the view take everything that it lacks.
async fn catch_up(store: &dyn ViewStore, log: &dyn Source) -> Result<(), ViewError> {
    let mut view = store.part(log.id()).await.expect("a part");
    let at = view.cursor().await?.map_or(Position::ZERO, |cursor| cursor.position);
    let mut from = at.into();
    loop {
        let batch = log.read(from, Limit::default()).await.expect("readable");
        if batch.next == from {
            return view.flush().await;
        }
        view.apply(&batch).await?;
        from = batch.next;
    }
}

fn plain_store(folder: &Path, settings: PlainSettings) -> MachineStore<Plain> {
    store(folder, "plain", move || Plain::new(&settings).expect("good settings"))
}

fn store<M: Machine>(folder: &Path, name: &str, new: impl Fn() -> M) -> MachineStore<M> {
    let path = Some(folder.join(format!("{name}.state")));
    MachineStore::open(new, MachineOptions { path, ..MachineOptions::in_memory(folder) }).expect("opened")
}

async fn select(store: &dyn ViewStore, sql: &str) -> Result<Answer, AskError> {
    store.ask(&Question::Sql { sql: sql.into(), params: Json::Null }, &BOUNDS).await
}

async fn row(store: &dyn ViewStore, table: &str, key: &str) -> Result<Vec<Json>, AskError> {
    let question = Question::Row { table: table.into(), key: key.into() };
    Ok(store.ask(&question, &BOUNDS).await?.rows.remove(0))
}

fn memory() -> MemoryLog {
    MemoryLog::new()
}
