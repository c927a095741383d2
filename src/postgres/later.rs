//! Secondary indexes of an empty table that is about to be copied, put off until its rows are there: building them once is
//! several times quicker than keeping them up to date row by row.
//!
//! What has been put off stands in a table of ours, written in the commit that drops the indexes, and is removed from it in
//! the commit that builds them: whoever comes after a crash of anybody builds the rest. Unique indexes and those of
//! constraints stay, because the rows that follow need them; so do those of which a definition does not tell everything.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_util::future;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Error};

use super::events::Shown;
use super::{Endpoint, PgError, Session};
use crate::model::{TableName, limits};

/// The table may be in use: then it is copied with its indexes.
const LOCK_MS: u32 = 500;

const FIND: &str = "
SELECT format('%I.%I', n.nspname, c.relname), pg_catalog.pg_get_indexdef(c.oid)
FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid JOIN pg_catalog.pg_class t ON t.oid = i.indrelid
     JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE i.indrelid = $1::text::pg_catalog.regclass AND t.relkind = 'r' AND i.indisvalid AND i.indisready
  AND NOT (i.indisunique OR i.indisexclusion OR i.indisclustered OR i.indisreplident) AND c.reltablespace = 0
  AND NOT EXISTS (SELECT FROM pg_catalog.pg_constraint k WHERE k.conindid = c.oid)
  AND NOT EXISTS (SELECT FROM pg_catalog.pg_inherits h WHERE h.inhrelid = c.oid)
  AND NOT EXISTS (SELECT FROM pg_catalog.pg_description d WHERE d.classoid = 'pg_class'::pg_catalog.regclass AND d.objoid = c.oid)
  AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d WHERE d.classid = 'pg_class'::pg_catalog.regclass AND d.objid = c.oid AND d.deptype = 'e')
  AND NOT EXISTS (SELECT FROM pg_catalog.pg_attribute a WHERE a.attrelid = c.oid AND coalesce(a.attstattarget, -1) <> -1)
  AND pg_catalog.pg_has_role(t.relowner, 'USAGE') AND pg_catalog.has_schema_privilege(n.oid, 'CREATE')
ORDER BY 1";
const NOTE: &str = "INSERT INTO watershed.index_later (table_name, name, definition) VALUES ($1, $2, $3)
  ON CONFLICT (name) DO UPDATE SET table_name = excluded.table_name, definition = excluded.definition";
const KNOWN: &str = "SELECT to_regclass('watershed.index_later') IS NOT NULL";
const NOTED: &str = "SELECT table_name, name, definition FROM watershed.index_later ORDER BY name";
const FORGET: &str = "DELETE FROM watershed.index_later WHERE name = $1";
/// More memory sorts quicker; what the server allows by default is kept when it is more.
const BUILDING: &str = "SELECT set_config('maintenance_work_mem', greatest(262144, setting::bigint)::text, false) \
    FROM pg_settings WHERE name = 'maintenance_work_mem'; SET statement_timeout = 0; SET search_path = pg_catalog";

/// An index that is to be built.
struct Noted {
    table: String,
    name: String,
    definition: String,
}

/// Drops the secondary indexes of an empty table and notes them, in the transaction that is open. `rel` is the table in
/// SQL. Gives how many; none where the table is in use.
pub(crate) async fn put_off(client: &Client, table: &TableName, rel: &str) -> Result<usize, Error> {
    let path: String = client.query_one("SELECT pg_catalog.current_setting('search_path')", &[]).await?.get(0);
    let begin = format!("SAVEPOINT ws_later; SET LOCAL search_path = pg_catalog; SET LOCAL lock_timeout = {LOCK_MS}");
    client.batch_execute(&begin).await?;
    let dropped = async {
        let found = client.query(FIND, &[&rel]).await?;
        for row in &found {
            let (name, definition): (String, String) = (row.get(0), row.get(1));
            client.execute(NOTE, &[&table.as_str(), &name, &definition]).await?;
            client.batch_execute(&format!("DROP INDEX {name}")).await?;
        }
        Ok(found.len())
    };
    let dropped: Result<usize, Error> = dropped.await;
    match dropped {
        Ok(0) => client.batch_execute("ROLLBACK TO SAVEPOINT ws_later").await.map(|()| 0),
        // Settings that were made within a savepoint stay once it is released: these are put back.
        Ok(count) => {
            client.execute("SELECT pg_catalog.set_config('search_path', $1, true)", &[&path]).await?;
            client.batch_execute(&restore()).await.map(|()| count)
        }
        Err(error) if error.as_db_error().is_some() => {
            tracing::info!("the indexes of {table} stay while it is copied, which is slower: {error}");
            client.batch_execute("ROLLBACK TO SAVEPOINT ws_later").await.map(|()| 0)
        }
        Err(error) => Err(error),
    }
}

fn restore() -> String {
    format!("SET LOCAL lock_timeout = {}; RELEASE SAVEPOINT ws_later", limits::DATABASE_BUSY_TIMEOUT.as_millis())
}

async fn noted(session: &Session) -> Result<Vec<Noted>, PgError> {
    let failed = |error| session.endpoint().failed("looking for indexes to build", error);
    if !session.client.query_one(KNOWN, &[]).await.map_err(failed)?.get::<_, bool>(0) {
        return Ok(Vec::new());
    }
    let rows = session.client.query(NOTED, &[]).await.map_err(failed)?;
    Ok(rows.iter().map(|row| Noted { table: row.get(0), name: row.get(1), definition: row.get(2) }).collect())
}

/// Builds what was put off of one table, whose rows are there and which nobody writes to now. Gives how many.
///
/// # Errors
/// The server's; what is not built stays noted.
pub async fn build(endpoint: &Endpoint, table: &TableName) -> Result<usize, PgError> {
    let session = endpoint.connect(limits::CONNECT_TIMEOUT).await?;
    let waiting: Vec<Noted> =
        noted(&session).await?.into_iter().filter(|noted| noted.table == table.as_str()).collect();
    if waiting.is_empty() {
        return Ok(0);
    }
    let (began, count) = (Instant::now(), waiting.len());
    tracing::info!("{}: building {count} indexes of {table}", endpoint.name());
    let failed = |error| endpoint.failed("building indexes", error);
    let pid: i32 = session.client.query_one("SELECT pg_backend_pid()", &[]).await.map_err(failed)?.get(0);
    let _shown = Shown::start(endpoint.clone(), pid);
    let queue = Mutex::new(waiting);
    // Two at a time: an index is sorted on one core for most of its time. Who cannot connect twice builds alone.
    let beside = async {
        match endpoint.connect(Duration::from_secs(5)).await {
            Ok(second) => build_all(&second, &queue).await,
            Err(_) => Ok(()),
        }
    };
    let (built, others) = future::join(build_all(&session, &queue), beside).await;
    built?;
    others?;
    let rel = super::copy::qualified(table);
    if let Err(error) = session.client.batch_execute(&format!("ANALYZE {rel}")).await {
        tracing::debug!("ANALYZE {rel}: {error}");
    }
    tracing::info!("{}: {count} indexes of {table} built in {:.1?}", endpoint.name(), began.elapsed());
    Ok(count)
}

/// Builds what is left in the queue, each index in one commit with the note that it is there.
async fn build_all(session: &Session, queue: &Mutex<Vec<Noted>>) -> Result<(), PgError> {
    let failed = |error| session.endpoint().failed("building indexes", error);
    let client = &session.client;
    client.batch_execute(BUILDING).await.map_err(failed)?;
    loop {
        let next = queue.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let Some(noted) = next else { return Ok(()) };
        let built = async {
            client.batch_execute(&format!("BEGIN; {}", noted.definition)).await?;
            client.execute(FORGET, &[&noted.name]).await?;
            client.batch_execute("COMMIT").await
        };
        match built.await {
            // A killed run's server process goes on to the end of its statement: it has built this one meanwhile.
            Err(error) if error.code() == Some(&SqlState::DUPLICATE_TABLE) => {
                client.batch_execute("ROLLBACK").await.map_err(failed)?;
                let sql = format!(
                    "{FORGET} AND EXISTS (SELECT FROM pg_index WHERE indexrelid = to_regclass(name) AND indisvalid)"
                );
                client.execute(&sql, &[&noted.name]).await.map_err(failed)?;
            }
            built => built.map_err(failed)?,
        }
    }
}

/// Builds what was put off of tables whose copies have ended otherwise, without holding up who writes to them. `busy` are
/// being copied. Gives how many.
///
/// # Errors
/// As [`build`].
pub async fn build_leftover(endpoint: &Endpoint, busy: &[TableName]) -> Result<usize, PgError> {
    let session = endpoint.connect(limits::CONNECT_TIMEOUT).await?;
    let failed = |error| endpoint.failed("building indexes", error);
    let client = &session.client;
    let mut count = 0;
    for noted in noted(&session).await? {
        if busy.iter().any(|table| table.as_str() == noted.table) {
            continue;
        }
        client.batch_execute(BUILDING).await.map_err(failed)?;
        // What an attempt has left behind is not valid.
        let valid = "SELECT i.indisvalid FROM pg_catalog.pg_index i WHERE i.indexrelid = to_regclass($1::text)";
        let found = client.query_opt(valid, &[&noted.name]).await.map_err(failed)?;
        let found: Option<bool> = found.map(|row| row.get(0));
        if found == Some(false) {
            let sql = format!("DROP INDEX CONCURRENTLY {}", noted.name);
            client.batch_execute(&sql).await.map_err(failed)?;
        }
        if found != Some(true) {
            let sql = noted.definition.replacen("CREATE INDEX ", "CREATE INDEX CONCURRENTLY ", 1);
            match client.batch_execute(&sql).await {
                // The table is gone, or the column.
                Err(error) if error.code().is_some_and(|code| matches!(code.code(), "42P01" | "42703" | "3F000")) => {
                    tracing::warn!("{}: index {} is not built again: {error}", endpoint.name(), noted.name);
                }
                built => {
                    built.map_err(failed)?;
                    tracing::info!("{}: index {} of {} is built", endpoint.name(), noted.name, noted.table);
                }
            }
        }
        client.execute(FORGET, &[&noted.name]).await.map_err(failed)?;
        count += 1;
    }
    Ok(count)
}
