//! A destination table as one source definition sees it, and the SQL that writes it.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt::Write as _;
use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension, Result};

use super::bind::Hint;
use crate::model::{Column, Fingerprint, TableDef, TableName};
use crate::sqlite::connect::{is_internal, quote_ident as quote};
use crate::sqlite::create::create_table;

/// A column as the database declares it.
#[derive(Clone, Debug)]
pub(crate) struct Declared {
    /// As declared.
    pub name: String,
    /// As declared; may be empty.
    pub type_name: String,
    /// 1-based place in the primary key, 0 outside of it.
    pub key: u16,
    /// Computed by SQLite, never written.
    pub generated: bool,
}

/// The table's columns; `None` when there is no such ordinary table (views and virtual tables are none).
pub(crate) fn declared(conn: &Connection, table: &TableName) -> Result<Option<Vec<Declared>>> {
    let mut kind =
        conn.prepare_cached("SELECT type FROM pragma_table_list WHERE schema = 'main' AND name = ?1 COLLATE NOCASE")?;
    let kind: Option<String> = kind.query_row([table.as_str()], |row| row.get(0)).optional()?;
    if kind.as_deref() != Some("table") {
        return Ok(None);
    }
    let mut statement =
        conn.prepare_cached("SELECT name, type, pk, hidden FROM pragma_table_xinfo(?1, 'main') ORDER BY cid")?;
    let columns = statement.query_map([table.as_str()], |row| {
        let hidden: i64 = row.get(3)?;
        Ok(Declared { name: row.get(0)?, type_name: row.get(1)?, key: row.get(2)?, generated: hidden > 1 })
    })?;
    columns.collect::<Result<Vec<_>>>().map(Some)
}

/// The table's definition as it travels: without generated columns; `None` when there is no such ordinary table.
pub(crate) fn define(conn: &Connection, table: &TableName) -> Result<Option<TableDef>> {
    let Some(columns) = declared(conn, table)? else { return Ok(None) };
    let columns = columns.into_iter().filter(|column| !column.generated).map(|column| Column {
        name: column.name.into(),
        type_name: column.type_name.into(),
        key: column.key,
    });
    Ok(Some(TableDef::new(table.clone(), columns.collect())))
}

/// Columns of a unique index, with their collations.
type Unique = Vec<(String, String)>;

/// The unique, unconditional indexes over columns only.
fn unique_indexes(conn: &Connection, table: &TableName) -> Result<Vec<Unique>> {
    let mut list =
        conn.prepare_cached("SELECT name FROM pragma_index_list(?1) WHERE \"unique\" = 1 AND partial = 0")?;
    let names = list.query_map([table.as_str()], |row| row.get::<_, String>(0))?.collect::<Result<Vec<_>>>()?;
    let mut columns = conn.prepare_cached("SELECT name, coll FROM pragma_index_xinfo(?1) WHERE key = 1")?;
    let mut indexes = Vec::new();
    for name in names {
        let parts: Vec<(Option<String>, String)> =
            columns.query_map([name], |row| Ok((row.get(0)?, row.get(1)?)))?.collect::<Result<_>>()?;
        let named: Option<Unique> = parts.into_iter().map(|(name, coll)| Some((name?, coll))).collect();
        indexes.extend(named);
    }
    Ok(indexes)
}

/// A statement's form. Parameters are numbered: written columns first, then the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Shape {
    /// Insert, or overwrite the row of that key.
    Upsert,
    /// Insert, removing every row that is in the way.
    InsertReplace,
    /// Update by key, all columns outside of the key.
    Update,
    /// Update by the old key, all columns.
    Move,
    /// As `Move`, removing every row that is in the way.
    MoveReplace,
    /// Delete by key (of a table without one: one row that has all these values).
    Delete,
}

/// One destination table for one source definition.
#[derive(Debug)]
pub(crate) struct Target {
    /// The source's definition.
    pub def: Arc<TableDef>,
    /// Indexes into the definition of the columns that are written (not those generated here).
    pub written: Vec<usize>,
    /// Indexes into the definition, in key order; empty for a table without a key.
    pub key: Vec<usize>,
    /// Declared type and collation of the key's columns here, in key order.
    pub key_order: Vec<(String, String)>,
    /// Per column of the definition.
    pub hints: Vec<Hint>,
    /// Its AUTOINCREMENT sequence must not move.
    pub sequence: bool,
    table: String,
    names: Vec<String>,
    collations: Vec<String>,
    rowid: &'static str,
    statements: HashMap<(Shape, Box<[bool]>), Arc<str>>,
    full: [Option<Arc<str>>; 6],
}

impl Target {
    /// Looks at the destination; the inner error says why it cannot take this definition's rows.
    pub(crate) fn look(conn: &Connection, def: Arc<TableDef>) -> Result<Result<Target, String>> {
        let name = &def.name;
        if is_internal(name.as_str()) {
            return Ok(Err("the name is reserved".to_owned()));
        }
        let Some(columns) = declared(conn, name)? else {
            return Ok(Err(format!("there is no table {name} here: {}", create_table(&def))));
        };
        let find = |name: &str| columns.iter().find(|column| column.name.eq_ignore_ascii_case(name));
        if let Some(missing) = def.columns.iter().find(|column| find(&column.name).is_none()) {
            return Ok(Err(format!("the table has no column {}", quote(&missing.name))));
        }
        if let Some((one, other)) = same_column(&def) {
            return Ok(Err(format!("its columns {} and {} are one column here", quote(one), quote(other))));
        }
        let generated = |i: &usize| find(&def.columns[*i].name).is_some_and(|column| column.generated);
        let written: Vec<usize> = (0..def.columns.len()).filter(|i| !generated(i)).collect();
        let key = def.key_columns();
        let Some(collations) = collations(conn, &def, &key, &columns)? else {
            let names: Vec<&str> = key.iter().map(|&i| &*def.columns[i].name).collect();
            return Ok(Err(format!("the table has another key: none over ({})", names.join(", "))));
        };
        let free = |name: &&str| find(name).is_none();
        let Some(rowid) = ["rowid", "_rowid_", "oid"].into_iter().find(free) else {
            return Ok(Err("the table has no key, and its columns hide the rowid".to_owned()));
        };
        let hint = |column: &Column| match find(&column.name) {
            Some(here) => Hint::into(&column.type_name, &here.type_name),
            None => Hint::of(&column.type_name),
        };
        let hints = def.columns.iter().map(hint).collect();
        let names = def.columns.iter().map(|column| quote(&column.name)).collect();
        let sequence = has_sequence(conn, name)?;
        let table = format!("main.{}", quote(name.as_str()));
        let statements = HashMap::new();
        let full = Default::default();
        let ordered = key.iter().zip(&collations).map(|(&i, collation)| {
            let declared = find(&def.columns[i].name).map_or_else(String::new, |column| column.type_name.clone());
            (declared, collation.trim_start_matches(" COLLATE ").trim_matches('"').to_owned())
        });
        let key_order = ordered.collect();
        Ok(Ok(Target {
            def,
            written,
            key,
            key_order,
            hints,
            sequence,
            table,
            names,
            collations,
            rowid,
            statements,
            full,
        }))
    }

    /// The statement of that shape; `present` has the written columns that have a value (`None`: all).
    pub(super) fn sql(&mut self, shape: Shape, present: Option<&[bool]>) -> Arc<str> {
        match present {
            None => {
                if let Some(sql) = &self.full[shape as usize] {
                    return sql.clone();
                }
                let sql: Arc<str> = self.build(shape, &vec![true; self.def.columns.len()]).into();
                self.full[shape as usize] = Some(sql.clone());
                sql
            }
            Some(present) => {
                if let Some(sql) = self.statements.get(&(shape, present.into())) {
                    return sql.clone();
                }
                let sql: Arc<str> = self.build(shape, present).into();
                self.statements.insert((shape, present.into()), sql.clone());
                sql
            }
        }
    }

    /// The columns that a statement of that shape writes, in parameter order.
    pub(super) fn columns(&self, shape: Shape, present: &[bool]) -> Vec<usize> {
        let skip_key = shape == Shape::Update;
        self.written.iter().copied().filter(|i| present[*i] && !(skip_key && self.key.contains(i))).collect()
    }

    fn build(&self, shape: Shape, present: &[bool]) -> String {
        let columns = self.columns(shape, present);
        match shape {
            Shape::Upsert | Shape::InsertReplace => self.insert(shape, &columns),
            Shape::Update | Shape::Move | Shape::MoveReplace => {
                let sets: Vec<String> =
                    columns.iter().enumerate().map(|(n, &i)| format!("{}=?{}", self.names[i], n + 1)).collect();
                let or = if shape == Shape::MoveReplace { "REPLACE" } else { "ABORT" };
                format!("UPDATE OR {or} {} SET {}{}", self.table, sets.join(","), self.by_key(columns.len()))
            }
            Shape::Delete => format!("DELETE FROM {}{}", self.table, self.by_key(0)),
        }
    }

    fn insert(&self, shape: Shape, columns: &[usize]) -> String {
        let names: Vec<&str> = columns.iter().map(|&i| self.names[i].as_str()).collect();
        let places: Vec<String> = (1..=columns.len()).map(|n| format!("?{n}")).collect();
        let or = if shape == Shape::InsertReplace { "REPLACE" } else { "ABORT" };
        let mut sql = format!("INSERT OR {or} INTO {}({}) VALUES ({})", self.table, names.join(","), places.join(","));
        if shape == Shape::Upsert && !self.key.is_empty() {
            let target: Vec<String> =
                self.key.iter().zip(&self.collations).map(|(&i, coll)| format!("{}{coll}", self.names[i])).collect();
            // A key of several columns or of text may be equal under its collation and still differ; then it is set too.
            let alone = self.key.len() == 1 && self.collations[0].is_empty();
            let sets: Vec<String> = columns
                .iter()
                .filter(|i| !(alone && self.key.contains(i)))
                .map(|&i| format!("{0}=excluded.{0}", self.names[i]))
                .collect();
            let action = if sets.is_empty() { "NOTHING".to_owned() } else { format!("UPDATE SET {}", sets.join(",")) };
            let _ = write!(sql, " ON CONFLICT({}) DO {action}", target.join(","));
        }
        sql
    }

    fn by_key(&self, before: usize) -> String {
        if self.key.is_empty() {
            let same: Vec<String> = self
                .written
                .iter()
                .enumerate()
                .map(|(n, &i)| format!("{} IS ?{}", self.names[i], before + n + 1))
                .collect();
            let row = self.rowid;
            return format!(" WHERE {row}=(SELECT {row} FROM {} WHERE {} LIMIT 1)", self.table, same.join(" AND "));
        }
        let same: Vec<String> =
            self.key.iter().enumerate().map(|(n, &i)| format!("{}=?{}", self.names[i], before + n + 1)).collect();
        format!(" WHERE {}", same.join(" AND "))
    }
}

/// Two columns that SQLite cannot tell apart.
pub(crate) fn same_column(def: &TableDef) -> Option<(&str, &str)> {
    def.columns.iter().enumerate().find_map(|(i, column)| {
        let same = def.columns[..i].iter().find(|other| other.name.eq_ignore_ascii_case(&column.name))?;
        Some((&*same.name, &*column.name))
    })
}

/// Why a table's rows have no place here though there is a table for them: one whose name differs by the case of letters
/// only, which SQLite cannot tell apart, is written to it already. A copy that has not begun to write has no claim.
fn taken(conn: &Connection, table: &TableName) -> Result<Option<String>> {
    let mut statement = conn.prepare_cached(
        "SELECT w.name FROM (SELECT table_name AS name FROM watershed_followed UNION SELECT table_name FROM watershed_lane
           WHERE state LIKE '%replaying' OR state LIKE '%copying%' AND (done IS NOT NULL OR rows > 0)) w
         WHERE w.name = ?1 COLLATE NOCASE ORDER BY 1",
    )?;
    let written: Vec<String> = statement.query_map([table.as_str()], |row| row.get(0))?.collect::<Result<_>>()?;
    let Some(rival) = written.iter().find(|name| *name != table.as_str()) else { return Ok(None) };
    let mut statement = conn.prepare_cached("SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name = ?1")?;
    let is_exact = statement.query_row([table.as_str()], |row| row.get::<_, i64>(0))? > 0;
    let is_own = written.iter().any(|name| name == table.as_str());
    Ok((!(is_exact && is_own)).then(|| {
        format!(
            "the table is written by {rival}, whose name differs from {table} by the case of letters only, and SQLite has no two \
             such tables: select one of them only"
        )
    }))
}

/// Per key column the collation that `ON CONFLICT` must name (empty for an INTEGER PRIMARY KEY); `None` when no unique
/// key has exactly these columns.
fn collations(conn: &Connection, def: &TableDef, key: &[usize], columns: &[Declared]) -> Result<Option<Vec<String>>> {
    if key.is_empty() {
        return Ok(Some(Vec::new()));
    }
    for unique in unique_indexes(conn, &def.name)? {
        let find = |i: &usize| unique.iter().find(|(name, _)| name.eq_ignore_ascii_case(&def.columns[*i].name));
        if unique.len() == key.len() && key.iter().all(|i| find(i).is_some()) {
            let collate = |i: &usize| find(i).map(|(_, coll)| format!(" COLLATE {}", quote(coll)));
            return Ok(key.iter().map(collate).collect());
        }
    }
    // An INTEGER PRIMARY KEY is the rowid and has no index.
    let mut primary = columns.iter().filter(|column| column.key > 0);
    let is_rowid = key.len() == 1
        && primary.next().is_some_and(|column| column.name.eq_ignore_ascii_case(&def.columns[key[0]].name))
        && primary.next().is_none();
    Ok(is_rowid.then(|| vec![String::new()]))
}

fn has_sequence(conn: &Connection, table: &TableName) -> Result<bool> {
    let mut statement = conn.prepare_cached(
        "SELECT sql FROM sqlite_schema WHERE type = 'table' AND name = ?1 COLLATE NOCASE
         AND EXISTS (SELECT 1 FROM sqlite_schema WHERE name = 'sqlite_sequence')",
    )?;
    let sql: Option<String> = statement.query_row([table.as_str()], |row| row.get(0)).optional()?;
    // A column or a comment may say so too: then a sequence that does not exist is restored, which does nothing.
    Ok(sql.is_some_and(|sql| sql.to_ascii_uppercase().contains("AUTOINCREMENT")))
}

/// The destination tables seen so far, valid for one version of the database's schema.
#[derive(Debug, Default)]
pub(super) struct Targets {
    schema_version: i64,
    tables: HashMap<Fingerprint, Result<Target, String>>,
}

impl Targets {
    /// Forgets everything if the schema has changed; called once a transaction.
    pub(super) fn revise(&mut self, conn: &Connection) -> Result<()> {
        let version = conn.prepare_cached("PRAGMA schema_version")?.query_row([], |row| row.get(0))?;
        if version != self.schema_version {
            self.tables.clear();
            self.schema_version = version;
        }
        Ok(())
    }

    /// The destination of that definition; the inner error says why there is none.
    pub(super) fn get(&mut self, conn: &Connection, def: &Arc<TableDef>) -> Result<Result<&mut Target, String>> {
        let target = match self.tables.entry(def.fingerprint) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(vacant) => {
                let target = match Target::look(conn, def.clone())? {
                    Ok(target) => taken(conn, &def.name)?.map_or(Ok(target), Err),
                    refused => refused,
                };
                vacant.insert(target)
            }
        };
        Ok(target.as_mut().map_err(|why| why.clone()))
    }
}
