//! The table that a copy is about to fill, where there is none.

use super::chunk::ChunkFail;
use super::link::{Fail, Link};
use super::pass::server_words;
use super::raw::told_by;
use super::rivals::is_there;
use super::target::{is_reserved, split};
use crate::model::{Kind, TableDef, TableIndex, Value};
use crate::postgres::ddl::{create_index, create_schema, create_table_for, is_postgres};
use crate::view::CopyChunk;

/// Whether the rows come from a database whose columns have one type each; `None` where they do not tell.
pub(super) fn is_typed(chunk: &CopyChunk) -> Option<bool> {
    match chunk.lines {
        Some(_) => Some(true),
        None => chunk.rows.iter().flatten().find_map(|value| told_by(value.kind)),
    }
}

/// Creates the table, where nothing of that name is there, with its indexes. Those that are not unique are put off until its
/// rows are there, as those of any empty table.
pub(super) async fn create_missing(link: &Link, chunk: &CopyChunk) -> Result<(), ChunkFail> {
    let def = &chunk.table;
    let (schema, _) = split(&def.name);
    let exact = is_typed(chunk).unwrap_or_else(|| is_postgres(def));
    let there = is_there(link.client(), &def.name, exact).await.map_err(|e| link.sort("looking for a table", e))?;
    if there || is_reserved(schema) {
        return Ok(());
    }
    let typed = [vec![Value::new(Kind::Typed, "")]];
    let mut sql = create_table_for(def, if chunk.lines.is_some() { &typed } else { &chunk.rows });
    if let Some(schema_sql) = create_schema(def) {
        let known = "SELECT EXISTS (SELECT FROM pg_catalog.pg_namespace WHERE nspname = $1)";
        let known = link.client().query_one(known, &[&schema]).await;
        if !known.map_err(|e| link.sort("looking for a schema", e))?.get::<_, bool>(0) {
            sql = format!("{schema_sql}; {sql}");
        }
    }
    match link.client().batch_execute(&sql).await.map_err(|e| link.sort("creating a table", e)) {
        Ok(()) => {}
        Err(Fail::Table(error)) => {
            let name = &def.name;
            let mut why =
                format!("{name} is not there and could not be created: {}; statement: {sql}", server_words(&error));
            if error.code().is_some_and(|code| code.code() == "42704") {
                why.push_str("; make the type first (CREATE TYPE …, CREATE DOMAIN … or CREATE EXTENSION …), as it is at the sender");
            }
            return Err(ChunkFail::Table(why));
        }
        Err(fail) => return Err(fail.into()),
    }
    let left_out = create_indexes(link, def).await?;
    tracing::warn!(
        table = def.name.as_str(),
        "table {} was not there and is created for its copy, with its columns, primary key and {} indexes; constraints, \
         defaults and triggers do not travel: add those that are needed",
        def.name,
        def.indexes.len() - left_out.len()
    );
    for (index, why) in left_out {
        let (name, definition) = (&index.name, &index.definition);
        tracing::warn!(table = def.name.as_str(), "index {name} of {} is not made: {why}: {definition}", def.name);
    }
    Ok(())
}

/// Creates what indexes can be; gives those that cannot, and why.
async fn create_indexes<'d>(link: &Link, def: &'d TableDef) -> Result<Vec<(&'d TableIndex, String)>, Fail> {
    let mut left_out = Vec::new();
    for index in &def.indexes {
        let taken =
            "SELECT EXISTS (SELECT FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
            WHERE n.nspname = $1 AND c.relname = $2)";
        let taken = link.client().query_one(taken, &[&split(&def.name).0, &&*index.name]).await;
        let taken: bool = taken.map_err(|e| link.sort("looking for an index", e))?.get(0);
        let Some(sql) = create_index(def, index, !taken) else {
            left_out.push((index, "it has a condition, an expression or an order of its own".to_owned()));
            continue;
        };
        let sql = format!("SAVEPOINT ws_index; {sql}; RELEASE SAVEPOINT ws_index");
        match link.client().batch_execute(&sql).await.map_err(|e| link.sort("creating an index", e)) {
            Ok(()) => {}
            // The table is as good without.
            Err(Fail::Table(error)) => {
                let back = link.client().batch_execute("ROLLBACK TO SAVEPOINT ws_index").await;
                back.map_err(|e| link.sort("creating an index", e))?;
                left_out.push((index, server_words(&error)));
            }
            Err(fail) => return Err(fail),
        }
    }
    Ok(left_out)
}
