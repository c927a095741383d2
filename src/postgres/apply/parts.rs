//! The parts of a large transaction, each merged to its net effect, in the one transaction that is open.

use std::sync::Arc;

use super::bulk::Effects;
use super::copying::copy_in;
use super::link::Fail;
use super::merge::Net;
use super::pass::{Pass, PassFail, Tables, Verdict};
use super::raw::Changes;
use crate::model::{Catalog, Entry, Position};
use crate::view::ViewError;

impl Pass<'_> {
    /// Writes one part; `seen` as in [`Pass::entry`]. What cannot be merged is done in order.
    pub(super) async fn part(
        &mut self,
        position: Position,
        entry: &Entry,
        catalogs: &[Arc<Catalog>],
        seen: &mut (bool, bool),
    ) -> Result<(), PassFail> {
        if self.merged {
            let tables = self.tables(position, entry, catalogs).await?;
            let mut noticed = *seen;
            if let Some(effects) = self.net_effects(&tables, entry, &mut noticed) {
                *seen = noticed;
                return self.carry_out(effects).await;
            }
        }
        self.entry(position, entry, catalogs, seen).await?;
        self.cut().await?;
        self.send().await
    }

    /// `None` where it is better found out in order.
    fn net_effects(&mut self, tables: &Tables, entry: &Entry, seen: &mut (bool, bool)) -> Option<Effects> {
        for (n, (def, verdict)) in tables.iter().enumerate() {
            // Two definitions of one table depend on each other.
            let twice = tables[..n].iter().any(|(other, _)| other.name == def.name);
            if *verdict == Verdict::Write && (twice || self.targets.get(def.fingerprint).1.is_err()) {
                return None;
            }
        }
        let mut nets: Vec<Net<'_>> = tables.iter().map(|(def, _)| Net::of(def.columns.len())).collect();
        let mut changes = Changes::of(entry.changes_bytes());
        while let Some(head) = changes.next().ok()? {
            let (def, verdict) = tables.get(head.table)?;
            match verdict {
                Verdict::Write => {
                    seen.0 = true;
                    let target = self.targets.get(def.fingerprint).1.ok()?;
                    nets[head.table].change(target, head, &mut changes.row, &mut changes.old);
                }
                Verdict::Parked => seen.1 = true,
                Verdict::Pass => {}
            }
        }
        if nets.iter().any(|net| net.in_order) {
            return None;
        }
        let mut effects = Effects::new();
        for ((def, _), net) in tables.iter().zip(&nets).filter(|(_, net)| !net.is_empty()) {
            let (codes, target) = self.targets.get(def.fingerprint);
            effects.add(self.link, codes, target.ok()?, net)?;
        }
        Some(effects)
    }

    /// After all that came before it.
    async fn carry_out(&mut self, mut effects: Effects) -> Result<(), PassFail> {
        self.cut().await?;
        self.send().await?;
        self.link.make_bulks(std::mem::take(&mut effects.unknown)).await?;
        let gone = || PassFail::View(ViewError::Retry("a function of the session is gone".to_owned()));
        let bulks = effects.take_calls(self.link).ok_or_else(gone)?;
        let mut calls = Vec::with_capacity(bulks.len() + 2);
        if !effects.first.is_empty() {
            calls.push(self.link.looped(&self.targets.codes, effects.first, None).await?);
        }
        calls.extend(bulks);
        if !effects.last.is_empty() {
            calls.push(self.link.looped(&self.targets.codes, effects.last, None).await?);
        }
        self.link.calls(&calls).await?;
        for (statement, rows) in effects.copies {
            let copied = copy_in(self.link.client(), &statement, rows.into()).await;
            copied.map_err(|e| -> Fail { self.link.sort("copying", e) })?;
        }
        Ok(())
    }
}
