//! Rows of a table made like those of another database.

use tokio_postgres::SimpleQueryRow;
use tokio_postgres::error::SqlState;

use super::same_row;
use crate::model::{Kind, Row, TableDef, Value, ValueClass, limits};
use crate::postgres::copy::{Facts, qualified, quoted};
use crate::postgres::range::{literal, text_of};
use crate::postgres::{Endpoint, PgError, Session};
use crate::view::{DiffError, Mend, Repaired};

/// As for reading, but that it writes.
const WRITING: &str = "SET datestyle = 'ISO'; SET intervalstyle = 'postgres'; SET timezone = 'UTC'; \
    SET client_encoding = 'UTF8'; SET search_path = pg_catalog; SET standard_conforming_strings = on; \
    SET lc_monetary = 'C'; SET lock_timeout = '5s'";

/// A connection that mends.
pub(super) struct Pen {
    session: Session,
}

/// The values of a row that was read as text.
pub(super) fn values(row: &SimpleQueryRow, columns: usize) -> Row {
    let value = |i| row.get(i).map_or(Value::NULL, |text: &str| Value::new(Kind::Typed, text.to_string()));
    (0..columns).map(value).collect()
}

impl Pen {
    /// Connects. Triggers and foreign keys do not fire, if the user may ask for that. Where a node captures the database,
    /// what is written is said to be of that node's origin, so that it is not captured: it is in nobody's log.
    pub(super) async fn open(endpoint: &Endpoint) -> Result<Pen, DiffError> {
        let session = endpoint.connect(limits::CONNECT_TIMEOUT).await?;
        let failed = |error| DiffError::from(endpoint.failed("preparing to repair", error));
        session.client.batch_execute(WRITING).await.map_err(failed)?;
        match session.client.batch_execute("SET session_replication_role = replica").await {
            Err(error) if error.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE) => tracing::warn!(
                "{}: triggers and foreign keys fire while rows are repaired: this user may not turn them off (as a superuser: GRANT SET ON \
                 PARAMETER session_replication_role TO …)",
                endpoint.name()
            ),
            set => set.map_err(failed)?,
        }
        let origins = "select roname from pg_replication_origin where roname ~ '^watershed_[0-9a-f]{16}$' \
            and exists (select from pg_replication_slots s where s.slot_name = roname and s.database = current_database())";
        let origins = session.client.query(origins, &[]).await.map_err(failed)?;
        if let Some(row) = origins.first() {
            let name: String = row.try_get(0).map_err(failed)?;
            let set = session.client.execute("select pg_replication_origin_session_setup($1)", &[&name]).await;
            if set.as_ref().is_err_and(|error| error.code() == Some(&SqlState::OBJECT_IN_USE)) {
                let why = format!(
                    "{}: a node applies to this database, so a repair would be captured as new changes: stop the node, repair, and start it again",
                    endpoint.name()
                );
                return Err(DiffError { why, is_retryable: false });
            }
            set.map_err(failed)?;
        }
        Ok(Pen { session })
    }

    /// All of it in one commit.
    pub(super) async fn mend(&self, def: &TableDef, facts: &Facts, mends: &[Mend]) -> Result<Repaired, DiffError> {
        match self.write(def, facts, mends, false).await {
            // Two rows that have changed a unique value between them, or a column that is only inserted: all go first.
            Err(error) if error.db().is_some_and(|db| goes_first(db.code())) => {
                Ok(self.write(def, facts, mends, true).await?)
            }
            done => Ok(done?),
        }
    }

    async fn write(
        &self,
        def: &TableDef,
        facts: &Facts,
        mends: &[Mend],
        remove_first: bool,
    ) -> Result<Repaired, PgError> {
        let endpoint = self.session.endpoint();
        let doing = || format!("repairing {}", def.name);
        let statements =
            statements(def, &facts.from, mends, remove_first).map_err(|why| endpoint.unexpected(doing(), why))?;
        let sql = format!("BEGIN; {}; {}; COMMIT", facts.search_path("LOCAL"), statements.join("; "));
        if let Err(error) = self.session.client.batch_execute(&sql).await {
            let rolled_back = self.session.client.batch_execute("ROLLBACK").await;
            rolled_back.map_err(|error| endpoint.failed(doing(), error))?;
            return Err(endpoint.failed(doing(), error));
        }
        let written = mends.iter().filter(|mend| matches!(mend, Mend::Put(_))).count() as u64;
        Ok(Repaired { rows: 0, written, removed: mends.len() as u64 - written })
    }
}

fn goes_first(code: &SqlState) -> bool {
    [SqlState::UNIQUE_VIOLATION, SqlState::GENERATED_ALWAYS].contains(code)
}

fn statements(def: &TableDef, table: &str, mends: &[Mend], remove_first: bool) -> Result<Vec<String>, String> {
    let keys = def.key_columns();
    let mut removals = Vec::new();
    let mut inserts = Vec::new();
    for mend in mends {
        match mend {
            Mend::Remove(row) if keys.is_empty() => removals.push(remove_equal(def, table, row)?),
            Mend::Remove(row) => {
                removals.push(format!("DELETE FROM {table} WHERE {}", same_row(def, &key(&keys, row))?))
            }
            Mend::Put(row) => {
                if remove_first && !keys.is_empty() {
                    removals.push(format!("DELETE FROM {table} WHERE {}", same_row(def, &key(&keys, row))?));
                }
                inserts.push(put(def, if remove_first { &[] } else { &keys }, row)?);
            }
        }
    }
    removals.extend(inserts);
    Ok(removals)
}

fn key(keys: &[usize], row: &Row) -> Row {
    keys.iter().filter_map(|&i| row.get(i).cloned()).collect()
}

fn put(def: &TableDef, keys: &[usize], row: &Row) -> Result<String, String> {
    let names: Vec<String> = def.columns.iter().map(|column| quoted(&column.name)).collect();
    let values: Vec<String> = def
        .columns
        .iter()
        .zip(row)
        .map(|(column, value)| literal(value, &column.type_name))
        .collect::<Result<_, _>>()?;
    let mut sql = format!(
        "INSERT INTO {} ({}) OVERRIDING SYSTEM VALUE VALUES ({})",
        qualified(&def.name),
        names.join(","),
        values.join(",")
    );
    if !keys.is_empty() {
        let target: Vec<&str> = keys.iter().map(|&i| names[i].as_str()).collect();
        // Texts may be equal as keys and still differ; a number is what it is, and may be GENERATED ALWAYS.
        let is_set = |i: &usize| !keys.contains(i) || ValueClass::of(&def.columns[*i].type_name) == ValueClass::Text;
        let sets = (0..names.len()).filter(is_set).map(|i| format!("{0} = EXCLUDED.{0}", names[i]));
        let sets = sets.collect::<Vec<_>>().join(",");
        let action = if sets.is_empty() { "NOTHING".to_string() } else { format!("UPDATE SET {sets}") };
        sql += &format!(" ON CONFLICT ({}) DO {action}", target.join(","));
    }
    Ok(sql)
}

/// One row that is equal in all columns, by their texts: not every type can be compared.
fn remove_equal(def: &TableDef, table: &str, row: &Row) -> Result<String, String> {
    let each = def.columns.iter().zip(row).map(|(column, value)| {
        let name = quoted(&column.name);
        Ok(match text_of(value)? {
            None => format!("{name} IS NULL"),
            Some(_) => format!("{name}::text = {}::text", literal(value, &column.type_name)?),
        })
    });
    let same = each.collect::<Result<Vec<_>, String>>()?.join(" AND ");
    // A row's place is its own only within its partition.
    let one = format!("SELECT tableoid, ctid FROM {table} WHERE {same} LIMIT 1");
    Ok(format!("DELETE FROM {table} WHERE (tableoid, ctid) = ({one})"))
}
