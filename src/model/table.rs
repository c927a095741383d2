//! Tables: names, columns, fingerprints.

use std::fmt;
use std::str::FromStr;

use sha2::{Digest, Sha256};
use thiserror::Error;

use super::{TableIndex, limits};

/// A table's name as it travels: without its schema when that is the default one (`public`, `main`), else
/// `schema.table`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TableName(Box<str>);

/// A text is no table name.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("not a table name: {0:?} (expected TABLE or SCHEMA.TABLE, 1 to 255 bytes, no control characters)")]
pub struct TableNameError(pub String);

impl TableName {
    /// The name as it travels.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for TableName {
    type Err = TableNameError;
    /// Drops a default schema: `public.orders` and `main.orders` are `orders`.
    fn from_str(text: &str) -> Result<Self, TableNameError> {
        let short = text.strip_prefix("public.").or_else(|| text.strip_prefix("main.")).unwrap_or(text);
        let bad = short.is_empty() || short.len() > limits::NAME_BYTES_MAX || short.chars().any(char::is_control);
        if bad {
            return Err(TableNameError(text.chars().take(80).collect()));
        }
        Ok(TableName(short.into()))
    }
}

impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One column of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// Its name, unquoted.
    pub name: Box<str>,
    /// The type as the source declares it (`integer`, `numeric(10,2)`); may be empty in SQLite.
    pub type_name: Box<str>,
    /// 1-based place in the primary key (or the replica identity); 0 outside of it.
    pub key: u16,
}

/// The first 8 bytes of SHA-256 over a table's definition. Entries name their tables by it, so it is the same at
/// every node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint(pub u64);

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// A table's definition at the time of a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableDef {
    /// Its name.
    pub name: TableName,
    /// Its columns, in the order in which rows carry values.
    pub columns: Vec<Column>,
    /// Over name and columns.
    pub fingerprint: Fingerprint,
    /// Secondary indexes, where the definition comes with rows for a table that may have to be made.
    pub indexes: Vec<TableIndex>,
}

impl TableDef {
    /// Builds a definition and its fingerprint.
    pub fn new(name: TableName, columns: Vec<Column>) -> TableDef {
        let mut hash = Sha256::new();
        let mut part = |bytes: &[u8]| {
            hash.update((bytes.len() as u32).to_le_bytes());
            hash.update(bytes);
        };
        part(name.as_str().as_bytes());
        for column in &columns {
            part(column.name.as_bytes());
            part(column.type_name.as_bytes());
            part(&column.key.to_le_bytes());
        }
        let digest = hash.finalize();
        let mut first = [0; 8];
        first.copy_from_slice(&digest[..8]);
        TableDef { name, columns, fingerprint: Fingerprint(u64::from_be_bytes(first)), indexes: Vec::new() }
    }

    /// Indexes of the key's columns, in key order; empty for a table without a key.
    pub fn key_columns(&self) -> Vec<usize> {
        let mut keys: Vec<usize> = (0..self.columns.len()).filter(|&i| self.columns[i].key > 0).collect();
        keys.sort_by_key(|&i| self.columns[i].key);
        keys
    }

    /// The index of the column of that name.
    pub fn column(&self, name: &str) -> Option<usize> {
        self.columns.iter().position(|column| &*column.name == name)
    }
}
