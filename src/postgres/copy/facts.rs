//! What a copy has to know of a table before it reads.

use tokio_postgres::{Error, Row};

use crate::model::{Column, TableDef, TableName};
use crate::postgres::range::KeyOrder;

/// Quotes an identifier.
pub(crate) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Schema and table of a name that travels. Neither part of a name that travels has a dot.
pub(crate) fn schema_and_table(name: &TableName) -> (&str, &str) {
    name.as_str().split_once('.').unwrap_or(("public", name.as_str()))
}

/// The name of a table in SQL.
pub(crate) fn qualified(name: &TableName) -> String {
    let (schema, table) = schema_and_table(name);
    format!("{}.{}", quoted(schema), quoted(table))
}

/// Of the table `$2` in the schema `$1`. The key is that of the replica identity, with FULL the primary key; collations
/// are given where the index has another than the column, and the schemas of the operators that order the key where
/// that is not the system's.
pub(crate) const FACTS: &str = "\
select c.relkind::text,
  (case c.relkind when 'p' then (select case when min(l.reltuples) >= 0 then sum(l.reltuples) end
      from pg_partition_tree(c.oid) t join pg_class l on l.oid = t.relid where t.isleaf)
    else case when c.reltuples >= 0 then c.reltuples end end)::float8,
  (case c.relkind when 'r' then pg_table_size(c.oid) end)::float8,
  to_regclass('watershed.cursor') is not null,
  coalesce(a.names, '{}'), coalesce(a.types, '{}'), coalesce(a.places, '{}'), coalesce(a.collations, '{}'),
  coalesce(a.schemas, '{}')
from pg_class c join pg_namespace n on n.oid = c.relnamespace
left join lateral (select i.indkey, i.indcollation, i.indclass, i.indnkeyatts from pg_index i
  where i.indrelid = c.oid and i.indisunique and i.indisvalid and i.indimmediate and i.indpred is null
  and c.relreplident <> 'n' and case c.relreplident when 'i' then i.indisreplident else i.indisprimary end
  limit 1) k on true
left join lateral (select array_agg(att.attname::text order by att.attnum) as names,
    array_agg(format_type(att.atttypid, att.atttypmod) order by att.attnum) as types,
    array_agg(coalesce(o.place, 0)::int4 order by att.attnum) as places,
    array_agg((select quote_ident(cn.nspname) || '.' || quote_ident(co.collname) from pg_collation co
      join pg_namespace cn on cn.oid = co.collnamespace where co.oid = o.coll and o.coll <> att.attcollation)
      order by att.attnum) as collations,
    array_agg((select quote_ident(opn.nspname) from pg_opclass oc
      join pg_amop am on am.amopfamily = oc.opcfamily and am.amopstrategy = 5
        and am.amoplefttype = oc.opcintype and am.amoprighttype = oc.opcintype
      join pg_operator op on op.oid = am.amopopr join pg_namespace opn on opn.oid = op.oprnamespace
      where oc.oid = o.class and opn.nspname <> 'pg_catalog' limit 1) order by att.attnum) as schemas
  from pg_attribute att
  left join lateral (select u.place, u.coll, u.class
    from unnest(k.indkey::int2[], k.indcollation::oid[], k.indclass::oid[]) with ordinality u(attnum, coll, class, place)
    where u.attnum = att.attnum and u.place <= k.indnkeyatts limit 1) o on true
  where att.attrelid = c.oid and att.attnum > 0 and not att.attisdropped and att.attgenerated = '') a on true
where n.nspname = $1 and c.relname = $2 and c.relkind in ('r', 'p')";

/// The answer to [`FACTS`].
pub(crate) struct Facts {
    /// As it travels.
    pub def: TableDef,
    /// The order of its key.
    pub order: KeyOrder,
    /// Schemas of the operators that the key is ordered by, quoted, if they are not the system's.
    pub operators: Vec<String>,
    /// The table in a FROM: without the tables that inherit from it, which are tables of their own.
    pub from: String,
    /// By the last ANALYZE.
    pub rows_estimate: Option<u64>,
    /// Bytes of a row, guessed from the sizes on disk.
    pub row_bytes: Option<f64>,
    /// There is a table `watershed.cursor`.
    pub has_cursor: bool,
}

impl Facts {
    /// The statement after which the operators that order the key are found; `scope` is `LOCAL` or nothing. (Types that
    /// an extension brought are compared by its own operators.)
    pub(crate) fn search_path(&self, scope: &str) -> String {
        let schemas = self.operators.iter().map(|schema| format!(", {schema}")).collect::<String>();
        format!("SET {scope} search_path = pg_catalog{schemas}")
    }

    pub(crate) fn of(table: &TableName, row: &Row) -> Result<Facts, Error> {
        let names: Vec<String> = row.try_get(4)?;
        let types: Vec<String> = row.try_get(5)?;
        let places: Vec<i32> = row.try_get(6)?;
        let collations: Vec<Option<String>> = row.try_get(7)?;
        let schemas: Vec<Option<String>> = row.try_get(8)?;
        let columns = names.into_iter().zip(types).zip(&places).map(|((name, type_name), place)| Column {
            name: name.into(),
            type_name: type_name.into(),
            key: u16::try_from(*place).unwrap_or(0),
        });
        let def = TableDef::new(table.clone(), columns.collect());
        let keys = def.key_columns();
        let of_key: Vec<Option<String>> = keys.iter().map(|&i| collations.get(i).cloned().flatten()).collect();
        let mut operators: Vec<String> = schemas.into_iter().flatten().collect();
        operators.sort();
        operators.dedup();
        let kind: &str = row.try_get(0)?;
        let only = if kind == "r" { "ONLY " } else { "" };
        let rows: Option<f64> = row.try_get(1)?;
        let size: Option<f64> = row.try_get(2)?;
        // What is compressed on disk is not on the way: better too few rows are asked for than too many.
        let row_bytes = size.zip(rows).filter(|(_, rows)| *rows >= 1.0).map(|(size, rows)| 2.0 * size / rows);
        Ok(Facts {
            order: KeyOrder::of(&def).collated(&of_key),
            operators,
            from: format!("{only}{}", qualified(table)),
            rows_estimate: rows.map(|rows| rows.max(0.0) as u64),
            row_bytes,
            has_cursor: row.try_get(3)?,
            def,
        })
    }
}
