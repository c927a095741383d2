//! First copies, the serving half: chunks of tables for peers.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

use super::database::Command;
use super::outgoing::stopped_copying;
use super::shared::{PeerCopy, Shared};
use crate::model::{Cursor, Fingerprint, LinkId, Position, Row, TableName, limits};
use crate::peer::{Control, CopyMessage, Refusal, Role};
use crate::stream::{FilterError, Sieve};
use crate::view::{Chunk, LaneState, TableReader};

/// How long a chunk waits for the sender's own apply and capture.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(5);
/// A chunk after which the next one is asked for within this time is quickly taken.
const QUICK: Duration = Duration::from_millis(500);
/// One that takes longer is too large.
const SLOW: Duration = Duration::from_secs(3);

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

/// What a peer asks for.
#[derive(Clone, PartialEq, Eq)]
struct Asked {
    after: Option<Row>,
    received: Option<Cursor>,
}

/// Serves chunks to peers: of each table to each peer one after the other, and of several at once.
pub async fn serve(shared: Arc<Shared>, mut requests: mpsc::Receiver<PeerCopy>) {
    let mut servers: HashMap<(LinkId, TableName), mpsc::Sender<Asked>> = HashMap::new();
    loop {
        let request = tokio::select! {
            _ = shared.stop.cancelled() => return,
            request = requests.recv() => request,
        };
        let Some((link, CopyMessage::Request { table, after, received })) = request else { continue };
        servers.retain(|_, server| !server.is_closed());
        if servers.len() >= limits::COPIES_SERVED_MAX && !servers.contains_key(&(link, table.clone())) {
            let why = format!("{} tables are being served already", limits::COPIES_SERVED_MAX);
            let handle = shared.links().get(&link).map(|link| link.handle.clone());
            if let Some(handle) = handle {
                handle.send(Control::Copy(CopyMessage::Refused { table, why })).await;
            }
            continue;
        }
        let server = servers.entry((link, table.clone())).or_insert_with(|| {
            let (asked, asks) = mpsc::channel(2);
            let (shared, reader) = (shared.clone(), None);
            let serving = Serving { shared: shared.clone(), link, table, reader, rows: limits::COPY_CHUNK_ROWS };
            shared.tasks.spawn(serving.run(asks));
            asked
        });
        // Where two wait already the peer has asked again for what is on its way.
        let _ = server.try_send(Asked { after, received });
    }
}

type Served = Result<CopyMessage, Unserved>;

/// A chunk that was read before it was asked for.
struct Ahead {
    asked: Asked,
    connection: u64,
    sieve: Arc<Sieve>,
    message: CopyMessage,
}

/// Serves one table to one peer.
struct Serving {
    shared: Arc<Shared>,
    link: LinkId,
    table: TableName,
    reader: Option<Box<dyn TableReader>>,
    /// Of the next chunk, at most.
    rows: usize,
}

impl Serving {
    async fn run(mut self, mut asks: mpsc::Receiver<Asked>) {
        let (shared, link) = (self.shared.clone(), self.link);
        let mut ahead: Option<Ahead> = None;
        let mut told = Instant::now();
        loop {
            let asked = tokio::select! {
                _ = shared.stop.cancelled() => return,
                asked = timeout(limits::COPY_SERVING_IDLE_MAX, asks.recv()) => asked,
            };
            let Ok(Some(asked)) = asked else { return };
            let standing = shared.links().get(&link).map(|link| {
                (link.handle.clone(), link.sieve.clone(), link.role, link.node.name.clone(), link.connection)
            });
            let Some((handle, sieve, role, peer, connection)) = standing else { continue };
            self.adapt(&asked, told.elapsed());
            let known = ahead.take().filter(|ahead| {
                ahead.asked == asked && ahead.connection == connection && Arc::ptr_eq(&ahead.sieve, &sieve)
            });
            let answer = match known {
                Some(ahead) => Ok(ahead.message),
                None => self.answer(role, &peer, &sieve, &asked).await,
            };
            let next = match &answer {
                Ok(CopyMessage::Chunk { upto: Some(upto), .. }) => Some(Asked { after: Some(upto.clone()), ..asked }),
                _ => None,
            };
            let control = match answer {
                Ok(chunk) => Control::Copy(chunk),
                Err(Unserved::Later(why)) => Control::Copy(CopyMessage::Refused { table: self.table.clone(), why }),
                Err(Unserved::Stop(refusal)) => {
                    tracing::error!(table = %self.table, "{refusal}");
                    Control::Close(refusal)
                }
            };
            handle.send(control).await;
            told = Instant::now();
            // The next chunk is read while this one is on its way; what fails is told when it is asked for.
            if let Some(asked) = next
                && let Ok(message) = self.answer(role, &peer, &sieve, &asked).await
            {
                ahead = Some(Ahead { asked, connection, sieve, message });
            }
        }
    }

    /// Chunks grow while they are quickly taken, and shrink where the link is slow or the receiver busy.
    fn adapt(&mut self, asked: &Asked, taken: Duration) {
        self.rows = match taken {
            _ if asked.after.is_none() => limits::COPY_CHUNK_ROWS,
            taken if taken > SLOW => (self.rows / 2).max(limits::COPY_CHUNK_ROWS / 4),
            taken if taken < QUICK => (self.rows * 2).min(limits::COPY_CHUNK_ROWS_MAX),
            _ => self.rows,
        };
    }

    async fn answer(&mut self, role: Role, peer: &str, sieve: &Sieve, asked: &Asked) -> Served {
        let (shared, table, link) = (self.shared.clone(), self.table.clone(), self.link);
        let database = shared.database.as_ref().ok_or("it has no database")?;
        let lane = database.lane(&table);
        // What is on its way from the asking peer itself does not concern it: it never gets its own rows back. Without
        // this, two nodes that copy a table from each other would wait for ever.
        let other = lane.as_ref().filter(|lane| match &lane.state {
            LaneState::Copying { from, .. } => *from != link,
            LaneState::Replaying { settled } => settled.is_none_or(|settled| settled.from != link),
            LaneState::Parked { .. } | LaneState::Paused => true,
        });
        if let Some(lane) = other {
            return Err(format!("the table is not whole there: it {}", doing(&lane.state)).into());
        }
        let host = super::host::NodeHost(shared.clone(), None);
        let generation = shared.book.get(peer).map_or(1, |known| known.generation);
        let offers = host.offers(role, peer, sieve, generation).map_err(|refusal| refusal.to_string())?;
        let under = offers.into_iter().find(|offer| offer.table.name == table).ok_or("it is not selected")?.under;
        // A chunk must contain everything that the receiver has had of our log, applied here too.
        // Where it began to receive (it was new, or had fallen out) counts as much as what it has received since.
        let received = asked.received.filter(|cursor| cursor.log == shared.log.id()).map(|cursor| cursor.position);
        let start = Position(shared.book.get(peer).map_or(0, |known| known.start));
        let needed = received.unwrap_or_default().max(start);
        match lane {
            // The main cursor passes over the table: what came from others since the lane began is not in it yet.
            Some(lane) if lane.after < needed => {
                let (after, doing) = (lane.after, doing(&lane.state));
                let why = format!("the table is not whole there: it {doing}, and stands at {after} of {needed}");
                return Err(why.into());
            }
            _ => wait_applied(&shared, needed).await?,
        }
        let chunk = self.read(asked.after.as_ref()).await?;
        let contained = chunk.cursor;
        let mut message = message(&shared, &table, sieve, asked, chunk, under).await?;
        if let CopyMessage::Chunk { upto: None, cut: Some(cut), .. } = &message
            && let Err(why) = super::cuts::check(
                &shared,
                &table,
                contained,
                cut,
                shared.policy.ownership.is_one(&table).then_some(link),
            )
            .await
        {
            // Of two nodes that copy a table without a key from each other, neither can give what others have changed since
            // its own copy began: here that is given up, as long as nothing of it has come, and begins again later.
            if let Err(error) = database.ask(|reply| Command::Release(table.clone(), link, true, reply)).await {
                tracing::warn!(%table, "{error}");
            }
            return Err(why.into());
        }
        if let (CopyMessage::Chunk { table, .. }, Role::Child) = (&mut message, role) {
            // Above, rows of others stand beside ours: what is unique here need not be there.
            *table = Arc::new((**table).clone().with_shared_indexes());
        }
        Ok(message)
    }

    /// Reads a chunk; a reader that has failed is opened anew for the next request.
    async fn read(&mut self, after: Option<&Row>) -> Result<Chunk, String> {
        let store = &self.shared.database.as_ref().ok_or("it has no database")?.store;
        let mut reader = match self.reader.take() {
            Some(reader) => reader,
            None => store.reader(&self.shared.data_dir).await?,
        };
        let bytes = limits::COPY_CHUNK_BYTES * self.rows / limits::COPY_CHUNK_ROWS;
        let bytes = bytes.clamp(limits::COPY_CHUNK_BYTES / 4, limits::COPY_CHUNK_BYTES_MAX);
        let chunk = reader.read_lines(&self.table, after, self.rows, bytes).await?;
        self.reader = Some(reader);
        Ok(chunk)
    }
}

/// What of a chunk may leave.
async fn message(
    shared: &Arc<Shared>,
    table: &TableName,
    sieve: &Sieve,
    asked: &Asked,
    chunk: Chunk,
    under: Fingerprint,
) -> Served {
    let failed = |error: FilterError| Unserved::Stop(stopped_copying(table, &error));
    let mut out = sieve.table(&chunk.def).map_err(failed)?.ok_or("it is not selected")?;
    let (mut rows, mut lines) = (chunk.rows, chunk.lines);
    if !sieve.passes_whole(&chunk.def).map_err(failed)? {
        out = Arc::new((*out).clone().with_indexes_of(&chunk.def));
        if let Some(lines) = lines.take() {
            rows = lines.decode(chunk.def.columns.len())?;
        }
        let mut passed = Vec::with_capacity(rows.len());
        for row in rows {
            passed.extend(sieve.row(&chunk.def, row).map_err(failed)?);
        }
        rows = passed;
    }
    let settled = match chunk.upto {
        None => Some(settled(shared).await?),
        Some(_) => None,
    };
    let left = chunk.upto.as_ref().map(|_| chunk.left_estimate);
    let (after, upto, cut) = (asked.after.clone(), chunk.upto, chunk.cut);
    Ok(CopyMessage::Chunk { table: out, after, upto, rows, lines, left, settled, under, cut })
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
