//! Whether a database can be a node's: what is missing, and the statements that mend it.

use std::time::Duration;

use tokio_postgres::{Client, GenericClient, IsolationLevel, Row};

use super::{Identity, Table, Tables, quoted, read_tables, schema_and_table};
use crate::log::CapturesTable;
use crate::postgres::{Endpoint, PgError};
use crate::view::{InspectedTable, Inspection};

/// What is asked of the server at once.
const FACTS: &str = "select current_user::text, current_database()::text, current_setting('server_version_num')::int, \
    current_setting('wal_level'), (select setting::int8 from pg_settings where name = 'max_slot_wal_keep_size'), \
    current_setting('max_replication_slots')::int8, (select count(*) from pg_replication_slots), \
    current_setting('max_wal_senders')::int8, (select count(*) from pg_stat_replication), \
    (select rolsuper or rolreplication from pg_roles where rolname = current_user), \
    has_database_privilege(current_database(), 'CREATE'), \
    exists (select 1 from pg_replication_slots where slot_name like 'watershed\\_%' and database = current_database()), \
    pg_is_in_recovery(), current_setting('server_encoding'), (select rolsuper from pg_roles where rolname = current_user), \
    coalesce((select pg_has_role(nspowner, 'USAGE') from pg_namespace where nspname = 'watershed'), true), \
    coalesce((select string_agg(slot_name::text, ', ') from pg_replication_slots where not active), '')";
/// Functions that the applying session needs, and what takes everything away again.
const ORIGIN_FUNCTIONS: [&str; 5] = [
    "pg_replication_origin_create(text)",
    "pg_replication_origin_drop(text)",
    "pg_replication_origin_oid(text)",
    "pg_replication_origin_session_setup(text)",
    "pg_replication_origin_session_reset()",
];
const PUBLISHED: &str = "select r.prrelid from pg_publication_rel r join pg_publication p on p.oid = r.prpubid \
    where p.pubname like 'watershed\\_%'";
/// The first version whose logical decoding has all that is used here (messages, streaming, partitions by their root).
const VERSION_MIN: i32 = 140_000;

struct Facts {
    user: String,
    database: String,
    version: i32,
    wal_level: String,
    slot_keep_mb: i64,
    slots: (i64, i64),
    senders: (i64, i64),
    may_replicate: bool,
    may_create: bool,
    has_slot: bool,
    is_standby: bool,
    encoding: String,
    is_superuser: bool,
    owns_schema: bool,
    idle_slots: String,
}

impl Facts {
    fn of(row: &Row) -> Result<Facts, tokio_postgres::Error> {
        Ok(Facts {
            user: row.try_get(0)?,
            database: row.try_get(1)?,
            version: row.try_get(2)?,
            wal_level: row.try_get(3)?,
            slot_keep_mb: row.try_get::<_, Option<i64>>(4)?.unwrap_or(-1),
            slots: (row.try_get(6)?, row.try_get(5)?),
            senders: (row.try_get(8)?, row.try_get(7)?),
            may_replicate: row.try_get(9)?,
            may_create: row.try_get(10)?,
            has_slot: row.try_get(11)?,
            is_standby: row.try_get(12)?,
            encoding: row.try_get(13)?,
            is_superuser: row.try_get(14)?,
            owns_schema: row.try_get(15)?,
            idle_slots: row.try_get(16)?,
        })
    }
}

/// Looks at a database without changing it: its tables, and all that keeps a node from capturing it and from applying
/// to it, each with the statements to run. Without `captures` nothing of it is captured, and less is needed. Connecting takes
/// at most `limit`.
///
/// # Errors
/// The server cannot be reached, or refuses.
pub async fn inspect(
    endpoint: &Endpoint,
    captures: Option<&CapturesTable>,
    limit: Duration,
) -> Result<Inspection, PgError> {
    let mut session = endpoint.connect(limit).await?;
    let failed = |error| endpoint.failed("looking at it", error);
    look(&mut session.client, captures).await.map_err(failed)
}

async fn look(client: &mut Client, captures: Option<&CapturesTable>) -> Result<Inspection, tokio_postgres::Error> {
    let transaction = client.build_transaction().isolation_level(IsolationLevel::RepeatableRead).read_only(true);
    let transaction = transaction.start().await?;
    transaction.batch_execute("set local search_path = pg_catalog").await?;
    let facts = Facts::of(&transaction.query_one(FACTS, &[]).await?)?;
    let mut inspection = Inspection::default();
    judge_server(&facts, &mut inspection);
    if captures.is_some() {
        judge_log(&facts, &mut inspection);
    }
    judge_rights(&transaction, &facts, &mut inspection).await?;
    let published: Vec<u32> = transaction.query(PUBLISHED, &[]).await?.iter().map(|row| row.get(0)).collect();
    let Tables { tables, unnamed } = read_tables(&transaction).await?;
    transaction.commit().await?;
    inspection.unnamed = unnamed;
    for table in tables {
        let is_published = published.contains(&table.oid);
        let captured = captures.is_some_and(|captures| captures(&table.def.name));
        let (capturable, problems) = judge_table(&table, &facts, is_published, captured);
        let rows_estimate = table.rows_estimate;
        let old_rows = (table.identity == Identity::Key).then(|| whole_old_rows(&table));
        inspection.tables.push(InspectedTable { def: table.def, problems, rows_estimate, capturable, old_rows });
    }
    Ok(inspection)
}

/// What keeps a database from being captured, as [`inspect`] says it.
pub(crate) async fn refusals(client: &Client) -> Result<Vec<String>, tokio_postgres::Error> {
    let facts = Facts::of(&client.query_one(FACTS, &[]).await?)?;
    let mut inspection = Inspection::default();
    judge_server(&facts, &mut inspection);
    judge_log(&facts, &mut inspection);
    judge_rights(client, &facts, &mut inspection).await?;
    Ok(inspection.refusals)
}

/// What concerns all of its databases.
fn judge_server(facts: &Facts, inspection: &mut Inspection) {
    let refusals = &mut inspection.refusals;
    if facts.version < VERSION_MIN {
        refusals.push(format!(
            "error[WS-PGCAPTURE-001]: the server is PostgreSQL {}: before 14 its log cannot be read as it must be \
             / do: upgrade it",
            facts.version / 10_000
        ));
    }
    if facts.is_standby {
        refusals.push(
            "error[WS-PGCAPTURE-002]: the server is a standby: nothing can be installed in it \
             / do: name the primary's address, or promote it: SELECT pg_promote();"
                .into(),
        );
    }
    if facts.encoding == "SQL_ASCII" {
        inspection.warnings.push(
            "the database's encoding is SQL_ASCII: the server does not know what its texts mean, and what is not UTF-8 \
             cannot be applied elsewhere / do: dump and restore it into a database with ENCODING 'UTF8'"
                .into(),
        );
    }
}

/// Whether its transaction log can be read. The user needs a slot and REPLICATION for nothing else.
fn judge_log(facts: &Facts, inspection: &mut Inspection) {
    let refusals = &mut inspection.refusals;
    let restart = "and restart the server";
    if !facts.may_replicate {
        let user = quoted(&facts.user);
        refusals.push(format!(
            "error[WS-PGCAPTURE-007]: the user {user} may not replicate / do: ALTER ROLE {user} REPLICATION;"
        ));
    }
    if facts.wal_level != "logical" {
        refusals.push(format!(
            "error[WS-PGCAPTURE-003]: wal_level is {}, so the server's log does not say which rows changed \
             / do: ALTER SYSTEM SET wal_level = 'logical'; {restart}",
            facts.wal_level
        ));
    }
    if facts.slot_keep_mb < 0 {
        refusals.push(
            "error[WS-PGCAPTURE-004]: max_slot_wal_keep_size is not set: while the node is down the server would keep its \
             log without bound, until its disk is full / do: ALTER SYSTEM SET max_slot_wal_keep_size = '20GB'; \
             SELECT pg_reload_conf(); (as much as the disk can spare; a node that was away for longer copies afresh)"
                .into(),
        );
    }
    let (used, max) = facts.slots;
    if used >= max && !facts.has_slot {
        let idle = match facts.idle_slots.is_empty() {
            true => String::new(),
            false => {
                format!(" or drop one that nobody uses ({}): SELECT pg_drop_replication_slot('…');", facts.idle_slots)
            }
        };
        refusals.push(format!(
            "error[WS-PGCAPTURE-005]: all {max} replication slots are taken / do: ALTER SYSTEM SET \
             max_replication_slots = {}; {restart};{idle}",
            max + 4
        ));
    }
    let (used, max) = facts.senders;
    if used >= max && !facts.has_slot {
        refusals.push(format!(
            "error[WS-PGCAPTURE-006]: all {max} WAL senders are taken / do: ALTER SYSTEM SET max_wal_senders = {}; \
             {restart}",
            max + 4
        ));
    }
}

/// What the node's user may not do.
async fn judge_rights(
    client: &impl GenericClient,
    facts: &Facts,
    inspection: &mut Inspection,
) -> Result<(), tokio_postgres::Error> {
    let (user, database) = (quoted(&facts.user), quoted(&facts.database));
    let refusals = &mut inspection.refusals;
    if !facts.may_create {
        refusals.push(format!(
            "error[WS-PGCAPTURE-008]: the user {user} may not make a schema and a publication in the database {database} \
             / do: GRANT CREATE ON DATABASE {database} TO {user};"
        ));
    }
    if !facts.owns_schema {
        refusals.push(format!(
            "error[WS-PGCAPTURE-009]: the schema watershed is there and belongs to somebody else \
             / do: ALTER SCHEMA watershed OWNER TO {user}; or use the user to whom it belongs"
        ));
    }
    let mut lacking = Vec::new();
    for function in ORIGIN_FUNCTIONS {
        let sql = "select has_function_privilege($1, 'EXECUTE')";
        if !client.query_one(sql, &[&function]).await?.try_get::<_, bool>(0)? {
            lacking.push(function);
        }
    }
    if !lacking.is_empty() {
        let list = lacking.join(", ");
        refusals.push(format!(
            "error[WS-PGCAPTURE-010]: the user {user} may not use replication origins, by which received changes are told \
             from local ones / do: GRANT EXECUTE ON FUNCTION {list} TO {user}; (in the database {database})"
        ));
    }
    let may_set = match facts.version >= 150_000 {
        true => {
            let sql = "select has_parameter_privilege('session_replication_role', 'SET')";
            client.query_one(sql, &[]).await?.try_get::<_, bool>(0)?
        }
        false => facts.is_superuser,
    };
    if !may_set {
        let todo = match facts.version >= 150_000 {
            true => format!("GRANT SET ON PARAMETER session_replication_role TO {user};"),
            false => format!("ALTER ROLE {user} SUPERUSER; (from PostgreSQL 15 on a single privilege is enough)"),
        };
        refusals.push(format!(
            "error[WS-PGCAPTURE-011]: the user {user} may not set session_replication_role, so triggers and foreign keys \
             would fire for received changes / do: {todo}"
        ));
    }
    Ok(())
}

/// Whether a table can be captured, and what its selectors should know.
fn judge_table(table: &Table, facts: &Facts, is_published: bool, captured: bool) -> (bool, Vec<String>) {
    let (user, owner, sql) = (quoted(&facts.user), quoted(&table.owner), table.sql());
    let mut problems: Vec<String> = Vec::new();
    let mut capturable = table.refusal.is_none();
    problems.extend(table.refusal.clone());
    if !table.is_owned && !is_published {
        capturable = false;
        problems.push(format!(
            "it belongs to {owner}, and only its owner can publish its changes / do: GRANT {owner} TO {user};"
        ));
    }
    if !table.is_readable {
        capturable = false;
        let (schema, _) = schema_and_table(&table.def.name);
        problems.push(format!(
            "the user {user} may not read it, so it cannot be copied / do: GRANT USAGE ON SCHEMA {} TO {user}; \
             GRANT SELECT ON {sql} TO {user};",
            quoted(schema)
        ));
    }
    if table.hides_rows {
        problems.push(format!(
            "row security hides rows of it from the user {user}: copies would lack them / do: ALTER ROLE {user} BYPASSRLS;"
        ));
    }
    problems.extend(table.warnings.iter().cloned());
    if captured && table.identity == Identity::Full && table.def.key_columns().is_empty() {
        problems.push(format!(
            "it has no primary key: rows are found by all of their values, which is slow where there are many / do: \
             ALTER TABLE {sql} ADD PRIMARY KEY (…)"
        ));
    }
    (capturable, problems)
}

/// The statements after which the server logs deleted rows whole; it looks at each partition's own identity.
fn whole_old_rows(table: &Table) -> String {
    let leaves = table.leaves.iter().map(|leaf| leaf.name.clone());
    let each = std::iter::once(table.sql()).chain(leaves);
    each.map(|name| format!("ALTER TABLE {name} REPLICA IDENTITY FULL;")).collect::<Vec<_>>().join(" ")
}
