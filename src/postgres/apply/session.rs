//! What an applying session is, before it applies: its settings, its replication origin, and why it could not be had.

use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Error};

use super::PgApplierOptions;
use super::link::view_error;
use crate::model::limits;
use crate::postgres::PgError;
use crate::view::ViewError;

/// Behind the name of the second session's origin.
pub(in crate::postgres) const SECOND_ORIGIN: &str = "/2";

/// The replication origin's name: that of capture's slot and publication; of a copy, one of its own.
pub(super) fn own_name(options: &PgApplierOptions, second: bool) -> String {
    let log = &options.log.to_string()[..16];
    let behind = if second { SECOND_ORIGIN } else { "" };
    match &options.copy {
        None => format!("watershed_{log}{behind}"),
        Some(copy) => format!("watershed_{log}_{copy}{behind}"),
    }
}

/// What an applying session is set to. Where the server's system can, a statement whose client is gone ends soon, and with
/// it the session's hold on the replication origin.
pub(super) fn settings(fire_triggers: bool, second: bool) -> String {
    let role = if fire_triggers { "" } else { "SET session_replication_role = replica;" };
    // Triggers and functions of the user's see the path that the user has set for them.
    let path = if fire_triggers { "" } else { "SET search_path = pg_catalog;" };
    let patience = limits::DATABASE_BUSY_TIMEOUT.as_millis();
    // It waits for its turn with its rows locked: were its client gone unheard, they would stay so.
    let idle = if second { "60s" } else { "0" };
    format!(
        "{role} {path}
         SET datestyle = ISO; SET intervalstyle = postgres; SET extra_float_digits = 3; SET bytea_output = hex;
         SET timezone = 'UTC'; SET client_encoding = 'UTF8'; SET standard_conforming_strings = on; SET xmloption = content;
         SET lock_timeout = {patience}; SET statement_timeout = 0; SET idle_in_transaction_session_timeout = '{idle}';
         SET tcp_keepalives_idle = 30; SET tcp_keepalives_interval = 10; SET tcp_keepalives_count = 3;
         SET default_transaction_isolation = 'read committed'; SET default_transaction_read_only = off;
         SET default_transaction_deferrable = off; SET row_security = off;
         SET synchronous_commit = off; SET plan_cache_mode = force_generic_plan; SET jit = off;
         DO $$ BEGIN SET client_connection_check_interval = '1s'; EXCEPTION WHEN OTHERS THEN NULL; END $$;
         SET enable_seqscan = off; SET enable_hashjoin = off; SET enable_mergejoin = off; SET check_function_bodies = off"
    )
}

/// Whether one more origin leaves half of the server's places (`max_replication_slots`) to those who cannot do without.
pub(super) async fn has_room(client: &Client, name: &str) -> Result<bool, Error> {
    let counted = "SELECT count(*) < current_setting('max_replication_slots')::int / 2
                   FROM pg_catalog.pg_replication_origin WHERE roname <> $1";
    client.query_one(counted, &[&name]).await?.try_get(0)
}

pub(super) async fn origin(client: &Client, name: &str) -> Result<(), Error> {
    let create = "SELECT pg_catalog.pg_replication_origin_create($1)
                  WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_replication_origin WHERE roname = $1)";
    client.execute(create, &[&name]).await?;
    client.execute("SELECT pg_catalog.pg_replication_origin_session_setup($1)", &[&name]).await.map(drop)
}

/// Why the session could not be set up, and what to do.
pub(super) fn refusal(options: &PgApplierOptions, doing: &str, error: Error) -> ViewError {
    let (endpoint, log) = (&options.endpoint, options.log);
    let user = endpoint.config().get_user().unwrap_or("the user").to_owned();
    let database = endpoint.database().to_owned();
    match error.code() {
        Some(code) if *code == SqlState::OBJECT_IN_USE => ViewError::Retry(format!(
            "{}: another session applies this log to the database: its replication origin {} is in use ({error}); \
             it may be a connection that has broken and that the server has not given up yet",
            endpoint.name(),
            own_name(options, false),
            error = endpoint.failed(doing, error).words()
        )),
        Some(code) if *code == SqlState::INSUFFICIENT_PRIVILEGE => ViewError::Failed(format!(
            "{} / do, as a superuser: GRANT SET ON PARAMETER session_replication_role TO {user}; \
             GRANT EXECUTE ON FUNCTION pg_catalog.pg_replication_origin_create(text), \
             pg_catalog.pg_replication_origin_session_setup(text) TO {user}; \
             GRANT SELECT ON pg_catalog.pg_replication_origin TO {user}; \
             GRANT CREATE, TEMPORARY ON DATABASE {database} TO {user}",
            PgError::words(&endpoint.failed(doing, error))
        )),
        Some(code) if *code == SqlState::CONFIGURATION_LIMIT_EXCEEDED => ViewError::Failed(format!(
            "{} / do: raise max_replication_slots, which also bounds replication origins, and restart the server; or drop \
             origins that nobody needs (SELECT pg_replication_origin_drop(roname) FROM pg_replication_origin)",
            PgError::words(&endpoint.failed(doing, error))
        )),
        _ => view_error(endpoint, doing, error, log),
    }
}
