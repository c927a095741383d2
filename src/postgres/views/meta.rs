//! Our own tables in a view's schema: whose it is, how far it has come, what was passed over, and the latest rows.

use tokio_postgres::{Client, GenericClient};

use super::session::Trouble;
use crate::model::{Cursor, Fingerprint, LogId, Timestamp};

/// `watershed_view` has one row, which whoever writes locks. `build` is drawn for each build, so that whoever still writes to
/// an older one finds out.
pub(super) const TABLES: &str = "
CREATE TABLE watershed_view(
  id integer PRIMARY KEY CHECK (id = 1), name text NOT NULL, fingerprint text NOT NULL, build bigint NOT NULL,
  file text NOT NULL, definition text NOT NULL);
CREATE TABLE watershed_view_cursor(log text PRIMARY KEY, cursor text NOT NULL);
CREATE TABLE watershed_view_passed(cursor text PRIMARY KEY, time text NOT NULL);
CREATE TABLE watershed_view_table(fingerprint text PRIMARY KEY, definition bytea NOT NULL);
CREATE TABLE watershed_view_row(
  table_name text NOT NULL, key bytea NOT NULL, fingerprint text NOT NULL, content bytea NOT NULL,
  PRIMARY KEY (table_name, key));
";

/// Whose a build is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Meta {
    pub name: String,
    pub fingerprint: Fingerprint,
    pub build: i64,
    /// Where the definition stood, and what it was.
    pub file: String,
    pub definition: String,
}

/// What a schema is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// There is none.
    Nothing,
    /// A view.
    View(Meta),
    /// Somebody else's.
    Foreign,
}

/// A name as it stands in SQL.
pub(super) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Looks at a schema.
pub(super) async fn found(client: &(impl GenericClient + Sync), schema: &str) -> Result<Found, Trouble> {
    let sql = "SELECT EXISTS (SELECT 1 FROM pg_class c WHERE c.relnamespace = n.oid AND c.relname = 'watershed_view'
                 AND c.relkind = 'r') FROM pg_namespace n WHERE n.nspname = $1";
    let Some(row) = client.query_opt(sql, &[&schema]).await? else { return Ok(Found::Nothing) };
    if !row.get::<_, bool>(0) {
        return Ok(Found::Foreign);
    }
    let sql = format!("SELECT name, fingerprint, build, file, definition FROM {}.watershed_view", quoted(schema));
    let Some(row) = client.query_opt(&sql, &[]).await? else { return Ok(Found::Foreign) };
    let fingerprint: String = row.get(1);
    let fingerprint = u64::from_str_radix(&fingerprint, 16);
    Ok(Found::View(Meta {
        name: row.get(0),
        fingerprint: Fingerprint(fingerprint.map_err(|error| Trouble::failed(format!("watershed_view: {error}")))?),
        build: row.get(2),
        file: row.get(3),
        definition: row.get(4),
    }))
}

/// Makes our tables in the schema that is first in the search path, in the transaction that is open.
pub(super) async fn install(client: &Client, meta: &Meta) -> Result<(), Trouble> {
    client.batch_execute(TABLES).await?;
    let sql =
        "INSERT INTO watershed_view(id, name, fingerprint, build, file, definition) VALUES (1, $1, $2, $3, $4, $5)";
    let fingerprint = meta.fingerprint.to_string();
    client.execute(sql, &[&meta.name, &fingerprint, &meta.build, &meta.file, &meta.definition]).await?;
    Ok(())
}

fn parsed(text: &str) -> Result<Cursor, Trouble> {
    text.parse().map_err(|error| Trouble::failed(format!("watershed_view_cursor: {error}")))
}

/// Which build the schema has, and how far it has come in that log; until the transaction ends nobody else writes to it.
pub(super) async fn fence(client: &Client, log: LogId) -> Result<(i64, Option<Cursor>), Trouble> {
    // The cursor is read by a statement of its own: one that has waited for the lock sees the rest as it was before.
    client.execute("SELECT 1 FROM watershed_view WHERE id = 1 FOR UPDATE", &[]).await?;
    let sql = "SELECT v.build, (SELECT c.cursor FROM watershed_view_cursor c WHERE c.log = $1)
               FROM watershed_view v WHERE v.id = 1";
    let row = client.query_one(sql, &[&log.to_string()]).await?;
    let cursor: Option<String> = row.get(1);
    Ok((row.get(0), cursor.as_deref().map(parsed).transpose()?))
}

/// Stores how far a log was taken.
pub(super) async fn set_cursor(client: &Client, cursor: Cursor) -> Result<(), Trouble> {
    let sql = "INSERT INTO watershed_view_cursor(log, cursor) VALUES ($1, $2)
               ON CONFLICT (log) DO UPDATE SET cursor = excluded.cursor";
    client.execute(sql, &[&cursor.log.to_string(), &cursor.to_string()]).await?;
    Ok(())
}

/// How far every partition has come, by log id.
pub(super) async fn cursors(client: &(impl GenericClient + Sync), schema: &str) -> Result<Vec<Cursor>, Trouble> {
    let sql = format!("SELECT cursor FROM {}.watershed_view_cursor ORDER BY log COLLATE \"C\"", quoted(schema));
    let rows = client.query(&sql, &[]).await?;
    rows.iter().map(|row| parsed(row.get(0))).collect()
}

/// Remembers that an entry was passed over.
pub(super) async fn set_passed(client: &Client, cursor: Cursor) -> Result<(), Trouble> {
    let sql = "INSERT INTO watershed_view_passed(cursor, time) VALUES ($1, $2) ON CONFLICT DO NOTHING";
    client.execute(sql, &[&cursor.to_string(), &Timestamp::now().to_string()]).await?;
    Ok(())
}

/// What was ever passed over: cursors, and when.
pub(super) async fn passed(client: &Client, schema: &str) -> Result<Vec<(Cursor, String)>, Trouble> {
    let sql = format!("SELECT cursor, time FROM {}.watershed_view_passed ORDER BY time, cursor", quoted(schema));
    let rows = client.query(&sql, &[]).await?;
    rows.iter().map(|row| Ok((parsed(row.get(0))?, row.get(1)))).collect()
}
