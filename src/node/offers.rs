//! What peers offer: whether it may flow, and what follows from a change of it.

use super::database::Command;
use super::host::{NodeHost, refusal};
use crate::model::{LinkId, Timestamp};
use crate::peer::{Control, Hello, NodeRef, Offer, Refusal, Role};

impl NodeHost {
    /// A table sent both ways needs an owner at both ends (law 6), or both must accept that it may diverge.
    pub(super) fn check_two_way(&self, role: Role, peer: &NodeRef, offers: &[Offer]) -> Result<(), Refusal> {
        let policy = &self.0.policy;
        let send = policy.send(role, &peer.name);
        for offer in offers {
            let table = &offer.table.name;
            if !send.selection.matches(table) {
                continue;
            }
            let owned = offer.owned && policy.ownership.of(table).is_some();
            let diverge = offer.may_diverge && policy.may_diverge.contains(table);
            if !owned && !diverge {
                let message = format!(
                    "table {table} is sent both ways between {:?} and {:?} without an owner at both ends / why: two nodes could \
                     write one row, and nobody could say which is right / do: set [table.{table}] owner or owner_by at both, or \
                     accept it with conflicts = \"may-diverge\" at both",
                    self.0.name, peer.name
                );
                return Err(refusal("WS-OWN-002", message, false));
            }
        }
        Ok(())
    }

    /// A child that joins another parent than before copies everything from it, also where it followed it earlier: the
    /// tables have followed another one since.
    pub(super) async fn leave_parent(&self, role: Role, peer: &Hello) {
        let (shared, link) = (&self.0, LinkId(peer.node.log));
        let Some(database) = shared.database.as_ref().filter(|_| role == Role::Child) else { return };
        let Some((before, _)) = shared.book.parent().filter(|(_, known)| known.log() != peer.node.log) else { return };
        tracing::info!("the parent is {} now, it was {before}: its tables are copied", peer.node.name);
        let followed = database.ask(|reply| Command::Followed(link, reply)).await;
        let forgotten = async {
            for (table, _) in followed? {
                database.ask(|reply| Command::SetFollowed(link, table, None, reply)).await?;
            }
            Ok::<(), crate::view::ViewError>(())
        };
        if let Err(error) = forgotten.await {
            tracing::warn!("what was followed from {} before stays followed: {error}", peer.node.name);
        }
    }

    /// The peer offers other tables than before, or offers them in another way.
    pub(super) async fn offered(&self, peer: LinkId, offers: Vec<Offer>) {
        let shared = &self.0;
        let (role, node, handle, anew) = {
            let mut links = shared.links();
            let Some(link) = links.get_mut(&peer) else { return };
            let anew = offers.iter().any(|offer| {
                let same = |known: &&Offer| known.table.fingerprint == offer.table.fingerprint;
                link.offers.iter().find(same).is_some_and(|known| known.under != offer.under)
            });
            (link.role, link.node.clone(), link.handle.clone(), anew)
        };
        if let Err(refusal) = self.check_two_way(role, &node, &offers) {
            tracing::error!("{refusal}");
            shared.refusals().insert(node.name.to_string(), (Timestamp::now(), refusal.to_string()));
            handle.send(Control::Close(refusal)).await;
            return;
        }
        // On one link, selection and filter stay the same, so the sender begins anew with us.
        if anew && shared.received(peer).is_some() {
            shared.counters.fell_out.add(1);
            tracing::warn!(
                "{} begins anew: its log no longer reaches back to what is here of it, or it had forgotten this node; its \
                 tables are copied afresh",
                node.name
            );
        }
        if let Some(link) = shared.links().get_mut(&peer) {
            link.offers = offers;
        }
        shared.copy_wake.notify_one();
    }
}
