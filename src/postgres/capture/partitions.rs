//! What happens to partitions that the stream does not tell: attached, detached, dropped, truncated alone. The rows of
//! their root are other ones then, so it is announced as replaced.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use tokio_postgres::{Client, Error, GenericClient};

use super::install::announce_copied;
use crate::model::TableName;
use crate::postgres::tables::{Leaf, Table};

/// The leaves of captured tables as they were last seen, so that what happens while the node is down is noticed.
const TABLE: &str = "create table if not exists watershed.partitions (root oid not null, leaf oid primary key, \
    file oid not null)";

/// How the leaves are looked at.
pub(super) struct Occasion<'a> {
    /// Reading has begun: rows may be missing.
    pub has_begun: bool,
    /// The last look is a moment ago.
    pub is_running: bool,
    /// Tables whose truncation came with the stream, and the transactions that did it.
    pub truncated: &'a VecDeque<(TableName, u32)>,
}

/// Compares the leaves with those that were there, and announces the tables whose rows have changed unseen.
pub(super) async fn follow(client: &mut Client, tables: &[Arc<Table>], occasion: Occasion<'_>) -> Result<(), Error> {
    let is_there = "select to_regclass('watershed.partitions') is not null";
    let is_there: bool = client.query_one(is_there, &[]).await?.try_get(0)?;
    if !is_there && tables.iter().all(|table| !table.is_partitioned) {
        return Ok(());
    }
    let transaction = client.transaction().await?;
    transaction.batch_execute(TABLE).await?;
    let mut before: HashMap<u32, HashMap<u32, u32>> = HashMap::new();
    for row in transaction.query("select root, leaf, file from watershed.partitions", &[]).await? {
        before.entry(row.try_get(0)?).or_default().insert(row.try_get(1)?, row.try_get(2)?);
    }
    let mut changed: Vec<&TableName> = Vec::new();
    let mut is_other = false;
    for table in tables.iter().filter(|table| table.is_partitioned) {
        let known = before.remove(&table.oid);
        let now: HashMap<u32, u32> = table.leaves.iter().map(|leaf| (leaf.oid, leaf.file)).collect();
        is_other |= known.as_ref() != Some(&now);
        let Some(known) = known.filter(|known| occasion.has_begun && *known != now) else { continue };
        if has_changed(&transaction, table, &known, &occasion).await? {
            changed.push(&table.def.name);
        }
    }
    if is_other || !before.is_empty() {
        transaction.batch_execute("delete from watershed.partitions").await?;
        let leaves = tables.iter().flat_map(|table| table.leaves.iter().map(|leaf| (table.oid, leaf)));
        let (roots, leaves): (Vec<u32>, Vec<&Leaf>) = leaves.unzip();
        let (oids, files): (Vec<u32>, Vec<u32>) = leaves.into_iter().map(|leaf| (leaf.oid, leaf.file)).unzip();
        let sql = "insert into watershed.partitions select * from unnest($1::oid[], $2::oid[], $3::oid[])";
        transaction.execute(sql, &[&roots, &oids, &files]).await?;
    }
    announce_copied(&transaction, &changed).await?;
    transaction.commit().await
}

/// Whether rows came or went with leaves.
async fn has_changed(
    client: &impl GenericClient,
    table: &Table,
    known: &HashMap<u32, u32>,
    occasion: &Occasion<'_>,
) -> Result<bool, Error> {
    let is_gone = |oid: &u32| table.leaves.iter().all(|leaf| leaf.oid != *oid);
    if known.keys().any(is_gone) {
        return Ok(true);
    }
    for leaf in &table.leaves {
        let changed = match known.get(&leaf.oid) {
            Some(file) if *file == leaf.file => false,
            Some(_) if came(table, leaf, occasion) => false,
            // VACUUM FULL and CLUSTER write a new file and count its rows; TRUNCATE leaves them uncounted.
            Some(_) => !occasion.is_running || leaf.is_uncounted,
            // Made as a partition it is empty; attached it may have rows.
            None => has_rows(client, &leaf.name).await?,
        };
        if changed {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether what gave the leaf its file was a truncation of the whole table that the stream told.
fn came(table: &Table, leaf: &Leaf, occasion: &Occasion<'_>) -> bool {
    occasion.truncated.iter().any(|(name, xid)| *name == table.def.name && *xid == leaf.xmin)
}

async fn has_rows(client: &impl GenericClient, name: &str) -> Result<bool, Error> {
    client.query_one(&format!("select exists (select 1 from {name})"), &[]).await?.try_get(0)
}
