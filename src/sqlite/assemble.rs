//! Rows of the change table become the changes of one transaction.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, Row as SqlRow};

use super::error::CaptureError;
use super::rivals::{Keys, Rivals, same_key};
use super::schema::op;
use super::triggers::alias_of;
use super::types::from_sql;
use crate::log::{Draft, Spool};
use crate::model::{
    Change, EntryHeader, Op, Row, TableDef, TableName, Timestamp, Value, decode_table, encode_changes, limits,
};

/// Changes are encoded when about this many bytes of values have come together.
const ENCODE_BYTES: usize = 64 << 10;

/// A stored definition under which rows were logged.
pub(crate) struct Definition {
    pub def: Arc<TableDef>,
    key: Vec<usize>,
    alias: Option<usize>,
}

impl Definition {
    /// Reads a definition; `None` if there is none of that number.
    pub(crate) fn read(conn: &Connection, id: i64) -> Result<Option<Definition>, DefinitionError> {
        let mut statement = conn.prepare_cached("SELECT def, keys FROM watershed_tables WHERE id = ?1")?;
        let mut rows = statement.query([id])?;
        let Some(row) = rows.next()? else { return Ok(None) };
        let def = Arc::new(decode_table(row.get_ref(0)?.as_bytes().map_err(rusqlite::Error::from)?)?);
        let alias = alias_of(&row.get::<_, String>(1)?);
        Ok(Some(Definition { key: def.key_columns(), def, alias }))
    }
}

/// A definition could not be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DefinitionError {
    #[error(transparent)]
    Sqlite(#[from] rusqlite::Error),
    #[error(transparent)]
    Codec(#[from] crate::model::CodecError),
}

/// Collects one transaction; a large one goes to a file.
pub(crate) struct Assembler {
    path: Arc<Path>,
    spool_dir: PathBuf,
    tables: Vec<Arc<TableDef>>,
    index: HashMap<i64, usize>,
    changes: Vec<Change>,
    values_bytes: usize,
    encoded: Vec<u8>,
    spool: Option<Spool>,
    rivals: Rivals,
    pub count: u64,
    pub copied: Vec<TableName>,
}

impl Assembler {
    pub(crate) fn new(path: &Path, spool_dir: &Path) -> Assembler {
        Assembler {
            path: path.into(),
            spool_dir: spool_dir.to_path_buf(),
            tables: Vec::new(),
            index: HashMap::new(),
            changes: Vec::new(),
            values_bytes: 0,
            encoded: Vec::new(),
            spool: None,
            rivals: Rivals::default(),
            count: 0,
            copied: Vec::new(),
        }
    }

    /// Takes a row of the change table: `seq, tbl, op, c0, c1…`.
    pub(crate) fn push(
        &mut self,
        sql: &SqlRow<'_>,
        seq: i64,
        id: i64,
        definition: &Definition,
    ) -> Result<(), CaptureError> {
        let path = self.path.clone();
        let fail = |error| CaptureError::sqlite(&path, "reading changes", error);
        let code: i64 = sql.get(2).map_err(fail)?;
        let keys = Keys { definition: id, key: &definition.key, alias: definition.alias };
        let width = definition.def.columns.len();
        match code {
            op::INSERT => {
                let row = self.row(sql, 0, width).map_err(fail)?;
                self.written(&keys, definition, None, row);
            }
            op::UPDATE => {
                let (row, old) = self.both(sql, width).map_err(fail)?;
                self.written(&keys, definition, Some(old), row);
            }
            op::DELETE => {
                let old = self.row(sql, 0, width).map_err(fail)?;
                self.rivals.touched(&keys, &old);
                self.emit(&keys, definition, Op::Delete, None, Some(old));
            }
            op::COPIED => {
                self.copied.push(definition.def.name.clone());
                self.emit(&keys, definition, Op::Copied, None, None);
            }
            op::RIVAL | op::RIVAL_BY_ALIAS => {
                let new = self.row(sql, 0, width).map_err(fail)?;
                let rival = self.row(sql, width, width).map_err(fail)?;
                self.rivals.note(id, code, new, rival);
            }
            code => {
                let why = format!("its operation has the unknown code {code}");
                return Err(CaptureError::Damaged { path: path.to_path_buf(), seq, why });
            }
        }
        match self.values_bytes >= ENCODE_BYTES {
            true => self.encode(seq),
            false => Ok(()),
        }
    }

    fn row(&mut self, sql: &SqlRow<'_>, first: usize, width: usize) -> rusqlite::Result<Row> {
        let row: Row = (first..first + width).map(|i| sql.get_ref(i + 3).map(from_sql)).collect::<Result<_, _>>()?;
        self.values_bytes += row.iter().map(|value| value.text.len() + 4).sum::<usize>();
        Ok(row)
    }

    /// The new row and the old one, where equal values are [`Value::SAME`].
    fn both(&mut self, sql: &SqlRow<'_>, width: usize) -> rusqlite::Result<(Row, Row)> {
        let row = self.row(sql, 0, width)?;
        let mut old = Vec::with_capacity(width);
        for index in 0..width {
            let (new, before) = (sql.get_ref(index + 3)?, sql.get_ref(width + index + 3)?);
            let value = if same(new, before) { Value::SAME } else { from_sql(before) };
            self.values_bytes += value.text.len() + 4;
            old.push(value);
        }
        Ok((row, old))
    }

    /// A row was inserted (`old` is `None`) or updated; what it replaced goes first.
    fn written(&mut self, keys: &Keys<'_>, definition: &Definition, old: Option<Row>, row: Row) {
        let mut old = old;
        let inserted = old.is_none();
        if self.rivals.any(keys.definition) {
            if let Some(old) = &old {
                let whole: Row = old.iter().zip(&row).map(|(old, new)| resolved(old, new)).collect();
                self.rivals.touched(keys, &whole);
            }
            for gone in self.rivals.replaced_by(keys, &row) {
                // The same key written again is an update, so that a filter sees the row before and after.
                match inserted && same_key(keys.key, &gone, &row) {
                    true => old = Some(gone.iter().zip(&row).map(|(old, new)| diff(old, new)).collect()),
                    false => self.emit(keys, definition, Op::Delete, None, Some(gone)),
                }
            }
        }
        let op = if old.is_some() { Op::Update } else { Op::Insert };
        self.emit(keys, definition, op, Some(row), old);
    }

    fn emit(&mut self, keys: &Keys<'_>, definition: &Definition, op: Op, row: Option<Row>, old: Option<Row>) {
        let tables = &mut self.tables;
        let table = *self.index.entry(keys.definition).or_insert_with(|| {
            let known = tables.iter().position(|def| def.fingerprint == definition.def.fingerprint);
            known.unwrap_or_else(|| {
                tables.push(definition.def.clone());
                tables.len() - 1
            })
        });
        self.changes.push(Change { table, op, row, old });
        self.values_bytes += 16;
        self.count += 1;
    }

    fn encode(&mut self, seq: i64) -> Result<(), CaptureError> {
        let encoded = encode_changes(&self.changes);
        self.changes.clear();
        self.values_bytes = 0;
        if encoded.len() > limits::ENTRY_BYTES_MAX - limits::PART_BYTES_TARGET {
            return Err(CaptureError::TooLarge { path: self.path.to_path_buf(), seq, bytes: encoded.len() });
        }
        if self.spool.is_none() && self.encoded.len() + encoded.len() > limits::PART_BYTES_TARGET {
            let mut spool = Spool::new(&self.spool_dir)?;
            spool.push(&Bytes::from(std::mem::take(&mut self.encoded)))?;
            self.spool = Some(spool);
        }
        match &mut self.spool {
            Some(spool) => spool.push(&encoded)?,
            None => self.encoded.extend_from_slice(&encoded),
        }
        Ok(())
    }

    /// The transaction and the definitions that it names. `seq`: its last change.
    pub(crate) fn finish(mut self, node: &str, seq: i64) -> Result<Assembled, CaptureError> {
        self.encode(seq)?;
        let header = EntryHeader {
            time: Timestamp::now(),
            node: node.into(),
            tables: self.tables.iter().map(|def| def.fingerprint).collect(),
            ..EntryHeader::default()
        };
        let draft = match self.spool {
            Some(spool) => Draft::Large { header, parts: spool.into_parts()? },
            None => Draft::Local { header, changes: self.encoded.into() },
        };
        Ok(Assembled { draft, tables: self.tables, count: self.count, copied: self.copied })
    }
}

/// A transaction, ready for the log.
pub(crate) struct Assembled {
    pub draft: Draft,
    pub tables: Vec<Arc<TableDef>>,
    pub count: u64,
    pub copied: Vec<TableName>,
}

/// Whether two values are the same to the bit, storage class included.
fn same(one: ValueRef<'_>, other: ValueRef<'_>) -> bool {
    match (one, other) {
        (ValueRef::Real(one), ValueRef::Real(other)) => one.to_bits() == other.to_bits(),
        (one, other) => one == other,
    }
}

fn resolved(old: &Value, new: &Value) -> Value {
    if *old == Value::SAME { new.clone() } else { old.clone() }
}

fn diff(old: &Value, new: &Value) -> Value {
    if old == new { Value::SAME } else { old.clone() }
}
