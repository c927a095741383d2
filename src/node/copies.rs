//! First copies, the receiving half: asking a peer for the chunks of a table and writing them.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

use super::database::{Command, Database, Finished, Guard};
use super::shared::{CopyWait, Link, PeerCopy, Shared};
use crate::log::{Append, Draft};
use crate::model::{
    Change, Cursor, EntryHeader, LinkId, Op, Position, Row, TableName, Timestamp, encode_changes, limits,
};
use crate::peer::{Control, CopyMessage, LinkHandle, Offer, Role};
use crate::view::{CopyChunk, CopyScope, Lane, LaneState, ViewError};

/// A chunk that has not come by then is asked for again.
const CHUNK_TIMEOUT: Duration = Duration::from_secs(10);
/// A sender that refused is asked again after this.
const REFUSED_DELAY: Duration = Duration::from_millis(250);
/// Progress of a long copy is logged this often.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(5);
/// A copy that is to be made.
struct Wanted {
    link: LinkId,
    peer: Box<str>,
    role: Role,
    handle: LinkHandle,
    offer: Offer,
    /// The table has its lane already: the copy goes on after this key.
    begun: Option<Option<Row>>,
}

/// Makes first copies one after the other, and hands requests of peers to the serving half.
pub async fn run(shared: Arc<Shared>, mut messages: mpsc::Receiver<PeerCopy>) {
    let (to_serve, requests) = mpsc::channel(limits::COPY_MESSAGES_MAX);
    shared.tasks.spawn(super::serving::serve(shared.clone(), requests));
    let (to_receive, mut chunks) = mpsc::channel(limits::COPY_MESSAGES_MAX);
    let sorting = shared.clone();
    shared.tasks.spawn(async move {
        loop {
            let message = tokio::select! {
                _ = sorting.stop.cancelled() => return,
                message = messages.recv() => message,
            };
            let Some((link, message)) = message else { return };
            let to = if matches!(message, CopyMessage::Request { .. }) { &to_serve } else { &to_receive };
            if to.try_send((link, message)).is_err() {
                tracing::warn!("a message of a first copy was left out, because too many are waiting");
            }
        }
    });
    let mut absent = Absent::default();
    while !shared.stop.is_cancelled() {
        let wanted = wanted(&shared, &mut absent).await;
        let Some(wanted) = wanted else {
            tokio::select! {
                _ = shared.stop.cancelled() => {}
                _ = shared.copy_wake.notified() => {}
                // Lanes and refusals that hold a copy up may end without a word.
                _ = tokio::time::sleep(REFUSED_DELAY) => {}
            }
            continue;
        };
        receive(&shared, wanted, &mut chunks).await;
    }
}

/// The next copy to make: an offered table that does not follow its peer under the offered selection and filter, or whose
/// copy was interrupted.
async fn wanted(shared: &Arc<Shared>, absent: &mut Absent) -> Option<Wanted> {
    let database = shared.database.as_ref()?;
    let links: Vec<_> = {
        let links = shared.links();
        links
            .iter()
            .map(|(id, link)| (*id, link.role, link.node.name.clone(), link.handle.clone(), link.offers.clone()))
            .collect()
    };
    let lanes = database.state.borrow().lanes.clone();
    absent.look(&lanes, |peer| links.iter().any(|(link, ..)| *link == peer));
    let offers = |table: &TableName, offers: &[Offer]| offers.iter().any(|offer| offer.table.name == *table);
    let given_up = |table: &TableName, from: LinkId, begun: bool| match links.iter().find(|(link, ..)| *link == from) {
        Some((.., offered)) => !offers(table, offered),
        // What others have of the table does not wait for a peer that is away.
        None => absent.gives_way(from, begun) && links.iter().any(|(.., offered)| offers(table, offered)),
    };
    release_forgotten(shared, &lanes, given_up).await;
    shared.copy_owned_again().await;
    for (link, role, peer, handle, offers) in links {
        let followed = database.ask(|reply| Command::Followed(link, reply)).await.ok()?;
        for offer in offers {
            let table = &offer.table.name;
            if followed.iter().any(|(name, under)| name == table && *under == offer.under) || only_ours(shared, &offer)
            {
                continue;
            }
            // A table that its sender does not give now holds up no other.
            if shared.copy_waits().get(table).is_some_and(|wait| wait.until > std::time::Instant::now()) {
                continue;
            }
            let begun = match lanes.iter().find(|lane| lane.table == *table).map(|lane| &lane.state) {
                None => None,
                Some(LaneState::Copying { from, done, .. }) if *from == link => Some(done.clone()),
                // It failed before it was ever copied under this offer, as a table that is not there yet: the copy
                // supersedes what it failed at.
                Some(LaneState::Parked { before: None, .. }) => None,
                // Another copy, a replay or an operator has the table; it is looked at again when that has ended.
                Some(_) => continue,
            };
            let (peer, handle) = (peer.clone(), handle.clone());
            return Some(Wanted { link, peer, role, handle, offer, begun });
        }
    }
    None
}

/// Peers that are away in the middle of a copy.
#[derive(Default)]
struct Absent(HashMap<LinkId, Instant>);

impl Absent {
    fn look(&mut self, lanes: &[Lane], linked: impl Fn(LinkId) -> bool) {
        let away: Vec<LinkId> = lanes
            .iter()
            .filter_map(|lane| if let LaneState::Copying { from, .. } = lane.state { Some(from) } else { None })
            .filter(|from| !linked(*from))
            .collect();
        self.0.retain(|peer, _| away.contains(peer));
        for peer in away {
            self.0.entry(peer).or_insert_with(Instant::now);
        }
    }

    /// Whether a copy from that peer is given up for one from another; it is made again when the peer is back. One that
    /// has come some way waits a while.
    fn gives_way(&self, peer: LinkId, begun: bool) -> bool {
        self.0.get(&peer).is_some_and(|since| !begun || since.elapsed() > limits::COPY_ABSENT_MAX)
    }
}

/// Lanes that wait for a peer which an operator has dropped, which has withdrawn the table, or which is away while others
/// have it, wait no longer: a copy from it is given up, and the table goes on with what came.
async fn release_forgotten(shared: &Shared, lanes: &[Lane], given_up: impl Fn(&TableName, LinkId, bool) -> bool) {
    let Some(database) = &shared.database else { return };
    for lane in lanes {
        let replacement = match &lane.state {
            LaneState::Copying { from, done, .. }
                if shared.book.name_of(from.0).is_none() || given_up(&lane.table, *from, done.is_some()) =>
            {
                Some(Lane { state: LaneState::Replaying { settled: None }, ..lane.clone() })
            }
            LaneState::Replaying { settled: Some((from, _)) } if shared.book.name_of(from.0).is_none() => {
                Some(Lane { state: LaneState::Replaying { settled: None }, ..lane.clone() })
            }
            _ => continue,
        };
        if let Err(error) = database.ask(|reply| Command::SetLane(lane.table.clone(), replacement, reply)).await {
            tracing::warn!(table = %lane.table, "{error}");
        }
    }
}

/// Tables that only this node writes are not copied from others.
pub(super) fn only_ours(shared: &Shared, offer: &Offer) -> bool {
    use crate::stream::Owner;
    match shared.policy.ownership.of(&offer.table.name) {
        Some(Owner::Nodes(nodes)) => nodes.len() == 1 && *nodes[0] == *shared.name,
        _ => false,
    }
}

/// Rows that a copy over this link must not touch: those whose owner is not on the link's far side. `None` when a child's
/// link has ended, and with it what is known of its far side.
fn guard(shared: &Arc<Shared>, wanted: &Wanted) -> Option<Guard> {
    let ownership = shared.policy.ownership.clone();
    let far: Option<Vec<Box<str>>> = match wanted.role {
        Role::Child => None,
        Role::Parent => Some(shared.links().get(&wanted.link).and_then(|link: &Link| shared.far_side(link))?),
    };
    let near = shared.near_names();
    Some(Box::new(move |table, row| {
        let owned = |name: &str| ownership.owns(table, row, name);
        match &far {
            _ if ownership.of(&table.name).is_none() => false,
            Some(far) => !far.iter().any(|name| owned(name) == Some(true)),
            None => near.iter().any(|name| owned(name) == Some(true)),
        }
    }))
}

/// Waits until everything that is in the log now is applied; false when the link or the node ends before.
///
/// Of two nodes that copy a table from each other, the one that begins later then has at the start of its lane whatever the
/// other had received of it before, and can serve it: so one of the two always goes on.
async fn caught_up(shared: &Shared, link: &LinkHandle) -> bool {
    let Some(database) = &shared.database else { return false };
    let tail = *shared.log.tail().borrow();
    let mut state = database.state.subscribe();
    tokio::select! {
        _ = shared.stop.cancelled() => false,
        () = link.closed() => false,
        reached = state.wait_for(|state| state.applied.is_some_and(|applied| applied.position >= tail)) => reached.is_ok(),
    }
}

/// Puts the table in its lane; false when that cannot be done now.
async fn begin(shared: &Shared, database: &Database, wanted: &Wanted, scope: &CopyScope) -> bool {
    let table = &wanted.offer.table.name;
    if !caught_up(shared, &wanted.handle).await {
        return false;
    }
    let begun = database.ask(|reply| Command::BeginCopy(table.clone(), wanted.link, reply)).await;
    if let Err(error) = begun {
        waits(shared, table, format!("the copy cannot begin: {error}"));
        return false;
    }
    let unverified =
        if *scope == CopyScope::UpsertOnly { "; it has no owner here, so deletions are not verified" } else { "" };
    tracing::info!(%table, "copying {table} from {}{unverified}", wanted.peer);
    true
}

/// Copies one table, as far as the link lasts.
async fn receive(shared: &Arc<Shared>, wanted: Wanted, chunks: &mut mpsc::Receiver<PeerCopy>) {
    let Some(database) = &shared.database else { return };
    let table = wanted.offer.table.name.clone();
    let owned = shared.policy.ownership.of(&table).is_some();
    let scope =
        if owned || wanted.offer.whole && wanted.role == Role::Child { CopyScope::All } else { CopyScope::UpsertOnly };
    if wanted.begun.is_none() && !begin(shared, database, &wanted, &scope).await {
        return;
    }
    while chunks.try_recv().is_ok() {}
    let asked = database.ask(|reply| Command::Announcements(wanted.link, table.clone(), reply)).await;
    let Ok(announcements) = asked else { return };
    let Some(LaneState::Copying { received: at_least, .. }) = database.lane(&table).map(|lane| lane.state) else {
        return;
    };
    // What has been received since comes out of the log again, after the copy.
    let received = shared.received(wanted.link);
    let received = received.map(|cursor| Cursor { position: at_least.min(cursor.position), ..cursor });
    let (mut after, mut rows_done, started) = (wanted.begun.clone().flatten(), 0_u64, Instant::now());
    let mut told = started;
    let ask = async |after: Option<Row>| {
        wanted.handle.send(Control::Copy(CopyMessage::Request { table: table.clone(), after, received })).await
    };
    let mut asked = false;
    loop {
        if !std::mem::take(&mut asked) && !ask(after.clone()).await {
            return;
        }
        let answer = tokio::select! {
            _ = shared.stop.cancelled() => return,
            // On the next link the copy goes on where it stands.
            () = wanted.handle.closed() => return,
            answer = timeout(CHUNK_TIMEOUT, answer_to(&wanted, &after, chunks)) => answer,
        };
        let (chunk, left, settled) = match answer {
            Err(_) => continue,
            Ok(Answer::Refused(why)) => {
                return waits(shared, &table, format!("{} does not give it now: {why}", wanted.peer));
            }
            // The sender's selection or filter is another one by now: begin again under that.
            Ok(Answer::Changed) => return begin_again(database, &table, wanted.link).await,
            Ok(Answer::Chunk(chunk, left, settled)) => (*chunk, left, settled),
        };
        let (count, upto) = (chunk.rows.len() as u64, chunk.upto.clone());
        // The next chunk is read there while this one is written here.
        if upto.is_some() {
            asked = ask(upto.clone()).await;
        }
        let write = Command::CopyChunk;
        let Some(guard) = guard(shared, &wanted) else { return };
        if let Err(error) = database.ask(|reply| write(Box::new(chunk), scope.clone(), guard, reply)).await {
            return failed(shared, &table, &after, &error).await;
        }
        rows_done += count;
        count_chunk(shared, &table, count);
        if told.elapsed() > PROGRESS_INTERVAL {
            told = Instant::now();
            progress(&table, rows_done, left, started);
        }
        if upto.is_none() {
            tracing::info!(%table, rows = rows_done, "copied {rows_done} rows of {table} from {} in {:.1?}", wanted.peer, started.elapsed());
            return finish(shared, &wanted, settled, announcements).await;
        }
        after = upto;
    }
}

fn count_chunk(shared: &Shared, table: &TableName, rows: u64) {
    shared.copy_waits().remove(table);
    shared.counters.copied_chunks.add(1);
    shared.counters.copied_rows.add(rows);
}

/// The copy starts over. The lane stays where it is: what the main cursor has passed over since is replayed from there.
async fn begin_again(database: &Database, table: &TableName, from: LinkId) {
    let Some(lane) = database.lane(table) else { return };
    let LaneState::Copying { received, .. } = lane.state else { return };
    let lane = Some(Lane { state: LaneState::Copying { from, done: None, rows: 0, received }, ..lane });
    if let Err(error) = database.ask(|reply| Command::SetLane(table.clone(), lane, reply)).await {
        tracing::warn!(%table, "{error}");
    }
}

fn progress(table: &TableName, rows: u64, left: Option<u64>, started: Instant) {
    let rate = rows as f64 / started.elapsed().as_secs_f64().max(0.001);
    match left {
        Some(left) => {
            let seconds = left as f64 / rate.max(1.0);
            tracing::info!(%table, "copying {table}: {rows} rows, {rate:.0} rows/s, about {seconds:.0} s left");
        }
        None => tracing::info!(%table, "copying {table}: {rows} rows, {rate:.0} rows/s"),
    }
}

enum Answer {
    Chunk(Box<CopyChunk>, Option<u64>, Option<Position>),
    Refused(String),
    Changed,
}

async fn answer_to(wanted: &Wanted, asked: &Option<Row>, chunks: &mut mpsc::Receiver<PeerCopy>) -> Answer {
    loop {
        let Some((link, message)) = chunks.recv().await else { return Answer::Refused("this node stops".into()) };
        match message {
            CopyMessage::Chunk { table, after, upto, rows, left, settled, under } => {
                if link != wanted.link || table.name != wanted.offer.table.name || after != *asked {
                    continue;
                }
                if under != wanted.offer.under {
                    return Answer::Changed;
                }
                return Answer::Chunk(Box::new(CopyChunk { table, after, upto, rows }), left, settled);
            }
            CopyMessage::Refused { table, why } if link == wanted.link && table == wanted.offer.table.name => {
                return Answer::Refused(why);
            }
            _ => {}
        }
    }
}

/// The copy's rows are here: the log is replayed into the table, and it follows the peer from now on.
async fn finish(shared: &Arc<Shared>, wanted: &Wanted, settled: Option<Position>, announcements: u64) {
    let Some(database) = &shared.database else { return };
    let table = wanted.offer.table.name.clone();
    let finished = Finished { table, from: wanted.link, under: wanted.offer.under, settled, announcements };
    if let Err(error) = database.ask(|reply| Command::FinishCopy(Box::new(finished), reply)).await {
        tracing::warn!(table = %wanted.offer.table.name, "the copy of {} is made again: {error}", wanted.offer.table.name);
    }
}

/// Notes why a copy does not go on now; it is tried again a little later, and other copies go on meanwhile.
fn waits(shared: &Shared, table: &TableName, why: String) {
    let until = std::time::Instant::now() + REFUSED_DELAY;
    let before = shared.copy_waits().insert(table.clone(), CopyWait { until, why: why.clone() });
    if before.is_none_or(|before| before.why != why) {
        tracing::warn!(%table, "the copy of {table} waits: {why}; it goes on by itself");
    }
}

/// A chunk could not be written: the table is parked, with the copy as far as it has come.
async fn failed(shared: &Shared, table: &TableName, after: &Option<Row>, error: &ViewError) {
    let Some(database) = &shared.database else { return };
    let Some(lane) = database.lane(table).filter(|_| !error.is_retryable() && !matches!(error, ViewError::Lost(_)))
    else {
        return waits(shared, table, error.to_string());
    };
    // The peer has announced the table anew meanwhile: the copy begins again, and this chunk is of the one before.
    if matches!(&lane.state, LaneState::Copying { done, .. } if done != after) {
        return;
    }
    let parked = lane.clone().parked(lane.after.next(), format!("its copy cannot be written: {error}"));
    if let Err(error) = database.ask(|reply| Command::SetLane(table.clone(), Some(parked), reply)).await {
        waits(shared, table, error.to_string());
    }
}

/// The causation id of entries that announce a copy from that peer.
pub fn copied_from(peer: LinkId) -> String {
    format!("copied-from-{}", peer.0)
}

/// Logs that a table's content was copied from `from`, so that everybody else who follows it from here copies it. (The
/// peer that it came from is not told: see [`super::outgoing`].) False if it could not be logged now.
pub async fn log_copied(shared: &Arc<Shared>, from: LinkId, table: &TableName) -> bool {
    let def = shared.tables.borrow().iter().find(|def| def.name == *table).cloned();
    let Some(def) = def else { return true };
    let change = Change { table: 0, op: Op::Copied, row: None, old: None };
    let header = EntryHeader {
        node: shared.name.clone(),
        time: Timestamp::now(),
        tables: vec![def.fingerprint],
        causation: Some(copied_from(from).into()),
        ..EntryHeader::default()
    };
    let draft = Draft::Local { header, changes: encode_changes(&[change]) };
    let append = Append { from: LinkId::LOCAL, tables: vec![def], drafts: vec![draft], upto: None };
    match shared.log.append(append).await {
        Ok(_) => true,
        Err(error) => {
            tracing::error!(%table, "error[WS-COPY-001]: that {table} was copied cannot be logged: {error} / do: make room or mend the disk; it is tried again");
            false
        }
    }
}
