//! A captured database, and what its log would get.
#![allow(dead_code)]

use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tokio::runtime::Runtime;
use watershed::log::{Capture, CaptureFailure, Captured, CapturesTable, Draft, NeedsValues, Polled};
use watershed::model::{Change, EntryHeader, Fingerprint, Kind, LogId, SourceCursor, TableDef, decode_changes};
use watershed::postgres::{PgCapture, PgCaptureOptions};

use super::{CLUSTER, endpoint, every_table};

pub static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| Runtime::new().expect("a runtime"));

pub const DEADLINE: Duration = Duration::from_secs(180);

/// A captured transaction.
#[derive(Debug)]
pub struct Logged {
    pub header: EntryHeader,
    pub changes: Vec<Change>,
    pub is_large: bool,
}

pub struct Bed {
    pub url: String,
    pub log: LogId,
    pub dir: TempDir,
    pub capture: Option<PgCapture>,
    /// What the log has.
    pub cursor: Option<SourceCursor>,
    pub tables: Vec<Arc<TableDef>>,
    pub captures: CapturesTable,
    pub needed: Option<NeedsValues>,
    pub retain_max: Option<u64>,
    pub dropped: Vec<String>,
}

impl Bed {
    /// In a database of its own, with these tables.
    pub fn new(schema: &str) -> Bed {
        let url = CLUSTER.database();
        CLUSTER.sql(&url, schema);
        Bed::at(url)
    }

    /// Capture of that database has begun.
    pub fn at(url: String) -> Bed {
        let mut bed = Bed::closed(url);
        bed.open().expect("it can be captured");
        bed
    }

    pub fn closed(url: String) -> Bed {
        Bed {
            url,
            log: LogId::draw(),
            dir: TempDir::new().expect("a folder"),
            capture: None,
            cursor: None,
            tables: Vec::new(),
            captures: every_table(),
            needed: None,
            retain_max: None,
            dropped: Vec::new(),
        }
    }

    pub fn name(&self) -> String {
        format!("watershed_{:016x}", self.log.halves().0)
    }

    pub fn sql(&self, statements: &str) -> String {
        CLUSTER.sql(&self.url, statements)
    }

    pub fn options(&self) -> PgCaptureOptions {
        PgCaptureOptions {
            endpoint: endpoint(&self.url),
            runtime: RUNTIME.handle().clone(),
            log: self.log,
            captured: self.captures.clone(),
            needed: self.needed.clone(),
            spool_dir: self.dir.path().to_path_buf(),
            node: "n".into(),
            resume: self.cursor.clone(),
            slot_retain_max: self.retain_max,
        }
    }

    /// Begins, or goes on where the log ends.
    pub fn open(&mut self) -> Result<(), CaptureFailure> {
        self.capture = None;
        let options = self.options();
        let opened = RUNTIME.block_on(async { tokio::spawn(PgCapture::open(options)).await.expect("no panic") })?;
        self.cursor.get_or_insert_with(|| opened.place());
        self.capture = Some(opened);
        Ok(())
    }

    /// Begins again as soon as the server has noticed the end of the last run.
    pub fn reopen(&mut self) {
        self.capture = None;
        let deadline = Instant::now() + DEADLINE;
        while let Err(error) = self.open() {
            assert!(Instant::now() < deadline, "{error}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub fn capture(&mut self) -> &mut PgCapture {
        self.capture.as_mut().expect("it is open")
    }

    /// The error of opening it, as soon as it is not only that the slot is in use.
    pub fn refusal(&mut self) -> CaptureFailure {
        self.capture = None;
        let deadline = Instant::now() + DEADLINE;
        loop {
            let error = self.open().expect_err("it is refused");
            if !error.what.contains("WS-PGCAPTURE-028") {
                return error;
            }
            assert!(Instant::now() < deadline, "{error}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub fn def(&self, fingerprint: Fingerprint) -> &TableDef {
        self.tables.iter().find(|table| table.fingerprint == fingerprint).expect("it was given with its changes")
    }

    /// Logs what was given.
    pub fn log(&mut self, captured: Captured, into: &mut Vec<Logged>) {
        let Captured { drafts, tables, upto, changes, dropped, .. } = captured;
        self.tables.extend(tables);
        self.dropped.extend(dropped.iter().map(|name| name.to_string()));
        let before = into.iter().map(|logged| logged.changes.len() as u64).sum::<u64>();
        into.extend(drafts.into_iter().map(decoded));
        let after = into.iter().map(|logged| logged.changes.len() as u64).sum::<u64>();
        assert_eq!(after - before, changes, "it says how many changes it gives");
        self.cursor = Some(upto.clone());
        self.capture().release(&upto).expect("it was given");
    }

    /// Everything that is committed now.
    pub fn drain(&mut self) -> Vec<Logged> {
        let mut logged = Vec::new();
        let deadline = Instant::now() + DEADLINE;
        loop {
            assert!(Instant::now() < deadline, "it does not become current");
            match self.capture().poll() {
                Ok(Polled::Captured(captured)) => self.log(captured, &mut logged),
                Ok(Polled::Current) => return logged,
                Ok(Polled::Waiting) => self.capture().wait(false),
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// Polls until that many transactions have come.
    pub fn wait_for(&mut self, count: usize) -> Vec<Logged> {
        let mut logged = Vec::new();
        let deadline = Instant::now() + DEADLINE;
        while logged.len() < count {
            assert!(Instant::now() < deadline, "{} of {count} came", logged.len());
            match self.capture().poll() {
                Ok(Polled::Captured(captured)) => self.log(captured, &mut logged),
                Ok(_) => self.capture().wait(false),
                Err(_) => std::thread::sleep(Duration::from_millis(20)),
            }
        }
        logged
    }

    /// Polls until it fails for another reason than that it is tried again.
    pub fn failure(&mut self) -> CaptureFailure {
        let deadline = Instant::now() + DEADLINE;
        loop {
            assert!(Instant::now() < deadline, "it does not fail");
            match self.capture().poll() {
                Ok(Polled::Captured(captured)) => self.log(captured, &mut Vec::new()),
                Ok(_) => self.capture().wait(false),
                Err(error) if error.kind == watershed::log::CaptureTrouble::Retry => {
                    std::thread::sleep(Duration::from_millis(20));
                }
                Err(error) => return error,
            }
        }
    }

    /// The transactions as lines: their changes, divided by `; `.
    pub fn lines(&mut self) -> Vec<String> {
        let logged = self.drain();
        logged.iter().map(|logged| self.line(logged)).collect()
    }

    pub fn line(&self, logged: &Logged) -> String {
        logged.changes.iter().map(|change| self.shown(logged, change)).collect::<Vec<_>>().join("; ")
    }

    fn shown(&self, logged: &Logged, change: &Change) -> String {
        let def = self.def(logged.header.tables[change.table]);
        let row = |row: &Option<watershed::model::Row>| {
            let Some(row) = row else { return String::new() };
            assert_eq!(row.len(), def.columns.len(), "a value for every column of {}", def.name);
            let values = row.iter().map(|value| match value.kind {
                Kind::Typed if value.text.len() > 40 => format!("{} bytes", value.text.len()),
                Kind::Typed => String::from_utf8_lossy(&value.text).into_owned(),
                Kind::Null => "null".into(),
                Kind::Unchanged => "unchanged".into(),
                Kind::Same => "=".into(),
                kind => format!("{kind:?}"),
            });
            format!(" ({})", values.collect::<Vec<_>>().join(", "))
        };
        let old = if change.old.is_some() { format!(" was{}", row(&change.old)) } else { String::new() };
        format!("{} {}{}{old}", change.op.name(), def.name, row(&change.row))
    }
}

fn decoded(draft: Draft) -> Logged {
    match draft {
        Draft::Local { header, changes } => {
            let changes = decode_changes(&changes).expect("own encoding");
            Logged { header, changes, is_large: false }
        }
        Draft::Large { header, mut parts } => {
            let mut changes = Vec::new();
            while let Some(part) = parts.next().expect("readable") {
                changes.extend(decode_changes(&part).expect("own encoding"));
            }
            Logged { header, changes, is_large: true }
        }
        Draft::Relayed(_) | Draft::Mirrored { .. } | Draft::Expect(_) => panic!("nothing is relayed"),
    }
}
