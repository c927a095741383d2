//! Tables whose names differ by the case of letters only.
//!
//! PostgreSQL has `orders` and `"Orders"` beside each other, SQLite has one of them. So a table that comes from SQLite may be
//! found under a name in other letters; but never one table that another is written to already: their rows would become one
//! table's, without a word.

use tokio_postgres::{Client, Error};

use super::target::split;
use crate::model::TableName;

/// `$3`: only under exactly that name.
const RELATION: &str = "
SELECT c.oid, n.nspname::text, c.relname::text, c.relkind::text,
       pg_catalog.has_table_privilege(c.oid, 'TRUNCATE')
         AND NOT EXISTS (SELECT FROM pg_catalog.pg_constraint f WHERE f.contype = 'f' AND f.confrelid = c.oid AND f.conrelid <> c.oid),
       n.nspname = $1 AND c.relname = $2
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f')
  AND (n.nspname = $1 AND c.relname = $2
       OR NOT $3 AND pg_catalog.lower(n.nspname) = pg_catalog.lower($1) AND pg_catalog.lower(c.relname) = pg_catalog.lower($2))
ORDER BY 6 DESC, 2, 3 LIMIT 3";

const THERE: &str = "
SELECT EXISTS (SELECT FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
               WHERE n.nspname = $1 AND c.relname = $2)";

/// Tables of such names that are written here, and whether one of exactly that name is here. A copy that has not begun to
/// write has no claim.
const WRITTEN: &str = "
SELECT w.name, EXISTS (SELECT FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = CASE pg_catalog.strpos(w.name, '.') WHEN 0 THEN 'public' ELSE pg_catalog.split_part(w.name, '.', 1) END
      AND c.relname = CASE pg_catalog.strpos(w.name, '.') WHEN 0 THEN w.name ELSE pg_catalog.split_part(w.name, '.', 2) END
      AND c.relkind IN ('r', 'p'))
FROM (SELECT table_name AS name FROM watershed.follows
      UNION SELECT table_name FROM watershed.lane
      WHERE state IN ('replaying', 'parked replaying') OR state IN ('copying', 'parked copying') AND (done IS NOT NULL OR rows > 0)) w
WHERE pg_catalog.lower(w.name) = pg_catalog.lower($1) ORDER BY 1";

/// A relation that takes a table's rows.
pub(super) struct Relation {
    pub oid: u32,
    pub schema: String,
    pub name: String,
    pub kind: String,
    pub truncate: bool,
}

/// Why none is taken, though there is one.
pub(super) enum Clash {
    /// Several differ from the name by case.
    Several(String),
    /// It is another table's.
    Taken(String),
}

impl Clash {
    pub(super) fn words(self) -> String {
        match self {
            Clash::Several(why) | Clash::Taken(why) => why,
        }
    }
}

/// Finds the relation for a table: of exactly that name, or else, unless `exact`, the one that differs by case.
pub(super) async fn find(
    client: &Client,
    table: &TableName,
    exact: bool,
) -> Result<Result<Option<Relation>, Clash>, Error> {
    let (schema, name) = split(table);
    let found = client.query(RELATION, &[&schema, &name, &exact]).await?;
    let Some(first) = found.first() else { return Ok(Ok(None)) };
    let is_exact: bool = first.get(5);
    let relation = Relation {
        oid: first.get(0),
        schema: first.get(1),
        name: first.get(2),
        kind: first.get(3),
        truncate: first.get(4),
    };
    if !is_exact && found.len() > 1 {
        let other: String = found[1].get(2);
        let why = format!(
            "there is no table {table} here, and {} and {other} both differ from it by the case of letters only: rename one of \
             the three",
            relation.name
        );
        return Ok(Err(Clash::Several(why)));
    }
    let written = client.query(WRITTEN, &[&table.as_str()]).await?;
    let is_own = |name: &str| name == table.as_str();
    let own = written.iter().any(|row| is_own(row.get(0)));
    // One that has a relation of exactly its name is written to that.
    let shares = |row: &&tokio_postgres::Row| !(is_own(row.get(0)) || is_exact && row.get::<_, bool>(1));
    let rival = written.iter().find(shares).filter(|_| !(is_exact && own));
    Ok(match rival {
        None => Ok(Some(relation)),
        Some(rival) => Err(Clash::Taken(format!(
            "the table {} here is written by {}, whose name differs from {table} by the case of letters only: the two would \
             become one; make a table {table} of its own, or select one of them only",
            relation.name,
            rival.get::<_, &str>(0)
        ))),
    })
}

/// Whether a table's rows have a place, or what stands in their way is to be told: else the table is made.
pub(super) async fn is_there(client: &Client, table: &TableName, exact: bool) -> Result<bool, Error> {
    let (schema, name) = split(table);
    let there: bool = client.query_one(THERE, &[&schema, &name]).await?.get(0);
    if there || exact {
        return Ok(there);
    }
    Ok(match find(client, table, false).await? {
        Ok(found) => found.is_some(),
        Err(Clash::Several(_)) => true,
        Err(Clash::Taken(_)) => false,
    })
}
