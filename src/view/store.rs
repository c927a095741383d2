//! What every database that is followed can be asked for.

use std::sync::Arc;

use async_trait::async_trait;

use super::CopyLines;
use crate::model::{Cursor, Row, TableDef, TableName};

/// A look at a database.
#[derive(Clone, Debug, Default)]
pub struct Inspection {
    /// Its tables, by name; never Watershed's or the system's own.
    pub tables: Vec<InspectedTable>,
    /// Tables whose names cannot travel, and why.
    pub unnamed: Vec<String>,
    /// What an operator should know of the database as a whole, each with why and what to do.
    pub warnings: Vec<String>,
    /// What keeps a node from running with it, each with why and what to do.
    pub refusals: Vec<String>,
}

/// A table of a database.
#[derive(Clone, Debug)]
pub struct InspectedTable {
    /// Its definition; generated columns are left out.
    pub def: Arc<TableDef>,
    /// What whoever selects it should know; when it cannot be captured, why.
    pub problems: Vec<String>,
    /// About how many rows it has.
    pub rows_estimate: u64,
    /// Whether its changes can be captured. If not, `problems` says why.
    pub capturable: bool,
    /// The statements that have deleted rows told whole; `None` where they are, or where deletes are not told at all.
    pub old_rows: Option<String>,
}

/// Some rows of a table, and what the database contained when they were read.
#[derive(Clone, Debug)]
pub struct Chunk {
    /// The table as it is in this database.
    pub def: Arc<TableDef>,
    /// Rows in key order, values in the definition's order.
    pub rows: Vec<Row>,
    /// The rows as they came, where they were not taken apart; then `rows` is empty.
    pub lines: Option<CopyLines>,
    /// Key of the last row (the values of the key's columns, in key order); `None` when the table's end is reached.
    pub upto: Option<Row>,
    /// Rows after these, estimated.
    pub left_estimate: u64,
    /// What of the node's log the snapshot contains; `None` in a database to which no log is applied.
    pub cursor: Option<Cursor>,
    /// For a table without a key: the snapshot of all its chunks has exactly what is logged before an entry with this
    /// causation id.
    pub cut: Option<Box<str>>,
}

impl Chunk {
    /// How many rows it has.
    pub fn count(&self) -> usize {
        self.lines.as_ref().map_or(self.rows.len(), |lines| lines.rows)
    }
}

/// Reads tables chunk by chunk, each from one short snapshot; holds no transaction between them.
#[async_trait]
pub trait TableReader: Send {
    /// Reads the rows after the key `after` (exclusive; `None` from the start): at most `rows_max`, and none more once
    /// `bytes_max` bytes have been read. They stand in the chunk as this reader has them at hand: as lines or as rows. A table
    /// without a key is read whole, from one snapshot; what its chunks give as their last key is known to this reader only.
    ///
    /// # Errors
    /// Words for people: what happened and why.
    async fn read_lines(
        &mut self,
        table: &TableName,
        after: Option<&Row>,
        rows_max: usize,
        bytes_max: usize,
    ) -> Result<Chunk, String>;

    /// The same, always as rows.
    ///
    /// # Errors
    /// As [`TableReader::read_lines`]; or a line is none.
    async fn read_chunk(
        &mut self,
        table: &TableName,
        after: Option<&Row>,
        rows_max: usize,
        bytes_max: usize,
    ) -> Result<Chunk, String> {
        let mut chunk = self.read_lines(table, after, rows_max, bytes_max).await?;
        if let Some(lines) = chunk.lines.take() {
            let rows = lines.decode(chunk.def.columns.len());
            chunk.rows = rows.map_err(|why| format!("a row of {table}: {why}"))?;
        }
        Ok(chunk)
    }
}
