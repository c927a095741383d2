//! First copies, the receiving half: asking a peer for the chunks of a table and writing them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use super::database::{Command, Database, Finished, Guard};
use super::shared::{CopyRate, CopyWait, Link, PeerCopy, Shared};
use super::wanted::{Absent, Wanted, wanted};
use crate::log::{Append, Draft};
use crate::model::{
    Change, Cursor, EntryHeader, LinkId, Op, Position, Row, TableName, Timestamp, encode_changes, limits,
};
use crate::peer::{Control, CopyMessage, LinkHandle, Role};
use crate::view::{CopyChunk, CopyScope, Lane, LaneState, ViewError};

/// A sender that refused is asked again after this.
const REFUSED_DELAY: Duration = Duration::from_millis(250);
/// Between looks for indexes that were put off and are not built.
const LEFTOVER_INTERVAL: Duration = Duration::from_secs(20);
/// Progress of a long copy is logged this often.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(5);
/// Messages that wait for one copy.
const CHUNKS_WAITING: usize = 4;

/// A table, from a peer.
type Key = (LinkId, TableName);
/// Where the chunks of the copies that are being made go.
pub(super) type Routes = Arc<Mutex<HashMap<Key, mpsc::Sender<CopyMessage>>>>;

pub(super) fn lock(routes: &Routes) -> MutexGuard<'_, HashMap<Key, mpsc::Sender<CopyMessage>>> {
    routes.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Makes first copies, some at once, and hands requests of peers to the serving half.
pub async fn run(shared: Arc<Shared>, mut messages: mpsc::Receiver<PeerCopy>) {
    let (to_serve, requests) = mpsc::channel(limits::COPY_MESSAGES_MAX);
    shared.tasks.spawn(super::serving::serve(shared.clone(), requests));
    let routes = Routes::default();
    let (sorting, to_receive) = (shared.clone(), routes.clone());
    shared.tasks.spawn(async move {
        loop {
            let message = tokio::select! {
                _ = sorting.stop.cancelled() => return,
                message = messages.recv() => message,
            };
            let Some((link, message)) = message else { return };
            let sent = match &message {
                CopyMessage::Request { .. } => to_serve.try_send((link, message)).is_ok(),
                CopyMessage::Chunk { table, .. } => send_on(&to_receive, (link, table.name.clone()), message),
                CopyMessage::Refused { table, .. } => send_on(&to_receive, (link, table.clone()), message),
            };
            if !sent {
                tracing::warn!("a message of a first copy was left out, because too many are waiting");
            }
        }
    });
    if let Some(database) = &shared.database {
        shared.tasks.spawn(build_leftover(shared.clone(), database.clone()));
    }
    let mut absent = Absent::default();
    let mut under_way = JoinSet::new();
    while !shared.stop.is_cancelled() {
        while under_way.try_join_next().is_some() {}
        let wanted = match under_way.len() < limits::COPIES_MAX {
            true => wanted(&shared, &mut absent, &routes).await,
            false => None,
        };
        let Some(wanted) = wanted else {
            tokio::select! {
                _ = shared.stop.cancelled() => {}
                _ = shared.copy_wake.notified() => {}
                _ = under_way.join_next(), if !under_way.is_empty() => {}
                // Lanes and refusals that hold a copy up may end without a word.
                _ = tokio::time::sleep(REFUSED_DELAY) => {}
            }
            continue;
        };
        let (key, (to, mut chunks)) = (wanted.key(), mpsc::channel(CHUNKS_WAITING));
        lock(&routes).insert(key.clone(), to);
        let (shared, routes) = (shared.clone(), routes.clone());
        under_way.spawn(async move {
            receive(&shared, wanted, &mut chunks).await;
            lock(&routes).remove(&key);
            shared.copy_rates().remove(&key.1);
        });
    }
    while under_way.join_next().await.is_some() {}
}

/// Hands a message to the copy that waits for it; what nobody waits for is forgotten.
fn send_on(routes: &Routes, key: Key, message: CopyMessage) -> bool {
    lock(routes).get(&key).is_none_or(|to| to.try_send(message).is_ok())
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
    let begun = database.ask(|reply| Command::BeginCopy(table.clone(), wanted.link, scope.clone(), reply)).await;
    if let Err(error) = begun {
        waits(shared, table, format!("the copy cannot begin: {error}"));
        return false;
    }
    let unverified =
        if *scope == CopyScope::UpsertOnly { "; it has no owner here, so deletions are not verified" } else { "" };
    tracing::info!(%table, "copying {table} from {}{unverified}", wanted.peer);
    true
}

/// Has the table in its lane; gives how often the peer has announced it, and what of the peer's log the chunks must contain.
async fn stand(
    shared: &Shared,
    database: &Database,
    wanted: &mut Wanted,
    scope: &CopyScope,
) -> Option<(u64, Option<Cursor>)> {
    let (table, link) = (&wanted.offer.table.name, wanted.link);
    // What has come of a table without a key is of another snapshot.
    if wanted.is_keyless() && matches!(wanted.begun, Some(Some(_))) {
        begin_again(database, table, link).await;
        wanted.begun = Some(None);
    }
    if wanted.begun.is_none() && !begin(shared, database, wanted, scope).await {
        return None;
    }
    let table = &wanted.offer.table.name;
    let announcements = database.ask(|reply| Command::Announcements(link, table.clone(), reply)).await.ok()?;
    let LaneState::Copying { received: at_least, .. } = database.lane(table)?.state else { return None };
    // What has been received since comes out of the log again, after the copy.
    let received = shared.received(link);
    let received = received.map(|cursor| Cursor { position: at_least.min(cursor.position), ..cursor });
    Some((announcements, received))
}

/// Copies one table, as far as the link lasts.
async fn receive(shared: &Arc<Shared>, mut wanted: Wanted, chunks: &mut mpsc::Receiver<CopyMessage>) {
    let Some(database) = &shared.database else { return };
    let table = wanted.offer.table.name.clone();
    let scope = wanted.scope(shared);
    let Some((announcements, received)) = stand(shared, database, &mut wanted, &scope).await else { return };
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
            answer = timeout(limits::COPY_CHUNK_TIMEOUT, answer_to(&wanted, &after, chunks)) => answer,
        };
        let Arrived { mut chunk, left, settled, cut } = match answer {
            Err(_) => continue,
            Ok(Answer::Refused(why)) => {
                return waits(shared, &table, format!("{} does not give it now: {why}", wanted.peer));
            }
            // The sender's selection or filter is another one by now: begin again under that.
            Ok(Answer::Changed) => return begin_again(database, &table, wanted.link).await,
            Ok(Answer::Chunk(arrived)) => *arrived,
        };
        let (count, upto) = (chunk.count() as u64, chunk.upto.clone());
        // The next chunk is read there while this one is written here.
        if upto.is_some() {
            asked = ask(upto.clone()).await;
        }
        let write = Command::CopyChunk;
        let Some(guard) = guard(shared, &wanted) else { return };
        // Whose the rows are can only be told when they are taken apart.
        if shared.policy.ownership.of(&table).is_some()
            && let Err(why) = chunk.decode()
        {
            return waits(shared, &table, format!("{} gives no rows: {why}", wanted.peer));
        }
        if let Err(error) = database.ask(|reply| write(Box::new(chunk), scope.clone(), guard, reply)).await {
            return failed(shared, &table, &after, &error).await;
        }
        rows_done += count;
        count_chunk(shared, &table, count);
        shared.copy_rates().insert(table.clone(), CopyRate::of(rows_done, left, started));
        if told.elapsed() > PROGRESS_INTERVAL {
            told = Instant::now();
            progress(&table, rows_done, left, started);
        }
        if upto.is_none() {
            tracing::info!(%table, rows = rows_done, "copied {rows_done} rows of {table} from {} in {:.1?}", wanted.peer, started.elapsed());
            return finish(shared, &wanted, settled, announcements, cut).await;
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
pub(super) async fn begin_again(database: &Database, table: &TableName, from: LinkId) {
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

/// A chunk, and what came with it.
struct Arrived {
    chunk: CopyChunk,
    left: Option<u64>,
    settled: Option<Position>,
    cut: Option<Box<str>>,
}

enum Answer {
    Chunk(Box<Arrived>),
    Refused(String),
    Changed,
}

async fn answer_to(wanted: &Wanted, asked: &Option<Row>, chunks: &mut mpsc::Receiver<CopyMessage>) -> Answer {
    loop {
        let Some(message) = chunks.recv().await else { return Answer::Refused("this node stops".into()) };
        match message {
            CopyMessage::Chunk { table, after, upto, rows, lines, left, settled, under, cut } => {
                if after != *asked {
                    continue;
                }
                if under != wanted.offer.under {
                    return Answer::Changed;
                }
                let chunk = CopyChunk { table, after, upto, rows, lines };
                return Answer::Chunk(Box::new(Arrived { chunk, left, settled, cut }));
            }
            CopyMessage::Refused { why, .. } => return Answer::Refused(why),
            CopyMessage::Request { .. } => {}
        }
    }
}

/// The copy's rows are here: the log is replayed into the table, and it follows the peer from now on.
async fn finish(
    shared: &Arc<Shared>,
    wanted: &Wanted,
    settled: Option<Position>,
    announcements: u64,
    cut: Option<Box<str>>,
) {
    let Some(database) = &shared.database else { return };
    let table = wanted.offer.table.name.clone();
    let cut = match cut {
        None => None,
        Some(cut) => match cut_here(shared, wanted, settled.unwrap_or_default(), &cut).await {
            Ok(at) => Some(at),
            Err(why) => return waits(shared, &table, format!("it is made again: {why}")),
        },
    };
    build_indexes(shared, database, &table).await;
    let finished = Finished { table, from: wanted.link, under: wanted.offer.under, settled, announcements, cut };
    if let Err(error) = database.ask(|reply| Command::FinishCopy(Box::new(finished), reply)).await {
        tracing::warn!(table = %wanted.offer.table.name, "the copy of {} is made again: {error}", wanted.offer.table.name);
    }
}

/// Builds the indexes that were put off. Where that fails the table follows all the same, and they are tried again.
pub(super) async fn build_indexes(shared: &Shared, database: &Database, table: &TableName) {
    let built = tokio::select! {
        _ = shared.stop.cancelled() => return,
        built = database.store.build_indexes(table) => built,
    };
    if let Err(why) = built {
        tracing::error!(%table, "error[WS-COPY-003]: the indexes of {table} that were put off until its copy cannot be built: {why} / do: see the reason; they are tried again");
    }
}

/// Builds indexes of tables whose copies have ended otherwise, again and again while the node runs.
pub(super) async fn build_leftover(shared: Arc<Shared>, database: Arc<Database>) {
    loop {
        let applies = database.state.borrow().applied.is_some();
        if applies {
            let copied = |lane: &Lane| {
                let state = match &lane.state {
                    LaneState::Parked { before: Some(before), .. } => before,
                    state => state,
                };
                matches!(state, LaneState::Copying { .. }).then(|| lane.table.clone())
            };
            let busy: Vec<TableName> = database.state.borrow().lanes.iter().filter_map(copied).collect();
            let built = tokio::select! {
                _ = shared.stop.cancelled() => return,
                built = database.store.build_leftover(&busy) => built,
            };
            if let Err(why) = built {
                tracing::warn!("{}: indexes that were put off are not built yet: {why}", database.url);
            }
        }
        tokio::select! {
            _ = shared.stop.cancelled() => return,
            _ = tokio::time::sleep(if applies { LEFTOVER_INTERVAL } else { REFUSED_DELAY }) => {}
        }
    }
}

/// Where in our log the snapshot stands that was copied: everything from the peer up to it is in the copy.
async fn cut_here(shared: &Arc<Shared>, wanted: &Wanted, settled: Position, cut: &str) -> Result<Position, String> {
    let (database, table) = (shared.database.as_ref().ok_or("there is no database")?, &wanted.offer.table.name);
    let lane = database.lane(table).ok_or("its lane is gone")?;
    let deadline = Instant::now() + limits::COPY_CHUNK_TIMEOUT;
    let received = || shared.received(wanted.link).map(|cursor| cursor.position).unwrap_or_default();
    // The sender's log has come here as far as its mark stands, at the latest.
    while received() < settled {
        tokio::select! {
            _ = shared.stop.cancelled() => return Err("this node stops".into()),
            () = wanted.handle.closed() => return Err("the link has ended".into()),
            _ = tokio::time::sleep(Duration::from_millis(20)) => {}
        }
        if Instant::now() > deadline {
            return Err(format!(
                "the place of its snapshot, before position {settled} of {}, has not come",
                wanted.peer
            ));
        }
    }
    let found = super::cuts::find(shared, wanted.link, table, lane.after, cut, None).await?;
    let at = found.ok_or("the place of its snapshot has not come")?.at;
    wait_main(shared, database, at).await.map(|()| at)
}

/// Waits until the main cursor of a database has passed that position.
pub(super) async fn wait_main(shared: &Shared, database: &Database, position: Position) -> Result<(), String> {
    let mut state = database.state.subscribe();
    let reached = state.wait_for(|state| state.applied.is_some_and(|applied| applied.position >= position));
    tokio::select! {
        _ = shared.stop.cancelled() => Err("this node stops".into()),
        reached = timeout(limits::COPY_CHUNK_TIMEOUT, reached) => match reached {
            Ok(Ok(_)) => Ok(()),
            _ => Err(format!("position {position} is not applied here yet")),
        },
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
