//! First copies, the serving half: chunks of tables for peers.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::timeout;

use super::outgoing::stopped_copying;
use super::shared::{PeerCopy, Shared};
use crate::model::{Cursor, LinkId, Position, Row, TableName, limits};
use crate::peer::{Control, CopyMessage, LinkHandle, Refusal};
use crate::stream::FilterError;
use crate::view::{LaneState, TableReader};

/// How long a chunk waits for the sender's own apply and capture.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(5);

/// Why a chunk is not served.
enum Unserved {
    /// Not now; the peer asks again.
    Later(String),
    /// A filter failed: the link stops (law 7).
    Stop(Refusal),
}

impl From<String> for Unserved {
    fn from(why: String) -> Unserved {
        Unserved::Later(why)
    }
}

impl From<&str> for Unserved {
    fn from(why: &str) -> Unserved {
        Unserved::Later(why.into())
    }
}

/// Serves chunks to peers, one request after the other.
pub async fn serve(shared: Arc<Shared>, mut requests: mpsc::Receiver<PeerCopy>) {
    let mut readers: HashMap<TableName, Box<dyn TableReader>> = HashMap::new();
    loop {
        let request = tokio::select! {
            _ = shared.stop.cancelled() => return,
            request = requests.recv() => request,
        };
        let Some((link, CopyMessage::Request { table, after, received })) = request else { continue };
        let Some((handle, answer)) = answer(&shared, &mut readers, link, table.clone(), after, received).await else {
            continue;
        };
        let control = match answer {
            Ok(chunk) => Control::Copy(chunk),
            Err(Unserved::Later(why)) => Control::Copy(CopyMessage::Refused { table, why }),
            Err(Unserved::Stop(refusal)) => {
                tracing::error!(%table, "{refusal}");
                Control::Close(refusal)
            }
        };
        handle.send(control).await;
    }
}

type Served = Result<CopyMessage, Unserved>;

async fn answer(
    shared: &Arc<Shared>,
    readers: &mut HashMap<TableName, Box<dyn TableReader>>,
    link: LinkId,
    table: TableName,
    after: Option<Row>,
    received: Option<Cursor>,
) -> Option<(LinkHandle, Served)> {
    let (handle, sieve, role, peer) = {
        let links = shared.links();
        let link = links.get(&link)?;
        (link.handle.clone(), link.sieve.clone(), link.role, link.node.name.clone())
    };
    let served: Served = async {
        let database = shared.database.as_ref().ok_or("it has no database")?;
        let lane = database.lane(&table);
        // What is on its way from the asking peer itself does not concern it: it never gets its own rows back. Without
        // this, two nodes that copy a table from each other would wait for ever.
        let other = lane.as_ref().filter(|lane| match &lane.state {
            LaneState::Copying { from, .. } => *from != link,
            LaneState::Replaying { settled } => settled.is_none_or(|(from, _)| from != link),
            LaneState::Parked { .. } | LaneState::Paused => true,
        });
        if let Some(lane) = other {
            return Err(format!("the table is not whole there: it {}", doing(&lane.state)).into());
        }
        let host = super::host::NodeHost(shared.clone());
        let generation = shared.book.get(&peer).map_or(1, |known| known.generation);
        let offers = host.offers(role, &peer, &sieve, generation).map_err(|refusal| refusal.to_string())?;
        let under = offers.into_iter().find(|offer| offer.table.name == table).ok_or("it is not selected")?.under;
        // A chunk must contain everything that the receiver has had of our log, applied here too.
        // Where it began to receive (it was new, or had fallen out) counts as much as what it has received since.
        let received = received.filter(|cursor| cursor.log == shared.log.id()).map(|cursor| cursor.position);
        let start = Position(shared.book.get(&peer).map_or(0, |known| known.start));
        let needed = received.unwrap_or_default().max(start);
        match lane {
            // The main cursor passes over the table: what came from others since the lane began is not in it yet.
            Some(lane) if lane.after < needed => {
                let (after, doing) = (lane.after, doing(&lane.state));
                let why = format!("the table is not whole there: it {doing}, and stands at {after} of {needed}");
                return Err(why.into());
            }
            _ => wait_applied(shared, needed).await?,
        }
        let mut reader = match readers.remove(&table) {
            Some(reader) => reader,
            None => database.store.reader().await?,
        };
        let (rows, bytes) = (limits::COPY_CHUNK_ROWS, limits::COPY_CHUNK_BYTES);
        // A reader that has failed is opened anew for the next request.
        let chunk = reader.read_chunk(&table, after.as_ref(), rows, bytes).await?;
        readers.insert(table.clone(), reader);
        let failed = |error: FilterError| Unserved::Stop(stopped_copying(&table, &error));
        let out = sieve.table(&chunk.def).map_err(failed)?.ok_or("it is not selected")?;
        let mut rows = Vec::with_capacity(chunk.rows.len());
        for row in chunk.rows {
            rows.extend(sieve.row(&chunk.def, row).map_err(failed)?);
        }
        let settled = match chunk.upto {
            None => Some(settled(shared).await?),
            Some(_) => None,
        };
        let left = chunk.upto.as_ref().map(|_| chunk.left_estimate);
        Ok(CopyMessage::Chunk { table: out, after, upto: chunk.upto, rows, left, settled, under })
    }
    .await;
    Some((handle, served))
}

/// What a lane does, as the end of a sentence.
pub(super) fn doing(state: &LaneState) -> &'static str {
    match state {
        LaneState::Copying { .. } => "is being copied",
        LaneState::Replaying { .. } => "is catching up after a copy",
        LaneState::Parked { .. } => "is parked",
        LaneState::Paused => "is paused",
    }
}

pub(super) async fn wait_applied(shared: &Shared, position: Position) -> Result<(), String> {
    let Some(database) = &shared.database else { return Ok(()) };
    let mut state = database.state.subscribe();
    let reached = state.wait_for(|state| state.applied.is_some_and(|applied| applied.position >= position));
    match timeout(SETTLE_TIMEOUT, reached).await {
        Ok(Ok(_)) => Ok(()),
        _ => Err(format!("position {position} is not applied here yet")),
    }
}

/// A position of our log that contains everything committed in the database before the call: the tail after a poll that
/// began after now.
pub(super) async fn settled(shared: &Shared) -> Result<Position, String> {
    let mut capture = shared.capture.subscribe();
    let polls = capture.borrow().polls + 2;
    match timeout(SETTLE_TIMEOUT, capture.wait_for(|state| state.polls >= polls)).await {
        Ok(Ok(_)) => Ok(*shared.log.tail().borrow()),
        _ => Err("capture does not go on here".into()),
    }
}
