//! What happens to a table that the stream does not tell: its rows are written anew by ALTER TABLE, a column comes with values or
//! comes back without them, tables hand on their names. The rows under its name are other ones then, so it is announced as
//! replaced.
//!
//! A new file alone says nothing: VACUUM FULL and CLUSTER write the same rows, and a TRUNCATE is told. ALTER TABLE leaves its mark on the
//! rows of the catalog that describe columns. What has been seen is kept in the database and changes in the commit that announces,
//! so that nothing is missed while the node is down.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tokio_postgres::{Client, Error, GenericClient, IsolationLevel};

use super::install::announce_copied;
use crate::model::{TableName, limits};
use crate::postgres::tables::{Table, schema_and_table};

/// The captured tables as they were last seen, by their oids; `gone` are names of columns that followers may still have.
const TABLE: &str = "create table if not exists watershed.shape (oid oid primary key, name text not null, \
    shape text not null, gone text not null)";
const IS_THERE: &str = "select to_regclass('watershed.shape') is not null";

/// The row of a table's type is written when the table is renamed, or given to another owner.
const TABLES: &str = "select c.oid, n.nspname::text, c.relname::text, c.relfilenode, c.relowner, \
    coalesce(t.xmin::text::int8, 0), c.relnatts from pg_class c join pg_namespace n on n.oid = c.relnamespace \
    left join pg_type t on t.oid = c.reltype where c.oid = any($1)";
const COLUMNS: &str = "select attrelid, attnum, attname::text, atttypid, xmin::text::int8, atthasmissing from pg_attribute \
    where attrelid = any($1) and attnum > 0 and not attisdropped and attgenerated = '' order by attrelid, attnum";
/// Of partitioned tables: whether a leaf that was there before has another file, and its columns that come with values.
const LEAVES: &str = "select p.root, bool_or(p.file <> c.relfilenode), coalesce(array_agg(distinct a.attname::text) \
    filter (where a.attname is not null), '{}') from watershed.partitions p join pg_class c on c.oid = p.leaf \
    left join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and a.atthasmissing where p.root = any($1) group by p.root";

/// Types whose values are the same text in each other.
const TEXTS: [u32; 2] = [25, 1043];

/// A table as the catalog describes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Shape {
    /// The transaction that wrote the row of its type.
    named: u32,
    owner: u32,
    /// Changes when rows are written anew; of a partitioned table its leaves have files.
    file: u32,
    /// Columns that it ever had, dropped and generated ones too.
    width: i16,
    columns: Vec<Part>,
}

/// A column that is neither dropped nor generated.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Part {
    number: i16,
    name: String,
    type_oid: u32,
    /// The transaction that wrote its row.
    xmin: u32,
    /// Rows from before it was added have a value in it that stands in the catalog.
    filled: bool,
}

/// A table as it is now.
struct Found {
    name: (String, String),
    shape: Shape,
    /// A leaf has another file.
    leaf_written: bool,
}

impl Shape {
    /// Whether the rows under the table's name may be others than before, though nothing was told.
    fn has_other_rows(&self, before: &Shape, leaf_written: bool, gone: &[String]) -> bool {
        let is_written = self.file != before.file || leaf_written;
        // Renamed, and called as before again: what was written in between was told of another name.
        if self.named != before.named && self.owner == before.owner {
            return true;
        }
        self.columns.iter().any(|now| match before.columns.iter().find(|known| known.number == now.number) {
            Some(known) => now.differs(known, is_written),
            // It was generated before, it came with values, or followers have an older one of its name.
            None => {
                let is_known = before.columns.iter().any(|known| known.name == now.name);
                now.number <= before.width || now.filled || is_written || is_known || gone.contains(&now.name)
            }
        })
    }

    /// The names of columns that are not there any more, with those that were gone before.
    fn gone_since(&self, before: &Shape, gone: Vec<String>) -> Vec<String> {
        let mut names: Vec<String> = before.columns.iter().map(|known| known.name.clone()).chain(gone).collect();
        let mut seen = HashSet::new();
        names.retain(|name| self.columns.iter().all(|now| now.name != *name) && seen.insert(name.clone()));
        names.truncate(limits::CAPTURE_GONE_COLUMNS_MAX);
        names
    }
}

impl Part {
    fn differs(&self, before: &Part, is_written: bool) -> bool {
        let both_texts = TEXTS.contains(&self.type_oid) && TEXTS.contains(&before.type_oid);
        let is_other_type = self.type_oid != before.type_oid && !both_texts;
        self.name != before.name || is_other_type || is_written && self.xmin != before.xmin
    }
}

/// Compares the captured tables with what they were, and announces those whose rows have changed unseen; where these are all, the
/// others are forgotten. Gives back whether a table changed meanwhile, so that it has to be done once more.
pub(super) async fn follow(
    client: &mut Client,
    tables: &[Arc<Table>],
    has_begun: bool,
    are_all: bool,
) -> Result<bool, Error> {
    let transaction = client.build_transaction().isolation_level(IsolationLevel::RepeatableRead).start().await?;
    let is_first = !is_there(&transaction).await?;
    if is_first {
        transaction.batch_execute(TABLE).await?;
    }
    let mut stored = stored(&transaction).await?;
    let mut found = find(&transaction, tables).await?;
    let mut changed: Vec<&TableName> = Vec::new();
    let mut other: Vec<(u32, Stored)> = Vec::new();
    let mut is_unfinished = false;
    for table in tables {
        let before = stored.remove(&table.oid);
        let name = schema_and_table(&table.def.name);
        let now = found.remove(&table.oid).filter(|now| (&*now.name.0, &*now.name.1) == name);
        let Some(now) = now else {
            is_unfinished = true;
            continue;
        };
        let text = encoded(&now.shape);
        let (is_changed, gone) = match &before {
            Some(before) => {
                match (before.name == table.def.name.as_str(), serde_json::from_str::<Shape>(&before.shape)) {
                    (is_same_name, Ok(shape)) => {
                        let gone: Vec<String> = serde_json::from_str(&before.gone).unwrap_or_default();
                        let is_other = || now.shape.has_other_rows(&shape, now.leaf_written, &gone);
                        (!is_same_name || is_other(), now.shape.gone_since(&shape, gone))
                    }
                    (_, Err(_)) => (true, Vec::new()),
                }
            }
            // A table is noted when it is published.
            None => (!is_first, Vec::new()),
        };
        if is_changed && has_begun {
            changed.push(&table.def.name);
        }
        let now = Stored { name: table.def.name.to_string(), shape: text, gone: encoded(&gone) };
        if before.as_ref() != Some(&now) {
            other.push((table.oid, now));
        }
    }
    write(&transaction, &other, true).await?;
    if are_all && !stored.is_empty() {
        let oids: Vec<u32> = stored.into_keys().collect();
        transaction.execute("delete from watershed.shape where oid = any($1)", &[&oids]).await?;
    }
    announce_copied(&transaction, &changed).await?;
    transaction.commit().await?;
    Ok(is_unfinished)
}

/// Notes a table that is about to be published, in the commit that does so. Where its rows are not announced there, what is known of
/// it stays.
pub(super) async fn note(client: &impl GenericClient, table: &Arc<Table>, is_announced: bool) -> Result<(), Error> {
    // Where nothing is noted yet, all tables are in a moment.
    if !is_there(client).await? {
        return Ok(());
    }
    let found = find(client, std::slice::from_ref(table)).await?;
    let Some(found) = found.get(&table.oid) else { return Ok(()) };
    let stored = Stored { name: table.def.name.to_string(), shape: encoded(&found.shape), gone: "[]".into() };
    write(client, &[(table.oid, stored)], is_announced).await
}

/// A table as it is noted.
#[derive(Debug, PartialEq, Eq)]
struct Stored {
    name: String,
    shape: String,
    gone: String,
}

fn encoded(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("numbers and texts can be written as JSON")
}

async fn is_there(client: &impl GenericClient) -> Result<bool, Error> {
    client.query_one(IS_THERE, &[]).await?.try_get(0)
}

async fn stored(client: &impl GenericClient) -> Result<HashMap<u32, Stored>, Error> {
    let rows = client.query("select oid, name, shape, gone from watershed.shape", &[]).await?;
    let stored = rows.iter().map(|row| {
        let stored = Stored { name: row.try_get(1)?, shape: row.try_get(2)?, gone: row.try_get(3)? };
        Ok((row.try_get(0)?, stored))
    });
    stored.collect()
}

async fn write(client: &impl GenericClient, tables: &[(u32, Stored)], over: bool) -> Result<(), Error> {
    if tables.is_empty() {
        return Ok(());
    }
    let oids: Vec<u32> = tables.iter().map(|(oid, _)| *oid).collect();
    let texts = |text: fn(&Stored) -> &str| tables.iter().map(|(_, stored)| text(stored)).collect::<Vec<_>>();
    let (names, shapes, gone) =
        (texts(|stored| &stored.name), texts(|stored| &stored.shape), texts(|stored| &stored.gone));
    let known = match over {
        true => "update set name = excluded.name, shape = excluded.shape, gone = excluded.gone",
        false => "nothing",
    };
    let sql = format!(
        "insert into watershed.shape select * from unnest($1::oid[], $2::text[], $3::text[], $4::text[]) \
         on conflict (oid) do {known}"
    );
    client.execute(&sql, &[&oids, &names, &shapes, &gone]).await.map(drop)
}

async fn find(client: &impl GenericClient, tables: &[Arc<Table>]) -> Result<HashMap<u32, Found>, Error> {
    let oids: Vec<u32> = tables.iter().map(|table| table.oid).collect();
    let mut found = HashMap::new();
    for row in client.query(TABLES, &[&oids]).await? {
        let shape = Shape {
            named: row.try_get::<_, i64>(5)? as u32,
            owner: row.try_get(4)?,
            file: row.try_get(3)?,
            width: row.try_get(6)?,
            columns: Vec::new(),
        };
        let name = (row.try_get(1)?, row.try_get(2)?);
        found.insert(row.try_get::<_, u32>(0)?, Found { name, shape, leaf_written: false });
    }
    for row in client.query(COLUMNS, &[&oids]).await? {
        let Some(table) = found.get_mut(&row.try_get::<_, u32>(0)?) else { continue };
        table.shape.columns.push(Part {
            number: row.try_get(1)?,
            name: row.try_get(2)?,
            type_oid: row.try_get(3)?,
            xmin: row.try_get::<_, i64>(4)? as u32,
            filled: row.try_get(5)?,
        });
    }
    let roots: Vec<u32> = tables.iter().filter(|table| table.is_partitioned).map(|table| table.oid).collect();
    let are_noted = "select to_regclass('watershed.partitions') is not null";
    if !roots.is_empty() && client.query_one(are_noted, &[]).await?.try_get(0)? {
        for row in client.query(LEAVES, &[&roots]).await? {
            let Some(table) = found.get_mut(&row.try_get::<_, u32>(0)?) else { continue };
            table.leaf_written = row.try_get(1)?;
            let filled: Vec<String> = row.try_get(2)?;
            table.shape.columns.iter_mut().for_each(|column| column.filled |= filled.contains(&column.name));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(number: i16, name: &str, xmin: u32) -> Part {
        Part { number, name: name.into(), type_oid: 23, xmin, filled: false }
    }

    fn shape(file: u32, width: i16, columns: Vec<Part>) -> Shape {
        Shape { named: 1, owner: 10, file, width, columns }
    }

    #[test]
    fn rows_are_others_where_alter_table_made_them_so_and_nowhere_else() {
        let before = shape(1, 3, vec![part(1, "id", 5), part(3, "v", 5)]);
        let others = |now: &Shape| now.has_other_rows(&before, false, &["lost".into()]);
        let with = |number, name: &str, change: fn(&mut Part)| {
            let mut new = part(number, name, 9);
            change(&mut new);
            shape(1, 9, vec![part(1, "id", 5), part(3, "v", 5), new])
        };
        assert!(!others(&before));
        // VACUUM FULL, CLUSTER, TRUNCATE; SET NOT NULL; a column is dropped; one is added without values.
        assert!(!others(&Shape { file: 2, ..before.clone() }));
        assert!(!others(&shape(1, 3, vec![part(1, "id", 9), part(3, "v", 5)])));
        assert!(!others(&shape(1, 3, vec![part(1, "id", 5)])));
        assert!(!others(&with(4, "w", |_| ())));
        // Rows written anew under another definition, in the table itself or in a leaf.
        let altered = shape(2, 3, vec![part(1, "id", 5), part(3, "v", 9)]);
        assert!(others(&altered));
        assert!(Shape { file: 1, ..altered }.has_other_rows(&before, true, &[]));
        // Added with values; generated before; a name that followers may have.
        assert!(others(&with(4, "w", |new| new.filled = true)));
        assert!(others(&with(2, "w", |_| ())));
        assert!(others(&with(4, "lost", |_| ())));
        assert!(others(&Shape { file: 2, ..with(4, "w", |_| ()) }));
        // Columns that change names; another type of the same bytes; a table that was called otherwise for a while.
        assert!(others(&shape(1, 3, vec![part(1, "v", 9), part(3, "id", 9)])));
        assert!(others(&shape(1, 4, vec![part(1, "id", 5), part(4, "v", 9)])));
        assert!(others(&shape(1, 3, vec![Part { type_oid: 26, ..part(1, "id", 9) }, part(3, "v", 5)])));
        assert!(others(&Shape { named: 9, ..before.clone() }));
        assert!(!others(&Shape { named: 9, owner: 11, ..before.clone() }));
    }

    #[test]
    fn columns_that_are_gone_are_remembered_until_they_come_back() {
        let before = shape(1, 3, vec![part(1, "id", 5), part(2, "z", 5)]);
        let now = shape(1, 3, vec![part(1, "id", 5), part(3, "y", 5)]);
        assert_eq!(now.gone_since(&before, vec!["y".into(), "x".into()]), ["z", "x"]);
        assert!(before.gone_since(&now, vec!["z".into()]).contains(&"y".to_string()));
    }
}
