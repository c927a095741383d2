//! A batch of many transactions, merged and carried out while the next one is prepared.

use std::collections::BTreeMap;

use tokio_postgres::error::SqlState;
use tokio_util::task::AbortOnDropHandle;

use super::PgApplier;
use super::bulk::Effects;
use super::copying::copy_in;
use super::link::{Call, Fail, Link};
use super::merge::Net;
use super::ops::{Encoder, Ops};
use super::pass::{Scope, Verdict, server_words};
use super::raw::{Cell, Changes};
use super::registry::Targets;
use super::shape::Mode;
use crate::model::{Batch, Cursor, Fingerprint, Logged, Position, limits};
use crate::view::ViewError;

/// What is under way.
pub(super) struct Flight {
    task: AbortOnDropHandle<Result<(), Fail>>,
    /// Kept until it is there: if it fails it is done in order.
    batch: Batch,
    to: Cursor,
    torn: u64,
}

impl Flight {
    pub(super) fn is_finished(&self) -> bool {
        self.task.is_finished()
    }
}

/// What a merged batch takes at the server.
struct Plan {
    effects: Effects,
    /// What is done in order, beside what is merged.
    ops: Vec<Ops>,
    torn: u64,
}

/// The entries that a merged batch is made of.
type Entries<'b> = Vec<&'b Logged>;

impl PgApplier {
    /// Waits for what is under way; what has failed is done in order.
    pub(super) async fn settle(&mut self) -> Result<(), ViewError> {
        if let Some(flight) = &mut self.flight {
            let done = (&mut flight.task).await;
            let flight = self.flight.take().expect("it was there");
            self.land(flight, done)?;
        }
        while let Some(batch) = self.owed.take() {
            let done = self.apply_in_order(&batch).await;
            if let Err(error) = done {
                // After a loss it would leave a gap.
                self.owed = (!matches!(error, ViewError::Lost(_))).then_some(batch);
                return Err(error);
            }
        }
        Ok(())
    }

    /// Notes what has come of a flight.
    fn land(
        &mut self,
        flight: Flight,
        done: Result<Result<(), Fail>, tokio::task::JoinError>,
    ) -> Result<(), ViewError> {
        let fail = match done {
            Ok(Ok(())) => {
                self.held = Some(flight.to);
                self.torn += flight.torn;
                return Ok(());
            }
            Ok(Err(fail)) => fail,
            Err(error) => Fail::View(ViewError::Retry(format!("applying was interrupted: {error}"))),
        };
        self.owed = Some(flight.batch);
        if let Some(link) = &mut self.link {
            link.forget_loops();
        }
        match fail {
            Fail::Table(error) => {
                tracing::debug!("a merged batch is applied in order: {}", server_words(&error));
                let unique = error.as_db_error().filter(|db| *db.code() == SqlState::UNIQUE_VIOLATION);
                if let Some(table) = unique.and_then(|db| db.table()) {
                    self.targets.overwrite(table);
                }
                self.targets.clear();
                Ok(())
            }
            fail => {
                self.targets.clear();
                Err(self.view_fail(fail))
            }
        }
    }

    /// Whether the batch may be merged: many transactions, all of them whole.
    fn is_behind(&self, batch: &Batch, after: Position) -> bool {
        if self.options.exact || self.options.fire_triggers {
            return false;
        }
        let whole = |logged: &Logged| logged.entry.header().part == 0 && !logged.entry.header().more;
        let received = || batch.entries.iter().filter(|logged| logged.position > after && !logged.from.is_local());
        let many = received().count() > limits::APPLY_LIVE_ENTRIES
            || received().map(|logged| logged.entry.bytes().len()).sum::<usize>() > limits::APPLY_LIVE_BYTES;
        many && received().all(whole)
    }

    /// Merges the batch and has it carried out; false if it has to be done otherwise.
    pub(super) async fn take_off(&mut self, batch: &Batch) -> Result<bool, ViewError> {
        let from = self.flight.as_ref().map(|flight| flight.to).or(self.held);
        let after = from.map_or(Position::ZERO, |cursor| cursor.position);
        let same_log = from.is_none_or(|from| from.log == batch.upto.log);
        if !same_log
            || batch.upto.log != self.options.log
            || batch.upto.position <= after
            || !self.is_behind(batch, after)
        {
            return Ok(false);
        }
        let entries: Entries<'_> =
            batch.entries.iter().filter(|logged| logged.position > after && !logged.from.is_local()).collect();
        if !self.knows_tables(&entries) {
            self.settle().await?;
            self.look_at_tables(&entries, batch).await?;
        }
        let plan = match self.plan(&entries, batch) {
            Some(plan) => plan,
            None => return Ok(false),
        };
        let calls = self.prepare(plan).await?;
        let Some((calls, copies, torn)) = calls else { return Ok(false) };
        self.settle().await?;
        // What was under way may have failed and parked a table, which this batch then passes over.
        if self.held != from {
            return Ok(false);
        }
        let link = self.link().await?.beside();
        let (from, to) = (self.held, batch.upto);
        self.attempted = Some(to);
        let task = tokio::spawn(async move { fly(&link, from, to, calls, copies).await });
        self.flight = Some(Flight { task: AbortOnDropHandle::new(task), batch: batch.clone(), to, torn });
        Ok(true)
    }

    fn knows_tables(&self, entries: &Entries<'_>) -> bool {
        let mut latest: &[Fingerprint] = &[];
        entries.iter().all(|logged| {
            let tables = &logged.entry.header().tables;
            let known = tables.as_slice() == latest || tables.iter().all(|table| self.targets.knows(*table));
            latest = tables;
            known
        })
    }

    async fn look_at_tables(&mut self, entries: &Entries<'_>, batch: &Batch) -> Result<(), ViewError> {
        self.link().await?;
        let PgApplier { link, targets, .. } = self;
        let link = link.as_mut().expect("opened above");
        for logged in entries {
            for &fingerprint in &logged.entry.header().tables {
                let def = batch.catalog.get(fingerprint).ok_or_else(|| {
                    ViewError::Failed(format!("the entry at {} names the unknown table {fingerprint}", logged.position))
                })?;
                let looked = targets.look(link.client(), &def).await;
                looked.map_err(|e| link.view_error("looking at a table", e))?;
            }
        }
        Ok(())
    }

    /// The net effect; `None` if it is better found out in order.
    fn plan(&mut self, entries: &Entries<'_>, batch: &Batch) -> Option<Plan> {
        let PgApplier { link, targets, lanes, .. } = self;
        let link = link.as_ref()?;
        let withheld = BTreeMap::new();
        let scope = Scope::Main { lanes, withheld: &withheld };
        let mut merging = Merging { targets, scope, nets: Vec::new(), latest: Vec::new(), at: Vec::new(), torn: 0 };
        for logged in entries {
            merging.entry(logged, batch)?;
        }
        let Merging { nets, torn, .. } = merging;
        let mut effects = Effects::new();
        let mut in_order = Vec::new();
        for (fingerprint, verdict, net) in &nets {
            if *verdict != Verdict::Write || net.is_empty() && !net.in_order {
                continue;
            }
            let (codes, target) = targets.get(*fingerprint);
            let target = target.ok()?;
            match net.in_order {
                true => in_order.push(*fingerprint),
                false => effects.add(link, codes, target, net)?,
            }
        }
        let ops = if in_order.is_empty() { Vec::new() } else { ordered(targets, entries, &in_order)? };
        Some(Plan { effects, ops, torn })
    }

    /// Makes the calls, and what they need at the server.
    async fn prepare(&mut self, plan: Plan) -> Result<Option<Prepared>, ViewError> {
        let Plan { mut effects, ops, torn } = plan;
        let known = |link: &Link, ops: &Ops| ops.is_empty() || link.has_loop(&ops.kinds);
        let ready = self.link.as_ref().is_some_and(|link| {
            let all_known = ops.iter().chain([&effects.first, &effects.last]).all(|ops| known(link, ops));
            effects.unknown.is_empty() && all_known
        });
        if !ready {
            // Nothing may come between the statements of what is under way.
            self.settle().await?;
        }
        self.link().await?;
        let PgApplier { link, targets, .. } = self;
        let link = link.as_mut().expect("opened above");
        let prepared = async {
            link.make_bulks(std::mem::take(&mut effects.unknown)).await?;
            let Some(bulks) = effects.take_calls(link) else { return Ok(None) };
            let mut calls = Vec::with_capacity(bulks.len() + ops.len() + 2);
            if !effects.first.is_empty() {
                calls.push(link.looped(&targets.codes, effects.first, None).await?);
            }
            calls.extend(bulks);
            for ops in ops.into_iter().chain([effects.last]).filter(|ops| !ops.is_empty()) {
                calls.push(link.looped(&targets.codes, ops, None).await?);
            }
            Ok(Some((calls, effects.copies, torn)))
        };
        match prepared.await {
            Ok(prepared) => Ok(prepared),
            Err(Fail::Table(_)) => Ok(None),
            Err(fail) => Err(self.view_fail(fail)),
        }
    }
}

type Prepared = (Vec<Call>, Vec<(String, Vec<u8>)>, u64);

/// The batch as it is folded.
struct Merging<'a, 'b> {
    targets: &'a mut Targets,
    scope: Scope<'a>,
    nets: Vec<(Fingerprint, Verdict, Net<'b>)>,
    /// The tables of the entry before, and where their nets are: most entries name the same.
    latest: Vec<Fingerprint>,
    at: Vec<usize>,
    torn: u64,
}

impl<'b> Merging<'_, 'b> {
    fn entry(&mut self, logged: &'b Logged, batch: &Batch) -> Option<()> {
        let tables = &logged.entry.header().tables;
        if *tables != self.latest {
            self.tables(tables, batch)?;
        }
        let mut seen = (false, false);
        let mut changes = Changes::of(logged.entry.changes_bytes());
        while let Some(head) = changes.next().ok()? {
            let &at = self.at.get(head.table)?;
            let (fingerprint, verdict, net) = &mut self.nets[at];
            match verdict {
                Verdict::Write => {
                    seen.0 = true;
                    let target = self.targets.get(*fingerprint).1.ok()?;
                    net.change(target, head, &mut changes.row, &mut changes.old);
                }
                Verdict::Parked => seen.1 = true,
                Verdict::Pass => {}
            }
        }
        self.torn += u64::from(seen == (true, true));
        Some(())
    }

    fn tables(&mut self, tables: &[Fingerprint], batch: &Batch) -> Option<()> {
        self.at.clear();
        for &fingerprint in tables {
            let known = self.nets.iter().position(|(known, ..)| *known == fingerprint);
            let at = match known {
                Some(at) => at,
                None => {
                    let def = batch.catalog.get(fingerprint)?;
                    let verdict = self.scope.verdict(&def.name, Position(u64::MAX));
                    // Two definitions of one table depend on each other.
                    let twice = self
                        .nets
                        .iter()
                        .any(|(known, ..)| batch.catalog.get(*known).is_some_and(|known| known.name == def.name));
                    if twice && verdict == Verdict::Write {
                        return None;
                    }
                    if verdict == Verdict::Write {
                        self.targets.get(fingerprint).1.ok()?;
                    }
                    self.nets.push((fingerprint, verdict, Net::of(def.columns.len())));
                    self.nets.len() - 1
                }
            };
            self.at.push(at);
        }
        self.latest = tables.to_vec();
        Some(())
    }
}

/// The changes of those tables, one after the other.
fn ordered(targets: &mut Targets, entries: &Entries<'_>, tables: &[Fingerprint]) -> Option<Vec<Ops>> {
    let mut all = vec![Ops::new()];
    for logged in entries {
        let named = &logged.entry.header().tables;
        if !named.iter().any(|table| tables.contains(table)) {
            continue;
        }
        let mut changes = Changes::of(logged.entry.changes_bytes());
        while let Some(head) = changes.next().ok()? {
            let fingerprint = *named.get(head.table)?;
            if !tables.contains(&fingerprint) {
                continue;
            }
            let ops = all.last_mut().expect("one is there");
            let (codes, target) = targets.get(fingerprint);
            let (row, old): (&mut [Cell<'_>], &mut [Cell<'_>]) = (&mut changes.row, &mut changes.old);
            Encoder { codes, ops, mode: Mode::Strict }.change(target.ok()?, head, row, old).ok()?;
            if ops.bytes() >= limits::APPLY_CALL_BYTES || ops.kinds.len() >= limits::APPLY_CALL_KINDS {
                all.push(Ops::new());
            }
        }
    }
    Some(all)
}

/// Carries out a merged batch: the cursor, the calls, the rows that are copied, all in one commit.
async fn fly(
    link: &Link,
    from: Option<Cursor>,
    to: Cursor,
    calls: Vec<Call>,
    copies: Vec<(String, Vec<u8>)>,
) -> Result<(), Fail> {
    if copies.is_empty() {
        return link.transaction(from, to, &calls).await;
    }
    let done = async {
        link.begun(from, to, &calls).await?;
        for (statement, rows) in copies {
            copy_in(link.client(), &statement, rows).await.map_err(|e| link.sort("copying", e))?;
        }
        link.commit().await
    };
    let done = done.await;
    if done.is_err() {
        link.roll_back().await;
    }
    done
}
