//! What secondary indexes a table has, for those who have to make it.

use super::{Failure, Reading, facts};
use crate::model::{IndexColumn, TableDef, TableIndex};

/// All indexes of the table `$2` in the schema `$1` but the one of its key (as `FACTS` finds it). The columns of one are given
/// where they and their direction tell all of it.
const INDEXES: &str = "\
select x.name, x.is_unique, x.method, x.definition, x.keys,
  case when x.plain and x.definition not like '% NULLS NOT DISTINCT%' then x.columns else '{}' end, x.options
from (select c.relname::text as name, i.indisunique as is_unique, m.amname::text as method,
    pg_get_indexdef(c.oid) as definition, i.indnkeyatts::int4 as keys, i.indoption::int2[] as options,
    array(select a.attname::text from unnest(i.indkey::int2[]) with ordinality k(number, place)
      left join pg_attribute a on a.attrelid = i.indrelid and a.attnum = k.number order by k.place) as columns,
    i.indpred is null and i.indexprs is null and i.indimmediate and not i.indisexclusion
      and not exists (select from pg_attribute a where a.attrelid = c.oid and a.attoptions is not null)
      and not exists (select from unnest(i.indclass::oid[]) u(class) join pg_opclass o on o.oid = u.class where not o.opcdefault)
      and not exists (select from unnest(i.indkey::int2[], i.indcollation::oid[]) with ordinality u(number, coll, place)
        join pg_attribute a on a.attrelid = i.indrelid and a.attnum = u.number
        where u.place <= i.indnkeyatts and u.coll <> 0 and u.coll <> a.attcollation) as plain
  from pg_index i join pg_class c on c.oid = i.indexrelid join pg_am m on m.oid = c.relam
    join pg_class t on t.oid = i.indrelid join pg_namespace n on n.oid = t.relnamespace
  where n.nspname = $1 and t.relname = $2 and i.indisvalid
    and not (t.relreplident <> 'n' and i.indisunique and i.indimmediate and i.indpred is null
      and case t.relreplident when 'i' then i.indisreplident else i.indisprimary end)) x
order by x.name";

impl Reading<'_> {
    /// The definition with its indexes, in the transaction that is open.
    pub(super) async fn indexed(&self, def: TableDef) -> Result<TableDef, Failure> {
        let (schema, name) = facts::schema_and_table(self.table);
        let failed = self.failed("looking at the indexes of");
        let rows = self.client().query(INDEXES, &[&schema, &name]).await.map_err(&failed)?;
        let mut indexes = Vec::with_capacity(rows.len());
        for row in &rows {
            indexes.push(index(&def, row).map_err(&failed)?);
        }
        Ok(def.with_indexes(indexes))
    }
}

fn index(def: &TableDef, row: &tokio_postgres::Row) -> Result<TableIndex, tokio_postgres::Error> {
    let (name, method, definition): (&str, &str, &str) = (row.try_get(0)?, row.try_get(2)?, row.try_get(3)?);
    let keys = usize::try_from(row.try_get::<_, i32>(4)?).unwrap_or_default();
    let names: Vec<Option<String>> = row.try_get(5)?;
    let options: Vec<i16> = row.try_get(6)?;
    // Generated columns do not travel.
    let places: Option<Vec<usize>> = names.iter().map(|name| def.column(name.as_deref()?)).collect();
    let places = places.unwrap_or_default();
    let (of_key, included) = places.split_at(keys.min(places.len()));
    let columns = of_key.iter().enumerate().map(|(n, &column)| {
        let option = options.get(n).copied().unwrap_or_default();
        IndexColumn { column, descending: option & 1 != 0, nulls_first: option & 2 != 0 }
    });
    Ok(TableIndex {
        name: name.into(),
        unique: row.try_get(1)?,
        method: method.into(),
        columns: columns.collect(),
        included: included.to_vec(),
        definition: TableIndex::shown(definition),
    })
}
