//! How the tables are doing that do not move with the others.

use serde::Serialize;

use crate::view::{Lane, LaneState};

/// A table's lane.
#[derive(Debug, Serialize)]
pub struct TableStatus {
    /// Its name.
    pub name: String,
    /// `copying`, `replaying`, `parked` or `paused`.
    pub state: &'static str,
    /// Applied up to here.
    pub after: u64,
    /// Where it failed.
    pub position: Option<u64>,
    /// Why.
    pub error: Option<String>,
    /// Rows copied so far.
    pub rows: Option<u64>,
    /// How many rows a second are being copied.
    pub rows_per_second: Option<f64>,
    /// Rows that are still to be copied, estimated.
    pub rows_left: Option<u64>,
    /// About how long that takes.
    pub seconds_left: Option<f64>,
    /// Since when it is parked.
    pub since: Option<String>,
}

/// A lane, and why its copy does not go on now.
pub(super) fn of_lane(lane: &Lane, waits: Option<String>) -> TableStatus {
    let mut status = TableStatus {
        name: lane.table.to_string(),
        state: "paused",
        after: lane.after.0,
        position: None,
        error: None,
        rows: None,
        rows_per_second: None,
        rows_left: None,
        seconds_left: None,
        since: None,
    };
    match &lane.state {
        LaneState::Copying { rows, .. } => {
            status.state = "copying";
            status.error = waits;
            status.rows = Some(*rows);
        }
        LaneState::Replaying { .. } => status.state = "replaying",
        LaneState::Parked { position, error, since, before } => {
            if let Some(LaneState::Copying { rows, .. }) = before.as_deref() {
                status.rows = Some(*rows);
            }
            status.state = "parked";
            status.position = Some(position.0);
            status.error = Some(error.clone());
            status.since = Some(since.to_string());
        }
        LaneState::Paused => {}
    }
    status
}
