//! What of the log somebody known still needs (law 9).

use std::sync::Arc;
use std::time::Duration;

use super::shared::Shared;
use crate::model::Position;

/// Between looks.
const INTERVAL: Duration = Duration::from_secs(2);

/// Who pins the log, and up to where it may go.
pub fn pins(shared: &Shared) -> Vec<(String, Position)> {
    let mut pins = Vec::new();
    if let Some(database) = &shared.database {
        let state = database.state.borrow();
        if let Some(applied) = state.applied {
            pins.push(("database".into(), applied.position));
        }
        pins.extend(state.lanes.iter().map(|lane| (format!("table {}", lane.table), lane.after)));
    }
    for (name, copy) in &shared.copies_of {
        let state = copy.state.borrow();
        if let Some(applied) = state.applied {
            pins.push((format!("copy {name}"), applied.position));
        }
        pins.extend(state.lanes.iter().map(|lane| (format!("copy {name}, table {}", lane.table), lane.after)));
    }
    let links = shared.links();
    for (name, known) in shared.book.all() {
        let standing = links.values().find(|link| *link.node.name == *name).and_then(|link| link.acknowledged);
        let acknowledged = standing.map_or(Position(known.acknowledged), |cursor| cursor.position);
        pins.push((format!("{} {name}", known.role), acknowledged));
    }
    if let Some(main) = shared.feeds.get("main") {
        pins.extend(main.needs(shared.log.id()));
    }
    pins
}

/// Releases what nobody needs, and keeps the book written, until the node stops.
pub async fn run(shared: Arc<Shared>) {
    let mut flushed = Vec::new();
    loop {
        tokio::select! {
            _ = shared.stop.cancelled() => break,
            _ = tokio::time::sleep(INTERVAL) => {}
        }
        let tail = *shared.log.tail().borrow();
        let upto = pins(&shared).iter().map(|(_, position)| *position).min().unwrap_or(tail);
        if let Err(error) = shared.log.release(upto).await {
            tracing::warn!("retention: {error}");
        }
        let book = shared.book.all();
        if book != flushed {
            match shared.book.flush() {
                Ok(()) => flushed = book,
                Err(error) => tracing::warn!("the peers' positions could not be written: {error}"),
            }
        }
    }
    if let Err(error) = shared.book.flush() {
        tracing::warn!("the peers' positions could not be written: {error}");
    }
}
