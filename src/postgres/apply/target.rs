//! A destination table as one source definition sees it.

use std::collections::HashMap;
use std::sync::Arc;

use tokio_postgres::{Client, Error, Row};

use super::rivals::{self, Relation};
use super::shape::{Mode, Shape};
use crate::model::{TableDef, TableName};
use crate::postgres::create_table;

/// A name in SQL.
pub(super) fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A text in SQL, with `standard_conforming_strings` on.
pub(super) fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// Schema and table of a name as it travels.
pub(super) fn split(name: &TableName) -> (&str, &str) {
    name.as_str().split_once('.').unwrap_or(("public", name.as_str()))
}

/// How a value's text becomes a parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    /// As it is.
    Plain,
    /// A character type, which takes any text but no blob.
    Text,
    /// `bytea`: blobs as hex.
    Bytes,
    /// An integer of 2, 4 or 8 bytes: in bulk it travels in binary.
    Integer(u8),
}

/// A column that rows are written to, in the order of the source's definition.
#[derive(Clone, Debug)]
pub(super) struct Field {
    /// Quoted.
    pub name: String,
    /// What a text is cast to: the type without its length, which assignment minds (a cast would cut).
    pub cast: String,
    pub class: Class,
    /// Not generated here.
    pub written: bool,
    /// Its value can be inserted, not updated.
    pub always: bool,
    /// Whether two values can be compared by `=`.
    pub comparable: bool,
}

/// Another unique index than the key's.
#[derive(Clone, Debug)]
pub(super) struct Unique {
    pub columns: Vec<usize>,
    pub predicate: Option<String>,
}

/// One destination table for one source definition.
#[derive(Debug)]
pub(super) struct Target {
    /// The source's definition.
    pub def: Arc<TableDef>,
    /// Quoted, with its schema.
    pub rel: String,
    /// The same for statements that could mean the tables that inherit from it, too; those have rows of their own.
    pub own_rows: String,
    pub columns: Vec<Field>,
    /// Indexes of the columns that are written.
    pub written: Vec<usize>,
    /// Indexes, in key order; empty for a table without a key.
    pub key: Vec<usize>,
    /// `ON CONFLICT` may name the key's columns, and updates all others.
    pub arbiter: bool,
    pub others: Vec<Unique>,
    /// It has columns of its own, which a row keeps as long as it lives.
    pub extra: bool,
    /// Their names, but those that are generated.
    pub own_columns: Vec<String>,
    /// `TRUNCATE` is possible: no foreign key refers to it, and we may.
    pub truncate: bool,
    /// Whether merged inserts have met rows that were there.
    pub upsert: bool,
    /// Numbers of the statements that write single rows.
    pub codes: HashMap<(Shape, Mode, Vec<bool>), u32>,
    /// The same for whole rows.
    pub whole: [Option<u32>; 16],
}

const COLUMNS: &str = "
SELECT a.attname::text, pg_catalog.format_type(a.atttypid, -1), a.atttypid,
       CASE WHEN t.typtype = 'd' THEN t.typbasetype ELSE a.atttypid END,
       a.attgenerated <> '', a.attidentity = 'a', a.attnum,
       EXISTS (SELECT FROM pg_catalog.pg_opclass o JOIN pg_catalog.pg_am m ON m.oid = o.opcmethod
               WHERE m.amname = 'btree' AND o.opcdefault AND o.opcintype =
                 CASE WHEN a.atttypid = 1043 THEN 25 WHEN t.typtype = 'e' THEN 3500 WHEN t.typtype = 'r' THEN 3831 ELSE a.atttypid END)
FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum";

const UNIQUES: &str = "
SELECT (SELECT array_agg(k) FROM unnest(i.indkey::int2[]) WITH ORDINALITY AS u(k, n) WHERE n <= i.indnkeyatts),
       i.indimmediate, pg_catalog.pg_get_expr(i.indpred, i.indrelid)
FROM pg_catalog.pg_index i
WHERE i.indrelid = $1 AND i.indisunique AND i.indisvalid AND i.indexprs IS NULL
ORDER BY i.indisprimary DESC, i.indexrelid";

fn class(base: u32) -> Class {
    match base {
        17 => Class::Bytes,
        21 => Class::Integer(2),
        23 => Class::Integer(4),
        20 => Class::Integer(8),
        25 | 1042 | 1043 | 18 | 19 | 114 | 3802 | 142 => Class::Text,
        _ => Class::Plain,
    }
}

/// Whether tables of that schema are never written.
pub(super) fn is_reserved(schema: &str) -> bool {
    schema == "watershed" || schema == "information_schema" || schema.starts_with("pg_")
}

impl Target {
    /// Looks at the destination; the inner error says why it cannot take this definition's rows.
    /// `exact`: the case of letters in its name matters.
    pub(super) async fn look(
        client: &Client,
        def: &Arc<TableDef>,
        exact: bool,
    ) -> Result<Result<Target, String>, Error> {
        let name = &def.name;
        if is_reserved(split(name).0) {
            return Ok(Err("the name is reserved".to_owned()));
        }
        let found = match rivals::find(client, name, exact).await? {
            Ok(Some(found)) => found,
            Ok(None) => return Ok(Err(format!("there is no table {name} here: {}", create_table(def)))),
            Err(clash) => return Ok(Err(clash.words())),
        };
        let Relation { oid, schema, name: relation, kind, truncate } = found;
        if kind != "r" && kind != "p" {
            return Ok(Err(format!("{name} is not an ordinary table here")));
        }
        let rows = client.query(COLUMNS, &[&oid]).await?;
        let (columns, numbers) = match columns(def, &rows) {
            Ok(columns) => columns,
            Err(why) => return Ok(Err(why)),
        };
        let uniques = client.query(UNIQUES, &[&oid]).await?;
        let key = def.key_columns();
        let Ok((arbiter, others)) = keys(&key, &numbers, &uniques) else {
            let names: Vec<&str> = key.iter().map(|&i| &*def.columns[i].name).collect();
            return Ok(Err(format!("the table has another key: no unique index over ({}) alone", names.join(", "))));
        };
        let written: Vec<usize> = (0..columns.len()).filter(|&i| columns[i].written).collect();
        let mut key_only = key.iter().filter(|&&i| !columns[i].written);
        if let Some(&generated) = key_only.next() {
            return Ok(Err(format!("the key's column {} is generated here", columns[generated].name)));
        }
        let rel = format!("{}.{}", quote(&schema), quote(&relation));
        let is_own = |row: &&Row| !row.get::<_, bool>(4) && !numbers.contains(&row.get(6));
        let own_columns: Vec<String> = rows.iter().filter(is_own).map(|row| row.get(0)).collect();
        let pinned = written.iter().any(|i| columns[*i].always && !key.contains(i));
        Ok(Ok(Target {
            def: def.clone(),
            own_rows: if kind == "r" { format!("ONLY {rel}") } else { rel.clone() },
            rel,
            extra: !own_columns.is_empty(),
            own_columns,
            columns,
            written,
            key,
            arbiter: arbiter && !pinned,
            others,
            truncate,
            upsert: false,
            codes: HashMap::new(),
            whole: [None; 16],
        }))
    }

    /// Whether the row has a value for every column that is written.
    pub(super) fn is_whole(&self, row: &[super::raw::Cell<'_>]) -> bool {
        self.written.iter().all(|&i| !row[i].is_unchanged())
    }
}

type Columns = (Vec<Field>, Vec<i16>);

/// The definition's columns as they are here, with their numbers.
fn columns(def: &TableDef, rows: &[Row]) -> Result<Columns, String> {
    let mut columns = Vec::with_capacity(def.columns.len());
    let mut numbers: Vec<i16> = Vec::with_capacity(def.columns.len());
    for column in &def.columns {
        let exact = rows.iter().find(|row| row.get::<_, &str>(0) == &*column.name);
        // A column in other letters, unless that is another's.
        let similar = |row: &&Row| {
            let name: &str = row.get(0);
            name.eq_ignore_ascii_case(&column.name) && def.column(name).is_none()
        };
        let found = exact.or_else(|| rows.iter().find(similar));
        let Some(row) = found.filter(|row| !numbers.contains(&row.get(6))) else {
            return Err(format!("the table has no column {}", quote(&column.name)));
        };
        let (cast, oid, base): (String, u32, u32) = (row.get(1), row.get(2), row.get(3));
        let class = match class(base) {
            // A domain's checks are made by its own cast.
            Class::Integer(_) if oid != base => Class::Plain,
            class => class,
        };
        columns.push(Field {
            name: quote(row.get(0)),
            cast,
            class,
            written: !row.get::<_, bool>(4),
            always: row.get(5),
            comparable: row.get(7),
        });
        numbers.push(row.get(6));
    }
    Ok((columns, numbers))
}

/// Whether the key's index can be named in `ON CONFLICT`, and the other unique indexes.
fn keys(key: &[usize], numbers: &[i16], uniques: &[Row]) -> Result<(bool, Vec<Unique>), ()> {
    let mut arbiter = None;
    let mut others = Vec::new();
    for row in uniques {
        let of: Vec<i16> = row.get::<_, Option<Vec<i16>>>(0).unwrap_or_default();
        let columns: Option<Vec<usize>> = of.iter().map(|n| numbers.iter().position(|known| known == n)).collect();
        let immediate: bool = row.get(1);
        let predicate: Option<String> = row.get(2);
        let Some(columns) = columns else { continue };
        let is_key = predicate.is_none() && columns.len() == key.len() && key.iter().all(|i| columns.contains(i));
        match is_key && !key.is_empty() {
            true => arbiter = Some(arbiter.unwrap_or(false) || immediate),
            false => others.push(Unique { columns, predicate }),
        }
    }
    match (key.is_empty(), arbiter) {
        (true, _) => Ok((false, others)),
        (false, Some(arbiter)) => Ok((arbiter, others)),
        (false, None) => Err(()),
    }
}
