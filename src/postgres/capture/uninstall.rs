//! Everything of ours is taken out of a database again.

use crate::model::limits;
use crate::postgres::replication::ReplicationClient;
use crate::postgres::tables::quoted;
use crate::postgres::{Endpoint, PgError};

/// What is named after a log in this database.
const NAMES: &str = "select slot_name::text, 'slot' from pg_replication_slots \
        where slot_name like 'watershed\\_%' and database = current_database() \
    union all select pubname::text, 'publication' from pg_publication where pubname like 'watershed\\_%'";
/// Origins are of the whole cluster: only those of logs that this database knows are ours.
const LOGS: &str =
    "select 'watershed_' || left(log, 16) || behind from watershed.capture, (values (''), ('/2')) v(behind)";
/// Those of a copy bear its name, too.
const COPY: &str = "select 'watershed_' || left(cursor, 16) || '_' || $1 || behind from watershed.cursor, (values (''), ('/2')) v(behind)";
/// An application's events table may stand in the schema, too: only what is ours goes.
const TABLES: [&str; 9] =
    ["capture", "partitions", "shape", "witness", "cursor", "lane", "follows", "evicted", "index_later"];

/// Whether a database is, or was, captured by a node.
///
/// # Errors
/// The server cannot be reached or refuses.
pub async fn is_captured(endpoint: &Endpoint) -> Result<bool, PgError> {
    let session = endpoint.connect(limits::CAPTURE_CONNECT_TIMEOUT).await?;
    let failed = |error| endpoint.failed("looking for what captures it", error);
    let row =
        session.client.query_one("select to_regclass('watershed.capture') is not null", &[]).await.map_err(failed)?;
    row.try_get(0).map_err(failed)
}

/// Drops slot, publications, replication origins and the tables of ours in the schema `watershed`, and the schema if it is
/// empty then. What is not there is no error. `copy`: the database is a copy of that name.
///
/// # Errors
/// The server cannot be reached or refuses: a slot is in use while the node runs.
pub async fn uninstall(endpoint: &Endpoint, copy: Option<&str>) -> Result<(), PgError> {
    // What a copy has put off is not forgotten with the note of it.
    crate::postgres::build_leftover(endpoint, &[]).await?;
    let session = endpoint.connect(limits::CAPTURE_CONNECT_TIMEOUT).await?;
    let client = &session.client;
    let failed = |doing: &'static str| move |error| endpoint.failed(doing, error);
    let exists = "select to_regclass('watershed.capture') is not null";
    let is_installed = client.query_one(exists, &[]).await.and_then(|row| row.try_get(0));
    let is_installed: bool = is_installed.map_err(failed("looking for what is ours"))?;
    let mut origins: Vec<String> = Vec::new();
    if is_installed {
        let rows = client.query(LOGS, &[]).await.map_err(failed("reading which log captures it"))?;
        origins.extend(rows.iter().map(|row| row.get::<_, String>(0)));
    }
    let has_cursor = "select to_regclass('watershed.cursor') is not null";
    let has_cursor = client.query_one(has_cursor, &[]).await.and_then(|row| row.try_get(0));
    if let (Some(copy), true) = (copy, has_cursor.map_err(failed("looking for what is ours"))?) {
        let rows = client.query(COPY, &[&copy]).await.map_err(failed("reading which log it follows"))?;
        origins.extend(rows.iter().map(|row| row.get::<_, String>(0)));
    }
    for row in client.query(NAMES, &[]).await.map_err(failed("looking for what is ours"))? {
        let (name, kind): (String, String) = (row.get(0), row.get(1));
        match &*kind {
            "slot" => drop_slot(endpoint, &name).await?,
            _ => {
                let sql = format!("drop publication if exists {}", quoted(&name));
                client.batch_execute(&sql).await.map_err(failed("dropping its publication"))?;
            }
        }
    }
    for origin in origins {
        let sql = "select pg_replication_origin_drop(roname) from pg_replication_origin where roname = $1";
        client.query(sql, &[&origin]).await.map_err(failed("dropping its replication origin"))?;
    }
    for table in TABLES {
        let sql = format!("drop table if exists watershed.{}", quoted(table));
        client.batch_execute(&sql).await.map_err(failed("dropping tables of the schema watershed"))?;
    }
    let empty = "select not exists (select 1 from pg_class c join pg_namespace n on n.oid = c.relnamespace \
                 where n.nspname = 'watershed') and exists (select 1 from pg_namespace where nspname = 'watershed') \
                 and not exists (select 1 from pg_proc p join pg_namespace n on n.oid = p.pronamespace where n.nspname = 'watershed')";
    let row = client.query_one(empty, &[]).await.map_err(failed("looking at the schema watershed"))?;
    if row.get(0) {
        client.batch_execute("drop schema watershed").await.map_err(failed("dropping the schema watershed"))?;
    }
    Ok(())
}

async fn drop_slot(endpoint: &Endpoint, name: &str) -> Result<(), PgError> {
    let refused = |error: crate::postgres::replication::ReplicationError| {
        endpoint.unexpected(format!("dropping the replication slot {name}"), error.to_string())
    };
    let mut client = ReplicationClient::connect(endpoint, limits::CAPTURE_CONNECT_TIMEOUT).await.map_err(refused)?;
    client.drop_slot(name, false).await.map(drop).map_err(refused)
}
