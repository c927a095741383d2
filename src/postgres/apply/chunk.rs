//! One chunk of a first copy, written together with the lane's progress.

use tokio_postgres::types::{ToSql, Type};

use super::array::Array;
use super::copying::{CopyText, copy_in, copy_statement};
use super::create::{create_missing, is_typed};
use super::link::{Fail, Link};
use super::ops::{Encoder, Ops, put_value};
use super::pass::{describe_row, server_words};
use super::raw::Cell;
use super::registry::Targets;
use super::shape::Mode;
use super::target::{Target, quote};
use super::{PgApplier, store};
use crate::model::{Column, Kind, Position, Row, TableDef, Value, limits};
use crate::postgres::later;
use crate::postgres::range::{KeyOrder, KeyRange, same_order};
use crate::view::{CopyChunk, CopyLines, CopyScope, Lane, LaneState, RowGuard, ViewError};

/// Why a chunk was not written.
pub(super) enum ChunkFail {
    /// The table's trouble.
    Table(String),
    /// A statement that writes many rows failed.
    Rows(Fail),
    /// The rows have to be looked at singly.
    Lines,
}

impl From<Fail> for ChunkFail {
    fn from(fail: Fail) -> ChunkFail {
        ChunkFail::Rows(fail)
    }
}

/// How the rows of a chunk are written.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    /// The table was empty when its copy began: by COPY.
    Fresh,
    /// Over what is there, all at once.
    Over,
    /// The same, also where the table is empty: COPY has failed.
    Again,
    /// Over what is there, row by row, to see which one fails.
    Singly,
}

impl PgApplier {
    pub(super) async fn write_chunk(
        &mut self,
        chunk: &CopyChunk,
        scope: &CopyScope,
        mine: RowGuard<'_>,
    ) -> Result<(), ViewError> {
        let name = &chunk.table.name;
        let lane = self.lanes.get(name).cloned();
        let Some(Lane { after, state: LaneState::Copying { from, done, rows, received }, .. }) = lane else {
            return Err(ViewError::Failed(format!("{name} is not being copied: {:?}", lane.map(|lane| lane.state))));
        };
        if done != chunk.after {
            return Err(ViewError::Failed(format!(
                "a chunk of {name} does not continue the copy: expected after {done:?}, got {:?}",
                chunk.after
            )));
        }
        if chunk.after.is_none() {
            self.fresh.remove(name);
        }
        let keys = chunk.table.key_columns();
        let last = chunk.rows.last().map(|row| keys.iter().filter_map(|&i| row.get(i).cloned()).collect());
        let state = LaneState::Copying {
            from,
            done: chunk.upto.clone().or(last).or(done),
            rows: rows.saturating_add(chunk.count() as u64),
            received,
        };
        let lane = Lane { table: name.clone(), after, state };
        let mut way = if self.fresh.contains(name) { Way::Fresh } else { Way::Over };
        let mut decoded: Option<CopyChunk> = None;
        loop {
            match self.try_chunk(decoded.as_ref().unwrap_or(chunk), scope, mine, &lane, &mut way).await {
                Ok(()) => break,
                Err(ChunkFail::Lines) => {
                    let mut taken = chunk.clone();
                    taken.decode().map_err(|why| self.chunk_trouble(chunk, after, why))?;
                    decoded = Some(taken);
                }
                Err(ChunkFail::Table(why)) => return Err(self.chunk_trouble(chunk, after, why)),
                Err(ChunkFail::Rows(Fail::View(error))) => return Err(self.view_fail(Fail::View(error))),
                Err(ChunkFail::Rows(Fail::Table(error))) => match way {
                    Way::Fresh => {
                        self.fresh.remove(name);
                        way = Way::Again;
                    }
                    Way::Over | Way::Again => way = Way::Singly,
                    Way::Singly => return Err(self.chunk_trouble(chunk, after, server_words(&error))),
                },
            }
        }
        if way == Way::Fresh {
            self.fresh.insert(name.clone());
        }
        self.lanes.insert(name.clone(), lane);
        Ok(())
    }

    fn chunk_trouble(&self, chunk: &CopyChunk, position: Position, why: String) -> ViewError {
        ViewError::Table { table: chunk.table.name.clone(), position, why }
    }

    async fn try_chunk(
        &mut self,
        chunk: &CopyChunk,
        scope: &CopyScope,
        mine: RowGuard<'_>,
        lane: &Lane,
        way: &mut Way,
    ) -> Result<(), ChunkFail> {
        self.link().await.map_err(Fail::View)?;
        let PgApplier { link, targets, held, .. } = self;
        let link = link.as_mut().expect("opened above");
        // What a crash of the server loses of it is lost with the lane's progress. Behind the last one nobody looks at that
        // again: it is durable before the copy ends.
        let begun = link.begin(*held, None, chunk.upto.is_none()).await;
        let done = match begun {
            Ok(()) => in_chunk(link, targets, chunk, scope, mine, lane, way).await,
            Err(fail) => Err(fail.into()),
        };
        let done = match done {
            Ok(()) => link.commit().await.map_err(ChunkFail::from),
            failed => failed,
        };
        if done.is_err() {
            link.roll_back().await;
            link.forget_loops();
            targets.clear();
        }
        done
    }
}

/// Rows without a key cannot be overwritten, and whose they are is not known.
const KEYLESS: &str = "it has no key and no owner, and has rows here: which of them the sender has cannot be told; empty it \
    here (TRUNCATE) and retry, or give it a key, or an owner";

async fn in_chunk(
    link: &mut Link,
    targets: &mut Targets,
    chunk: &CopyChunk,
    scope: &CopyScope,
    mine: RowGuard<'_>,
    lane: &Lane,
    way: &mut Way,
) -> Result<(), ChunkFail> {
    let def = &chunk.table;
    let fail = |error| Fail::View(link.view_error("looking at a table", error));
    create_missing(link, chunk).await?;
    targets.look(link.client(), def, || is_typed(chunk)).await.map_err(fail)?;
    let (_, target) = targets.get(def.fingerprint);
    let target = target.map_err(ChunkFail::Table)?;
    check(chunk, target)?;
    if chunk.after.is_none() && *way == Way::Over && is_empty(link, target).await? {
        *way = Way::Fresh;
        if chunk.upto.is_some() {
            let put_off = later::put_off(link.client(), &def.name, &target.rel).await;
            let count = put_off.map_err(|e| link.sort("putting off indexes", e))?;
            if count > 0 {
                tracing::info!(table = %def.name, "{count} indexes of the empty table {} are built after its copy", def.name);
            }
        }
    }
    let begins = *scope == CopyScope::UpsertOnly && target.key.is_empty() && chunk.after.is_none();
    if begins && *way != Way::Fresh && !is_empty(link, target).await? {
        return Err(ChunkFail::Table(KEYLESS.to_owned()));
    }
    if *scope == CopyScope::All && *way != Way::Fresh {
        if chunk.lines.is_some() {
            return Err(ChunkFail::Lines);
        }
        remove_missing(link, target, chunk, mine).await?;
    }
    if let Some(lines) = &chunk.lines {
        if *way != Way::Fresh || target.written.len() != target.columns.len() {
            return Err(ChunkFail::Lines);
        }
        copy_lines(link, target, lines).await?;
        return put_progress(link, lane).await;
    }
    let rows = chunk.rows.iter().filter(|row| !mine(def, row));
    match *way {
        Way::Fresh => {
            let mut text = CopyText::default();
            for row in rows {
                let cells: Vec<Cell<'_>> = row.iter().map(Cell::of).collect();
                text.row(target, &target.written, &cells).map_err(ChunkFail::Table)?;
            }
            if text.rows > 0 {
                let statement = copy_statement(target, &target.written);
                let copied = copy_in(link.client(), &statement, text.bytes.into()).await;
                copied.map_err(|e| link.sort("copying", e))?;
            }
        }
        Way::Over | Way::Again | Way::Singly => put(link, targets, def, rows, *way == Way::Singly).await?,
    }
    put_progress(link, lane).await
}

async fn put_progress(link: &Link, lane: &Lane) -> Result<(), ChunkFail> {
    let put = store::put_lane(link.client(), lane).await;
    put.map_err(|e| Fail::View(link.view_error("storing a lane", e)).into())
}

/// Rows as PostgreSQL wrote them, into an empty table of its own kind.
async fn copy_lines(link: &Link, target: &Target, lines: &CopyLines) -> Result<(), ChunkFail> {
    if lines.rows == 0 {
        return Ok(());
    }
    let statement = copy_statement(target, &target.written);
    let copied = copy_in(link.client(), &statement, lines.bytes.clone()).await;
    let copied = copied.map_err(|e| link.sort("copying", e))?;
    match copied == lines.rows as u64 {
        true => Ok(()),
        false => Err(ChunkFail::Table(format!("{} rows were announced, {copied} came", lines.rows))),
    }
}

fn check(chunk: &CopyChunk, target: &Target) -> Result<(), ChunkFail> {
    let table = |why: String| Err(ChunkFail::Table(why));
    // What tells the chunks of a table without a key apart is known to its sender only.
    let is_key = |key: &Row| {
        target.key.is_empty() || key.len() == target.key.len() && key.iter().all(|value| value.kind.has_text())
    };
    if [&chunk.after, &chunk.upto].into_iter().flatten().any(|key| !is_key(key)) {
        return table("the chunk's bounds are not values of the table's key".to_owned());
    }
    let width = chunk.table.columns.len();
    if let Some(bad) = chunk.rows.iter().find(|row| row.len() != width) {
        return table(format!("a row has {} values, its definition {width} columns", bad.len()));
    }
    Ok(())
}

async fn is_empty(link: &Link, target: &Target) -> Result<bool, Fail> {
    let sql = format!("SELECT NOT EXISTS (SELECT FROM {})", target.own_rows);
    let row = link.client().query_one(&sql, &[]).await.map_err(|e| link.sort("looking at a table", e))?;
    Ok(row.get(0))
}

/// Inserts or overwrites rows, removing whatever is in their way.
async fn put<'r>(
    link: &mut Link,
    targets: &mut Targets,
    def: &TableDef,
    rows: impl Iterator<Item = &'r Row>,
    singly: bool,
) -> Result<(), ChunkFail> {
    let mut ops = Ops::new();
    let mut calls = Vec::new();
    for row in rows {
        let cells: Vec<Cell<'_>> = row.iter().map(Cell::of).collect();
        let (codes, target) = targets.get(def.fingerprint);
        let target = target.map_err(ChunkFail::Table)?;
        let mut encoder = Encoder { codes, ops: &mut ops, mode: Mode::Convergent };
        let named = |why: String| ChunkFail::Table(format!("{}: {why}", describe_row(def, "copy", &cells)));
        encoder.put(target, &cells).map_err(named)?;
        if singly {
            let code = ops.codes[0];
            let call = link.looped(&targets.codes, std::mem::replace(&mut ops, Ops::new()), None).await?;
            match link.calls(&[call]).await {
                Err(Fail::Table(error)) => {
                    let sql = &targets.codes[code as usize].sql;
                    return Err(named(format!("{}; statement: {sql}", server_words(&error))));
                }
                done => done?,
            }
        } else if ops.bytes() >= limits::APPLY_CALL_BYTES {
            calls.push(link.looped(&targets.codes, std::mem::replace(&mut ops, Ops::new()), None).await?);
        }
    }
    if !ops.is_empty() {
        calls.push(link.looped(&targets.codes, ops, None).await?);
    }
    Ok(link.calls(&calls).await?)
}

/// The table as its columns are here; `named` as the sender names them, or as they are named here.
fn own_def(def: &TableDef, target: &Target, named_here: bool) -> TableDef {
    let columns = def.columns.iter().zip(&target.columns).map(|(column, field)| Column {
        name: if named_here {
            field.name[1..field.name.len() - 1].replace("\"\"", "\"").into()
        } else {
            column.name.clone()
        },
        type_name: field.cast.as_str().into(),
        key: column.key,
    });
    TableDef::new(def.name.clone(), columns.collect())
}

/// Removes the rows of the chunk's key range that it does not have, a bounded number at a time.
async fn remove_missing(link: &Link, target: &Target, chunk: &CopyChunk, mine: RowGuard<'_>) -> Result<(), ChunkFail> {
    let def = &chunk.table;
    let mut range = KeyRange { after: chunk.after.as_ref(), upto: chunk.upto.as_ref() };
    // Without a key there are no ranges, whatever the sender tells its chunks apart by.
    if def.key_columns().is_empty() || !same_order(chunk, &own_def(def, target, false)) {
        // The first chunk removes everything that it does not have, the others nothing.
        if chunk.after.is_some() {
            return Ok(());
        }
        range = KeyRange::default();
    }
    let inside = KeyOrder::of(&own_def(def, target, true)).condition(range).map_err(ChunkFail::Table)?;
    let (find, kept) = find_missing(target, chunk, &inside)?;
    // The table is read once, however many rows go.
    let setting = "SET LOCAL enable_hashjoin = on; SET LOCAL enable_seqscan = on; SET LOCAL plan_cache_mode = force_custom_plan; \
        SET LOCAL cursor_tuple_fraction = 1";
    let back = "SET LOCAL enable_hashjoin = off; SET LOCAL enable_seqscan = off; \
        SET LOCAL plan_cache_mode = force_generic_plan";
    let client = link.client();
    let sorted = |e| ChunkFail::Rows(link.sort("removing rows that the sender does not have", e));
    client.batch_execute(setting).await.map_err(sorted)?;
    let params: Vec<&(dyn ToSql + Sync)> = kept.iter().map(|raw| raw as &(dyn ToSql + Sync)).collect();
    client.execute(&format!("DECLARE ws_gone NO SCROLL CURSOR FOR {find}"), &params).await.map_err(sorted)?;
    client.batch_execute(back).await.map_err(sorted)?;
    let fetch = format!("FETCH {} FROM ws_gone", limits::APPLY_REMOVE_ROWS);
    loop {
        let rows = client.query(&fetch, &[]).await.map_err(sorted)?;
        let (mut tables, mut places) = (Vec::new(), Vec::new());
        for row in &rows {
            let values: Vec<Value> = (0..def.columns.len())
                .map(|i| match row.get::<_, Option<String>>(i + 2) {
                    Some(text) => Value::new(Kind::Typed, text),
                    None => Value::NULL,
                })
                .collect();
            if !mine(def, &values) {
                tables.push(row.get::<_, u32>(0));
                places.push(row.get::<_, String>(1));
            }
        }
        if !places.is_empty() {
            let delete = format!(
                "DELETE FROM {} AS ws__t USING unnest($1::oid[], $2::text[]) AS ws__d(o, c) WHERE ws__t.tableoid = ws__d.o AND ws__t.ctid = ws__d.c::tid",
                target.own_rows
            );
            client.execute(&delete, &[&tables, &places]).await.map_err(sorted)?;
        }
        if rows.len() < limits::APPLY_REMOVE_ROWS {
            break;
        }
    }
    client.batch_execute("CLOSE ws_gone").await.map_err(sorted)
}

/// The query that finds rows of the range that the chunk does not have, with the chunk's keys as arrays.
fn find_missing(
    target: &Target,
    chunk: &CopyChunk,
    inside: &str,
) -> Result<(String, Vec<super::array::Raw>), ChunkFail> {
    let mut kept: Vec<Array> = target.key.iter().map(|_| Array::of(Type::TEXT.oid())).collect();
    for row in &chunk.rows {
        for (array, &i) in kept.iter_mut().zip(&target.key) {
            put_value(array, &target.columns[i], Cell::of(&row[i])).map_err(ChunkFail::Table)?;
        }
    }
    let shown: Vec<String> = target.columns.iter().map(|field| format!("ws__t.{}::text", field.name)).collect();
    let shown = if shown.is_empty() { String::new() } else { format!(", {}", shown.join(", ")) };
    let there = if target.key.is_empty() {
        String::new()
    } else {
        let arrays: Vec<String> = (0..target.key.len()).map(|n| format!("${}::text[]", n + 1)).collect();
        let names: Vec<String> = (0..target.key.len()).map(|n| quote(&format!("ws__k{n}"))).collect();
        let same: Vec<String> = target
            .key
            .iter()
            .zip(&names)
            .map(|(&i, name)| format!("ws__t.{} = ws__d.{name}::{}", target.columns[i].name, target.columns[i].cast))
            .collect();
        format!(
            " AND NOT EXISTS (SELECT FROM unnest({}) AS ws__d({}) WHERE {})",
            arrays.join(", "),
            names.join(", "),
            same.join(" AND ")
        )
    };
    let word = if inside.is_empty() { " WHERE" } else { " AND" };
    let sql = format!(
        "SELECT ws__t.tableoid, ws__t.ctid::text{shown} FROM {} AS ws__t{inside}{word} true{there}",
        target.own_rows
    );
    Ok((sql, kept.into_iter().map(Array::finish).collect()))
}
