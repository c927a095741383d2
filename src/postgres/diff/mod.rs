//! A PostgreSQL database as one side of a comparison.

mod mend;

use std::pin::pin;

use async_trait::async_trait;
use futures_util::TryStreamExt;
use tokio_postgres::error::SqlState;
use tokio_postgres::{SimpleQueryMessage, Statement};

use super::copy::{FACTS, Facts, Lines, READING, fields, quoted, schema_and_table, select};
use super::range::literal;
use super::{Endpoint, PgError, Session};
use crate::model::{Row, TableDef, TableName, limits};
use crate::view::{BucketSum, Compared, DiffError, Engine, Mend, Repaired};

/// Tables of users, but for partitions, which are part of their root.
const TABLES: &str = "select n.nspname::text, c.relname::text from pg_class c join pg_namespace n on n.oid = c.relnamespace \
    where c.relkind in ('r', 'p') and not c.relispartition and c.relpersistence <> 't' \
    and n.nspname not in ('information_schema', 'watershed') and n.nspname not like 'pg\\_%' order by 1, 2";

/// One side, over a connection of its own.
pub struct PgSide {
    session: Session,
    facts: Statement,
    writer: Option<mend::Pen>,
}

impl PgSide {
    /// Connects.
    ///
    /// # Errors
    /// The server cannot be reached, or refuses.
    pub async fn open(endpoint: &Endpoint) -> Result<PgSide, PgError> {
        let session = endpoint.connect(limits::CONNECT_TIMEOUT).await?;
        let failed = |error| endpoint.failed("preparing to compare", error);
        session.client.batch_execute(READING).await.map_err(failed)?;
        // Money is written by the server's own rules, which may differ.
        session.client.batch_execute("SET lc_monetary = 'C'; SET statement_timeout = 0").await.map_err(failed)?;
        let facts = session.client.prepare(FACTS).await.map_err(failed)?;
        Ok(PgSide { session, facts, writer: None })
    }

    fn failed(&self, doing: &str) -> impl Fn(tokio_postgres::Error) -> DiffError + use<> {
        let (endpoint, doing) = (self.session.endpoint().clone(), doing.to_string());
        move |error| endpoint.failed(doing.clone(), error).into()
    }

    async fn facts(&self, table: &TableName) -> Result<Option<Facts>, DiffError> {
        let (schema, name) = schema_and_table(table);
        let failed = self.failed(&format!("looking at {table}"));
        let row = self.session.client.query_opt(&self.facts, &[&schema, &name]).await.map_err(&failed)?;
        row.map(|row| Facts::of(table, &row).map_err(&failed)).transpose()
    }

    /// Of a table that has been defined.
    async fn known(&self, def: &TableDef) -> Result<Facts, DiffError> {
        let facts = self.facts(&def.name).await?;
        let gone = || DiffError {
            why: format!("{}: the table {} is gone", self.session.endpoint().name(), def.name),
            is_retryable: false,
        };
        facts.ok_or_else(gone)
    }

    async fn row(&self, def: &TableDef, from: &str, key: &Row) -> Result<Option<Row>, DiffError> {
        // A key that is none here is of no row here.
        let Ok(condition) = same_row(def, key) else { return Ok(None) };
        let sql = format!("{} FROM {from} WHERE {condition} LIMIT 1", select(def));
        let messages = match self.session.client.simple_query(&sql).await {
            Err(error) if error.code().is_some_and(is_no_value) => return Ok(None),
            messages => messages.map_err(self.failed(&format!("looking for a row of {}", def.name)))?,
        };
        let row = messages.into_iter().find_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some(row),
            _ => None,
        });
        Ok(row.map(|row| mend::values(&row, def.columns.len())))
    }
}

impl From<PgError> for DiffError {
    fn from(error: PgError) -> DiffError {
        DiffError { why: error.words(), is_retryable: error.is_retryable() }
    }
}

/// Columns as one text, in which every row has its own.
fn row_text(def: &TableDef, columns: &[usize]) -> String {
    let names: Vec<String> = columns.iter().map(|&i| quoted(&def.columns[i].name)).collect();
    format!("ROW({})::text COLLATE \"C\"", names.join(","))
}

/// The bucket of a row, by its key.
fn bucket(def: &TableDef, buckets: u32) -> String {
    let keys = def.key_columns();
    let columns = if keys.is_empty() { (0..def.columns.len()).collect() } else { keys };
    format!("(hashtextextended({}, 0) & {})::int4", row_text(def, &columns), buckets - 1)
}

/// What tells one row: each column of the key equal to its value.
fn same_row(def: &TableDef, key: &Row) -> Result<String, String> {
    let each = def.key_columns().into_iter().zip(key).map(|(i, value)| {
        let column = &def.columns[i];
        Ok(format!("{} = {}", quoted(&column.name), literal(value, &column.type_name)?))
    });
    Ok(each.collect::<Result<Vec<_>, String>>()?.join(" AND "))
}

#[async_trait]
impl Compared for PgSide {
    fn engine(&self) -> Engine {
        Engine::Postgres
    }

    async fn tables(&mut self) -> Result<Vec<TableName>, DiffError> {
        let failed = self.failed("listing tables");
        let rows = self.session.client.query(TABLES, &[]).await.map_err(&failed)?;
        let mut tables = Vec::new();
        for row in &rows {
            let (schema, name): (&str, &str) = (row.try_get(0).map_err(&failed)?, row.try_get(1).map_err(&failed)?);
            if !schema.contains('.') && !name.contains('.') {
                tables.extend(format!("{schema}.{name}").parse::<TableName>().ok());
            }
        }
        Ok(tables)
    }

    async fn define(&mut self, table: &TableName) -> Result<Option<TableDef>, DiffError> {
        Ok(self.facts(table).await?.map(|facts| facts.def))
    }

    async fn scan(
        &mut self,
        def: &TableDef,
        buckets: Option<&[u32]>,
        each: &mut (dyn FnMut(Row) + Send),
    ) -> Result<(), DiffError> {
        let failed = self.failed(&format!("reading {}", def.name));
        let from = self.known(def).await?.from;
        let condition = match buckets {
            None => String::new(),
            Some(buckets) => {
                let list: Vec<String> = buckets.iter().map(u32::to_string).collect();
                format!(" WHERE {} = ANY('{{{}}}'::int4[])", bucket(def, limits::DIFF_BUCKETS), list.join(","))
            }
        };
        let sql = format!("COPY ({} FROM {from}{condition}) TO STDOUT", select(def));
        let stream = self.session.client.copy_out(&sql).await.map_err(&failed)?;
        let mut stream = pin!(stream);
        let mut lines = Lines::default();
        let endpoint = self.session.endpoint();
        while let Some(bytes) = stream.try_next().await.map_err(&failed)? {
            lines.push(bytes);
            while let Some(line) = lines.next() {
                let row = fields(&line, def.columns.len());
                each(row.map_err(|why| endpoint.unexpected(format!("reading {}", def.name), why))?);
            }
        }
        Ok(())
    }

    async fn sums(&mut self, def: &TableDef, buckets: u32) -> Result<Option<Vec<BucketSum>>, DiffError> {
        let failed = self.failed(&format!("summing up {}", def.name));
        let from = self.known(def).await?.from;
        let row = row_text(def, &(0..def.columns.len()).collect::<Vec<_>>());
        let sql = format!(
            "SELECT b, count(*), sum(hashtextextended(r, 1)), sum(hashtextextended(r, 2)) \
             FROM (SELECT {} AS b, {row} AS r FROM {from} OFFSET 0) t GROUP BY b",
            bucket(def, buckets)
        );
        let mut sums = vec![BucketSum::default(); buckets as usize];
        for message in self.session.client.simple_query(&sql).await.map_err(&failed)? {
            let SimpleQueryMessage::Row(row) = message else { continue };
            let number = |i: usize| row.get(i).and_then(|text| text.parse::<i128>().ok());
            let parts = (number(0), number(1), number(2), number(3));
            let (Some(bucket), Some(count), Some(one), Some(two)) = parts else {
                let why = "the sums are no numbers";
                return Err(self.session.endpoint().unexpected(format!("summing up {}", def.name), why).into());
            };
            if let Some(sum) = usize::try_from(bucket).ok().and_then(|bucket| sums.get_mut(bucket)) {
                *sum = BucketSum { count: count as u64, sums: [one as u128, two as u128] };
            }
        }
        Ok(Some(sums))
    }

    async fn rows(&mut self, def: &TableDef, keys: &[Row]) -> Result<Vec<Option<Row>>, DiffError> {
        let facts = self.known(def).await?;
        let failed = self.failed(&format!("looking for rows of {}", def.name));
        let client = &self.session.client;
        client.batch_execute(&facts.search_path("")).await.map_err(&failed)?;
        // All are sent before the first is answered.
        let rows = futures_util::future::try_join_all(keys.iter().map(|key| self.row(def, &facts.from, key))).await?;
        client.batch_execute("SET search_path = pg_catalog").await.map_err(&failed)?;
        Ok(rows)
    }

    async fn mend(&mut self, def: &TableDef, _: &TableDef, mends: &[Mend]) -> Result<Repaired, DiffError> {
        let pen = match self.writer.take() {
            Some(pen) => pen,
            None => mend::Pen::open(self.session.endpoint()).await?,
        };
        let facts = self.known(def).await?;
        let mended = pen.mend(def, &facts, mends).await;
        self.writer = Some(pen);
        mended
    }
}

/// A text is no value of the type. (postgresql.org/docs/15/errcodes-appendix.html, class 22)
fn is_no_value(code: &SqlState) -> bool {
    code.code().starts_with("22")
}
