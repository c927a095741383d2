//! What the catalog says of tables.

use std::collections::HashMap;
use std::sync::Arc;

use tokio_postgres::{Client, Error, GenericClient, IsolationLevel, Row};

use super::{ColumnFacts, Identity, Leaf, Table};
use crate::model::{Column, TableDef, TableName};

/// What a session sets that reads or writes values as text. Only with this `search_path` does `format_type` give the
/// schema of every type that is not the system's own.
pub(crate) const SESSION: &str = "set datestyle = 'ISO'; set intervalstyle = 'postgres'; set extra_float_digits = 3; \
    set bytea_output = 'hex'; set timezone = 'UTC'; set client_encoding = 'UTF8'; set search_path = pg_catalog";

/// The columns of what tells rows apart: the index of the replica identity, with FULL the primary key. An index that
/// is checked only at commit tells nothing apart before.
const KEY: &str = "(select array_agg(a.attname::text order by k.place) from pg_index i \
    cross join unnest(i.indkey::int2[]) with ordinality k(attnum, place) \
    join pg_attribute a on a.attrelid = i.indrelid and a.attnum = k.attnum \
    where i.indrelid = c.oid and i.indisunique and i.indisvalid and i.indimmediate and i.indpred is null \
    and k.place <= i.indnkeyatts and c.relreplident <> 'n' \
    and case c.relreplident when 'i' then i.indisreplident else i.indisprimary end)";

/// Tables of users, but for the parts of partitioned ones. Nothing here waits for a lock on a table.
const TABLES: &str = "select c.oid, n.nspname::text, c.relname::text, c.relkind = 'p', c.relreplident::text, \
    c.relpersistence::text, pg_get_userbyid(c.relowner)::text, pg_has_role(c.relowner, 'USAGE'), \
    coalesce(has_schema_privilege(n.oid, 'USAGE') and has_table_privilege(c.oid, 'SELECT'), false), row_security_active(c.oid), \
    case when c.reltuples >= 0 then c.reltuples::float8 else pg_stat_get_live_tuples(c.oid)::float8 end, ";
const TABLES_FROM: &str = " from pg_class c join pg_namespace n on n.oid = c.relnamespace \
    where c.relkind in ('r', 'p') and not c.relispartition and c.relpersistence <> 't' \
    and n.nspname not in ('information_schema', 'watershed') and n.nspname not like 'pg\\_%' \
    order by n.nspname <> 'public', n.nspname, c.relname";

/// The leaves of partitioned tables, with the root of each.
const LEAVES: &str = "select pg_partition_root(c.oid)::oid, c.oid, c.relfilenode, \
    c.oid::regclass::text, c.relkind::text, c.relreplident::text, \
    case when c.reltuples >= 0 then c.reltuples::float8 else pg_stat_get_live_tuples(c.oid)::float8 end, \
    c.reltuples < 0, c.xmin::text::int8, ";
const LEAVES_FROM: &str = " from pg_class c where c.relispartition and c.relkind in ('r', 'f') order by 1, 2";

const COLUMNS: &str = "select a.attrelid, a.attname::text, format_type(a.atttypid, a.atttypmod), a.attnum, a.atttypid, \
    a.atttypmod, a.attnotnull, a.attidentity::text, a.attgenerated <> '' from pg_attribute a \
    join pg_class c on c.oid = a.attrelid join pg_namespace n on n.oid = c.relnamespace \
    where a.attnum > 0 and not a.attisdropped and c.relkind in ('r', 'p') and not c.relispartition \
    and n.nspname not in ('information_schema', 'watershed') and n.nspname not like 'pg\\_%' \
    order by a.attrelid, a.attnum";

/// The tables of a database.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tables {
    /// By name; never Watershed's or the system's own.
    pub tables: Vec<Table>,
    /// Tables whose names cannot travel, and why.
    pub unnamed: Vec<String>,
}

/// Reads them in one snapshot of its own.
pub(crate) async fn tables(client: &mut Client) -> Result<Tables, Error> {
    let transaction = client.build_transaction().isolation_level(IsolationLevel::RepeatableRead).read_only(true);
    let transaction = transaction.start().await?;
    transaction.batch_execute("set local search_path = pg_catalog").await?;
    let tables = read_tables(&transaction).await?;
    transaction.commit().await?;
    Ok(tables)
}

struct Attribute {
    column: Column,
    facts: ColumnFacts,
    is_generated: bool,
}

struct FoundLeaf {
    leaf: Leaf,
    is_foreign: bool,
    identity: Identity,
    key: Vec<String>,
    rows: f64,
}

/// Reads them in the snapshot of the caller, whose `search_path` is `pg_catalog`.
pub(crate) async fn read_tables(client: &impl GenericClient) -> Result<Tables, Error> {
    let mut attributes: HashMap<u32, Vec<Attribute>> = HashMap::new();
    for row in client.query(COLUMNS, &[]).await? {
        let identity: String = row.try_get(7)?;
        let facts = ColumnFacts {
            attnum: row.try_get(3)?,
            type_oid: row.try_get(4)?,
            type_modifier: row.try_get(5)?,
            not_null: row.try_get(6)?,
            identity_always: identity == "a",
            is_identity: !identity.is_empty(),
        };
        let column =
            Column { name: row.try_get::<_, &str>(1)?.into(), type_name: row.try_get::<_, &str>(2)?.into(), key: 0 };
        let attribute = Attribute { column, facts, is_generated: row.try_get(8)? };
        attributes.entry(row.try_get(0)?).or_default().push(attribute);
    }
    let rows = client.query(&format!("{TABLES}{KEY}{TABLES_FROM}"), &[]).await?;
    let mut leaves: HashMap<u32, Vec<FoundLeaf>> = HashMap::new();
    if rows.iter().any(|row| row.get(3)) {
        for row in client.query(&format!("{LEAVES}{KEY}{LEAVES_FROM}"), &[]).await? {
            leaves.entry(row.try_get(0)?).or_default().push(leaf(&row)?);
        }
    }
    let mut found = Tables::default();
    for row in &rows {
        let (oid, schema, name): (u32, &str, &str) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
        match table_name(schema, name) {
            Ok(name) => {
                let attributes = attributes.remove(&oid).unwrap_or_default();
                found.tables.push(table(row, name, attributes, leaves.remove(&oid).unwrap_or_default())?);
            }
            Err(why) => found.unnamed.push(why),
        }
    }
    Ok(found)
}

/// The name under which a table travels.
fn table_name(schema: &str, table: &str) -> Result<TableName, String> {
    if schema.contains('.') || table.contains('.') {
        return Err(format!("table {table:?} of schema {schema:?} has a dot in its name: rename it"));
    }
    let text = if schema == "public" { table.to_string() } else { format!("{schema}.{table}") };
    match text.parse::<TableName>() {
        Ok(name) if name.as_str() == text => Ok(name),
        Ok(name) => {
            Err(format!("table {text:?} cannot be told from the table {name} of the default schema: rename it"))
        }
        Err(error) => Err(error.to_string()),
    }
}

fn identity(kind: &str, key: &[String]) -> Identity {
    match kind {
        "f" => Identity::Full,
        "n" => Identity::None,
        _ if key.is_empty() => Identity::None,
        _ => Identity::Key,
    }
}

fn leaf(row: &Row) -> Result<FoundLeaf, Error> {
    let key: Vec<String> = row.try_get::<_, Option<_>>(9)?.unwrap_or_default();
    let leaf = Leaf {
        oid: row.try_get(1)?,
        file: row.try_get(2)?,
        name: row.try_get(3)?,
        is_uncounted: row.try_get(7)?,
        xmin: row.try_get::<_, i64>(8)? as u32,
    };
    Ok(FoundLeaf {
        leaf,
        is_foreign: row.try_get::<_, &str>(4)? == "f",
        identity: identity(row.try_get(5)?, &key),
        key,
        rows: row.try_get(6)?,
    })
}

fn table(row: &Row, name: TableName, attributes: Vec<Attribute>, leaves: Vec<FoundLeaf>) -> Result<Table, Error> {
    let key: Vec<String> = row.try_get::<_, Option<_>>(11)?.unwrap_or_default();
    let kind: &str = row.try_get(4)?;
    let is_partitioned: bool = row.try_get(3)?;
    let mut columns = Vec::with_capacity(attributes.len());
    let mut facts = Vec::with_capacity(attributes.len());
    for Attribute { mut column, facts: fact, is_generated } in attributes {
        if is_generated {
            continue;
        }
        column.key = key.iter().position(|key| **key == *column.name).map_or(0, |place| place as u16 + 1);
        columns.push(column);
        facts.push(fact);
    }
    let rows = row.try_get::<_, f64>(10)? + leaves.iter().map(|leaf| leaf.rows).sum::<f64>();
    let mut table = Table {
        oid: row.try_get(0)?,
        def: Arc::new(TableDef::new(name, columns)),
        columns: facts,
        identity: identity(kind, &key),
        is_partitioned,
        rows_estimate: rows.max(0.0) as u64,
        owner: row.try_get(6)?,
        is_owned: row.try_get(7)?,
        is_readable: row.try_get(8)?,
        hides_rows: row.try_get(9)?,
        refusal: None,
        warnings: Vec::new(),
        leaves: leaves.iter().map(|found| found.leaf.clone()).collect(),
    };
    if row.try_get::<_, &str>(5)? == "u" {
        let sql = table.sql();
        table.refusal = Some(format!(
            "it is UNLOGGED: its changes are not in the server's log; make it logged: ALTER TABLE {sql} SET LOGGED"
        ));
    }
    if is_partitioned {
        judge_leaves(&mut table, &leaves, &key);
    }
    if table.identity == Identity::None {
        warn_of_no_identity(&mut table, kind);
    }
    Ok(table)
}

/// The server logs the old rows of a leaf by the leaf's own identity.
fn judge_leaves(table: &mut Table, leaves: &[FoundLeaf], key: &[String]) {
    if let Some(foreign) = leaves.iter().find(|leaf| leaf.is_foreign) {
        let name = &foreign.leaf.name;
        table.warnings.push(format!("its partition {name} is a foreign table: what changes there is not captured"));
    }
    let all_full = leaves.iter().all(|leaf| leaf.is_foreign || leaf.identity == Identity::Full);
    if all_full && !leaves.is_empty() {
        table.identity = Identity::Full;
        return;
    }
    let fits = |leaf: &&FoundLeaf| match leaf.identity {
        _ if leaf.is_foreign => true,
        // A whole row has the key, too.
        Identity::Full => true,
        Identity::Key => table.identity == Identity::Key && leaf.key == key,
        Identity::None => false,
    };
    if let Some(other) = leaves.iter().find(|leaf| !fits(leaf)) {
        let (name, sql) = (&other.leaf.name, table.sql());
        table.identity = Identity::None;
        table.warnings.push(format!(
            "its partition {name} has another replica identity than {sql}: give all partitions the same one"
        ));
    }
}

fn warn_of_no_identity(table: &mut Table, kind: &str) {
    let sql = table.sql();
    let why = match kind {
        "n" => "its replica identity is NOTHING",
        "i" => "the index of its replica identity is gone",
        _ if table.is_partitioned && table.def.columns.iter().any(|column| column.key > 0) => {
            "a partition of it has no usable replica identity"
        }
        _ => "it has no primary key that is checked at once",
    };
    table.warnings.push(format!(
        "{why}, so that the rows of an update or a delete could not be told: only inserts and TRUNCATE are captured; \
         give it a key (ALTER TABLE {sql} ADD PRIMARY KEY (…)), or have whole rows logged: ALTER TABLE {sql} REPLICA IDENTITY FULL"
    ));
}
