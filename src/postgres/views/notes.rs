//! What changes in the view's tables: noted by triggers of ours, and made what it comes to at the end of each transaction of the
//! log, in the commit that changes it.
//!
//! Triggers that come after a row do not fire in the order in which rows have changed: what a trigger of the definition or a
//! foreign key changes is told before what comes later in the statement that fired it. So only states count: what was before
//! and is no state after is gone, what is after and was none before has come, and of one key that is a change. That is the same
//! in whatever order they were told.

use std::collections::HashMap;
use std::sync::Arc;

use tokio_postgres::types::Type;
use tokio_postgres::{Client, GenericClient, Statement};

use super::keep::Kept;
use super::meta::quoted;
use super::session::Trouble;
use crate::model::{Column, Cursor, Position, TableDef, TableName, encode_table, limits};
use crate::postgres::tables::literal;
use crate::view::Cause;

/// What is noted while a transaction runs; what readers of changes are told; what waits to be published; how far both were
/// numbered. A lineage is drawn whenever this begins to be kept.
const TABLES: &str = "
CREATE UNLOGGED TABLE IF NOT EXISTS watershed_view_touched(
  number bigint GENERATED ALWAYS AS IDENTITY, position bigint NOT NULL, name text NOT NULL,
  old_key text[], old text[], new_key text[], new text[]);
CREATE TABLE IF NOT EXISTS watershed_view_change(
  number bigint PRIMARY KEY, cursor text NOT NULL, name text NOT NULL, op text NOT NULL, before text, after text);
CREATE TABLE IF NOT EXISTS watershed_view_out(
  number bigint PRIMARY KEY, cursor text NOT NULL, time bigint NOT NULL, correlation text, more boolean NOT NULL,
  tables text NOT NULL, changes bytea NOT NULL);
CREATE TABLE IF NOT EXISTS watershed_view_noting(
  id integer PRIMARY KEY CHECK (id = 1), lineage bigint NOT NULL, change bigint NOT NULL, out bigint NOT NULL,
  forgotten bigint NOT NULL);
";
/// What was made by [`TABLES`].
const NO_TABLES: &str =
    "DROP TABLE IF EXISTS watershed_view_touched, watershed_view_change, watershed_view_out, watershed_view_noting";
/// Rows that are read at once.
const ROWS_AT_ONCE: i32 = 1_000;

/// A table whose rows' changes are noted.
#[derive(Clone, Debug)]
pub(super) struct NotedTable {
    pub def: Arc<TableDef>,
    pub types: Vec<Type>,
    /// The key's columns, in its order.
    pub keys: Vec<usize>,
}

/// What is noted.
#[derive(Clone, Debug)]
pub(super) struct Notes {
    pub tables: Vec<NotedTable>,
    /// For whoever reads changes.
    pub changes: bool,
    /// To be published.
    pub publish: bool,
}

/// States of rows that a transaction has made or ended; those of a key one after the other.
const STATES: &str = "
DECLARE watershed_states NO SCROLL CURSOR FOR
SELECT position, name, key, state, sum(n)::bigint FROM (
  SELECT position, name, old_key AS key, old AS state, 1 AS n FROM watershed_view_touched WHERE old IS NOT NULL
  UNION ALL SELECT position, name, new_key, new, -1 FROM watershed_view_touched WHERE new IS NOT NULL) AS s
GROUP BY position, name, key, state HAVING sum(n) <> 0 ORDER BY position, name, key, sum(n) DESC";

fn array(of: &str, table: &NotedTable, columns: impl Iterator<Item = usize>) -> String {
    let texts = columns.map(|column| format!("{of}.{}::text", quoted(&table.def.columns[column].name)));
    format!("ARRAY[{}]::text[]", texts.collect::<Vec<_>>().join(", "))
}

impl NotedTable {
    fn all(&self, of: &str) -> String {
        array(of, self, 0..self.def.columns.len())
    }

    /// Of a table without a key a row is its own key.
    fn key(&self, of: &str) -> String {
        match self.keys.is_empty() {
            true => self.all(of),
            false => array(of, self, self.keys.iter().copied()),
        }
    }

    /// Notes what has become of a row, or of all of them.
    fn function(&self, number: usize) -> String {
        let (old, new) = (self.all("OLD"), self.all("NEW"));
        let (old_key, new_key) = (self.key("OLD"), self.key("NEW"));
        let (name, table) = (literal(self.def.name.as_str()), quoted(self.def.name.as_str()));
        let (every, every_key) = (self.all("t"), self.key("t"));
        let note = "INSERT INTO watershed_view_touched(position, name, old_key, old, new_key, new)";
        format!(
            "CREATE OR REPLACE FUNCTION watershed_note_{number}() RETURNS trigger LANGUAGE plpgsql AS $watershed$
             DECLARE at text := current_setting('watershed.position', true);
             BEGIN
               IF coalesce(at, '') = '' THEN RETURN NULL; END IF;
               IF TG_OP = 'INSERT' THEN {note} VALUES (at::bigint, {name}, NULL, NULL, {new_key}, {new});
               ELSIF TG_OP = 'UPDATE' THEN {note} VALUES (at::bigint, {name}, {old_key}, {old}, {new_key}, {new});
               ELSIF TG_OP = 'DELETE' THEN {note} VALUES (at::bigint, {name}, {old_key}, {old}, NULL, NULL);
               ELSE {note} SELECT at::bigint, {name}, {every_key}, {every}, NULL, NULL FROM ONLY {table} AS t;
               END IF;
               RETURN NULL;
             END $watershed$"
        )
    }
}

impl Notes {
    /// Has everything noted that changes in the tables of the schema that is first in the search path, from now on; in the
    /// transaction that is open.
    pub(super) async fn install(client: &Client, schema: &str, changes: bool, publish: bool) -> Result<Notes, Trouble> {
        let notes = Notes { tables: tables(client, schema).await?, changes, publish };
        client.batch_execute(TABLES).await?;
        let drawn = "INSERT INTO watershed_view_noting VALUES (1, $1, 0, 0, 0) ON CONFLICT DO NOTHING";
        client.execute(drawn, &[&rand::random::<i64>()]).await?;
        if !publish {
            // What changes from now on is not kept to be published.
            client.execute("UPDATE watershed_view_noting SET lineage = $1", &[&rand::random::<i64>()]).await?;
        }
        for (number, table) in notes.tables.iter().enumerate() {
            let sql = "INSERT INTO watershed_view_table VALUES ($1, $2) ON CONFLICT DO NOTHING";
            client.execute(sql, &[&table.def.fingerprint.to_string(), &encode_table(&table.def)]).await?;
            client.batch_execute(&table.function(number)).await?;
            let name = quoted(table.def.name.as_str());
            let is_there =
                "SELECT count(*) FROM pg_trigger WHERE tgrelid = $1::text::regclass AND tgname = 'watershed_note'";
            if client.query_one(is_there, &[&name]).await?.get::<_, i64>(0) > 0 {
                continue;
            }
            let triggers = format!(
                "CREATE TRIGGER watershed_note AFTER INSERT OR UPDATE OR DELETE ON {name} FOR EACH ROW
                   EXECUTE FUNCTION watershed_note_{number}();
                 CREATE TRIGGER watershed_note_truncate BEFORE TRUNCATE ON {name} FOR EACH STATEMENT
                   EXECUTE FUNCTION watershed_note_{number}()"
            );
            client.batch_execute(&triggers).await?;
        }
        Ok(notes)
    }

    /// Nothing is noted any more, so what comes later has a gap before it.
    pub(super) async fn remove(client: &Client, schema: &str) -> Result<(), Trouble> {
        let sql = "SELECT p.proname::text FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
                   WHERE n.nspname = $1 AND p.proname LIKE 'watershed\\_note\\_%'";
        let functions = client.query(sql, &[&schema]).await?;
        for function in &functions {
            let name = quoted(function.get(0));
            client.batch_execute(&format!("DROP FUNCTION {name}() CASCADE")).await?;
        }
        client.batch_execute(NO_TABLES).await?;
        Ok(())
    }

    /// Says of which transaction of the log what follows is.
    pub(super) async fn mark(client: &Client) -> Result<Statement, tokio_postgres::Error> {
        client.prepare("SELECT set_config('watershed.position', $1, true)").await
    }

    /// Keeps what the transactions have come to that were carried out in the transaction that is open.
    pub(super) async fn keep(
        &self,
        client: &Client,
        causes: &HashMap<Position, Cause>,
        upto: Cursor,
        published: u64,
    ) -> Result<(), Trouble> {
        // What the definition has put off to the end is done now, so that it is noted.
        client.batch_execute("SET CONSTRAINTS ALL IMMEDIATE").await?;
        let row = client.query_one("SELECT change, out FROM watershed_view_noting WHERE id = 1", &[]).await?;
        let mut kept = Kept::new(self, client, causes, upto, (row.get(0), row.get(1)));
        client.batch_execute(STATES).await?;
        let next = client.prepare(&format!("FETCH FORWARD {ROWS_AT_ONCE} FROM watershed_states")).await?;
        loop {
            let rows = client.query(&next, &[]).await?;
            for row in &rows {
                let position = Position(row.get::<_, i64>(0).cast_unsigned());
                kept.state(position, row.get(1), row.get(2), row.get(3), row.get(4)).await?;
            }
            if rows.len() < ROWS_AT_ONCE as usize {
                break;
            }
        }
        let (change, out) = kept.end().await?;
        client.batch_execute("CLOSE watershed_states; DELETE FROM watershed_view_touched").await?;
        client.execute("UPDATE watershed_view_noting SET change = $1, out = $2", &[&change, &out]).await?;
        let oldest = change - limits::VIEW_CHANGES_KEPT.cast_signed();
        client.execute("DELETE FROM watershed_view_change WHERE number <= $1", &[&oldest]).await?;
        client.execute("DELETE FROM watershed_view_out WHERE number <= $1", &[&published.cast_signed()]).await?;
        let noted = "UPDATE watershed_view_noting SET forgotten = greatest(forgotten, $1)";
        client.execute(noted, &[&published.cast_signed()]).await?;
        Ok(())
    }
}

/// The view's tables, by name.
pub(super) async fn tables(client: &(impl GenericClient + Sync), schema: &str) -> Result<Vec<NotedTable>, Trouble> {
    let sql = "SELECT c.relname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
               WHERE n.nspname = $1 AND (c.relkind = 'p' OR EXISTS (SELECT 1 FROM pg_inherits i WHERE c.oid IN (i.inhrelid, i.inhparent)))
               AND c.relkind IN ('r', 'p') LIMIT 1";
    if let Some(row) = client.query_opt(sql, &[&schema]).await? {
        let name: &str = row.get(0);
        return Err(Trouble::failed(format!(
            "table {name} has partitions or inherits: what changes in it cannot be told"
        )));
    }
    let sql = "SELECT c.relname::text, a.attname::text, format_type(a.atttypid, a.atttypmod),
                 coalesce((SELECT k.n FROM pg_index i, unnest(i.indkey) WITH ORDINALITY AS k(at, n)
                   WHERE i.indrelid = c.oid AND i.indisprimary AND k.n <= i.indnkeyatts AND k.at = a.attnum), 0)::int2
               FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_attribute a ON a.attrelid = c.oid
               WHERE n.nspname = $1 AND c.relkind = 'r' AND c.relname NOT LIKE 'watershed\\_%'
                 AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
               ORDER BY c.relname COLLATE \"C\", a.attnum";
    let mut found: Vec<(String, Vec<Column>)> = Vec::new();
    for row in client.query(sql, &[&schema]).await? {
        let (table, column, type_name): (String, String, String) = (row.get(0), row.get(1), row.get(2));
        if found.last().is_none_or(|(last, _)| *last != table) {
            found.push((table, Vec::new()));
        }
        let key = row.get::<_, i16>(3).cast_unsigned();
        if let Some((_, columns)) = found.last_mut() {
            columns.push(Column { name: column.into(), type_name: type_name.into(), key });
        }
    }
    let mut tables = Vec::with_capacity(found.len());
    for (name, columns) in found {
        let parsed: Option<TableName> = name.parse().ok().filter(|parsed: &TableName| parsed.as_str() == name);
        let parsed =
            parsed.ok_or_else(|| Trouble::failed(format!("what changes in a table named {name:?} cannot be told")))?;
        let def = Arc::new(TableDef::new(parsed, columns));
        let names: Vec<String> = def.columns.iter().map(|column| quoted(&column.name)).collect();
        let all = format!("SELECT {} FROM {}.{}", names.join(", "), quoted(schema), quoted(&name));
        let types = client.prepare(&all).await?.columns().iter().map(|column| column.type_().clone()).collect();
        let keys = def.key_columns();
        tables.push(NotedTable { def, types, keys });
    }
    Ok(tables)
}
