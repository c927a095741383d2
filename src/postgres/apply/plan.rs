//! What merged batches take at the server: found out while those before them are carried out.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::PgApplier;
use super::bulk::Effects;
use super::link::{Call, Fail, Link};
use super::merge::Net;
use super::ops::{Encoder, Ops};
use super::pass::{Scope, Verdict};
use super::raw::{Cell, Changes, is_typed};
use super::registry::Targets;
use super::shape::Mode;
use crate::model::{Batch, Fingerprint, Logged, Position, TableDef, limits};
use crate::view::ViewError;

/// What merged batches take at the server.
pub(super) struct Plan {
    effects: Effects,
    /// What is done in order, beside what is merged.
    ops: Vec<Ops>,
    torn: u64,
}

/// What is sent.
pub(super) struct Prepared {
    pub calls: Vec<Call>,
    /// Rows that come by COPY, with its statement.
    pub copies: Vec<(String, Vec<u8>)>,
    /// Transactions without the part of a parked table.
    pub torn: u64,
}

/// The entries that are merged.
type Entries<'b> = Vec<&'b Logged>;

/// The entries of those batches that were received and come after that position, each once: after a failure a batch may be
/// given again, and longer.
fn received(batches: &[Batch], mut after: Position) -> Entries<'_> {
    let mut entries = Vec::new();
    for logged in batches.iter().flat_map(|batch| &batch.entries) {
        if logged.position > after && !logged.from.is_local() {
            after = logged.position;
            entries.push(logged);
        }
    }
    entries
}

fn definition(batches: &[Batch], fingerprint: Fingerprint) -> Option<Arc<TableDef>> {
    batches.iter().find_map(|batch| batch.catalog.get(fingerprint))
}

impl PgApplier {
    /// Whether the destination of every table in it was looked at.
    pub(super) fn knows_tables(&self, batch: &Batch, after: Position) -> bool {
        let mut latest: &[Fingerprint] = &[];
        received(std::slice::from_ref(batch), after).into_iter().all(|logged| {
            let tables = &logged.entry.header().tables;
            let known = tables.as_slice() == latest || tables.iter().all(|table| self.targets.knows(*table));
            latest = tables;
            known
        })
    }

    pub(super) async fn look_at_tables(&mut self, batch: &Batch, after: Position) -> Result<(), ViewError> {
        self.link().await?;
        let PgApplier { link, targets, .. } = self;
        let link = link.as_mut().expect("opened above");
        for logged in received(std::slice::from_ref(batch), after) {
            for (index, &fingerprint) in logged.entry.header().tables.iter().enumerate() {
                let def = batch.catalog.get(fingerprint).ok_or_else(|| {
                    ViewError::Failed(format!("the entry at {} names the unknown table {fingerprint}", logged.position))
                })?;
                let typed = || is_typed(logged.entry.changes_bytes(), index);
                let looked = targets.look(link.client(), &def, typed).await;
                looked.map_err(|e| link.view_error("looking at a table", e))?;
            }
        }
        Ok(())
    }

    /// The net effect; `None` if it is better found out in order.
    pub(super) fn plan(&mut self, batches: &[Batch], after: Position) -> Option<Plan> {
        let PgApplier { link, targets, lanes, .. } = self;
        let link = link.as_ref()?;
        let withheld = BTreeMap::new();
        let scope = Scope::Main { lanes, withheld: &withheld };
        let entries = received(batches, after);
        let (latest, at) = (Vec::new(), Vec::new());
        let mut merging = Merging { batches, targets, scope, nets: Vec::new(), latest, at, torn: 0 };
        for logged in &entries {
            merging.entry(logged)?;
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
        let ops = if in_order.is_empty() { Vec::new() } else { ordered(targets, &entries, &in_order)? };
        Some(Plan { effects, ops, torn })
    }

    /// Makes the calls, and what they need at the server.
    pub(super) async fn prepare(&mut self, plan: Plan) -> Result<Option<Prepared>, ViewError> {
        let Plan { mut effects, ops, torn } = plan;
        let known = |link: &Link, ops: &Ops| ops.is_empty() || link.has_loop(&ops.kinds);
        let ready = self.link.as_ref().is_some_and(|link| {
            let all_known = ops.iter().chain([&effects.first, &effects.last]).all(|ops| known(link, ops));
            effects.unknown.is_empty() && all_known
        });
        if !ready {
            // Nothing may come between the statements of what is under way.
            self.arrive().await?;
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
            Ok(Some(Prepared { calls, copies: effects.copies, torn }))
        };
        match prepared.await {
            Ok(prepared) => Ok(prepared),
            Err(Fail::Table(_)) => Ok(None),
            Err(fail) => Err(self.view_fail(fail)),
        }
    }
}

/// The batches as they are folded.
struct Merging<'a, 'b> {
    batches: &'b [Batch],
    targets: &'a mut Targets,
    scope: Scope<'a>,
    nets: Vec<(Fingerprint, Verdict, Net<'b>)>,
    /// The tables of the entry before, and where their nets are: most entries name the same.
    latest: Vec<Fingerprint>,
    at: Vec<usize>,
    torn: u64,
}

impl<'b> Merging<'_, 'b> {
    fn entry(&mut self, logged: &'b Logged) -> Option<()> {
        let tables = &logged.entry.header().tables;
        if *tables != self.latest {
            self.tables(tables)?;
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

    fn tables(&mut self, tables: &[Fingerprint]) -> Option<()> {
        self.at.clear();
        for &fingerprint in tables {
            let known = self.nets.iter().position(|(known, ..)| *known == fingerprint);
            let at = match known {
                Some(at) => at,
                None => {
                    let def = definition(self.batches, fingerprint)?;
                    let verdict = self.scope.verdict(&def.name, Position(u64::MAX));
                    // Two definitions of one table depend on each other.
                    let name = |known: Fingerprint| definition(self.batches, known).map(|known| known.name.clone());
                    let twice = self.nets.iter().any(|(known, ..)| name(*known).as_ref() == Some(&def.name));
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
