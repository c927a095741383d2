//! The database fell out of the log: what it had still to apply was trimmed, because the byte budget was used up (law 9).

use std::collections::BTreeMap;

use super::database::Applying;
use crate::model::{LinkId, Position, TableName};
use crate::view::{Lane, LaneState, Settled, ViewError};

impl Applying {
    /// Goes on at the log's tail, and has every table that a peer sends copied afresh. Tables that only this
    /// database writes lack nothing. In one commit: after a crash it is done again, or is done.
    pub(super) async fn fall_out(&mut self, oldest: Position) -> Result<(), ViewError> {
        let applied = self.view.cursor().await?.map_or(Position::ZERO, |cursor| cursor.position);
        let cursor = self.shared.log.cursor_at(*self.shared.log.tail().borrow());
        let mut senders: BTreeMap<TableName, LinkId> = BTreeMap::new();
        for link in self.senders() {
            for (table, _) in self.view.followed(link).await? {
                senders.entry(table).or_insert(link);
            }
        }
        let mut lanes = self.view.lanes();
        lanes.retain(|lane| {
            let from = match &lane.state {
                LaneState::Copying { from, .. } | LaneState::Replaying { settled: Some(Settled { from, .. }) } => {
                    Some(*from)
                }
                LaneState::Replaying { settled: None } => None,
                // An operator goes on with it; what it then lacks, it is told.
                LaneState::Parked { .. } | LaneState::Paused => {
                    senders.remove(&lane.table);
                    return true;
                }
            };
            if let Some(from) = from {
                senders.entry(lane.table.clone()).or_insert(from);
            }
            false
        });
        let received = |from| self.shared.received(from).map(|cursor| cursor.position).unwrap_or_default();
        let copies = senders.iter().map(|(table, from)| Lane {
            table: table.clone(),
            after: cursor.position,
            state: LaneState::Copying { from: *from, done: None, rows: 0, received: received(*from) },
        });
        lanes.extend(copies);
        self.view.reset(Some(cursor), lanes).await?;
        self.tell(applied, oldest, &senders);
        for link in self.senders() {
            self.look_at_followed(link).await?;
        }
        self.shared.copy_wake.notify_one();
        Ok(())
    }

    fn tell(&self, applied: Position, oldest: Position, senders: &BTreeMap<TableName, LinkId>) {
        let own = self.shared.log.id();
        let from = |link: &LinkId| match link.0 == own {
            true => self.shared.name.to_string(),
            false => self.shared.book.name_of(link.0).unwrap_or_default(),
        };
        let tables: Vec<String> = senders.iter().map(|(table, link)| format!("{table} from {}", from(link))).collect();
        let copied = match tables.is_empty() {
            true => "no table is received here, so nothing is missing in the database".to_owned(),
            false => format!("it copies afresh: {}", tables.join(", ")),
        };
        tracing::error!(
            "error[WS-APPLY-005]: the database fell out of the log: it has applied {applied}, the oldest kept is {oldest}; {copied} / \
             why: the log reached its byte budget while the database could not take what came / do: nothing now; if it comes \
             again, raise retain.bytes of [log.main], or find who locks the database"
        );
    }
}
