//! A view: state that is derived from a log, together with the cursor of what it contains.
//!
//! `cargo run --example view`

use std::collections::BTreeMap;

use async_trait::async_trait;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use watershed::log::memory::MemoryLog;
use watershed::log::{Append, Draft, Limit, Log};
use watershed::model::{Batch, Change, Column, Cursor, EntryHeader, Kind, LinkId, Op, TableDef, Value, encode_changes};
use watershed::stream::follow;
use watershed::view::{View, ViewError};

/// How often each word was appended. It lives in memory, so its cursor does too, and it begins anew with the process;
/// a view in a store keeps both there and commits them together.
#[derive(Default)]
struct WordCount {
    counts: BTreeMap<String, u64>,
    cursor: Option<Cursor>,
}

#[async_trait]
impl View for WordCount {
    async fn cursor(&mut self) -> Result<Option<Cursor>, ViewError> {
        Ok(self.cursor)
    }

    async fn apply(&mut self, batch: &Batch) -> Result<(), ViewError> {
        for logged in &batch.entries {
            let changes = logged.entry.changes().map_err(|error| ViewError::Failed(error.to_string()))?;
            for value in changes.iter().filter_map(|change| change.row.as_ref()).flatten() {
                *self.counts.entry(String::from_utf8_lossy(&value.text).into_owned()).or_default() += 1;
            }
        }
        self.cursor = Some(batch.upto);
        Ok(())
    }
}

#[tokio::main]
pub async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let log = MemoryLog::new();
    let column = Column { name: "word".into(), type_name: "text".into(), key: 0 };
    let words = std::sync::Arc::new(TableDef::new("words".parse()?, vec![column]));
    let mut last = None;
    for word in ["rain", "river", "rain", "sea"] {
        let row = [Value::new(Kind::Text, word)].into_iter().collect();
        let change = Change { table: 0, op: Op::Insert, row: Some(row), old: None };
        let header = EntryHeader { tables: vec![words.fingerprint], ..EntryHeader::default() };
        let draft = Draft::Local { header, changes: encode_changes(&[change]) };
        let append = Append { from: LinkId::LOCAL, tables: vec![words.clone()], drafts: vec![draft], upto: None };
        last = Some(log.append(append).await?);
    }

    // `follow` moves what is there and whatever comes, until it is told to stop: here, at what was appended last.
    let last = last.ok_or("nothing was appended")?;
    let (mut view, stop) = (WordCount::default(), CancellationToken::new());
    let (progress, mut reached) = watch::channel(Cursor { position: Default::default(), ..last });
    let following = follow(&log, None, &mut view, Limit::default(), &progress, &stop);
    let waiting = async {
        let _ = reached.wait_for(|cursor| cursor.position >= last.position).await;
        stop.cancel();
    };
    let (followed, ()) = tokio::join!(following, waiting);
    followed?;

    println!("{:?}", view.counts);
    assert_eq!(view.counts["rain"], 2);
    Ok(())
}
