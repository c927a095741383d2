//! The node's status, for people and programs. Everything here is measured, nothing is supposed (law 11).

use std::sync::PoisonError;

use serde::Serialize;

use super::copy_status::{CopyStatus, copies, problems as copy_problems};
use super::feeds::MirrorStatus;
use super::lane_status::{TableStatus, of_lane};
use super::retention;
use super::shared::Shared;
use super::views::ViewStatus;
use crate::model::Timestamp;
use crate::peer::Role;
use crate::view::LaneState;

/// How long a refusal is shown beside a link that stands, in microseconds.
const REFUSAL_SHOWN_US: i64 = 60_000_000;

/// `/v1/status`.
#[derive(Debug, Serialize)]
pub struct Status {
    /// Of this shape.
    pub schema: u32,
    /// The node's label.
    pub node: String,
    /// The program's version.
    pub version: &'static str,
    /// When it started (RFC 3339).
    pub started: String,
    /// The status's time (RFC 3339).
    pub time: String,
    /// See [`ready`].
    pub ready: bool,
    /// What wants attention, as sentences.
    pub problems: Vec<String>,
    /// The `main` log.
    pub log: LogStatus,
    /// The database, where there is one.
    pub database: Option<DatabaseStatus>,
    /// Copies of it that follow the same log.
    pub copies: Vec<CopyStatus>,
    /// Links, standing or not.
    pub links: Vec<LinkStatus>,
    /// Copies of feeds elsewhere.
    pub mirrors: Vec<MirrorStatus>,
    /// Views of its logs.
    pub views: Vec<ViewStatus>,
    /// Tables that do not move with the others.
    pub tables: Vec<TableStatus>,
    /// How far other nodes' logs have come here.
    pub heads: Vec<HeadStatus>,
    /// Figures since the start.
    pub counters: CounterStatus,
}

/// A log's figures.
#[derive(Debug, Serialize)]
pub struct LogStatus {
    /// 32 hex digits.
    pub id: String,
    /// The first position that can be read.
    pub oldest: u64,
    /// The last position.
    pub tail: u64,
    /// The tail's cursor.
    pub cursor: String,
    /// On disk.
    pub bytes: u64,
    /// What recovery cut at the start.
    pub torn_bytes: u64,
    /// Who still needs what, lowest first.
    pub pins: Vec<PinStatus>,
}

/// Who keeps the log from being trimmed.
#[derive(Debug, Serialize)]
pub struct PinStatus {
    /// `database`, `table NAME`, `child NAME`, `parent NAME`.
    pub who: String,
    /// What it has got.
    pub position: u64,
}

/// The database's side.
#[derive(Debug, Serialize)]
pub struct DatabaseStatus {
    /// Without secrets.
    pub url: String,
    /// `running`, `paused`, `waiting` or `stopped`.
    pub capture: &'static str,
    /// What capture says.
    pub capture_error: Option<String>,
    /// `running`, `waiting` or `stopped`.
    pub apply: &'static str,
    /// What apply says.
    pub apply_error: Option<String>,
    /// The position of the log that is applied.
    pub applied: u64,
    /// Entries of the log that are not applied yet.
    pub behind: u64,
    /// Tables that are captured.
    pub tables: Vec<String>,
    /// Tables that peers send us.
    pub received: Vec<String>,
}

/// A link's side.
#[derive(Debug, Serialize)]
pub struct LinkStatus {
    /// The peer's label.
    pub name: String,
    /// Its log.
    pub log: String,
    /// `parent` or `child`: what the peer is to us.
    pub role: String,
    /// `connected`, `trying`, `away`, `paused` or `refused`.
    pub state: &'static str,
    /// When it was linked, or refused (RFC 3339).
    pub since: Option<String>,
    /// What we have durably received of its log.
    pub received: Option<u64>,
    /// What it has durably received of ours.
    pub acknowledged: Option<u64>,
    /// Entries of our log that it has not acknowledged.
    pub behind: Option<u64>,
    /// The last heartbeat took this long to be durable there, with everything before it.
    pub lag_ms: Option<f64>,
    /// Why it does not stand.
    pub error: Option<String>,
    /// Milliseconds to the next attempt.
    pub retry_ms: Option<u64>,
    /// Tables that it sends us.
    pub receives: Vec<String>,
}

/// Another node's log.
#[derive(Debug, Serialize)]
pub struct HeadStatus {
    /// Its label.
    pub node: String,
    /// Everything of its log that is selected for us is here up to this cursor.
    pub cursor: String,
    /// That node's clock then.
    pub time: String,
    /// Between that time and now; wrong by what the two clocks differ.
    pub age_ms: f64,
}

/// Figures.
#[derive(Debug, Serialize)]
pub struct CounterStatus {
    /// Local transactions logged.
    pub captured: u64,
    /// Changes in them.
    pub captured_changes: u64,
    /// Transactions received.
    pub received: u64,
    /// Writes left out because the writer does not own the row.
    pub refused_writes: u64,
    /// Links made.
    pub links: u64,
    /// Rows of first copies written.
    pub copied_rows: u64,
    /// Transactions applied without the part of a parked table.
    pub torn: u64,
    /// Links that began anew, because the sender's log no longer reached back to what the receiver had.
    pub fell_out: u64,
}

impl Status {
    /// Takes it now.
    pub fn of(shared: &Shared) -> Status {
        let (ready, problems) = ready(shared);
        Status {
            schema: 1,
            node: shared.name.to_string(),
            version: env!("CARGO_PKG_VERSION"),
            started: shared.started.to_string(),
            time: Timestamp::now().to_string(),
            ready,
            problems,
            log: log_status(shared),
            database: database_status(shared),
            copies: copies(shared),
            links: link_status(shared),
            mirrors: shared.mirrors.status(),
            views: shared.views.status(),
            tables: table_status(shared),
            heads: head_status(shared),
            counters: CounterStatus {
                captured: shared.counters.captured.get(),
                captured_changes: shared.counters.captured_changes.get(),
                received: shared.counters.received.get(),
                refused_writes: shared.counters.refused.get(),
                links: shared.counters.links.get(),
                copied_rows: shared.counters.copied_rows.get(),
                fell_out: shared.counters.fell_out.get(),
                torn: shared.database.as_ref().map_or(0, |database| database.state.borrow().torn),
            },
        }
    }
}

/// Ready: capture runs, first copies are done and, with a parent that can be reached, what its log had is applied. Parked
/// tables are problems, not unreadiness.
pub fn ready(shared: &Shared) -> (bool, Vec<String>) {
    let mut problems = Vec::new();
    let mut ready = true;
    if let Some(database) = &shared.database {
        let capture = shared.capture.borrow().clone();
        if let Some(error) = &capture.error {
            ready = false;
            problems.push(format!("capture: {error}"));
        }
        ready &= capture.polls > 0;
        let state = database.state.borrow().clone();
        if let Some(error) = &state.error {
            ready = false;
            problems.push(format!("apply: {error}"));
        }
        let links = shared.links();
        for link in links.values().filter(|link| link.role == Role::Child) {
            let applied = state.applied.map(|applied| applied.position).unwrap_or_default();
            ready &= link.target_tail.is_some_and(|tail| applied >= tail);
        }
        drop(links);
        for (table, from) in shared.uncopied() {
            ready = false;
            let why = shared.copy_waits().get(&table).map(|wait| format!(": {}", wait.why)).unwrap_or_default();
            problems.push(format!("table {table} is to be copied from {from}{why}"));
        }
        for lane in &state.lanes {
            match &lane.state {
                LaneState::Copying { from, .. } => {
                    ready = false;
                    let name = shared.book.name_of(from.0).unwrap_or_default();
                    let waits = shared.copy_waits();
                    let why = waits.get(&lane.table).map(|wait| format!(": {}", wait.why)).unwrap_or_default();
                    problems.push(format!("table {} is being copied from {name}{why}", lane.table));
                }
                LaneState::Replaying { .. } => ready = false,
                LaneState::Parked { position, error, .. } => {
                    problems.push(format!(
                        "table {} is parked at position {position}: {error} / why: one table's trouble is that table's; the \
                         others go on / do: mend that, then `watershed source retry {}`; or skip the change, or resync",
                        lane.table, lane.table
                    ));
                }
                LaneState::Paused => {
                    let table = &lane.table;
                    problems.push(format!("table {table} is paused / do: `watershed source resume {table}`"));
                }
            }
        }
    }
    problems.extend(link_problems(shared));
    problems.extend(copy_problems(shared));
    problems.extend(shared.mirrors.problems());
    problems.extend(shared.views.problems());
    (ready, problems)
}

/// Why links do not stand.
fn link_problems(shared: &Shared) -> Vec<String> {
    let linked: Vec<Box<str>> = shared.links().values().map(|link| link.node.name.clone()).collect();
    let now = Timestamp::now().0;
    // Beside a link that stands, only what happens now counts: somebody else tries under its name.
    let counts =
        |name: &str, at: &Timestamp| !linked.iter().any(|linked| **linked == *name) || now - at.0 < REFUSAL_SHOWN_US;
    let refusals = shared.refusals();
    let mut problems: Vec<String> = refusals
        .iter()
        .filter(|(name, (at, _))| counts(name, at))
        .map(|(name, (_, why))| format!("link with {name}: {why}"))
        .collect();
    let dial = shared.dial.borrow();
    if let Some(why) = dial.last_error.as_ref().filter(|_| dial.connected_since.is_none() && problems.is_empty()) {
        problems.push(format!("link with the parent: {why}"));
    }
    problems
}

/// Why the parent does not let us in, where only an operator can help.
fn dial_refused(shared: &Shared) -> Option<String> {
    shared.dial.borrow().last_error.as_ref().filter(|why| !why.retryable).map(ToString::to_string)
}

fn log_status(shared: &Shared) -> LogStatus {
    let info = shared.log.info();
    let mut pins: Vec<_> =
        retention::pins(shared).into_iter().map(|(who, position)| PinStatus { who, position: position.0 }).collect();
    pins.sort_by_key(|pin| pin.position);
    LogStatus {
        id: info.id.to_string(),
        oldest: info.oldest.0,
        tail: info.tail.0,
        cursor: shared.log.cursor_at(info.tail).to_string(),
        bytes: info.bytes,
        torn_bytes: info.torn_bytes,
        pins,
    }
}

fn database_status(shared: &Shared) -> Option<DatabaseStatus> {
    let database = shared.database.as_ref()?;
    let capture = shared.capture.borrow().clone();
    let state = database.state.borrow().clone();
    let word = |stopped: bool, error: &Option<String>| match (stopped, error) {
        (true, _) => "stopped",
        (_, Some(_)) => "waiting",
        _ => "running",
    };
    let applied = state.applied.map_or(0, |applied| applied.position.0);
    Some(DatabaseStatus {
        url: database.url.clone(),
        capture: if capture.paused { "paused" } else { word(capture.stopped, &capture.error) },
        capture_error: capture.error.clone(),
        apply: word(state.stopped, &state.error),
        apply_error: state.error.clone(),
        applied,
        behind: shared.log.tail().borrow().0.saturating_sub(applied),
        tables: shared.tables.borrow().iter().map(|table| table.name.to_string()).collect(),
        received: shared.received_tables().iter().map(ToString::to_string).collect(),
    })
}

fn link_status(shared: &Shared) -> Vec<LinkStatus> {
    let links = shared.links();
    let refusals = shared.refusals();
    let dial = shared.dial.borrow().clone();
    let tail = shared.log.tail().borrow().0;
    let mut out: Vec<LinkStatus> = links
        .iter()
        .map(|(id, link)| LinkStatus {
            name: link.node.name.to_string(),
            log: link.node.log.to_string(),
            role: if link.role == Role::Child { "parent" } else { "child" }.into(),
            state: "connected",
            since: Some(link.since.to_string()),
            received: shared.received(*id).map(|cursor| cursor.position.0),
            acknowledged: link.acknowledged.map(|cursor| cursor.position.0),
            behind: link.acknowledged.map(|cursor| tail.saturating_sub(cursor.position.0)),
            lag_ms: link.lag_now().map(|lag| lag.as_secs_f64() * 1e3),
            error: None,
            retry_ms: None,
            receives: link.offers.iter().map(|offer| offer.table.name.to_string()).collect(),
        })
        .collect();
    for (name, known) in shared.book.all() {
        if out.iter().any(|link| link.name == name) {
            continue;
        }
        let refusal = refusals.get(&name);
        let dialling = known.role == "parent";
        let refused = refusal.is_some() || dialling && dial_refused(shared).is_some();
        out.push(LinkStatus {
            log: known.log.clone(),
            state: match (known.paused, refused, dialling) {
                (true, ..) => "paused",
                (_, true, _) => "refused",
                (.., true) => "trying",
                _ => "away",
            },
            role: known.role,
            since: refusal.map(|(since, _)| since.to_string()),
            received: shared
                .received(crate::model::LinkId(known.log.parse().unwrap_or_default()))
                .map(|c| c.position.0),
            acknowledged: Some(known.acknowledged),
            behind: Some(tail.saturating_sub(known.acknowledged)),
            lag_ms: None,
            error: refusal
                .map(|(_, why)| why.clone())
                .or_else(|| dial.last_error.as_ref().filter(|_| dialling).map(ToString::to_string)),
            retry_ms: dial
                .next_attempt
                .filter(|_| dialling)
                .map(|at| (at.0 - Timestamp::now().0).max(0) as u64 / 1_000),
            receives: Vec::new(),
            name,
        });
    }
    let unknown = refusals.iter().filter(|(name, _)| !shared.book.all().iter().any(|(known, _)| known == *name));
    for (name, (since, why)) in unknown {
        out.push(refused_link(name, &since.to_string(), why));
    }
    let met = out.iter().any(|link| link.role == "parent");
    out.extend(unmet_parent(shared).filter(|_| !met));
    out
}

/// A parent that has never let us in; its name is not known.
fn unmet_parent(shared: &Shared) -> Option<LinkStatus> {
    let url = shared.parent.as_ref()?;
    let refused = dial_refused(shared);
    let mut link = refused_link(url, &shared.started.to_string(), "");
    link.state = if refused.is_some() { "refused" } else { "trying" };
    (link.role, link.since) = ("parent".into(), None);
    link.error = refused.or_else(|| shared.dial.borrow().last_error.as_ref().map(ToString::to_string));
    Some(link)
}

fn refused_link(name: &str, since: &str, why: &str) -> LinkStatus {
    LinkStatus {
        name: name.into(),
        log: String::new(),
        role: "unknown".into(),
        state: "refused",
        since: Some(since.into()),
        received: None,
        acknowledged: None,
        behind: None,
        lag_ms: None,
        error: Some(why.into()),
        retry_ms: None,
        receives: Vec::new(),
    }
}

fn table_status(shared: &Shared) -> Vec<TableStatus> {
    let Some(database) = &shared.database else { return Vec::new() };
    let state = database.state.borrow();
    let waits = shared.copy_waits();
    let rates = shared.copy_rates();
    let lanes = state.lanes.iter().map(|lane| {
        let status = of_lane(lane, waits.get(&lane.table).map(|wait| wait.why.clone()));
        match rates.get(&lane.table) {
            None => status,
            Some(rate) => TableStatus {
                rows_per_second: Some(rate.rows_per_second),
                rows_left: rate.rows_left,
                seconds_left: rate.seconds_left(),
                ..status
            },
        }
    });
    lanes.collect()
}

fn head_status(shared: &Shared) -> Vec<HeadStatus> {
    let now = Timestamp::now();
    let heads = shared.heads.lock().unwrap_or_else(PoisonError::into_inner);
    let mut out: Vec<HeadStatus> = heads
        .values()
        .map(|head| HeadStatus {
            node: head.node.name.to_string(),
            cursor: head.cursor.to_string(),
            time: head.time.to_string(),
            age_ms: (now.0 - head.time.0) as f64 / 1e3,
        })
        .collect();
    out.sort_by(|a, b| a.node.cmp(&b.node));
    out
}
