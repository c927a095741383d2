//! One pass over a batch inside a transaction: which changes are written, which wait in lanes, and who is parked.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::target::Targets;
use super::write::{Mode, RowFail, Writer, is_tables};
use super::{Applier, store};
use crate::model::{Batch, Catalog, Change, Cursor, Entry, Position, TableDef, TableName, Timestamp, Value};
use crate::view::{Lane, LaneState, Spools, ViewError, Work};
use rusqlite::{Connection, OptionalExtension};

/// A table's trouble at an entry.
#[derive(Clone, Debug)]
pub(super) struct Trouble {
    pub table: TableName,
    pub position: Position,
    pub why: String,
}

/// Why a pass ended.
pub(super) enum PassFail {
    /// One table failed; the others may go on without it.
    Table(Trouble),
    /// Everything failed.
    View(ViewError),
}

impl From<ViewError> for PassFail {
    fn from(error: ViewError) -> Self {
        PassFail::View(error)
    }
}

/// Which tables a pass writes.
pub(super) enum Scope<'a> {
    /// All that have no lane; those withheld only before the position at which they failed.
    Main { lanes: &'a BTreeMap<TableName, Lane>, withheld: &'a BTreeMap<TableName, Trouble> },
    /// That table alone.
    Lane(&'a TableName),
}

impl Scope<'_> {
    /// Whether the table's changes at that position are written, and if not, whether the table is parked.
    fn verdict(&self, table: &TableName, position: Position) -> Verdict {
        match self {
            Scope::Lane(only) if *only == table => Verdict::Write,
            Scope::Lane(_) => Verdict::Pass,
            Scope::Main { lanes, withheld } => match (lanes.get(table), withheld.get(table)) {
                (Some(Lane { state: LaneState::Parked { .. }, .. }), _) => Verdict::Parked,
                (Some(_), _) => Verdict::Pass,
                (None, Some(trouble)) if position >= trouble.position => Verdict::Parked,
                _ => Verdict::Write,
            },
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Write,
    Pass,
    Parked,
}

/// What a pass needs of the applier.
pub(super) struct Pass<'a> {
    pub conn: &'a Connection,
    pub targets: &'a mut Targets,
    pub spools: &'a mut Spools,
    pub scope: Scope<'a>,
    pub mode: Mode,
    pub fail: &'a dyn Fn(rusqlite::Error) -> ViewError,
    /// Sequences as they were, of the tables touched that have one.
    pub sequences: HashMap<TableName, Option<i64>>,
    /// Transactions applied without the part of a parked table.
    pub torn: u64,
}

impl Pass<'_> {
    /// Writes what can be written, in order.
    pub(super) fn run(&mut self, work: &[Work<'_>], catalog: &Arc<Catalog>) -> Result<(), PassFail> {
        for item in work {
            let mut seen = (false, false);
            match item {
                Work::Whole(logged) => {
                    self.entry(logged.position, &logged.entry, std::slice::from_ref(catalog), &mut seen)?;
                }
                Work::Spooled(position) => {
                    let mut parts = self.spools.read(*position)?;
                    while let Some(entry) = parts.next()? {
                        self.entry(*position, &entry, &parts.catalogs, &mut seen)?;
                    }
                }
            }
            self.torn += u64::from(seen == (true, true));
        }
        self.restore_sequences().map_err(|e| PassFail::View((self.fail)(e)))
    }

    /// Writes one entry or part. `seen`: a change was written, a change of a parked table was passed over.
    fn entry(
        &mut self,
        position: Position,
        entry: &Entry,
        catalogs: &[Arc<Catalog>],
        seen: &mut (bool, bool),
    ) -> Result<(), PassFail> {
        let mut tables: Vec<(Arc<TableDef>, Verdict)> = Vec::with_capacity(entry.header().tables.len());
        for &fingerprint in &entry.header().tables {
            let def = catalogs.iter().find_map(|catalog| catalog.get(fingerprint)).ok_or_else(|| {
                ViewError::Failed(format!("the entry at {position} names the unknown table {fingerprint}"))
            })?;
            let verdict = self.scope.verdict(&def.name, position);
            tables.push((def, verdict));
        }
        if tables.iter().all(|(_, verdict)| *verdict != Verdict::Write) {
            return Ok(());
        }
        let changes = entry.changes().map_err(|e| ViewError::Failed(format!("the entry at {position}: {e}")))?;
        for change in &changes {
            let Some((def, verdict)) = tables.get(change.table) else {
                let why = format!("the entry at {position}: table {} of {}", change.table, tables.len());
                return Err(ViewError::Failed(why).into());
            };
            match verdict {
                Verdict::Write => {
                    seen.0 = true;
                    self.write(def, position, change)?;
                }
                Verdict::Parked => seen.1 = true,
                Verdict::Pass => {}
            }
        }
        Ok(())
    }

    fn write(&mut self, def: &Arc<TableDef>, position: Position, change: &Change) -> Result<(), PassFail> {
        let trouble = |why: String| PassFail::Table(Trouble { table: def.name.clone(), position, why });
        let target = match self.targets.get(self.conn, def) {
            Ok(Ok(target)) => target,
            Ok(Err(why)) => return Err(trouble(why)),
            Err(error) if is_tables(&error) => return Err(trouble(error.to_string())),
            Err(error) => return Err((self.fail)(error).into()),
        };
        if target.sequence && !self.sequences.contains_key(&def.name) {
            let value = sequence(self.conn, &def.name).map_err(self.fail)?;
            self.sequences.insert(def.name.clone(), value);
        }
        let written = Writer { conn: self.conn, target, mode: self.mode }.change(change);
        match written {
            Ok(()) => Ok(()),
            Err(fail) if fail.is_tables() => Err(trouble(describe(def, change, &fail))),
            Err(RowFail::Sql(error, _)) => Err((self.fail)(error).into()),
            Err(RowFail::Conflict(why)) => Err(trouble(why)),
        }
    }

    /// A received row must not move the sequence from which ids are drawn here.
    fn restore_sequences(&mut self) -> rusqlite::Result<()> {
        for (table, value) in self.sequences.drain() {
            restore_sequence(self.conn, &table, value)?;
        }
        Ok(())
    }
}

/// The table's AUTOINCREMENT sequence; `None` before its first row.
pub(super) fn sequence(conn: &Connection, table: &TableName) -> rusqlite::Result<Option<i64>> {
    let mut statement = conn.prepare_cached("SELECT seq FROM sqlite_sequence WHERE name = ?1 COLLATE NOCASE")?;
    statement.query_row([table.as_str()], |row| row.get(0)).optional()
}

/// Sets the sequence back to what it was.
pub(super) fn restore_sequence(conn: &Connection, table: &TableName, value: Option<i64>) -> rusqlite::Result<()> {
    match value {
        Some(value) => conn
            .prepare_cached("UPDATE sqlite_sequence SET seq = ?2 WHERE name = ?1 COLLATE NOCASE AND seq <> ?2")?
            .execute(rusqlite::params![table.as_str(), value])?,
        None => conn
            .prepare_cached("DELETE FROM sqlite_sequence WHERE name = ?1 COLLATE NOCASE")?
            .execute([table.as_str()])?,
    };
    Ok(())
}

fn describe(def: &TableDef, change: &Change, fail: &RowFail) -> String {
    let keys = def.key_columns();
    let row = change.row.as_ref().or(change.old.as_ref());
    let show = |value: &Value| -> String { String::from_utf8_lossy(&value.text).chars().take(60).collect() };
    let key: Vec<String> = row
        .map(|row| {
            keys.iter().filter_map(|&i| Some(format!("{}={:?}", def.columns[i].name, show(row.get(i)?)))).collect()
        })
        .unwrap_or_default();
    let what = format!("{} of the row ({})", change.op.name(), key.join(", "));
    match fail {
        RowFail::Conflict(why) => format!("{what}: {why}"),
        RowFail::Sql(error, sql) => format!("{what}: {error}; statement: {sql}"),
    }
}

impl Applier {
    /// [`crate::view::View::apply`]: passes until no further table fails, then commits with the cursor.
    pub(super) fn apply_main(&mut self, batch: &Batch) -> Result<(), ViewError> {
        self.check_log(batch.upto)?;
        let after = self.held.map_or(Position::ZERO, |cursor| cursor.position);
        if self.held.is_some() && batch.upto.position < after {
            return Ok(());
        }
        let mut spools = std::mem::take(&mut self.spools);
        let done = self.apply_work(batch, after, &mut spools);
        if done.is_ok() {
            spools.forget(batch.upto.position);
            self.held = Some(batch.upto);
        }
        self.spools = spools;
        done
    }

    fn check_log(&self, upto: Cursor) -> Result<(), ViewError> {
        let log = self.options.log;
        let found = self.held.map_or(log, |cursor| cursor.log);
        if upto.log == log && found == log {
            return Ok(());
        }
        let place = self.options.path.display();
        Err(ViewError::Failed(format!(
            "{place} stands at a cursor of log {found}, the node's log is {log}, and the batch is of {}",
            upto.log
        )))
    }

    fn apply_work(&mut self, batch: &Batch, after: Position, spools: &mut Spools) -> Result<(), ViewError> {
        let work = spools.take(batch, after, Position(u64::MAX), &self.options.folder())?;
        if work.is_empty() && self.held == Some(batch.upto) {
            return Ok(());
        }
        let mut withheld: BTreeMap<TableName, Trouble> = BTreeMap::new();
        loop {
            match self.transact(|applier| applier.one_pass(&work, batch, spools, &withheld)) {
                Ok(()) => return Ok(()),
                Err(PassFail::View(error)) => return Err(error),
                Err(PassFail::Table(trouble)) => {
                    withheld.insert(trouble.table.clone(), trouble);
                }
            }
        }
    }

    fn one_pass(
        &mut self,
        work: &[Work<'_>],
        batch: &Batch,
        spools: &mut Spools,
        withheld: &BTreeMap<TableName, Trouble>,
    ) -> Result<(), PassFail> {
        let options = &self.options;
        let fail = |error| super::view_error(options, error);
        let mut pass = Pass {
            conn: &self.conn,
            targets: &mut self.targets,
            spools,
            scope: Scope::Main { lanes: &self.lanes, withheld },
            mode: Mode::Strict,
            fail: &fail,
            sequences: HashMap::new(),
            torn: 0,
        };
        pass.run(work, &batch.catalog)?;
        self.torn += pass.torn;
        for trouble in withheld.values() {
            let lane = parked(trouble);
            store::put_lane(&self.conn, &lane).map_err(fail)?;
            self.lanes.insert(lane.table.clone(), lane);
        }
        store::set_cursor(&self.conn, Some(batch.upto)).map_err(fail)?;
        Ok(())
    }
}

/// The lane of a table that failed.
pub(super) fn parked(trouble: &Trouble) -> Lane {
    let Trouble { table, position, why } = trouble.clone();
    let after = Position(position.0.saturating_sub(1));
    Lane { table, after, state: LaneState::Parked { position, error: why, since: Timestamp::now(), before: None } }
}
