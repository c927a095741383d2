//! What happens to partitions that the stream does not tell: attached, detached, dropped, truncated alone. The rows of
//! their root are other ones then, so it is announced as replaced.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Error, GenericClient};

use super::install::announce_copied;
use crate::model::{TableName, limits};
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

/// Compares the leaves with those that were there, and announces the tables whose rows have changed unseen. False when it could
/// not, because somebody has locked one.
pub(super) async fn follow(client: &mut Client, tables: &[Arc<Table>], occasion: Occasion<'_>) -> Result<bool, Error> {
    match compare(client, tables, occasion).await {
        Err(error) if error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE) => Ok(false),
        compared => compared.map(|()| true),
    }
}

async fn compare(client: &mut Client, tables: &[Arc<Table>], occasion: Occasion<'_>) -> Result<(), Error> {
    let is_first = !is_there(client).await?;
    if is_first && tables.iter().all(|table| !table.is_partitioned) {
        return Ok(());
    }
    let transaction = client.transaction().await?;
    transaction.batch_execute(&format!("set local lock_timeout = {}", limits::CAPTURE_TABLE_LOCK_MS)).await?;
    if is_first {
        transaction.batch_execute(TABLE).await?;
    }
    let mut before: HashMap<u32, HashMap<u32, u32>> = HashMap::new();
    for row in transaction.query("select root, leaf, file from watershed.partitions", &[]).await? {
        before.entry(row.try_get(0)?).or_default().insert(row.try_get(1)?, row.try_get(2)?);
    }
    let mut changed: Vec<&TableName> = Vec::new();
    let mut is_other = false;
    for table in tables.iter().filter(|table| table.is_partitioned) {
        // One of which nothing is noted had no leaves when it was published.
        let known = before.remove(&table.oid).unwrap_or_default();
        let now: HashMap<u32, u32> = table.leaves.iter().map(|leaf| (leaf.oid, leaf.file)).collect();
        is_other |= known != now;
        if !occasion.has_begun || is_first || known == now {
            continue;
        }
        if has_changed(&transaction, table, &known, &occasion).await? {
            changed.push(&table.def.name);
        }
    }
    if is_other || !before.is_empty() {
        transaction.batch_execute("delete from watershed.partitions").await?;
        write(&transaction, tables).await?;
    }
    announce_copied(&transaction, &changed).await?;
    transaction.commit().await
}

/// Notes the leaves of a table that is about to be published and announced, in the commit that does so.
pub(super) async fn note(client: &impl GenericClient, table: &Arc<Table>, is_announced: bool) -> Result<(), Error> {
    if !table.is_partitioned || !is_announced {
        return Ok(());
    }
    if !is_there(client).await? {
        client.batch_execute(TABLE).await?;
    }
    client.execute("delete from watershed.partitions where root = $1", &[&table.oid]).await?;
    write(client, std::slice::from_ref(table)).await
}

async fn is_there(client: &impl GenericClient) -> Result<bool, Error> {
    client.query_one("select to_regclass('watershed.partitions') is not null", &[]).await?.try_get(0)
}

async fn write(client: &impl GenericClient, tables: &[Arc<Table>]) -> Result<(), Error> {
    let leaves = tables.iter().flat_map(|table| table.leaves.iter().map(|leaf| (table.oid, leaf)));
    let (roots, leaves): (Vec<u32>, Vec<&Leaf>) = leaves.unzip();
    let (oids, files): (Vec<u32>, Vec<u32>) = leaves.into_iter().map(|leaf| (leaf.oid, leaf.file)).unzip();
    let sql = "insert into watershed.partitions select * from unnest($1::oid[], $2::oid[], $3::oid[]) \
               on conflict (leaf) do update set root = excluded.root, file = excluded.file";
    client.execute(sql, &[&roots, &oids, &files]).await.map(drop)
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
            Some(_) => is_written(client, table, leaf, occasion).await?,
            // Made as a partition it began empty, and what was written to it since was told; attached it may have rows.
            None if is_born(client, table, leaf).await? => {
                leaf.file != leaf.oid && is_written(client, table, leaf, occasion).await?
            }
            None => has_rows(client, &leaf.name).await?,
        };
        if changed {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether the leaf has its file from something else than what writes the same rows anew. VACUUM FULL and CLUSTER count the rows
/// of the file that they write; TRUNCATE leaves them uncounted, until somebody analyzes the table.
async fn is_written(
    client: &impl GenericClient,
    table: &Table,
    leaf: &Leaf,
    occasion: &Occasion<'_>,
) -> Result<bool, Error> {
    if came(table, leaf, occasion) {
        return Ok(false);
    }
    if !occasion.is_running || leaf.is_uncounted {
        return Ok(true);
    }
    // A row that is older than what was done to the table was not truncated. Where there is none, only a count that was made by
    // ANALYZE, a moment ago, can stand behind a TRUNCATE.
    let sql = format!(
        "select coalesce((select age(xmin) > age($1::text::xid) from {} limit 1), \
         greatest(pg_stat_get_last_analyze_time($2), pg_stat_get_last_autoanalyze_time($2)) < now() - interval '1 minute', true)",
        leaf.name
    );
    let is_kept: bool = client.query_one(&sql, &[&leaf.xmin.to_string(), &leaf.oid]).await?.try_get(0)?;
    Ok(!is_kept)
}

/// Whether the leaf, and what it is part of below the root, was made as a partition and has been one ever since: the rows of the
/// catalog for its columns are as they were written with those of its system columns. ATTACH and DETACH write them all anew.
async fn is_born(client: &impl GenericClient, table: &Table, leaf: &Leaf) -> Result<bool, Error> {
    let sql = "select coalesce(bool_and(exists (select from pg_attribute s join pg_attribute a on a.attrelid = s.attrelid \
                   where s.attrelid = part.relid and s.attnum = -1 and a.attnum > 0 and a.xmin = s.xmin and a.cmin = s.cmin)), \
                   false) from pg_partition_ancestors($1::oid::regclass) part where part.relid <> $2";
    client.query_one(sql, &[&leaf.oid, &table.oid]).await?.try_get(0)
}

/// Whether what gave the leaf its file was a truncation of the whole table that the stream told.
fn came(table: &Table, leaf: &Leaf, occasion: &Occasion<'_>) -> bool {
    occasion.truncated.iter().any(|(name, xid)| *name == table.def.name && *xid == leaf.xmin)
}

async fn has_rows(client: &impl GenericClient, name: &str) -> Result<bool, Error> {
    client.query_one(&format!("select exists (select 1 from {name})"), &[]).await?.try_get(0)
}
