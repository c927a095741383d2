//! Replicas of machines: what they say of their states, who has parted from whom, and whom that puts into quarantine.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::Views;
use super::viewed::Viewed;
use crate::log::Log;
use crate::model::{LogId, Position, limits};
use crate::node::shared::Shared;
use crate::peer::{DigestAt, NodeRef, ReplicaDigests};
use crate::view::Unmet;
use crate::view::machine::Parted;

/// What replicas elsewhere have said.
#[derive(Debug, Default)]
pub struct Replicas {
    /// By node and view.
    heard: Mutex<BTreeMap<(LogId, Box<str>), ReplicaDigests>>,
    /// By this node's view and the other node.
    parted: Mutex<BTreeMap<Sides, Parted>>,
}

/// A view of this node, and another node.
type Sides = (Box<str>, Box<str>);

/// Who is taken as right, of two that have parted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wrong {
    Ours,
    Theirs,
}

/// The replica where the log is written is right; where none is known there, the one at the root.
fn wrong(ours_is_original: bool, theirs_is_original: bool, original_is_known: bool, is_root: bool) -> Wrong {
    match (ours_is_original, theirs_is_original) {
        (true, _) => Wrong::Theirs,
        (false, true) => Wrong::Ours,
        (false, false) if is_root && !original_is_known => Wrong::Ours,
        (false, false) => Wrong::Theirs,
    }
}

/// What they say of positions that this log has, in the same epochs.
fn comparable(log: &dyn Log, theirs: &ReplicaDigests) -> Vec<(Position, [u8; 32])> {
    let tail = *log.tail().borrow();
    let same = |at: &&DigestAt| at.position <= tail && log.cursor_at(at.position).epoch == at.epoch;
    theirs.at.iter().filter(same).map(|at| (at.position, at.digest)).collect()
}

impl Replicas {
    /// Of others, as far as a heartbeat takes them.
    fn others(&self) -> Vec<ReplicaDigests> {
        let heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        heard.values().cloned().collect()
    }

    fn hear(&self, replica: &ReplicaDigests) {
        let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (replica.node.log, replica.view.clone());
        if heard.contains_key(&key) || heard.len() < limits::HEARTBEAT_REPLICAS_MAX {
            heard.insert(key, replica.clone());
        }
    }

    /// Whether a replica is known where that one's log is written.
    fn knows_original(&self, of: &ReplicaDigests) -> bool {
        let heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        heard.values().any(|known| known.original && (known.log, known.definition) == (of.log, of.definition))
    }

    /// Notes whether a replica elsewhere differs from ours; whether that is news.
    fn note(&self, view: &str, node: &str, differs: Option<Parted>) -> bool {
        let mut parted = self.parted.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (view.into(), node.into());
        match differs {
            Some(differs) => parted.insert(key, differs).is_none(),
            None => {
                parted.remove(&key);
                false
            }
        }
    }

    /// Replicas of a view that have parted from ours: at which node, and where.
    pub fn parted(&self, view: &str) -> Vec<(Box<str>, Parted)> {
        let parted = self.parted.lock().unwrap_or_else(PoisonError::into_inner);
        let ours = parted.iter().filter(|((known, _), _)| &**known == view);
        ours.map(|((_, node), parted)| (node.clone(), *parted)).collect()
    }
}

impl Viewed {
    /// What our replica was at agreed positions; `None` where it is none. One that is known to be wrong says so, too: by that it is named elsewhere.
    fn says(&self, me: &NodeRef) -> Option<ReplicaDigests> {
        let feed = self.feed()?;
        let [partition] = &feed.partitions[..] else { return None };
        let live = self.live.try_read().ok()?.clone()?;
        let at = live.kept_digests()?.sample().into_iter().map(|(position, digest)| DigestAt {
            epoch: partition.log.cursor_at(position).epoch,
            position,
            digest,
        });
        let at: Vec<DigestAt> = at.collect();
        (!at.is_empty()).then(|| ReplicaDigests {
            node: me.clone(),
            view: self.name.clone(),
            definition: live.definition(),
            log: partition.log.id(),
            original: feed.mirror_of().is_none(),
            at,
        })
    }

    /// Compares our replica with one elsewhere; `None`: they are not replicas of one machine over one log.
    fn compared(&self, theirs: &ReplicaDigests) -> Option<(bool, Option<Parted>)> {
        let feed = self.feed()?;
        let partition = feed.partitions.iter().find(|partition| partition.log.id() == theirs.log)?;
        let live = self.live.try_read().ok()?.clone()?;
        let ours = live.kept_digests().filter(|_| live.definition() == theirs.definition)?;
        Some((feed.mirror_of().is_none(), ours.compare(&comparable(&*partition.log, theirs))))
    }

    /// It is known to be wrong: nobody is answered until it has been built afresh.
    fn quarantine(&self, why: &str) {
        let begun = tokio::task::block_in_place(|| self.record.quarantine.begin(why));
        if begun {
            self.waiters.fail(Unmet::Failed(why.into()));
            tracing::error!(
                "error[WS-VIEW-071]: the view {} is in quarantine: {why} / why: replicas of a machine over one log have the same \
                 states, and what this one would answer is not what the others do / do: find out what differs there (the program's \
                 version, the machine's rules, the disk); then `watershed view rebuild {}`",
                self.name,
                self.name
            );
        }
    }
}

impl Views {
    /// What this node's replicas and those that it has heard of say of their states.
    pub(in crate::node) fn say(&self, shared: &Shared) -> Vec<ReplicaDigests> {
        let others = self.replicas.others();
        // A replica may have come by now to what others have said long ago.
        self.judge_all(shared, &others);
        let me = shared.me();
        let ours = self.all().filter_map(|view| view.says(&me));
        ours.chain(others).collect()
    }

    /// Replicas elsewhere have said something.
    pub(in crate::node) fn hear(&self, shared: &Shared, said: Vec<ReplicaDigests>) {
        let said: Vec<ReplicaDigests> = said.into_iter().filter(|theirs| theirs.node.log != shared.log.id()).collect();
        said.iter().for_each(|theirs| self.replicas.hear(theirs));
        self.judge_all(shared, &said);
    }

    fn judge_all(&self, shared: &Shared, said: &[ReplicaDigests]) {
        for theirs in said {
            let is_root = shared.path.borrow().last().is_some_and(|root| root.log == theirs.node.log);
            self.all().for_each(|view| self.judge(view, is_root, theirs));
        }
    }

    fn is_ours(&self, original: bool, is_root: bool, theirs: &ReplicaDigests) -> bool {
        wrong(original, theirs.original, self.replicas.knows_original(theirs), is_root) == Wrong::Ours
    }

    fn judge(&self, view: &Arc<Viewed>, is_root: bool, theirs: &ReplicaDigests) {
        let Some((original, parted)) = view.compared(theirs) else { return };
        let node = &theirs.node.name;
        match parted {
            Some(parted) if self.is_ours(original, is_root, theirs) => {
                view.quarantine(&format!("its state is not that of the replica at {node}: {parted}"));
            }
            Some(parted) => {
                if self.replicas.note(&view.name, node, Some(parted)) {
                    tracing::error!(
                        "error[WS-VIEW-072]: the replica of the view {} at {node} has parted from the one here: {parted} / why: replicas of a \
                         machine over one log have the same states / do: it puts itself into quarantine; look there",
                        view.name
                    );
                }
            }
            None => drop(self.replicas.note(&view.name, node, None)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_original_is_right_and_where_there_is_none_the_root() {
        assert_eq!(wrong(true, false, false, true), Wrong::Theirs);
        assert_eq!(wrong(false, true, true, false), Wrong::Ours);
        assert_eq!(wrong(false, false, false, true), Wrong::Ours);
        assert_eq!(wrong(false, false, true, true), Wrong::Theirs, "whoever is wrong of them, the original knows");
        assert_eq!(wrong(false, false, false, false), Wrong::Theirs);
    }
}
