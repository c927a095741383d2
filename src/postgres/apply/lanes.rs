//! Lanes of single tables: their replay, their joining of the main cursor, and which peer a table follows.

use std::collections::BTreeMap;

use async_trait::async_trait;

use super::link::{Fail, Link};
use super::pass::{Pass, PassFail, Scope, Trouble, parked};
use super::shape::Mode;
use super::{PgApplier, store};
use crate::model::{Batch, Cursor, Fingerprint, LinkId, TableName};
use crate::view::{CopyChunk, CopyScope, LOCKED, Lane, LaneState, LaneView, RowGuard, Spools, ViewError, Work};

/// What is written to our own tables.
enum Write<'a> {
    PutLane(&'a Lane),
    DropLane(&'a TableName),
    Follow(LinkId, &'a TableName, Option<Fingerprint>),
    Reset(Option<Cursor>, &'a [Lane]),
}

async fn write(link: &Link, what: &Write<'_>) -> Result<(), tokio_postgres::Error> {
    let client = link.client();
    match what {
        Write::PutLane(lane) => store::put_lane(client, lane).await,
        Write::DropLane(table) => store::drop_lane(client, table).await,
        Write::Follow(from, table, under) => store::set_followed(client, *from, table, *under).await,
        Write::Reset(cursor, lanes) => {
            if cursor.is_none() {
                store::drop_cursor(client).await?;
            }
            store::drop_lanes(client).await?;
            for lane in *lanes {
                if matches!(lane.state, LaneState::Copying { .. }) {
                    store::unfollow(client, &lane.table).await?;
                }
                store::put_lane(client, lane).await?;
            }
            Ok(())
        }
    }
}

impl PgApplier {
    /// Removes the lane if it has reached the main cursor, and says whether the table now moves with main. True also
    /// for a table without a lane.
    ///
    /// # Errors
    /// As for every write; [`ViewError::Failed`] for a lane that is not replaying.
    pub async fn join_lane(&mut self, table: &TableName) -> Result<bool, ViewError> {
        self.ready().await?;
        let Some(lane) = self.lanes.get(table) else { return Ok(true) };
        if !matches!(lane.state, LaneState::Replaying { .. }) {
            return Err(ViewError::Failed(format!("the lane of {table} is not replaying: {:?}", lane.state)));
        }
        if lane.after < self.main_position() {
            return Ok(false);
        }
        self.set(None, Write::DropLane(table)).await?;
        self.lanes.remove(table);
        Ok(true)
    }

    /// Everything given is there, and the session stands.
    async fn ready(&mut self) -> Result<(), ViewError> {
        self.link().await?;
        self.settle().await?;
        self.link().await.map(drop)
    }

    /// Writes to our own tables in one durable commit, in which the cursor is compared, and set if one is given.
    async fn set(&mut self, to: Option<Cursor>, what: Write<'_>) -> Result<(), ViewError> {
        self.ready().await?;
        let (link, held) = (self.link.as_ref().expect("opened above"), self.held);
        let done = async {
            link.begin(held, to, true).await?;
            write(link, &what).await.map_err(|e| link.sort("writing Watershed's tables", e))?;
            link.commit().await
        };
        let done = done.await;
        if done.is_err() {
            link.roll_back().await;
        }
        done.map_err(|fail| self.view_fail(fail))
    }

    async fn change_lane(&mut self, table: &TableName, lane: Option<Lane>) -> Result<(), ViewError> {
        let main = self.main_position();
        match lane {
            Some(lane) if lane.table != *table => {
                Err(ViewError::Failed(format!("a lane of {} was given for {table}", lane.table)))
            }
            Some(lane) if lane.after > main => Err(ViewError::Failed(format!(
                "the lane of {table} would stand at {}, beyond the main cursor at {main}",
                lane.after
            ))),
            Some(lane) => {
                self.set(None, Write::PutLane(&lane)).await?;
                self.lanes.insert(table.clone(), lane);
                Ok(())
            }
            None => match self.lanes.get(table) {
                None => Ok(()),
                Some(lane) if !matches!(lane.state, LaneState::Copying { .. }) && lane.after < main => {
                    Err(ViewError::Failed(format!(
                        "the lane of {table} stands at {}, the main cursor at {main}: changes in between would be lost",
                        lane.after
                    )))
                }
                Some(_) => {
                    self.set(None, Write::DropLane(table)).await?;
                    self.lanes.remove(table);
                    Ok(())
                }
            },
        }
    }

    async fn replay(&mut self, table: &TableName, batch: &Batch) -> Result<(), ViewError> {
        self.ready().await?;
        let known = self.lanes.get(table).cloned();
        let Some(lane) = known else { return Err(ViewError::Failed(format!("{table} has no lane"))) };
        let mode = match lane.state {
            LaneState::Replaying { settled: Some(_) } => Mode::Convergent,
            LaneState::Replaying { settled: None } => Mode::Strict,
            other => return Err(ViewError::Failed(format!("the lane of {table} is not replaying: {other:?}"))),
        };
        let upto = batch.upto.position.min(self.main_position());
        let mut spools = self.lane_spools.remove(table).unwrap_or_default();
        let taken = spools.take(batch, lane.after, self.main_position(), &self.options.spool_dir);
        let done = match taken {
            Ok(work) => self.replay_work(&lane, batch, work, mode, &mut spools).await,
            Err(error) => Err(error),
        };
        if done.is_ok() {
            spools.forget(upto);
        }
        let replaying = matches!(self.lanes.get(table), Some(Lane { state: LaneState::Replaying { .. }, .. }));
        if replaying && !spools.is_empty() {
            self.lane_spools.insert(table.clone(), spools);
        }
        done
    }

    async fn replay_work(
        &mut self,
        lane: &Lane,
        batch: &Batch,
        mut work: Vec<Work<'_>>,
        mode: Mode,
        spools: &mut Spools,
    ) -> Result<(), ViewError> {
        let upto = batch.upto.position.min(self.main_position());
        let mut trouble: Option<Trouble> = None;
        let mut singly = false;
        loop {
            let next = match &trouble {
                Some(trouble) => {
                    let after = parked(trouble).after;
                    Lane { after, ..lane.clone() }.parked(trouble.position, trouble.why.clone())
                }
                None => Lane { after: upto.max(lane.after), ..lane.clone() },
            };
            match self.replay_pass(&next, batch, &work, mode, spools, singly).await {
                Ok(()) => {
                    self.lanes.insert(next.table.clone(), next);
                    return Ok(());
                }
                // Whoever holds a lock on the table holds up no other by it.
                Err(PassFail::View(_)) if trouble.is_none() && self.link.as_ref().is_some_and(Link::has_waited) => {
                    let why = format!("{LOCKED}, and it is tried again by itself");
                    trouble = Some(Trouble { table: lane.table.clone(), position: lane.after.next(), why });
                    work.clear();
                }
                Err(PassFail::View(error)) => return Err(self.view_fail(Fail::View(error))),
                // What comes before the failing entry is applied, the entry itself waits in the parked lane.
                Err(PassFail::Table(found)) => {
                    singly = false;
                    work.retain(|item| item.position() < found.position);
                    trouble = Some(found);
                }
                Err(PassFail::Some(why)) if singly => return Err(ViewError::Failed(why)),
                Err(PassFail::Some(_)) => singly = true,
            }
        }
    }

    async fn replay_pass(
        &mut self,
        next: &Lane,
        batch: &Batch,
        work: &[Work<'_>],
        mode: Mode,
        spools: &mut Spools,
        singly: bool,
    ) -> Result<(), PassFail> {
        self.link().await?;
        let PgApplier { link, targets, held, .. } = self;
        let link = link.as_mut().expect("opened above");
        let mut pass = Pass::new(link, targets, Scope::Lane(&next.table), mode);
        pass.singly = singly;
        let mut done = pass.link.begin(*held, None, false).await.map_err(PassFail::from);
        if done.is_ok() {
            pass.open = true;
            done = pass.run(work, &batch.catalog, spools).await;
        }
        if done.is_ok() {
            let put = store::put_lane(link.client(), next).await;
            done = match put {
                Ok(()) => link.commit().await.map_err(PassFail::from),
                Err(error) => Err(PassFail::View(link.view_error("storing a lane", error))),
            };
        }
        if done.is_err() {
            link.roll_back().await;
            link.forget_loops();
            targets.clear();
        }
        done
    }
}

#[async_trait]
impl LaneView for PgApplier {
    fn lanes(&self) -> Vec<Lane> {
        self.lanes.values().cloned().collect()
    }

    /// Removing a lane that is behind the main cursor is refused, unless it is being copied (the copy is given up).
    async fn set_lane(&mut self, table: &TableName, lane: Option<Lane>) -> Result<(), ViewError> {
        self.ready().await?;
        self.lane_spools.remove(table);
        self.change_lane(table, lane).await
    }

    /// After a copy (`settled` is known) the replay wins over whatever is in its way; otherwise (a retried table) it is
    /// as strict as main. A failure parks the lane.
    async fn apply_lane(&mut self, table: &TableName, batch: &Batch) -> Result<(), ViewError> {
        self.replay(table, batch).await
    }

    async fn copy_chunk(&mut self, chunk: &CopyChunk, scope: &CopyScope, mine: RowGuard<'_>) -> Result<(), ViewError> {
        self.ready().await?;
        self.write_chunk(chunk, scope, mine).await
    }

    async fn followed(&mut self, from: LinkId) -> Result<Vec<(TableName, Fingerprint)>, ViewError> {
        self.ready().await?;
        let link = self.link.as_ref().expect("opened above");
        let followed = store::followed(link.client(), from).await.map_err(|e| link.sort("reading who follows whom", e));
        followed.map_err(|fail| self.view_fail(fail))
    }

    async fn set_followed(
        &mut self,
        from: LinkId,
        table: &TableName,
        under: Option<Fingerprint>,
    ) -> Result<(), ViewError> {
        self.set(None, Write::Follow(from, table, under)).await
    }

    fn torn(&self) -> u64 {
        self.torn
    }

    async fn reset(&mut self, cursor: Option<Cursor>, lanes: Vec<Lane>) -> Result<(), ViewError> {
        self.set(cursor, Write::Reset(cursor, &lanes)).await?;
        self.held = cursor;
        self.attempted = None;
        self.lanes = lanes.into_iter().map(|lane| (lane.table.clone(), lane)).collect::<BTreeMap<_, _>>();
        self.give_up();
        self.fresh.clear();
        Ok(())
    }
}
