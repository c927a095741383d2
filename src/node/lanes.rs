//! Lanes that are replayed from the log until they reach the main cursor.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use super::database::{Applying, Whose};
use crate::log::{Limit, Log};
use crate::model::{LinkId, Position, ReadFrom, TableName};
use crate::stream::FollowError;
use crate::view::{Lane, LaneState, Settled};

/// A lane is replayed for no longer before the others and the main cursor have their turn.
const REPLAY_TURN: Duration = Duration::from_millis(50);

/// Where each lane reads on; only the lane's cursor is durable.
#[derive(Default)]
pub(super) struct LaneReaders(Vec<(TableName, ReadFrom)>, HashMap<TableName, Reached>);

/// When everything that the chunks of a copy may contain had been received, the log had come so far.
struct Reached {
    by: Settled,
    at: Position,
}

impl LaneReaders {
    fn from(&mut self, lane: &Lane) -> ReadFrom {
        match self.0.iter().find(|(table, from)| *table == lane.table && from.after == lane.after) {
            Some((_, from)) => *from,
            None => lane.after.into(),
        }
    }

    /// The lane never goes beyond the main cursor, so neither does its reader.
    fn set(&mut self, table: &TableName, next: ReadFrom, main: Position) {
        self.0.retain(|(known, _)| known != table);
        if next.after < main || (next.after == main && next.part == 0) {
            self.0.push((table.clone(), next));
        }
    }
}

impl Applying {
    /// Replays lanes that are ready; true when one moved.
    pub(super) async fn replay(&mut self, log: &dyn Log, readers: &mut LaneReaders) -> Result<bool, FollowError> {
        let (lanes, released) = (self.view.lanes(), std::mem::take(&mut self.released));
        readers.0.retain(|(table, _)| lanes.iter().any(|lane| lane.table == *table) && !released.contains(table));
        readers.1.retain(|table, _| lanes.iter().any(|lane| lane.table == *table));
        if lanes.iter().any(|lane| matches!(lane.state, LaneState::Replaying { .. })) {
            // A lane joins the main cursor as it will be when everything given is there.
            self.view.flush().await?;
        }
        let mut moved = false;
        for lane in lanes {
            if lane.may_be_free() {
                let set = self.view.set_lane(&lane.table.clone(), Some(lane.resumed())).await;
                match set {
                    Err(error) if !error.is_retryable() => return Err(error.into()),
                    set => moved |= set.is_ok(),
                }
                continue;
            }
            moved |= self.replay_one(lane, log, readers).await?;
        }
        if moved {
            self.publish().await?;
        }
        Ok(moved)
    }

    /// Replays one lane for a while; true when it moved. It joins the main cursor at once when it reaches it: a moment later
    /// that may have moved on, and in a busy log always has.
    async fn replay_one(
        &mut self,
        mut lane: Lane,
        log: &dyn Log,
        readers: &mut LaneReaders,
    ) -> Result<bool, FollowError> {
        let (began, mut moved) = (Instant::now(), false);
        loop {
            let LaneState::Replaying { settled } = &lane.state else {
                readers.0.retain(|(table, _)| *table != lane.table);
                return Ok(moved);
            };
            let Some(main) = self.view.cursor().await? else { return Ok(moved) };
            if lane.after >= main.position {
                if settled.is_none_or(|by| self.is_settled(&lane.table, by, main.position, readers)) {
                    self.join(&lane, *settled).await?;
                    return Ok(true);
                }
                return Ok(moved);
            }
            if began.elapsed() > REPLAY_TURN {
                return Ok(moved);
            }
            let from = readers.from(&lane);
            let mut batch = match log.read(from, Limit::default()).await {
                Ok(batch) => batch,
                Err(error) => {
                    tracing::error!(table = %lane.table, "error[WS-APPLY-004]: the lane of {} cannot be replayed: {error} / do: `watershed source resync {}{}`", lane.table, self.database.prefix, lane.table);
                    let position = lane.after.next();
                    let parked = lane.clone().parked(position, error.to_string());
                    self.view.set_lane(&lane.table, Some(parked)).await?;
                    return Ok(moved);
                }
            };
            if let Some(copy) = settled {
                batch.entries.retain(|logged| logged.from != copy.from || logged.position > copy.cut);
            }
            match self.view.apply_lane(&lane.table, &batch).await {
                Ok(()) => readers.set(&lane.table, batch.next, main.position),
                Err(error) if error.is_retryable() => return Ok(moved),
                Err(error) => return Err(error.into()),
            }
            if batch.next == from {
                return Ok(moved);
            }
            moved = true;
            let now = self.view.lanes().into_iter().find(|now| now.table == lane.table);
            let Some(now) = now else { return Ok(moved) };
            lane = now;
        }
    }

    /// Those from whom tables are copied.
    pub(super) fn senders(&self) -> Vec<LinkId> {
        match self.whose {
            Whose::Nodes => self.shared.book.all().into_iter().map(|(_, known)| LinkId(known.log())).collect(),
            Whose::Copys => vec![LinkId(self.shared.log.id())],
        }
    }

    /// Whether everything that the chunks may contain is applied: what is received may still wait in the log, and rows that
    /// are ahead of it would conflict with it once the table moves with the others.
    fn is_settled(&self, table: &TableName, by: Settled, applied: Position, readers: &mut LaneReaders) -> bool {
        if self.whose == Whose::Copys {
            return applied >= by.upto;
        }
        if self.shared.received(by.from).map(|cursor| cursor.position).unwrap_or_default() < by.upto {
            return false;
        }
        let tail = *self.shared.log.tail().borrow();
        let known = readers.1.entry(table.clone()).or_insert(Reached { by, at: tail });
        if known.by != by {
            *known = Reached { by, at: tail };
        }
        applied >= known.at
    }

    /// The lane has reached the main cursor.
    async fn join(&mut self, lane: &Lane, settled: Option<Settled>) -> Result<(), FollowError> {
        // Announced first: a crash in between announces it twice, which costs a copy; the other way round would lose it.
        if let Some(Settled { from, .. }) = settled
            && self.whose == Whose::Nodes
            && !super::copies::log_copied(&self.shared, from, &lane.table).await
        {
            return Ok(());
        }
        self.view.set_lane(&lane.table, None).await?;
        if settled.is_none() {
            tracing::info!(table = %lane.table, "table {} has caught up and moves with the others again", lane.table);
        }
        Ok(())
    }
}
