//! Whether one table is equal in two databases: what is asked of each, and what is found.

use async_trait::async_trait;
use thiserror::Error;

use std::time::Duration;

use crate::model::{Row, TableDef, TableName, Value};

/// One of the two databases.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The first one.
    A,
    /// The second one.
    B,
}

/// How two tables are compared.
#[derive(Clone, Copy, Debug)]
pub struct DiffOptions {
    /// Differing rows that are listed; all are counted.
    pub rows_max: usize,
    /// Differing rows are looked at again after this time, and those that have become equal are not reported.
    pub settle: Duration,
    /// How often at most they are looked at again.
    pub rechecks: u32,
}

impl Default for DiffOptions {
    fn default() -> Self {
        DiffOptions { rows_max: 20, settle: Duration::from_millis(500), rechecks: 3 }
    }
}

/// A row that differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowDiff {
    /// The values of the key's columns, in key order; of all columns in a table without a key.
    pub key: Row,
    /// What differs.
    pub kind: RowDiffKind,
}

/// How a row differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RowDiffKind {
    /// Only that side has it.
    Only(Side),
    /// Column, value in A, value in B.
    Values(Vec<(Box<str>, Value, Value)>),
}

/// The result of a comparison.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TableDiff {
    /// The sides that do not have the table.
    pub missing_in: Vec<Side>,
    /// Columns that only A has; the others are compared.
    pub columns_only_a: Vec<Box<str>>,
    /// Columns that only B has.
    pub columns_only_b: Vec<Box<str>>,
    /// Rows in A.
    pub rows_a: u64,
    /// Rows in B.
    pub rows_b: u64,
    /// Rows that differ, after looking again.
    pub different: u64,
    /// The first of them.
    pub rows: Vec<RowDiff>,
    /// Rows that differed at first and were equal when looked at again: they were being written.
    pub settled: u64,
    /// SHA-256 over A's rows: between two SQLite databases in key order, else of sums over all rows, which no order
    /// changes.
    pub digest_a: [u8; 32],
    /// SHA-256 over B's rows. Equal to A's exactly if the common columns are, while nobody writes.
    pub digest_b: [u8; 32],
}

impl TableDiff {
    /// Whether no difference was found.
    pub fn is_equal(&self) -> bool {
        self.missing_in.is_empty()
            && self.columns_only_a.is_empty()
            && self.columns_only_b.is_empty()
            && self.different == 0
    }
}

/// What a repair did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Repaired {
    /// Rows of A that have been looked at.
    pub rows: u64,
    /// Rows of B that were written.
    pub written: u64,
    /// Rows of B that were removed.
    pub removed: u64,
}

/// A database could not be read, or not be written.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("{why}")]
pub struct DiffError {
    /// Which database, what was tried, and the store's words.
    pub why: String,
    /// Whether the same may succeed later.
    pub is_retryable: bool,
}

/// The engine of a database: it says how its values are to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    /// Its declarations are types.
    Postgres,
    /// Its declarations bind nothing.
    Sqlite,
}

/// The rows of a part of a table: a row belongs to one of so many buckets, by its key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BucketSum {
    /// Rows.
    pub count: u64,
    /// Sums over a digest of each row, modulo 2^128 each.
    pub sums: [u128; 2],
}

/// What is written to mend a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mend {
    /// The row as it should be: written, or written over the row of its key.
    Put(Row),
    /// The row of that key (of a table without one: one row that is equal to this one) is removed.
    Remove(Row),
}

/// One database of a comparison. Every definition that is passed has columns of this database, in the order in which
/// rows carry values, and a key by which rows are told apart (none: by all columns).
#[async_trait]
pub trait Compared: Send {
    /// What it is.
    fn engine(&self) -> Engine;
    /// The user's tables, by name.
    async fn tables(&mut self) -> Result<Vec<TableName>, DiffError>;
    /// A table as it is here; `None` where there is none.
    async fn define(&mut self, table: &TableName) -> Result<Option<TableDef>, DiffError>;
    /// Reads all rows (of the buckets, if this store can tell them; then they are [`Compared::sums`]' buckets) in one snapshot.
    async fn scan(
        &mut self,
        def: &TableDef,
        buckets: Option<&[u32]>,
        each: &mut (dyn FnMut(Row) + Send),
    ) -> Result<(), DiffError>;
    /// The sums of all buckets, made by the server; `None` where it cannot. Two servers of one engine make the same
    /// for the same texts.
    async fn sums(&mut self, def: &TableDef, buckets: u32) -> Result<Option<Vec<BucketSum>>, DiffError>;
    /// The rows of these keys, which may come from the other database; `None` where there is none.
    async fn rows(&mut self, def: &TableDef, keys: &[Row]) -> Result<Vec<Option<Row>>, DiffError>;
    /// Mends rows in one commit; triggers do not fire where that can be had. Rows may come from the other database,
    /// whose types are `sent`, column by column.
    async fn mend(&mut self, def: &TableDef, sent: &TableDef, mends: &[Mend]) -> Result<Repaired, DiffError>;
}
