//! Lanes of single tables: their replay, their joining of the main cursor, and which peer a table follows.

use std::collections::HashMap;

use async_trait::async_trait;

use super::pass::{Pass, PassFail, Scope, Trouble, parked};
use super::write::Mode;
use super::{Applier, store};
use crate::model::{Batch, Cursor, Fingerprint, LinkId, Position, TableName};
use crate::view::{CopyChunk, CopyScope, Lane, LaneState, LaneView, RowGuard, ViewError, Work, blocking};

impl Applier {
    fn main_position(&self) -> Position {
        self.held.map_or(Position::ZERO, |cursor| cursor.position)
    }

    /// Removes the lane if it has reached the main cursor, and says whether the table now moves with main. True also
    /// for a table without a lane.
    ///
    /// # Errors
    /// As for every write; [`ViewError::Failed`] for a lane that is not replaying.
    pub async fn join_lane(&mut self, table: &TableName) -> Result<bool, ViewError> {
        blocking(|| {
            self.transact(|applier| {
                let Some(lane) = applier.lanes.get(table) else { return Ok(true) };
                if !matches!(lane.state, LaneState::Replaying { .. }) {
                    return Err(ViewError::Failed(format!("the lane of {table} is not replaying: {:?}", lane.state)));
                }
                if lane.after < applier.main_position() {
                    return Ok(false);
                }
                applier.remove_lane(table)?;
                Ok(true)
            })
        })
    }

    fn remove_lane(&mut self, table: &TableName) -> Result<(), ViewError> {
        store::drop_lane(&self.conn, table).map_err(|e| self.fail(e))?;
        self.lanes.remove(table);
        Ok(())
    }

    pub(super) fn put_lane(&mut self, lane: Lane) -> Result<(), ViewError> {
        store::put_lane(&self.conn, &lane).map_err(|e| self.fail(e))?;
        self.lanes.insert(lane.table.clone(), lane);
        Ok(())
    }

    fn change_lane(&mut self, table: &TableName, lane: Option<Lane>) -> Result<(), ViewError> {
        let main = self.main_position();
        match lane {
            Some(lane) if lane.table != *table => {
                Err(ViewError::Failed(format!("a lane of {} was given for {table}", lane.table)))
            }
            Some(lane) if lane.after > main => Err(ViewError::Failed(format!(
                "the lane of {table} would stand at {}, beyond the main cursor at {main}",
                lane.after
            ))),
            Some(lane) => self.put_lane(lane),
            None => match self.lanes.get(table) {
                None => Ok(()),
                Some(lane) if !matches!(lane.state, LaneState::Copying { .. }) && lane.after < main => {
                    Err(ViewError::Failed(format!(
                        "the lane of {table} stands at {}, the main cursor at {main}: changes in between would be lost",
                        lane.after
                    )))
                }
                Some(_) => self.remove_lane(table),
            },
        }
    }

    fn replay(&mut self, table: &TableName, batch: &Batch) -> Result<(), ViewError> {
        let known = self.lanes.get(table).cloned();
        let Some(lane) = known else { return Err(ViewError::Failed(format!("{table} has no lane"))) };
        let mode = match lane.state {
            LaneState::Replaying { settled: Some(_) } => Mode::Convergent,
            LaneState::Replaying { settled: None } => Mode::Strict,
            other => return Err(ViewError::Failed(format!("the lane of {table} is not replaying: {other:?}"))),
        };
        let upto = batch.upto.position.min(self.main_position());
        let mut spools = self.lane_spools.remove(table).unwrap_or_default();
        let folder = self.options.folder();
        let done = spools.take(batch, lane.after, self.main_position(), &folder).and_then(|mut work| {
            let mut trouble: Option<Trouble> = None;
            loop {
                let tried = self.transact(|applier| {
                    let stored = applier.lanes.get(table);
                    if stored != Some(&lane) {
                        let why = format!("the lane of {table} was changed: expected {lane:?}, found {stored:?}");
                        return Err(ViewError::Failed(why).into());
                    }
                    applier.replay_pass(table, batch, &work, mode, &mut spools)?;
                    let next = match &trouble {
                        Some(trouble) => {
                            let after = parked(trouble).after;
                            Lane { after, ..lane.clone() }.parked(trouble.position, trouble.why.clone())
                        }
                        None => Lane { after: upto.max(lane.after), ..lane.clone() },
                    };
                    Ok(applier.put_lane(next)?)
                });
                match tried {
                    Ok(()) => return Ok(()),
                    Err(PassFail::View(error)) => return Err(error),
                    // What comes before the failing entry is applied, the entry itself waits in the parked lane.
                    Err(PassFail::Table(found)) => {
                        work.retain(|item| item.position() < found.position);
                        trouble = Some(found);
                    }
                }
            }
        });
        if done.is_ok() {
            spools.forget(upto);
        }
        let replaying = matches!(self.lanes.get(table), Some(Lane { state: LaneState::Replaying { .. }, .. }));
        if replaying && !spools.is_empty() {
            self.lane_spools.insert(table.clone(), spools);
        }
        done
    }

    fn replay_pass(
        &mut self,
        table: &TableName,
        batch: &Batch,
        work: &[Work<'_>],
        mode: Mode,
        spools: &mut crate::view::Spools,
    ) -> Result<(), PassFail> {
        let options = &self.options;
        let fail = |error| super::view_error(options, error);
        let mut pass = Pass {
            conn: &self.conn,
            targets: &mut self.targets,
            spools,
            scope: Scope::Lane(table),
            mode,
            fail: &fail,
            sequences: HashMap::new(),
            torn: 0,
        };
        pass.run(work, &batch.catalog)
    }
}

#[async_trait]
impl LaneView for Applier {
    fn lanes(&self) -> Vec<Lane> {
        self.lanes.values().cloned().collect()
    }

    /// Removing a lane that is behind the main cursor is refused, unless it is being copied (the copy is given up).
    async fn set_lane(&mut self, table: &TableName, lane: Option<Lane>) -> Result<(), ViewError> {
        blocking(|| {
            self.lane_spools.remove(table);
            self.transact(|applier| applier.change_lane(table, lane))
        })
    }

    /// After a copy (`settled` is known) the replay wins over whatever is in its way; otherwise (a retried table) it is
    /// as strict as main. A failure parks the lane.
    async fn apply_lane(&mut self, table: &TableName, batch: &Batch) -> Result<(), ViewError> {
        blocking(|| self.replay(table, batch))
    }

    async fn copy_chunk(&mut self, chunk: &CopyChunk, scope: &CopyScope, mine: RowGuard<'_>) -> Result<(), ViewError> {
        blocking(|| self.transact(|applier| applier.write_chunk(chunk, scope, mine)))
    }

    async fn followed(&mut self, from: LinkId) -> Result<Vec<(TableName, Fingerprint)>, ViewError> {
        blocking(|| store::followed(&self.conn, from).map_err(|e| self.fail(e)))
    }

    async fn set_followed(
        &mut self,
        from: LinkId,
        table: &TableName,
        under: Option<Fingerprint>,
    ) -> Result<(), ViewError> {
        blocking(|| {
            self.transact(|applier| store::set_followed(&applier.conn, from, table, under).map_err(|e| applier.fail(e)))
        })
    }

    fn torn(&self) -> u64 {
        self.torn
    }

    async fn reset(&mut self, cursor: Option<Cursor>, lanes: Vec<Lane>) -> Result<(), ViewError> {
        blocking(|| {
            self.transact(|applier| {
                let forgotten =
                    store::set_cursor(&applier.conn, cursor).and_then(|()| store::drop_lanes(&applier.conn));
                forgotten.map_err(|e| applier.fail(e))?;
                applier.lanes.clear();
                for lane in lanes {
                    if matches!(lane.state, LaneState::Copying { .. }) {
                        store::unfollow(&applier.conn, &lane.table).map_err(|e| applier.fail(e))?;
                    }
                    applier.put_lane(lane)?;
                }
                Ok::<_, ViewError>(())
            })?;
            self.held = cursor;
            self.spools = Default::default();
            self.lane_spools.clear();
            Ok(())
        })
    }
}
