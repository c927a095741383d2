//! Our objects in a captured database: the schema, what we note of ourselves, and the publications.
//!
//! Tables whose old rows can be told stand in one publication; the others in a second one for inserts and TRUNCATE only,
//! because the server refuses updates and deletes of published rows that it cannot tell. (postgresql.org/docs/15,
//! "Publication")

use std::sync::Arc;

use tokio_postgres::{Client, Error, GenericClient};

use super::gather::PREFIX_COPIED;
use super::{partitions, shapes};
use crate::log::CapturesTable;
use crate::model::{LogId, TableName, limits};
use crate::postgres::tables::{Identity, Table, literal, quoted, read_tables};

/// The schema, and the one row in which capture notes what it did.
const CAPTURE: &str = "create table if not exists watershed.capture (one boolean primary key default true check (one), \
    log text not null, slot_lsn pg_lsn, replaces pg_lsn, dropped text, installed timestamptz not null default now())";

/// The cursor of what is applied, in one row. It is published with the captured tables: whatever writes to it is ours.
const CURSOR: &str = "create table if not exists watershed.cursor (one boolean primary key default true check (one), \
    cursor text not null)";

/// What slot, publication and replication origin are called: one of each for every log.
pub(super) fn object_name(log: LogId) -> String {
    format!("watershed_{:016x}", log.halves().0)
}

/// The publication of the tables without identity.
pub(super) fn inserts_name(publication: &str) -> String {
    format!("{publication}_inserts")
}

/// What capture noted in the database.
#[derive(Clone, Debug, Default)]
pub(super) struct Noted {
    /// By which log it is captured.
    pub log: String,
    /// Where the present slot began, once everything was in place.
    pub slot_lsn: Option<String>,
    /// How far the log had read when that slot was made.
    pub replaces: Option<String>,
    /// Why the slot was dropped by us.
    pub dropped: Option<String>,
}

/// Makes the schema and the table, and reads what is noted; `None` before the first time.
pub(super) async fn noted(client: &Client) -> Result<Option<Noted>, Error> {
    let exists = "select exists (select 1 from pg_namespace where nspname = 'watershed')";
    if !client.query_one(exists, &[]).await?.try_get::<_, bool>(0)? {
        client.batch_execute("create schema if not exists watershed").await?;
    }
    client.batch_execute(CAPTURE).await?;
    client.batch_execute(CURSOR).await?;
    let sql = "select log, slot_lsn::text, replaces::text, dropped from watershed.capture";
    let row = client.query_opt(sql, &[]).await?;
    row.map(|row| {
        Ok(Noted {
            log: row.try_get(0)?,
            slot_lsn: row.try_get(1)?,
            replaces: row.try_get(2)?,
            dropped: row.try_get(3)?,
        })
    })
    .transpose()
}

/// Notes that a slot is about to be made.
pub(super) async fn note_beginning(client: &Client, log: LogId, replaces: Option<&str>) -> Result<(), Error> {
    let sql = "insert into watershed.capture (log, replaces) values ($1, ($2::text)::pg_lsn) on conflict (one) do update \
               set log = excluded.log, slot_lsn = null, replaces = excluded.replaces";
    client.execute(sql, &[&log.to_string(), &replaces]).await.map(drop)
}

/// Notes where the new slot began and, with `announce`, has all captured tables announced as replaced, in one commit.
pub(super) async fn note_begun(client: &mut Client, name: &str, lsn: &str, announce: bool) -> Result<(), Error> {
    let transaction = client.transaction().await?;
    let sql = "update watershed.capture set slot_lsn = ($1::text)::pg_lsn, dropped = null";
    transaction.execute(sql, &[&lsn]).await?;
    if announce {
        let members = members(&transaction, name).await?;
        let tables = read_tables(&transaction).await?.tables;
        let names = tables.iter().filter(|table| members.contains(table.oid)).map(|table| &table.def.name);
        announce_copied(&transaction, &names.collect::<Vec<_>>()).await?;
    }
    transaction.commit().await
}

/// Notes why the slot is being dropped by us.
pub(super) async fn note_dropped(client: &Client, why: &str) -> Result<(), Error> {
    client.execute("update watershed.capture set dropped = $1", &[&why]).await.map(drop)
}

/// Has tables announced as replaced, at the place in the stream where this commits.
pub(super) async fn announce_copied(client: &impl GenericClient, tables: &[&TableName]) -> Result<(), Error> {
    if tables.is_empty() {
        return Ok(());
    }
    let names = tables.iter().map(|table| table.as_str()).collect::<Vec<_>>().join("\n");
    client.query_one("select pg_logical_emit_message(true, $1, $2::text)", &[&PREFIX_COPIED, &names]).await.map(drop)
}

/// Which tables are published.
#[derive(Clone, Debug, Default)]
struct Members {
    whole: Vec<u32>,
    inserts: Vec<u32>,
    publications: Vec<String>,
}

impl Members {
    fn contains(&self, oid: u32) -> bool {
        self.whole.contains(&oid) || self.inserts.contains(&oid)
    }
}

async fn members(client: &impl GenericClient, name: &str) -> Result<Members, Error> {
    let inserts = inserts_name(name);
    let sql = "select p.pubname::text, r.prrelid from pg_publication p left join pg_publication_rel r on r.prpubid = p.oid \
               where p.pubname in ($1, $2)";
    let mut members = Members::default();
    for row in client.query(sql, &[&name, &inserts]).await? {
        let (publication, oid): (String, Option<u32>) = (row.try_get(0)?, row.try_get(1)?);
        match publication == name {
            true => members.whole.extend(oid),
            false => members.inserts.extend(oid),
        }
        if !members.publications.contains(&publication) {
            members.publications.push(publication);
        }
    }
    Ok(members)
}

/// The outcome of a look at the tables.
#[derive(Debug, Default)]
pub(super) struct Reconciled {
    /// All tables that there are.
    pub tables: Vec<Arc<Table>>,
    /// Those that are captured now.
    pub captured: Vec<TableName>,
    /// Wanted tables that cannot be captured, with why and what to do.
    pub refused: Vec<(TableName, String)>,
    /// Some could not be added yet, because they are written to all the time.
    pub is_unfinished: bool,
}

/// Brings the publications in line with the tables that there are. When capture has begun, tables that are added are
/// announced as replaced, because what was written to them before was not seen.
pub(super) async fn reconcile(
    client: &mut Client,
    name: &str,
    captures: &CapturesTable,
    has_begun: bool,
) -> Result<Reconciled, Error> {
    let transaction = client.transaction().await?;
    let members = members(&transaction, name).await?;
    let tables = read_tables(&transaction).await?.tables.into_iter().map(Arc::new).collect();
    let mut outcome = Reconciled { tables, ..Reconciled::default() };
    make(&transaction, name, &members).await?;
    let cursor: u32 = transaction.query_one("select 'watershed.cursor'::regclass::oid", &[]).await?.try_get(0)?;
    if !members.whole.contains(&cursor) {
        let sql = format!("alter publication {} add table only watershed.cursor", quoted(name));
        transaction.batch_execute(&sql).await?;
    }
    let mut added: Vec<Step> = Vec::new();
    let mut removed: Vec<Arc<Table>> = Vec::new();
    for table in &outcome.tables {
        let is_member = members.contains(table.oid);
        if !captures(&table.def.name) || table.refusal.is_some() {
            removed.extend(is_member.then(|| Arc::clone(table)));
            continue;
        }
        let has_identity = table.identity != Identity::None;
        let (right, wrong) = match has_identity {
            true => (&members.whole, &members.inserts),
            false => (&members.inserts, &members.whole),
        };
        if right.contains(&table.oid) && !wrong.contains(&table.oid) {
            outcome.captured.push(table.def.name.clone());
        } else if !table.is_owned {
            outcome.refused.push((table.def.name.clone(), not_owned(table, name, has_identity)));
            outcome.captured.extend(is_member.then(|| table.def.name.clone()));
        } else {
            let add = !right.contains(&table.oid);
            let drop = wrong.contains(&table.oid);
            added.push(Step {
                table: Arc::clone(table),
                has_identity,
                add,
                drop,
                announce: has_begun && add && (has_identity || !is_member),
            });
        }
    }
    transaction.commit().await?;
    for step in added {
        match change(client, name, &step, has_begun).await {
            Ok(()) => outcome.captured.push(step.table.def.name.clone()),
            // Its writers did not let us in, or it is gone already: the next look sees.
            Err(error) if is_passing(&error) => outcome.is_unfinished = true,
            Err(error) => return Err(error),
        }
    }
    for table in removed {
        match remove(client, name, &members, &table).await {
            Ok(()) => {}
            Err(error) if is_passing(&error) => outcome.is_unfinished = true,
            Err(error) => return Err(error),
        }
    }
    Ok(outcome)
}

/// Makes the publications that are missing.
async fn make(client: &impl GenericClient, name: &str, members: &Members) -> Result<(), Error> {
    for (publication, publish) in
        [(name, "insert, update, delete, truncate"), (&inserts_name(name), "insert, truncate")]
    {
        if !members.publications.iter().any(|found| found == publication) {
            let with = format!("publish = {}, publish_via_partition_root = true", literal(publish));
            client.batch_execute(&format!("create publication {} with ({with})", quoted(publication))).await?;
        }
    }
    Ok(())
}

/// What is to be done for one table.
struct Step {
    table: Arc<Table>,
    has_identity: bool,
    add: bool,
    drop: bool,
    announce: bool,
}

fn is_passing(error: &Error) -> bool {
    // lock_not_available, deadlock_detected, undefined_table, undefined_object, duplicate_object
    let code = error.code().map(|code| code.code().to_string()).unwrap_or_default();
    ["55P03", "40P01", "42P01", "42704", "42710"].contains(&&*code)
}

async fn change(client: &mut Client, name: &str, step: &Step, has_begun: bool) -> Result<(), Error> {
    let (whole, inserts) = (quoted(name), quoted(&inserts_name(name)));
    let (right, wrong) = if step.has_identity { (whole, inserts) } else { (inserts, whole) };
    let sql = step.table.sql();
    let transaction = client.transaction().await?;
    if has_begun && step.add {
        // What a transaction wrote before this commits is not published: all that write end first.
        let lock = limits::CAPTURE_TABLE_LOCK_MS;
        transaction.batch_execute(&format!("set local lock_timeout = {lock}; lock table {sql} in share mode")).await?;
    }
    if step.add {
        transaction.batch_execute(&format!("alter publication {right} add table only {sql}")).await?;
    }
    if step.drop {
        transaction.batch_execute(&format!("alter publication {wrong} drop table only {sql}")).await?;
    }
    if step.announce {
        announce_copied(&transaction, &[&step.table.def.name]).await?;
    }
    // Before anything is read of it, all tables are noted in a moment.
    if has_begun && step.add {
        shapes::note(&transaction, &step.table, step.announce).await?;
        partitions::note(&transaction, &step.table, step.announce).await?;
    }
    transaction.commit().await
}

/// Needs the publication's owner only.
async fn remove(client: &mut Client, name: &str, members: &Members, table: &Table) -> Result<(), Error> {
    let transaction = client.transaction().await?;
    transaction.batch_execute(&format!("set local lock_timeout = {}", limits::CAPTURE_TABLE_LOCK_MS)).await?;
    for (publication, list) in [(name, &members.whole), (&inserts_name(name), &members.inserts)] {
        if list.contains(&table.oid) {
            let sql = format!("alter publication {} drop table only {}", quoted(publication), table.sql());
            transaction.batch_execute(&sql).await?;
        }
    }
    transaction.commit().await
}

fn not_owned(table: &Table, name: &str, has_identity: bool) -> String {
    let publication = if has_identity { quoted(name) } else { quoted(&inserts_name(name)) };
    let (owner, sql) = (quoted(&table.owner), table.sql());
    format!(
        "error[WS-PGCAPTURE-027]: changes of the table {} are not captured: it belongs to {owner}, and only its owner can \
         publish it / do: as the publication's owner with the rights of {owner}, or as superuser: ALTER PUBLICATION \
         {publication} ADD TABLE ONLY {sql}; or GRANT {owner} to the node's user",
        table.def.name
    )
}
