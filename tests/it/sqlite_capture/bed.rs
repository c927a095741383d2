//! A database that `sqlite3` and Python write, captured, and replayed row by row.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rusqlite::Connection;
use rusqlite::types::ValueRef;
use watershed::log::Draft;
use watershed::model::{
    Change, Kind, LogId, Op, Row, SourceCursor, TableDef, TableName, Value, decode_changes, limits,
};
use watershed::sqlite::{Capture, CaptureError, CaptureOptions, Captured};

pub const LOG: LogId = LogId(7);
const DEADLINE: Duration = Duration::from_secs(180);

pub struct Bed {
    pub dir: tempfile::TempDir,
    pub path: PathBuf,
}

impl Bed {
    /// A database in that journal mode, with that schema.
    pub fn new(mode: &str, sql: &str) -> Bed {
        let dir = tempfile::tempdir().unwrap();
        let bed = Bed { path: dir.path().join("app.db"), dir };
        bed.shell(&format!("PRAGMA journal_mode={mode};\n{sql}"));
        bed
    }

    pub fn open(&self, resume: Option<SourceCursor>) -> Result<Capture, CaptureError> {
        self.open_for(LOG, resume)
    }

    pub fn open_for(&self, log: LogId, resume: Option<SourceCursor>) -> Result<Capture, CaptureError> {
        Capture::open(CaptureOptions {
            path: self.path.clone(),
            log,
            captured: Arc::new(|table: &TableName| !table.as_str().starts_with("private")),
            spool_dir: self.dir.path().to_path_buf(),
            node: "here".into(),
            resume,
        })
    }

    fn run(&self, mut command: Command) -> Result<String, String> {
        let out = command.stdin(Stdio::null()).output().unwrap();
        let error = String::from_utf8_lossy(&out.stderr).into_owned();
        match out.status.success() && error.is_empty() {
            true => Ok(String::from_utf8_lossy(&out.stdout).into_owned()),
            false => Err(error),
        }
    }

    /// Runs SQL in a `sqlite3` process.
    pub fn shell(&self, sql: &str) -> String {
        self.try_shell(sql).unwrap()
    }

    pub fn try_shell(&self, sql: &str) -> Result<String, String> {
        let mut command = Command::new("sqlite3");
        command.args(["-cmd", ".timeout 10000"]).arg(&self.path).arg(sql);
        self.run(command)
    }

    /// Runs a Python program with `db`, an open autocommit connection, and `connect`, which gives another.
    pub fn python_command(&self, program: &str) -> Command {
        let mut command = Command::new("python3");
        let prelude = "import sqlite3, sys\ndef connect():\n    return sqlite3.connect(sys.argv[1], timeout=10, isolation_level=None)\ndb = connect()\n";
        command.arg("-c").arg(format!("{prelude}{program}")).arg(&self.path);
        command
    }

    pub fn python(&self, program: &str) {
        self.run(self.python_command(program)).unwrap();
    }

    /// Opens, and reads all that is there.
    pub fn begin(&self) -> (Capture, Replay) {
        let mut capture = self.open(None).unwrap();
        let mut replay = Replay::of(self);
        replay.drain(&mut capture);
        (capture, replay)
    }

    /// The rows of every captured table.
    pub fn rows(&self) -> Tables {
        let conn = Connection::open(&self.path).unwrap();
        conn.busy_timeout(DEADLINE).unwrap();
        let mut tables = Tables::new();
        for table in watershed::sqlite::inspect(&self.path).unwrap().tables {
            if table.capturable && !table.def.name.as_str().starts_with("private") {
                tables.insert(table.def.name.clone(), table_rows(&conn, &table.def));
            }
        }
        tables
    }
}

type Tables = BTreeMap<TableName, BTreeMap<Vec<String>, Row>>;

fn table_rows(conn: &Connection, def: &TableDef) -> BTreeMap<Vec<String>, Row> {
    let names: Vec<String> =
        def.columns.iter().map(|column| format!("\"{}\"", column.name.replace('"', "\"\""))).collect();
    let table = def.name.as_str().replace('"', "\"\"");
    let mut statement = conn.prepare(&format!("SELECT {} FROM \"{table}\"", names.join(", "))).unwrap();
    let mut rows = statement.query([]).unwrap();
    let mut found = BTreeMap::new();
    while let Some(row) = rows.next().unwrap() {
        let row: Row = (0..names.len()).map(|i| value(row.get_ref(i).unwrap())).collect();
        found.insert(key(def, &row), row);
    }
    found
}

fn value(value: ValueRef<'_>) -> Value {
    match value {
        ValueRef::Null => Value::NULL,
        ValueRef::Integer(number) => Value::new(Kind::Integer, number.to_string()),
        ValueRef::Real(number) if number.is_infinite() && number > 0.0 => Value::new(Kind::Real, "Infinity"),
        ValueRef::Real(number) if number.is_infinite() => Value::new(Kind::Real, "-Infinity"),
        ValueRef::Real(number) => Value::new(Kind::Real, format!("{number:?}")),
        ValueRef::Text(text) => Value::new(Kind::Text, text.to_vec()),
        ValueRef::Blob(bytes) => Value::new(Kind::Blob, bytes.to_vec()),
    }
}

pub fn text(value: &Value) -> String {
    format!("{}{}", value.kind as u8 as char, String::from_utf8_lossy(&value.text))
}

fn key(def: &TableDef, row: &Row) -> Vec<String> {
    def.key_columns().into_iter().map(|index| text(&row[index])).collect()
}

/// Applies what is captured to a copy in memory, and refuses what does not fit.
pub struct Replay {
    pub tables: Tables,
    pub cursor: Option<SourceCursor>,
    pub recreated: Vec<String>,
    pub dropped: Vec<String>,
    pub changes: u64,
}

pub fn decoded(draft: Draft) -> (Vec<Change>, bool) {
    match draft {
        Draft::Local { header, changes } => {
            assert_eq!(&*header.node, "here");
            (decode_changes(&changes).unwrap(), false)
        }
        Draft::Large { mut parts, .. } => {
            let mut all = Vec::new();
            while let Some(part) = parts.next().unwrap() {
                assert!(part.len() <= limits::PART_BYTES_TARGET);
                all.extend(decode_changes(&part).unwrap());
            }
            (all, true)
        }
        Draft::Relayed(_) | Draft::Mirrored { .. } | Draft::Expect(_) => unreachable!("capture relays nothing"),
    }
}

impl Replay {
    pub fn of(bed: &Bed) -> Replay {
        Replay { tables: bed.rows(), cursor: None, recreated: Vec::new(), dropped: Vec::new(), changes: 0 }
    }

    pub fn apply(&mut self, captured: Captured) -> Vec<Change> {
        let Captured { draft, tables, upto, changes: count, recreated, dropped } = captured;
        let (changes, _) = decoded(draft);
        assert_eq!(changes.len() as u64, count);
        for change in &changes {
            self.change(&tables[change.table], change);
        }
        self.cursor = Some(upto);
        self.changes += count;
        self.recreated.extend(recreated.iter().map(|table| table.to_string()));
        self.dropped.extend(dropped.iter().map(|table| table.to_string()));
        changes
    }

    fn change(&mut self, def: &TableDef, change: &Change) {
        let rows = self.tables.entry(def.name.clone()).or_default();
        let name = &def.name;
        if let Some(old) = change.old_resolved() {
            let was = rows.remove(&key(def, &old));
            assert_eq!(was, Some(old), "{name}: the old row of {change:?}");
        }
        if let Some(row) = &change.row {
            let was = rows.insert(key(def, row), row.clone());
            assert_eq!(was, None, "{name}: nothing is in the way of {change:?}");
        }
    }

    /// Polls until a few looks in a row find nothing; gives the transactions.
    pub fn drain(&mut self, capture: &mut Capture) -> Vec<Vec<Change>> {
        let mut all = Vec::new();
        let mut quiet = 0;
        let begun = Instant::now();
        while quiet < 3 {
            assert!(begun.elapsed() < DEADLINE, "still changing");
            match capture.poll().unwrap() {
                Some(captured) => all.push(self.apply(captured)),
                None => quiet += 1,
            }
        }
        all
    }

    /// Polls until a few looks find nothing, noting only which tables are to be copied afresh.
    pub fn drain_loosely(&mut self, capture: &mut Capture) {
        let mut quiet = 0;
        while quiet < 3 {
            match capture.poll().unwrap() {
                Some(captured) => self.recreated.extend(captured.recreated.iter().map(|table| table.to_string())),
                None => quiet += 1,
            }
        }
    }

    /// Drains; what was captured must lead to what the database has. Gives the transactions.
    pub fn agrees(&mut self, bed: &Bed, capture: &mut Capture) -> Vec<Vec<Change>> {
        let all = self.drain(capture);
        assert_eq!(self.tables, bed.rows());
        all
    }
}

/// Polls until it holds, with a deadline.
pub fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < DEADLINE, "waited for {what}");
        std::thread::yield_now();
    }
}

/// Operation names of changes.
pub fn ops(changes: &[Change]) -> Vec<&'static str> {
    changes.iter().map(|change| Op::name(change.op)).collect()
}
