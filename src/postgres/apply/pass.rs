//! One pass over entries: which changes are written, which wait in lanes, and who is parked.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use tokio_postgres::Error;

use super::link::{Call, Fail, Link};
use super::ops::{Encoder, Ops};
use super::raw::{Cell, Changes, Head, is_typed};
use super::registry::Targets;
use super::shape::{MISSING, Mode};
use super::{PgApplier, store};
use crate::model::{Batch, Catalog, Cursor, Entry, Position, TableDef, TableName, Timestamp, limits};
use crate::view::{LOCKED, Lane, LaneState, Spools, ViewError, Work};

/// A table's trouble at an entry.
#[derive(Clone, Debug)]
pub(super) struct Trouble {
    pub table: TableName,
    pub position: Position,
    pub why: String,
}

/// Why a pass ended.
#[derive(Debug)]
pub(super) enum PassFail {
    /// One table failed; the others may go on without it.
    Table(Trouble),
    /// Some statement failed; done one by one it will be seen which.
    Some(String),
    /// Everything failed.
    View(ViewError),
}

impl From<ViewError> for PassFail {
    fn from(error: ViewError) -> Self {
        PassFail::View(error)
    }
}

impl From<Fail> for PassFail {
    fn from(fail: Fail) -> Self {
        match fail {
            Fail::View(error) => PassFail::View(error),
            Fail::Table(error) => PassFail::Some(server_words(&error)),
        }
    }
}

/// Which tables a pass writes.
#[derive(Clone, Copy)]
pub(super) enum Scope<'a> {
    /// All that have no lane; those withheld only before the position at which they failed.
    Main { lanes: &'a BTreeMap<TableName, Lane>, withheld: &'a BTreeMap<TableName, Trouble> },
    /// That table alone.
    Lane(&'a TableName),
}

impl Scope<'_> {
    /// Whether the table's changes at that position are written, and if not, whether the table is parked.
    pub(super) fn verdict(&self, table: &TableName, position: Position) -> Verdict {
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

/// How a pass goes about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum How {
    /// The parts of large transactions by their net effect.
    Merged,
    /// Many operations at once.
    InOrder,
    /// Each operation by itself, to see which one fails.
    Singly,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Write,
    Pass,
    Parked,
}

/// What a pass needs of the applier.
pub(super) struct Pass<'a> {
    pub link: &'a mut Link,
    pub targets: &'a mut Targets,
    pub scope: Scope<'a>,
    pub mode: Mode,
    /// Every operation is carried out and waited for by itself, to see which one fails.
    pub singly: bool,
    /// The parts of large transactions are merged.
    pub merged: bool,
    /// A lock that is waited for in vain is its table's trouble.
    pub blames: bool,
    /// A transaction is open at the server, so that calls may be carried out before the end.
    pub open: bool,
    pub ops: Ops,
    pub calls: Vec<Call>,
    /// Transactions applied without the part of a parked table.
    pub torn: u64,
}

pub(super) type Tables = Vec<(Arc<TableDef>, Verdict)>;

impl<'a> Pass<'a> {
    pub(super) fn new(link: &'a mut Link, targets: &'a mut Targets, scope: Scope<'a>, mode: Mode) -> Pass<'a> {
        let (ops, calls) = (Ops::new(), Vec::new());
        Pass {
            link,
            targets,
            scope,
            mode,
            singly: false,
            merged: false,
            blames: false,
            open: false,
            ops,
            calls,
            torn: 0,
        }
    }

    /// Carries out, or makes calls of, everything that is to be written, in order.
    pub(super) async fn run(
        &mut self,
        work: &[Work<'_>],
        catalog: &Arc<Catalog>,
        spools: &mut Spools,
    ) -> Result<(), PassFail> {
        for item in work {
            let mut seen = (false, false);
            match item {
                Work::Whole(logged) => {
                    let catalogs = std::slice::from_ref(catalog);
                    self.entry(logged.position, &logged.entry, catalogs, &mut seen).await?;
                }
                Work::Spooled(position) => {
                    let mut parts = spools.read(*position)?;
                    while let Some(entry) = parts.next()? {
                        self.part(*position, &entry, &parts.catalogs, &mut seen).await?;
                    }
                }
            }
            self.torn += u64::from(seen == (true, true));
        }
        self.cut().await?;
        self.send().await
    }

    /// Makes a call of the operations so far.
    pub(super) async fn cut(&mut self) -> Result<(), PassFail> {
        if !self.ops.is_empty() {
            let ops = std::mem::replace(&mut self.ops, Ops::new());
            let call = self.link.looped(&self.targets.codes, ops, None).await?;
            self.calls.push(call);
        }
        Ok(())
    }

    /// Carries out the calls so far, if a transaction is open.
    pub(super) async fn send(&mut self) -> Result<(), PassFail> {
        if self.open && !self.calls.is_empty() {
            let calls = std::mem::take(&mut self.calls);
            self.link.calls(&calls).await?;
        }
        Ok(())
    }

    /// Finds the tables of an entry, and looks at those that are written for the first time.
    pub(super) async fn tables(
        &mut self,
        position: Position,
        entry: &Entry,
        catalogs: &[Arc<Catalog>],
    ) -> Result<Tables, PassFail> {
        let mut tables: Tables = Vec::with_capacity(entry.header().tables.len());
        for (index, &fingerprint) in entry.header().tables.iter().enumerate() {
            let def = catalogs.iter().find_map(|catalog| catalog.get(fingerprint)).ok_or_else(|| {
                ViewError::Failed(format!("the entry at {position} names the unknown table {fingerprint}"))
            })?;
            let verdict = self.scope.verdict(&def.name, position);
            if verdict == Verdict::Write {
                let typed = || is_typed(entry.changes_bytes(), index);
                let looked = self.targets.look(self.link.client(), &def, typed).await;
                looked.map_err(|e| self.link.view_error("looking at a table", e))?;
            }
            tables.push((def, verdict));
        }
        Ok(tables)
    }

    /// Writes one entry or part. `seen`: a change was written, a change of a parked table was passed over.
    pub(super) async fn entry(
        &mut self,
        position: Position,
        entry: &Entry,
        catalogs: &[Arc<Catalog>],
        seen: &mut (bool, bool),
    ) -> Result<(), PassFail> {
        let tables = self.tables(position, entry, catalogs).await?;
        if tables.iter().all(|(_, verdict)| *verdict == Verdict::Pass) {
            return Ok(());
        }
        let unreadable = |why: &str| ViewError::Failed(format!("the entry at {position}: {why}"));
        let mut changes = Changes::of(entry.changes_bytes());
        while let Some(head) = changes.next().map_err(unreadable)? {
            let Some((def, verdict)) = tables.get(head.table) else {
                return Err(unreadable(&format!("table {} of {}", head.table, tables.len())).into());
            };
            match verdict {
                Verdict::Write => {
                    seen.0 = true;
                    self.write(def, position, head, &mut changes).await?;
                }
                Verdict::Parked => seen.1 = true,
                Verdict::Pass => {}
            }
        }
        if self.singly {
            // What was put off to the end of a transaction fails at this entry, if it fails.
            let at_once = "SET CONSTRAINTS ALL IMMEDIATE; SET CONSTRAINTS ALL DEFERRED";
            if let Err(error) = self.link.client().batch_execute(at_once).await {
                return Err(match self.link.sort("checking constraints", error) {
                    Fail::View(error) => error.into(),
                    Fail::Table(error) => PassFail::Table(blamed(&tables, position, &error)),
                });
            }
        }
        Ok(())
    }

    async fn write(
        &mut self,
        def: &Arc<TableDef>,
        position: Position,
        head: Head,
        changes: &mut Changes<'_>,
    ) -> Result<(), PassFail> {
        let trouble = |why: String| PassFail::Table(Trouble { table: def.name.clone(), position, why });
        let (codes, target) = self.targets.get(def.fingerprint);
        let target = target.map_err(trouble)?;
        let mut encoder = Encoder { codes, ops: &mut self.ops, mode: self.mode };
        let encoded = encoder.change(target, head, &mut changes.row, &mut changes.old);
        encoded.map_err(|why| trouble(format!("{}: {why}", describe(def, head, changes))))?;
        if self.singly {
            return self.one(def, position, head, changes).await;
        }
        if self.ops.bytes() >= limits::APPLY_CALL_BYTES || self.ops.kinds.len() >= limits::APPLY_CALL_KINDS {
            self.cut().await?;
            if self.calls.len() >= limits::APPLY_CALLS_MAX {
                self.send().await?;
            }
        }
        Ok(())
    }

    /// Carries out one operation and waits for it.
    async fn one(
        &mut self,
        def: &Arc<TableDef>,
        position: Position,
        head: Head,
        changes: &Changes<'_>,
    ) -> Result<(), PassFail> {
        let Some(&code) = self.ops.codes.first() else { return Ok(()) };
        let ops = std::mem::replace(&mut self.ops, Ops::new());
        let done = match self.link.looped(&self.targets.codes, ops, None).await {
            Ok(call) => self.link.calls(&[call]).await,
            Err(fail) => Err(fail),
        };
        match done {
            Ok(()) => Ok(()),
            Err(Fail::View(_)) if self.blames && self.link.has_waited() => {
                let why = format!("{LOCKED}, and it is tried again by itself: {}", describe(def, head, changes));
                Err(PassFail::Table(Trouble { table: def.name.clone(), position, why }))
            }
            Err(Fail::View(error)) => Err(error.into()),
            Err(Fail::Table(error)) => {
                let why = format!(
                    "{}: {}; statement: {}",
                    describe(def, head, changes),
                    server_words(&error),
                    self.targets.codes[code as usize].sql
                );
                Err(PassFail::Table(Trouble { table: def.name.clone(), position, why }))
            }
        }
    }
}

/// The server's words, with its detail.
pub(super) fn server_words(error: &Error) -> String {
    let Some(db) = error.as_db_error() else { return error.to_string() };
    if db.code().code() == MISSING {
        return db.message().to_owned();
    }
    let detail = db.detail().map(|detail| format!(" ({detail})")).unwrap_or_default();
    format!("{} (SQLSTATE {}){detail}", db.message(), db.code().code())
}

/// The table that a constraint checked at the end belongs to.
fn blamed(tables: &Tables, position: Position, error: &Error) -> Trouble {
    let named = error.as_db_error().and_then(|db| db.table());
    let written = || tables.iter().filter(|(_, verdict)| *verdict == Verdict::Write);
    let found = written().find(|(def, _)| Some(super::target::split(&def.name).1) == named);
    let def = found.or_else(|| written().next_back()).or(tables.last()).map(|(def, _)| def);
    let table = def.map(|def| def.name.clone()).expect("an entry that is written names a table");
    Trouble { table, position, why: format!("at the transaction's end: {}", server_words(error)) }
}

fn describe(def: &TableDef, head: Head, changes: &Changes<'_>) -> String {
    let row = if head.has_row { &changes.row } else { &changes.old };
    describe_row(def, head.op.name(), row)
}

/// Which row it is.
pub(super) fn describe_row(def: &TableDef, what: &str, row: &[Cell<'_>]) -> String {
    let show = |cell: &Cell<'_>| -> String { String::from_utf8_lossy(cell.text).chars().take(60).collect() };
    let key = def.key_columns().into_iter();
    let key: Vec<String> =
        key.filter_map(|i| Some(format!("{}={:?}", def.columns[i].name, show(row.get(i)?)))).collect();
    format!("{what} of the row ({})", key.join(", "))
}

/// The lane of a table that failed.
pub(super) fn parked(trouble: &Trouble) -> Lane {
    let Trouble { table, position, why } = trouble.clone();
    let after = Position(position.0.saturating_sub(1));
    Lane { table, after, state: LaneState::Parked { position, error: why, since: Timestamp::now(), before: None } }
}

impl PgApplier {
    /// [`crate::view::View::apply`]: many transactions are merged, others done in order.
    pub(super) async fn apply_main(&mut self, batch: &Batch) -> Result<(), ViewError> {
        if self.flight.is_none() {
            self.link().await?;
            self.settle().await?;
        }
        if self.spools.is_empty() && self.take_off(batch).await? {
            return Ok(());
        }
        self.settle().await?;
        self.apply_in_order(batch).await
    }

    /// Passes until no further table fails, then commits with the cursor.
    pub(super) async fn apply_in_order(&mut self, batch: &Batch) -> Result<(), ViewError> {
        self.link().await?;
        self.check_log(batch.upto)?;
        if self.held.is_some() && batch.upto.position < self.main_position() {
            return Ok(());
        }
        let mut spools = std::mem::take(&mut self.spools);
        let done = self.apply_batch(batch, &mut spools).await;
        if done.is_ok() {
            spools.forget(batch.upto.position);
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
        Err(ViewError::Failed(format!(
            "{} stands at a cursor of log {found}, the node's log is {log}, and the batch is of {}",
            self.options.endpoint.name(),
            upto.log
        )))
    }

    async fn apply_batch(&mut self, batch: &Batch, spools: &mut Spools) -> Result<(), ViewError> {
        let after = self.main_position();
        let mut work = spools.take(batch, after, Position(u64::MAX), &self.options.spool_dir)?;
        if work.is_empty() && self.held == Some(batch.upto) {
            return Ok(());
        }
        self.attempted = Some(batch.upto);
        if self.is_live(&work, batch) {
            match self.live(&work, batch).await {
                Ok(true) => {
                    self.locked = None;
                    return Ok(());
                }
                Ok(false) => {}
                Err(error) if !self.is_held_up() => return Err(error),
                Err(_) => {}
            }
        }
        let after = self.main_position();
        work.retain(|item| item.position() > after);
        let mut withheld: BTreeMap<TableName, Trouble> = BTreeMap::new();
        let large = work.iter().any(|item| matches!(item, Work::Spooled(_)));
        let merges = large && !self.options.exact && !self.options.fire_triggers;
        let mut how = if merges { How::Merged } else { How::InOrder };
        loop {
            match self.one_pass(&work, batch, spools, &withheld, how).await {
                Ok(()) => {
                    self.locked = None;
                    return Ok(());
                }
                // Operation by operation it is seen which table is locked.
                Err(PassFail::View(_)) if how != How::Singly && self.is_held_up() => how = How::Singly,
                Err(PassFail::View(error)) => return Err(self.view_fail(Fail::View(error))),
                Err(PassFail::Table(trouble)) => {
                    how = How::InOrder;
                    withheld.insert(trouble.table.clone(), trouble);
                }
                Err(PassFail::Some(why)) if how == How::Singly => return Err(ViewError::Failed(why)),
                Err(PassFail::Some(why)) => {
                    tracing::debug!("a batch is applied again, not {how:?}: {why}");
                    how = if how == How::Merged { How::InOrder } else { How::Singly };
                }
            }
        }
    }

    /// Whether a lock has just been waited for in vain, and one table's lock has held up the others for long enough.
    fn is_held_up(&mut self) -> bool {
        if !self.link.as_ref().is_some_and(Link::has_waited) {
            return false;
        }
        let since = *self.locked.get_or_insert_with(Instant::now);
        since.elapsed() >= limits::APPLY_LOCK_PATIENCE
    }

    async fn one_pass(
        &mut self,
        work: &[Work<'_>],
        batch: &Batch,
        spools: &mut Spools,
        withheld: &BTreeMap<TableName, Trouble>,
        how: How,
    ) -> Result<(), PassFail> {
        self.link().await?;
        let blames = self.locked.is_some_and(|since| since.elapsed() >= limits::APPLY_LOCK_PATIENCE);
        let PgApplier { link, targets, lanes, held, .. } = self;
        let link = link.as_mut().expect("opened above");
        let stopped: Vec<Lane> = withheld.values().map(parked).collect();
        let scope = Scope::Main { lanes, withheld };
        let mut pass = Pass::new(link, targets, scope, Mode::Strict);
        (pass.merged, pass.singly, pass.blames) = (how == How::Merged, how == How::Singly, blames);
        let waits = |item: &Work<'_>| matches!(item, Work::Spooled(_));
        // A transaction that is sent as a whole needs no answer in between.
        let whole = !pass.singly && withheld.is_empty() && !work.iter().any(waits);
        if !whole {
            pass.link.begin(*held, Some(batch.upto), false).await?;
            pass.open = true;
        }
        let mut done = pass.run(work, &batch.catalog, spools).await;
        let (calls, torn) = (std::mem::take(&mut pass.calls), pass.torn);
        if done.is_ok() {
            done = match whole {
                true => link.transaction(*held, batch.upto, &calls).await.map_err(PassFail::from),
                false => park(link, &stopped).await,
            };
        }
        if let Err(fail) = done {
            if !whole {
                link.roll_back().await;
            }
            link.forget_loops();
            targets.clear();
            return Err(fail);
        }
        self.lanes.extend(stopped.into_iter().map(|lane| (lane.table.clone(), lane)));
        self.torn += torn;
        self.held = Some(batch.upto);
        Ok(())
    }
}

/// Stores the lanes of tables that failed, and commits.
async fn park(link: &Link, stopped: &[Lane]) -> Result<(), PassFail> {
    for lane in stopped {
        let put = store::put_lane(link.client(), lane).await;
        put.map_err(|e| PassFail::View(link.view_error("parking a table", e)))?;
    }
    Ok(link.commit().await?)
}
