//! Few transactions: each is one transaction here, too.

use std::collections::BTreeMap;

use super::PgApplier;
use super::link::{Call, Fail};
use super::ops::Ops;
use super::pass::{Pass, PassFail, Scope, server_words};
use super::shape::Mode;
use crate::model::{Batch, Cursor, limits};
use crate::view::{ViewError, Work};

impl PgApplier {
    /// Whether each source transaction becomes one here.
    pub(super) fn is_live(&self, work: &[Work<'_>], batch: &Batch) -> bool {
        // Positions in between are of the same epoch only if both ends are.
        let same = self.held.is_some_and(|held| held.epoch == batch.upto.epoch) || work.len() <= 1;
        let bytes = |item: &Work<'_>| match item {
            Work::Whole(logged) => logged.entry.bytes().len(),
            Work::Spooled(_) => 0,
        };
        same && !work.is_empty()
            && work.len() <= limits::APPLY_LIVE_ENTRIES
            && work.iter().map(bytes).sum::<usize>() <= limits::APPLY_LIVE_BYTES
            && work.iter().all(|item| matches!(item, Work::Whole(_)))
    }

    /// Applies each entry in a transaction of its own, all sent at once; false if the rest has to be done otherwise.
    pub(super) async fn live(&mut self, work: &[Work<'_>], batch: &Batch) -> Result<bool, ViewError> {
        let PgApplier { link, targets, lanes, held, .. } = self;
        let link = link.as_mut().expect("opened by the caller");
        let withheld = BTreeMap::new();
        let mut pass = Pass::new(link, targets, Scope::Main { lanes, withheld: &withheld }, Mode::Strict);
        let mut from = *held;
        let mut calls: Vec<(Call, Cursor, u64)> = Vec::with_capacity(work.len());
        for (n, item) in work.iter().enumerate() {
            let Work::Whole(logged) = item else { return Ok(false) };
            let mut seen = (false, false);
            let entered =
                pass.entry(logged.position, &logged.entry, std::slice::from_ref(&batch.catalog), &mut seen).await;
            match entered {
                Ok(()) if pass.calls.is_empty() => {}
                Err(PassFail::View(error)) => return Err(self.view_fail(Fail::View(error))),
                // What comes before it is done with the rest, in one transaction.
                _ => return Ok(false),
            }
            let last = n + 1 == work.len();
            if pass.ops.is_empty() && !last {
                continue;
            }
            let to = if last { batch.upto } else { Cursor { position: logged.position, ..batch.upto } };
            let ops = std::mem::replace(&mut pass.ops, Ops::new());
            match pass.link.looped(&pass.targets.codes, ops, Some((from, to))).await {
                Ok(call) => calls.push((call, to, u64::from(seen == (true, true)))),
                Err(Fail::View(error)) => return Err(self.view_fail(Fail::View(error))),
                Err(Fail::Table(_)) => return Ok(false),
            }
            from = Some(to);
        }
        let (calls, ends): (Vec<Call>, Vec<(Cursor, u64)>) =
            calls.into_iter().map(|(call, to, torn)| (call, (to, torn))).unzip();
        let (done, failed) = link.singly(&calls).await;
        for (to, torn) in &ends[..done] {
            self.held = Some(*to);
            self.torn += torn;
        }
        match failed {
            None => Ok(true),
            Some(Fail::View(error)) => Err(self.view_fail(Fail::View(error))),
            Some(Fail::Table(error)) => {
                tracing::debug!("a transaction is applied statement by statement: {}", server_words(&error));
                self.targets.clear();
                self.link.as_mut().expect("it is there").forget_loops();
                Ok(false)
            }
        }
    }
}
