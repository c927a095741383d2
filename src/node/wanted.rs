//! Which copy is to be made next, and which are given up.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::time::Instant;

use super::copies::{Routes, lock};
use super::database::Command;
use super::shared::Shared;
use crate::model::{LinkId, Position, Row, TableName, limits};
use crate::peer::{LinkHandle, Offer, Role};
use crate::view::{CopyScope, Lane, LaneState, Settled};

/// A copy that is to be made.
pub(super) struct Wanted {
    pub link: LinkId,
    pub peer: Box<str>,
    pub role: Role,
    pub handle: LinkHandle,
    pub offer: Offer,
    /// The table has its lane already: the copy goes on after this key.
    pub begun: Option<Option<Row>>,
}

impl Wanted {
    pub(super) fn key(&self) -> (LinkId, TableName) {
        (self.link, self.offer.table.name.clone())
    }

    pub(super) fn is_keyless(&self) -> bool {
        self.offer.table.key_columns().is_empty()
    }

    /// Which rows the copy may remove here.
    pub(super) fn scope(&self, shared: &Shared) -> CopyScope {
        let table = &self.offer.table.name;
        let owned = shared.policy.ownership.of(table).is_some();
        // Rows without a key cannot be overwritten; what comes from above, and from nowhere else, is replaced.
        let replaced = self.is_keyless() && !self.offer.may_diverge && self.role == Role::Child;
        match owned || replaced || self.offer.whole && self.role == Role::Child {
            true => CopyScope::All,
            false => CopyScope::UpsertOnly,
        }
    }
}

/// The next copy to make: an offered table that does not follow its peer under the offered selection and filter, or whose
/// copy was interrupted.
pub(super) async fn wanted(shared: &Arc<Shared>, absent: &mut Absent, under_way: &Routes) -> Option<Wanted> {
    let database = shared.database.as_ref()?;
    let links: Vec<_> = {
        let links = shared.links();
        links
            .iter()
            .map(|(id, link)| (*id, link.role, link.node.name.clone(), link.handle.clone(), link.offers.clone()))
            .collect()
    };
    let lanes = database.state.borrow().lanes.clone();
    absent.look(&lanes, |peer| links.iter().any(|(link, ..)| *link == peer));
    let offers = |table: &TableName, offers: &[Offer]| offers.iter().any(|offer| offer.table.name == *table);
    let given_up = |table: &TableName, from: LinkId, begun: bool| match links.iter().find(|(link, ..)| *link == from) {
        Some((.., offered)) => !offers(table, offered),
        // What others have of the table does not wait for a peer that is away.
        None => absent.gives_way(from, begun) && links.iter().any(|(.., offered)| offers(table, offered)),
    };
    release_forgotten(shared, &lanes, given_up).await;
    shared.copy_owned_again().await;
    for (link, role, peer, handle, offers) in links {
        let followed = database.ask(|reply| Command::Followed(link, reply)).await.ok()?;
        for offer in offers {
            let table = &offer.table.name;
            if followed.iter().any(|(name, under)| name == table && *under == offer.under) {
                continue;
            }
            if lock(under_way).keys().any(|(_, copied)| copied == table) {
                continue;
            }
            // A table that its sender does not give now holds up no other.
            if shared.copy_waits().get(table).is_some_and(|wait| wait.until > std::time::Instant::now()) {
                continue;
            }
            let begun = match lanes.iter().find(|lane| lane.table == *table).map(|lane| &lane.state) {
                Some(LaneState::Copying { from, done, .. }) if *from == link => Some(done.clone()),
                _ if only_ours(shared, role, &offer) => continue,
                None => None,
                // It failed before it was ever copied under this offer, as a table that is not there yet: the copy
                // supersedes what it failed at.
                Some(LaneState::Parked { before: None, .. }) => None,
                // Another copy, a replay or an operator has the table; it is looked at again when that has ended.
                Some(_) => continue,
            };
            let (peer, handle) = (peer.clone(), handle.clone());
            return Some(Wanted { link, peer, role, handle, offer, begun });
        }
    }
    None
}

/// Peers that are away in the middle of a copy.
#[derive(Default)]
pub(super) struct Absent(HashMap<LinkId, Instant>);

impl Absent {
    fn look(&mut self, lanes: &[Lane], linked: impl Fn(LinkId) -> bool) {
        let away: Vec<LinkId> = lanes
            .iter()
            .filter_map(|lane| if let LaneState::Copying { from, .. } = lane.state { Some(from) } else { None })
            .filter(|from| !linked(*from))
            .collect();
        self.0.retain(|peer, _| away.contains(peer));
        for peer in away {
            self.0.entry(peer).or_insert_with(Instant::now);
        }
    }

    /// Whether a copy from that peer is given up for one from another; it is made again when the peer is back. One that
    /// has come some way waits a while.
    fn gives_way(&self, peer: LinkId, begun: bool) -> bool {
        self.0.get(&peer).is_some_and(|since| !begun || since.elapsed() > limits::COPY_ABSENT_MAX)
    }
}

/// Lanes that wait for a peer which an operator has dropped, which has withdrawn the table, or which is away while others
/// have it, wait no longer: a copy from it is given up, and the table goes on with what came.
async fn release_forgotten(shared: &Shared, lanes: &[Lane], given_up: impl Fn(&TableName, LinkId, bool) -> bool) {
    let Some(database) = &shared.database else { return };
    for lane in lanes {
        let from = match &lane.state {
            LaneState::Copying { from, done, .. }
                if shared.book.name_of(from.0).is_none() || given_up(&lane.table, *from, done.is_some()) =>
            {
                *from
            }
            LaneState::Replaying { settled: Some(Settled { from, upto, .. }) }
                if *upto != Position::ZERO && shared.book.name_of(from.0).is_none() =>
            {
                *from
            }
            _ => continue,
        };
        if let Err(error) = database.ask(|reply| Command::Release(lane.table.clone(), from, false, reply)).await {
            tracing::warn!(table = %lane.table, "{error}");
        }
    }
}

/// Tables of which no row would be taken are not copied: from others those that only this node writes, and from the parent
/// those that only this node and nodes below it write.
pub(super) fn only_ours(shared: &Shared, role: Role, offer: &Offer) -> bool {
    use crate::stream::Owner;
    let Some(Owner::Nodes(nodes)) = shared.policy.ownership.of(&offer.table.name) else { return false };
    let is_here = |name: &str| *name == *shared.name;
    let is_below = |name: &str| shared.below.borrow().iter().any(|below| *below.node.name == *name);
    nodes.iter().all(|name| is_here(name) || role == Role::Child && is_below(name))
}
