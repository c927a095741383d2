//! A table without a key: its rows cannot be told apart, so all of them come from one snapshot, and the place of that
//! snapshot in the log is known exactly.
//!
//! Writers are held up while the snapshot is taken, by a lock that waits for them only a moment, and within that lock a
//! message is written to the server's log: what stands before it is in the snapshot, and nothing that stands after it. The
//! snapshot is written to a file at once, so that no transaction stays open while the rows are asked for.

use std::fs::File;
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
use std::pin::pin;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use futures_util::TryStreamExt;
use tokio_postgres::Client;

use super::{Failure, Reading, facts, select};
use crate::model::{Cursor, Kind, Row, TableDef, Value, limits};
use crate::postgres::capture::PREFIX_CUT;
use crate::view::{Chunk, CopyLines};

/// Writers of the table are held up for no longer, in milliseconds; then the copy is asked for again a little later.
const LOCK_MS: u32 = 150;

/// All rows of a table.
#[derive(Debug)]
pub(super) struct Whole {
    def: Arc<TableDef>,
    cursor: Option<Cursor>,
    cut: Box<str>,
    file: File,
    rows: u64,
    bytes: u64,
    made: Instant,
    /// Where the chunk that was given last begins, and where the next one does: rows and bytes before it.
    last: (u64, u64),
    next: (u64, u64),
}

impl Whole {
    fn key(&self, row: u64) -> Row {
        vec![Value::new(Kind::Text, self.cut.to_string()), Value::new(Kind::Integer, row.to_string())]
    }

    /// Where the chunk after that key begins; a chunk that was given last may be given again.
    fn place(&self, after: Option<&Row>) -> Option<(u64, u64)> {
        let is_at = |place: (u64, u64)| match after {
            Some(key) => *key == self.key(place.0),
            None => place.0 == 0,
        };
        [self.next, self.last].into_iter().find(|place| is_at(*place))
    }

    /// Whether it has that chunk. What has been read further, or lies there for long, is not begun again: whoever asks
    /// for its start makes another copy.
    pub(super) fn goes_on(&self, after: Option<&Row>) -> bool {
        let is_new = self.last.0 == 0 && self.made.elapsed() < limits::COPY_WHOLE_AGAIN_MAX;
        self.place(after).is_some() && (after.is_some() || is_new)
    }

    /// The rows after that key.
    pub(super) fn read(&mut self, after: Option<&Row>, rows_max: usize, bytes_max: usize) -> io::Result<Chunk> {
        let (before, start) = self.place(after).ok_or_else(|| io::Error::other("it has no such chunk"))?;
        let (mut bytes, mut ends) = (Vec::new(), Vec::new());
        let mut want = bytes_max as u64;
        // At least one row, however large.
        while ends.is_empty() && start + (bytes.len() as u64) < self.bytes {
            self.file.seek(SeekFrom::Start(start + bytes.len() as u64))?;
            let had = bytes.len();
            (&self.file).take(want).read_to_end(&mut bytes)?;
            let found = bytes[had..].iter().enumerate().filter(|(_, byte)| **byte == b'\n');
            ends.extend(found.map(|(at, _)| had + at + 1).take(rows_max.max(1)));
            want = want.saturating_mul(2);
        }
        bytes.truncate(ends.last().copied().unwrap_or(0));
        let rows = ends.len();
        let end = (before + rows as u64, start + bytes.len() as u64);
        (self.last, self.next) = ((before, start), end);
        Ok(Chunk {
            def: self.def.clone(),
            rows: Vec::new(),
            lines: Some(CopyLines { bytes: Bytes::from(bytes), rows }),
            upto: (end.1 < self.bytes).then(|| self.key(end.0)),
            left_estimate: self.rows - end.0,
            cursor: self.cursor,
            cut: Some(self.cut.clone()),
        })
    }
}

impl Reading<'_> {
    /// A table without a key: all of it.
    pub(super) async fn whole(&self) -> Result<Whole, Failure> {
        if self.after.is_some() {
            return Err(Failure::Table(format!("{} has no key to go on after: its copy begins again", self.table)));
        }
        let cut: Box<str> = format!("cut-{:032x}", rand::random::<u128>()).into();
        let beside = self.endpoint.connect(limits::CONNECT_TIMEOUT).await.map_err(Failure::Server)?;
        self.hold_up(&beside.client).await?;
        let (facts, cursor) = self.begin().await?;
        let said = format!("{cut}\n{}", self.table);
        let sql = "SELECT pg_catalog.pg_logical_emit_message(true, $1::text, $2::text)";
        let said = beside.client.query_one(sql, &[&PREFIX_CUT, &said]).await;
        said.map_err(self.failed("marking the place of"))?;
        beside.client.batch_execute("COMMIT").await.map_err(self.failed("marking the place of"))?;
        drop(beside);
        let (file, rows, bytes) = self.spool(&format!("{} FROM {}", select(&facts.def), facts.from)).await?;
        let def = self.indexed(facts.def).await?;
        self.client().batch_execute("COMMIT").await.map_err(self.failed("reading"))?;
        let (def, made) = (Arc::new(def), Instant::now());
        Ok(Whole { def, cursor, cut, file, rows, bytes, made, last: (0, 0), next: (0, 0) })
    }

    /// Begins a transaction that no writer of the table overlaps.
    async fn hold_up(&self, client: &Client) -> Result<(), Failure> {
        let sql = format!(
            "BEGIN READ WRITE; SET LOCAL lock_timeout = {LOCK_MS}; LOCK TABLE {} IN SHARE MODE",
            facts::qualified(self.table)
        );
        match client.batch_execute(&sql).await {
            Err(error) if error.code().is_some_and(|code| code.code() == "55P03") => Err(Failure::Table(format!(
                "{0} has no key, so it is copied from one snapshot, and that cannot be taken while transactions that have \
                 written to it stay open; it is tried again (give it a key, and nobody waits: ALTER TABLE {1} ADD PRIMARY KEY (…))",
                self.table,
                facts::qualified(self.table)
            ))),
            locked => locked.map_err(self.failed("locking")),
        }
    }

    /// Writes what a query gives to a file.
    async fn spool(&self, select: &str) -> Result<(File, u64, u64), Failure> {
        let failed = self.failed("reading");
        let disk = |error: io::Error| {
            let dir = self.dir.display();
            Failure::Table(format!("{} has no key, so it is spooled to {dir}, and that failed: {error}", self.table))
        };
        let mut file = BufWriter::with_capacity(256 << 10, tempfile::tempfile_in(self.dir).map_err(disk)?);
        let stream = self.client().copy_out(&format!("COPY ({select}) TO STDOUT")).await.map_err(&failed)?;
        let mut stream = pin!(stream);
        let (mut rows, mut bytes) = (0, 0);
        while let Some(piece) = stream.try_next().await.map_err(&failed)? {
            rows += piece.iter().filter(|byte| **byte == b'\n').count() as u64;
            bytes += piece.len() as u64;
            file.write_all(&piece).map_err(disk)?;
        }
        Ok((file.into_inner().map_err(|error| disk(error.into_error()))?, rows, bytes))
    }
}
