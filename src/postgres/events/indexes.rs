//! The secondary indexes of an empty destination, put off until its events are there: building them once is several
//! times quicker than keeping them up to date row by row.
//!
//! What has been put off stands in a table of our own, written in the commit that drops the indexes, and is removed
//! from it in the commit that builds them: whoever comes after a crash builds the rest.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_util::future;

use tokio_postgres::error::SqlState;
use tokio_util::sync::CancellationToken;

use crate::postgres::{Endpoint, PgError, Session};

/// How often the state of a build is asked for and logged.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(5);
/// How long connecting may take for somebody who only wants to look.
const LOOK_CONNECT_LIMIT: Duration = Duration::from_secs(5);

const TABLE: &str = "CREATE SCHEMA IF NOT EXISTS watershed; \
     CREATE TABLE IF NOT EXISTS watershed.events_index (name text PRIMARY KEY, definition text NOT NULL)";
const KNOWN: &str = "SELECT to_regclass('watershed.events_index') IS NOT NULL";
const PUT_OFF: &str = "SELECT name, definition FROM watershed.events_index ORDER BY name";
/// Valid indexes of the table that hold no constraint, and whether this user may drop and make them again.
const SECONDARY: &str = "SELECT format('%I.%I', n.nspname, c.relname), pg_get_indexdef(c.oid), \
            pg_has_role(t.relowner, 'USAGE') AND has_database_privilege(current_database(), 'CREATE') \
     FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_class t ON t.oid = i.indrelid \
          JOIN pg_namespace n ON n.oid = c.relnamespace \
     WHERE i.indrelid = 'events'::regclass AND i.indisvalid AND NOT i.indisunique \
       AND NOT EXISTS (SELECT FROM pg_constraint k WHERE k.conindid = i.indexrelid) ORDER BY 1";
const PROGRESS: &str = "SELECT phase, CASE WHEN tuples_total > 0 THEN 100 * tuples_done / tuples_total \
            WHEN blocks_total > 0 THEN 100 * blocks_done / blocks_total END::bigint \
     FROM pg_stat_progress_create_index WHERE pid = $1";

/// What has been put off.
pub(super) struct Indexes {
    waiting: Vec<(String, String)>,
    /// An empty table has been looked at, so that it need not be looked at again.
    looked: bool,
}

impl Indexes {
    /// What an earlier run has put off.
    pub(super) async fn look(session: &Session) -> Result<Indexes, PgError> {
        let failed = |e| session.endpoint().failed("looking at the indexes of events", e);
        let known = session.client.query_one(KNOWN, &[]).await.map_err(failed)?.get::<_, bool>(0);
        let mut waiting = Vec::new();
        if known {
            let rows = session.client.query(PUT_OFF, &[]).await.map_err(failed)?;
            waiting = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
        }
        Ok(Indexes { waiting, looked: false })
    }

    /// Drops the secondary indexes of a table that is empty, if this user may.
    pub(super) async fn put_off(&mut self, session: &Session) -> Result<(), PgError> {
        if std::mem::replace(&mut self.looked, true) || !self.waiting.is_empty() {
            return Ok(());
        }
        let name = session.endpoint().name();
        let failed = |e| session.endpoint().failed("putting off the indexes of events", e);
        let found = session.client.query(SECONDARY, &[]).await.map_err(failed)?;
        let found: Vec<(String, String, bool)> = found.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect();
        if found.is_empty() {
            return Ok(());
        }
        if !found.iter().all(|(_, _, may)| *may) {
            let why = "this user owns neither the table nor may it CREATE in the database";
            tracing::info!("{name}: the indexes stay while the empty table is filled, which is slower: {why}");
            return Ok(());
        }
        let mut statements = format!("BEGIN; {TABLE}; LOCK TABLE events IN ACCESS EXCLUSIVE MODE; ");
        for (index, definition, _) in &found {
            let (shown, definition) = (literal(index), literal(definition));
            statements +=
                &format!("INSERT INTO watershed.events_index VALUES ({shown}, {definition}); DROP INDEX {index}; ");
        }
        session.client.batch_execute(&(statements + "COMMIT")).await.map_err(failed)?;
        self.waiting = found.into_iter().map(|(index, definition, _)| (index, definition)).collect();
        tracing::info!("{name}: {} indexes of the empty table events are built after the copy", self.waiting.len());
        Ok(())
    }

    /// Builds what was put off.
    pub(super) async fn build(&mut self, session: &Session) -> Result<(), PgError> {
        if self.waiting.is_empty() {
            return Ok(());
        }
        let failed = |e| session.endpoint().failed("building the indexes of events", e);
        let begun = Instant::now();
        let (name, count) = (session.endpoint().name().to_string(), self.waiting.len());
        let pid: i32 = session.client.query_one("SELECT pg_backend_pid()", &[]).await.map_err(failed)?.get(0);
        let _shown = Shown::start(session.endpoint().clone(), pid);
        let queue = Mutex::new(self.waiting.clone());
        // Two at a time: an index is sorted on one core for most of its time. Who cannot connect twice builds alone.
        let second = session.endpoint().connect(LOOK_CONNECT_LIMIT).await;
        let beside = async {
            match &second {
                Ok(second) => build_all(second, &queue).await,
                Err(error) => {
                    tracing::debug!("{name}: the indexes are built one by one: {}", error.words());
                    Ok(())
                }
            }
        };
        let (built, others) = future::join(build_all(session, &queue), beside).await;
        built?;
        others?;
        self.waiting.clear();
        session.client.batch_execute("RESET maintenance_work_mem; ANALYZE events").await.map_err(failed)?;
        tracing::info!("{name}: {count} indexes built in {:.1?}", begun.elapsed());
        Ok(())
    }
}

/// Builds what is left in the queue, each index in one commit with the note that it is there.
async fn build_all(session: &Session, queue: &Mutex<Vec<(String, String)>>) -> Result<(), PgError> {
    let failed = |e| session.endpoint().failed("building the indexes of events", e);
    let name = session.endpoint().name();
    // More memory sorts quicker; what the server allows by default is kept when it is more.
    let memory = "SELECT set_config('maintenance_work_mem', greatest(262144, setting::bigint)::text, false) \
                  FROM pg_settings WHERE name = 'maintenance_work_mem'; SET statement_timeout = 0";
    session.client.batch_execute(memory).await.map_err(failed)?;
    loop {
        let next = queue.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let Some((index, definition)) = next else { return Ok(()) };
        tracing::info!("{name}: building index {index}");
        let shown = literal(&index);
        let text = format!("BEGIN; {definition}; DELETE FROM watershed.events_index WHERE name = {shown}; COMMIT");
        match session.client.batch_execute(&text).await {
            // A killed run's server process goes on to the end of its statement: it has built this one meanwhile.
            Err(error) if error.code() == Some(&SqlState::DUPLICATE_TABLE) => {
                let text = format!("ROLLBACK; DELETE FROM watershed.events_index WHERE name = {shown}");
                session.client.batch_execute(&text).await.map_err(failed)?;
            }
            built => built.map_err(failed)?,
        }
    }
}

/// A text as SQL.
fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// Logs how far a build has come, on a connection of its own, until it is dropped.
pub(in crate::postgres) struct Shown(CancellationToken);

impl Shown {
    pub(in crate::postgres) fn start(endpoint: Endpoint, pid: i32) -> Shown {
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        tokio::spawn(async move {
            tokio::select! {
                shown = Shown::show(&endpoint, pid) => {
                    if let Err(error) = shown {
                        tracing::debug!("{}", error.words());
                    }
                }
                _ = stopped.cancelled() => {}
            }
        });
        Shown(stop)
    }

    async fn show(endpoint: &Endpoint, pid: i32) -> Result<(), PgError> {
        let failed = |e| endpoint.failed("asking how far an index is", e);
        tokio::time::sleep(PROGRESS_INTERVAL).await;
        let session = endpoint.connect(LOOK_CONNECT_LIMIT).await?;
        loop {
            if let Some(row) = session.client.query_opt(PROGRESS, &[&pid]).await.map_err(failed)? {
                let (phase, percent): (String, Option<i64>) = (row.get(0), row.get(1));
                let percent = percent.map(|percent| format!(", {percent} %")).unwrap_or_default();
                tracing::info!("{}: index: {phase}{percent}", endpoint.name());
            }
            tokio::time::sleep(PROGRESS_INTERVAL).await;
        }
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        self.0.cancel();
    }
}
