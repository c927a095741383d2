//! How the copies of a node's database are doing.

use serde::Serialize;

use super::lane_status::{TableStatus, of_lane};
use super::shared::Shared;
use crate::model::LinkId;
use crate::view::LaneState;

/// A copy's side.
#[derive(Debug, Serialize)]
pub struct CopyStatus {
    /// As in `[copy.NAME]`.
    pub name: String,
    /// Without secrets.
    pub url: String,
    /// `running`, `copying`, `waiting` or `stopped`.
    pub state: &'static str,
    /// What keeps it from going on.
    pub error: Option<String>,
    /// The position of the log that is applied.
    pub applied: u64,
    /// Entries of the log that are not applied yet.
    pub behind: u64,
    /// Tables that do not move with it: `orders is being copied, 2000 rows so far`.
    pub tables: Vec<String>,
    /// The same as they are shown one by one.
    #[serde(skip)]
    pub lanes: Vec<TableStatus>,
    /// Tables that move with it.
    #[serde(skip)]
    pub live: Vec<String>,
}

/// All copies, by name.
pub(super) fn copies(shared: &Shared) -> Vec<CopyStatus> {
    let (tail, own) = (shared.log.tail().borrow().0, LinkId(shared.log.id()));
    let each = shared.copies_of.iter().map(|(name, database)| {
        let state = database.state.borrow();
        let copying = state
            .lanes
            .iter()
            .any(|lane| matches!(lane.state, LaneState::Copying { .. } | LaneState::Replaying { .. }));
        let applied = state.applied.map_or(0, |applied| applied.position.0);
        let tables = state.lanes.iter().map(|lane| {
            let table = &lane.table;
            match &lane.state {
                LaneState::Copying { rows, .. } => format!("{table} is being copied, {rows} rows so far"),
                LaneState::Replaying { .. } => format!("{table} is catching up after its copy"),
                LaneState::Parked { position, error, .. } => {
                    format!("{table} is parked at position {position}: {error}")
                }
                LaneState::Paused => format!("{table} is paused"),
            }
        });
        let followed = state.follows.get(&own).into_iter().flatten().map(|(table, _)| table);
        let live = followed.filter(|table| state.lanes.iter().all(|lane| lane.table != **table));
        CopyStatus {
            name: name.clone(),
            url: database.url.clone(),
            state: match () {
                () if state.stopped => "stopped",
                () if state.error.is_some() || state.applied.is_none() => "waiting",
                () if copying => "copying",
                () => "running",
            },
            error: state.error.clone(),
            applied,
            behind: tail.saturating_sub(applied),
            tables: tables.collect(),
            lanes: state.lanes.iter().map(|lane| of_lane(lane, None)).collect(),
            live: live.map(ToString::to_string).collect(),
        }
    });
    each.collect()
}

/// What an operator should look at.
pub(super) fn problems(shared: &Shared) -> Vec<String> {
    let mut problems = Vec::new();
    for copy in copies(shared) {
        let name = &copy.name;
        problems.extend(copy.error.iter().map(|error| format!("copy {name}: {error}")));
        for lane in copy.lanes.iter().filter(|lane| lane.state == "parked" || lane.state == "paused") {
            let (table, error) = (&lane.name, lane.error.as_deref().unwrap_or_default());
            problems.push(match lane.position {
                Some(position) => format!(
                    "copy {name}: {table} is parked at position {position}: {error} / why: one table's trouble is that table's; the \
                     others go on / do: mend that, then `watershed source retry {name}/{table}`; or skip the change, or resync"
                ),
                None => format!("copy {name}: {table} is paused / do: `watershed source resume {name}/{table}`"),
            });
        }
    }
    problems
}
