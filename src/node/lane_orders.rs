//! What is ordered of the lanes of a database: copies that begin, end, begin again or are given up.

use super::database::{Applying, Finished, Whose};
use crate::model::{Fingerprint, LinkId, Position, TableName};
use crate::view::{CopyScope, Lane, LaneState, Settled, ViewError};

impl Applying {
    pub(super) async fn announced(&mut self, link: LinkId, table: &TableName) -> Result<(), ViewError> {
        *self.announcements.entry((link, table.clone())).or_default() += 1;
        self.view.set_followed(link, table, None).await?;
        self.look_at_followed(link).await?;
        let lane = self.view.lanes().into_iter().find(|lane| lane.table == *table);
        match lane {
            Some(Lane { after, state: LaneState::Copying { from, received, .. }, .. }) if from == link => {
                let state = LaneState::Copying { from, done: None, rows: 0, received };
                self.view.set_lane(table, Some(Lane { table: table.clone(), after, state })).await
            }
            _ => Ok(()),
        }
    }

    pub(super) async fn finish_copy(&mut self, finished: Finished) -> Result<(), ViewError> {
        let Finished { table, from, under, settled, announcements, cut } = finished;
        let now = self.announcements.get(&(from, table.clone())).copied().unwrap_or_default();
        let lane = self.view.lanes().into_iter().find(|lane| lane.table == table);
        let Some(lane) =
            lane.filter(|lane| matches!(lane.state, LaneState::Copying { from: link, .. } if link == from))
        else {
            return Ok(());
        };
        if now != announcements {
            tracing::info!(%table, "table {table} was to be copied anew while it was copied; it is copied again");
            return Ok(());
        }
        // The lane first: a crash in between copies the table again; the other way round the lane would wait for ever.
        // What came from others up to the cut is replayed, too, where whose each row is is known; a copy in the same process
        // has all of it.
        let is_mixed = self.whose == Whose::Nodes && self.shared.policy.ownership.is_one(&table);
        let after = cut.filter(|_| !is_mixed).unwrap_or(lane.after);
        let cut = cut.unwrap_or_default();
        let state = LaneState::Replaying { settled: settled.map(|upto| Settled { from, upto, cut }) };
        self.view.set_lane(&table, Some(Lane { table: table.clone(), after, state })).await?;
        self.view.set_followed(from, &table, Some(under)).await?;
        self.look_at_followed(from).await.map(drop)
    }

    pub(super) async fn begin_copy(
        &mut self,
        table: TableName,
        from: LinkId,
        scope: CopyScope,
    ) -> Result<(), ViewError> {
        let main = self.view.cursor().await?.map_or(Position::ZERO, |cursor| cursor.position);
        // What the main cursor has passed over for a lane is still to be replayed. A parked lane is given up by its operator;
        // but rows that were deleted in what it has missed would stay, where the copy removes none.
        let standing = self.view.lanes().into_iter().find(|lane| lane.table == table);
        self.begins_untouched(&table, standing.as_ref());
        if scope == CopyScope::All && matches!(&standing, Some(Lane { state: LaneState::Parked { .. }, .. })) {
            self.forget_others(&table, from).await?;
        }
        let after = standing
            .filter(|lane| scope != CopyScope::All || !matches!(lane.state, LaneState::Parked { .. }))
            .map_or(main, |lane| lane.after.min(main));
        // A copy that has ended in the meantime has noted that the table follows: the lane would wait for ever.
        self.view.set_followed(from, &table, None).await?;
        let received = match self.whose {
            Whose::Nodes => self.shared.received(from).map(|cursor| cursor.position).unwrap_or_default(),
            Whose::Copys => after,
        };
        let state = LaneState::Copying { from, done: None, rows: 0, received };
        let lane = Lane { table: table.clone(), after, state };
        self.view.set_lane(&table, Some(lane)).await
    }

    pub(super) async fn pass_over(&mut self, table: &TableName) -> Result<(), ViewError> {
        let lane = self.view.lanes().into_iter().find(|lane| lane.table == *table);
        let Some(lane) = lane else { return Err(ViewError::Failed(format!("table {table} is not parked"))) };
        let LaneState::Parked { position, .. } = lane.state else {
            return Err(ViewError::Failed(format!("table {table} is not parked")));
        };
        let resumed = lane.resumed();
        if matches!(resumed.state, LaneState::Copying { .. }) {
            let why = format!("the copy of table {table} failed, and no entry can be passed over: mend it and retry");
            return Err(ViewError::Failed(why));
        }
        self.view.set_lane(table, Some(Lane { after: position, ..resumed })).await
    }

    /// See [`super::database::Command::Release`].
    pub(super) async fn release(&mut self, table: &TableName, from: LinkId, untouched: bool) -> Result<(), ViewError> {
        let Some(lane) = self.view.lanes().into_iter().find(|lane| lane.table == *table) else { return Ok(()) };
        let settled = match lane.state {
            LaneState::Copying { from: link, .. } if link == from && (!untouched || self.untouched.contains(table)) => {
                None
            }
            // What the copy contains must not be written again.
            LaneState::Replaying { settled: Some(copy) } if copy.from == from && !untouched => {
                Some(Settled { upto: Position::ZERO, ..copy })
            }
            _ => return Ok(()),
        };
        self.released.push(table.clone());
        self.view.set_lane(table, Some(Lane { state: LaneState::Replaying { settled }, ..lane })).await
    }

    /// A copy begins: notes whether anything of one may have been written.
    fn begins_untouched(&mut self, table: &TableName, standing: Option<&Lane>) {
        if matches!(standing.map(|lane| &lane.state), None | Some(LaneState::Parked { before: None, .. })) {
            self.untouched.insert(table.clone());
        }
    }

    /// What a parked lane has missed is in no copy from one peer alone where others send the table, too: it is copied from
    /// them again.
    async fn forget_others(&mut self, table: &TableName, from: LinkId) -> Result<(), ViewError> {
        let follows = |tables: &[(TableName, Fingerprint)]| tables.iter().any(|(name, _)| name == table);
        let others = self.follows.iter().filter(|(link, tables)| **link != from && follows(tables));
        let others: Vec<LinkId> = others.map(|(link, _)| *link).collect();
        for link in others {
            self.view.set_followed(link, table, None).await?;
            self.look_at_followed(link).await?;
        }
        Ok(())
    }
}
