//! What is below this node, away or not: whose rows a copy may touch depends on it.
//!
//! A row in flight from a node that is away stands in the database and in the log, and nowhere above; so what was below
//! stays below until its operator drops it, or until it is heard of from above.

use std::collections::HashSet;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use super::book::Known;
use super::database::Command;
use super::shared::{Link, Shared};
use crate::model::{LinkId, LogId, limits};
use crate::peer::{Below, Head, NodeRef, Role};

impl Shared {
    /// Heads that came with a heartbeat; everything sent before it is durable here.
    pub(super) fn heard_heads(&self, peer: LinkId, heads: Vec<Head>) {
        let me = self.log.id();
        let from_parent = self.links().get(&peer).is_some_and(|link| link.role == Role::Child);
        if from_parent {
            self.heard_above(&heads);
        }
        let theirs = heads.iter().find(|head| head.node.log == peer.0).map(|head| head.cursor.position);
        let mut known = self.heads.lock().unwrap_or_else(PoisonError::into_inner);
        for head in heads.into_iter().filter(|head| head.node.log != me) {
            let room = known.len() < crate::model::limits::SUBTREE_NODES_MAX;
            match known.get(&head.node.log) {
                // What has gone a longer way is older.
                Some(before) if before.time > head.time && before.cursor.position >= head.cursor.position => {}
                None if !room => {}
                _ => {
                    self.arrived.reached(head.cursor);
                    known.insert(head.node.log, head);
                }
            }
        }
        drop(known);
        let received = self.received(peer);
        if let Some(link) = self.links().get_mut(&peer) {
            link.received = received;
            link.target = link.target.or(theirs);
            // A heartbeat comes in order with the data: what was sent before it is durable here.
            if link.target.is_some() && link.target_tail.is_none() {
                link.target_tail = Some(*self.log.tail().borrow());
            }
        }
    }

    /// The names on a link's far side: for a child it and everything below it, away or not, unless it is known to be
    /// elsewhere; for the parent everything that is not us or below us, so `None`.
    pub fn far_side(&self, link: &Link) -> Option<Vec<Box<str>>> {
        match link.role {
            Role::Parent => {
                let known = self.below.borrow();
                let there = |below: &&Below| !below.away || known.contains(below);
                let below = link.below.iter().filter(there).map(|below| below.node.name.clone());
                Some(below.chain([link.node.name.clone()]).collect())
            }
            Role::Child => None,
        }
    }

    /// The names of this node and everything below it, away or not.
    pub fn near_names(&self) -> Vec<Box<str>> {
        let below = self.below.borrow();
        below.iter().map(|below| below.node.name.clone()).chain([self.name.clone()]).collect()
    }

    /// Recomputes what is below us, from the links and, for children that are away, from the book.
    pub fn update_below(&self) {
        let below = self.find_below();
        self.below.send_if_modified(|known| {
            let gone = |before: &Below| below.iter().all(|below| below.node.name != before.node.name);
            if known.iter().any(gone) {
                // Copies from the parent have left out its rows: from now on they come from there.
                self.fewer_below.store(true, Ordering::Relaxed);
            }
            let changed = *known != below;
            *known = below;
            changed
        });
    }

    fn find_below(&self) -> Vec<Below> {
        let (mut live, mut away) = (Vec::new(), Vec::new());
        let mut linked = HashSet::new();
        for link in self.links().values().filter(|link| link.role == Role::Parent) {
            linked.insert(link.node.log);
            live.push(Below { node: link.node.clone(), parent: self.name.clone(), away: false });
            let (theirs_away, theirs) = link.below.iter().cloned().partition::<Vec<_>, _>(|below| below.away);
            live.extend(theirs);
            away.extend(theirs_away);
        }
        for (name, known) in self.book.all() {
            if known.role == "child" && !linked.contains(&known.log()) {
                away.extend(away_below(&self.name, &name, &known));
            }
        }
        let path = self.path.borrow();
        let mut seen: HashSet<LogId> = live.iter().map(|below| below.node.log).collect();
        let elsewhere = self.elsewhere.lock().unwrap_or_else(PoisonError::into_inner);
        let moved = |log: &LogId| elsewhere.get(log).is_some_and(|heard| *heard >= limits::ELSEWHERE_HEARD_MIN);
        seen.extend(path.iter().map(|node| node.log));
        away.retain(|below| !moved(&below.node.log) && !seen.contains(&below.node.log));
        let mut kept: Vec<Below> = Vec::new();
        for below in away.into_iter().take(limits::SUBTREE_NODES_MAX.saturating_sub(live.len())) {
            match kept.iter_mut().find(|known| known.node.log == below.node.log) {
                // Two know it: it is somewhere below, and on no certain link's far side.
                Some(known) => known.parent.clone_from(&self.name),
                None => kept.push(below),
            }
        }
        live.extend(kept);
        live
    }

    /// Heads that came from the parent. A node that was below us and is away, but whose clock goes on up there, is linked
    /// elsewhere by now: what comes back from here alone is never newer than what is known here.
    pub(super) fn heard_above(&self, heads: &[Head]) {
        let newer: Vec<LogId> = {
            let known = self.heads.lock().unwrap_or_else(PoisonError::into_inner);
            let newer = |head: &&Head| known.get(&head.node.log).is_some_and(|before| before.time < head.time);
            heads.iter().filter(newer).map(|head| head.node.log).collect()
        };
        let away: Vec<LogId> = {
            let below = self.below.borrow();
            below.iter().filter(|below| below.away).map(|below| below.node.log).collect()
        };
        let mut found = false;
        for log in newer.into_iter().filter(|log| away.contains(log)) {
            let mut elsewhere = self.elsewhere.lock().unwrap_or_else(PoisonError::into_inner);
            let heard = elsewhere.entry(log).or_default();
            *heard = heard.saturating_add(1);
            found |= *heard == limits::ELSEWHERE_HEARD_MIN;
        }
        if found {
            self.update_below();
            self.copy_wake.notify_one();
        }
    }

    /// A child has linked, with this below it: none of them is elsewhere.
    pub(super) fn heard_below(&self, child: &NodeRef, below: &[Below]) {
        {
            let mut elsewhere = self.elsewhere.lock().unwrap_or_else(PoisonError::into_inner);
            elsewhere.remove(&child.log);
            for below in below.iter().filter(|below| !below.away) {
                elsewhere.remove(&below.node.log);
            }
        }
        if let Err(error) = self.book.saw(&child.name, below) {
            tracing::warn!("what is below {} could not be noted: {error}", child.name);
        }
        self.update_below();
    }

    /// Nodes that were below us are not any more: tables with owners are copied from the parent again, with their rows.
    /// Durably so, before it is noted that they are elsewhere.
    pub(super) async fn copy_owned_again(&self) {
        let Some(database) = &self.database else { return };
        if !self.fewer_below.swap(false, Ordering::Relaxed) {
            return;
        }
        if let Some((_, parent)) = self.book.parent() {
            let link = LinkId(parent.log());
            let followed = database.state.borrow().follows.get(&link).cloned().unwrap_or_default();
            for (table, _) in followed.into_iter().filter(|(table, _)| self.policy.ownership.of(table).is_some()) {
                if let Err(error) = database.ask(|reply| Command::Announced(link, table.clone(), reply)).await {
                    tracing::warn!(%table, "that {table} is copied again is noted later: {error}");
                    return self.fewer_below.store(true, Ordering::Relaxed);
                }
            }
        }
        let below: HashSet<LogId> = self.below.borrow().iter().map(|below| below.node.log).collect();
        if let Err(error) = self.book.forget_below(|log| !below.contains(&log)) {
            tracing::warn!("which nodes are elsewhere is noted later: {error}");
            self.fewer_below.store(true, Ordering::Relaxed);
        }
    }
}

/// A child that is away, and what was below it.
fn away_below(parent: &str, name: &str, known: &Known) -> Vec<Below> {
    let child = NodeRef { name: name.into(), log: known.log() };
    let child = (!known.moved).then(|| Below { node: child, parent: parent.into(), away: true });
    let below = known.below.iter().map(|below| Below {
        node: NodeRef { name: below.name.as_str().into(), log: below.log.parse().unwrap_or_default() },
        parent: below.parent.as_str().into(),
        away: true,
    });
    child.into_iter().chain(below).collect()
}
