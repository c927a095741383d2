//! All rows of some tables from one snapshot, as inserts, kept in a file until they are asked for.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

use crate::model::{Change, Op, Row, TableDef, encode_changes, limits};

/// Rows of tables as they all were at one moment.
#[derive(Debug)]
pub struct Snapshot {
    file: BufReader<File>,
    tables: Vec<Arc<TableDef>>,
    /// The bytes of each piece.
    pieces: std::vec::IntoIter<usize>,
    rows: u64,
}

/// Takes the rows of a snapshot, table by table.
#[derive(Debug)]
pub(crate) struct SnapshotWriter {
    file: BufWriter<File>,
    tables: Vec<Arc<TableDef>>,
    pieces: Vec<usize>,
    waiting: Vec<Change>,
    waiting_bytes: usize,
    rows: u64,
}

impl SnapshotWriter {
    /// In a file without a name in that folder.
    pub(crate) fn new(dir: &Path) -> io::Result<SnapshotWriter> {
        let file = BufWriter::with_capacity(256 << 10, tempfile::tempfile_in(dir)?);
        let (tables, pieces, waiting) = (Vec::new(), Vec::new(), Vec::new());
        Ok(SnapshotWriter { file, tables, pieces, waiting, waiting_bytes: 0, rows: 0 })
    }

    /// The rows that come next are of this table.
    pub(crate) fn table(&mut self, def: Arc<TableDef>) -> io::Result<()> {
        self.tables.push(def);
        Ok(())
    }

    /// A row of the table that was named last.
    pub(crate) fn push(&mut self, row: Row) -> io::Result<()> {
        self.rows += 1;
        self.waiting_bytes += row.iter().map(|value| value.text.len() + 2).sum::<usize>();
        let table = self.tables.len().saturating_sub(1);
        self.waiting.push(Change { table, op: Op::Insert, row: Some(row), old: None });
        if self.waiting_bytes >= limits::PART_BYTES_TARGET { self.write() } else { Ok(()) }
    }

    fn write(&mut self) -> io::Result<()> {
        if !self.waiting.is_empty() {
            let bytes = encode_changes(&self.waiting);
            self.file.write_all(&bytes)?;
            self.pieces.push(bytes.len());
        }
        self.waiting.clear();
        self.waiting_bytes = 0;
        Ok(())
    }

    /// There are no more.
    pub(crate) fn finish(mut self) -> io::Result<Snapshot> {
        self.write()?;
        let mut file = self.file.into_inner().map_err(io::IntoInnerError::into_error)?;
        file.seek(SeekFrom::Start(0))?;
        let (tables, pieces) = (self.tables, self.pieces.into_iter());
        Ok(Snapshot { file: BufReader::new(file), tables, pieces, rows: self.rows })
    }
}

impl Snapshot {
    /// Its tables, in the order in which their rows come.
    pub fn tables(&self) -> &[Arc<TableDef>] {
        &self.tables
    }

    /// How many rows there are in all.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// The next encoded inserts, about [`limits::PART_BYTES_TARGET`] bytes; they name [`Snapshot::tables`] by their places.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn piece(&mut self) -> io::Result<Option<Bytes>> {
        let Some(length) = self.pieces.next() else { return Ok(None) };
        let mut bytes = vec![0; length];
        self.file.read_exact(&mut bytes)?;
        Ok(Some(bytes.into()))
    }
}
