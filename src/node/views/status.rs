//! How a view is doing, for people and programs.

use serde::Serialize;

use super::publish::PublishStatus;
use super::record::PassedOver;
use super::viewed::{Figures, Running, Trouble, Viewed, seconds_left};
use crate::model::Position;
use crate::view::Needed;

/// A view.
#[derive(Clone, Debug, Serialize)]
pub struct ViewStatus {
    /// Its name.
    pub name: String,
    /// The log that it is derived from.
    pub log: String,
    /// `sql`, `count`, `latest`, `reduce`, or what a program calls its own.
    pub kind: String,
    /// Where it is.
    pub store: String,
    /// `quarantined` (a replica of a machine that has parted from the others), `current`, `behind`, `starting` (it has not what its log had at the start), `building` (for the first time), `waiting` (its
    /// log or its store cannot be reached), `stalled`, `failed` or `trimmed`.
    pub state: &'static str,
    /// The definition that answers, as a fingerprint.
    pub definition: Option<String>,
    /// How far it has come: the cursors of all partitions.
    pub cursor: String,
    /// The sum of the positions.
    pub position: u64,
    /// Of its log, the sum of all partitions.
    pub tail: u64,
    /// Entries that the log has and the view has not.
    pub behind: u64,
    /// Positions a second, lately.
    pub per_second: f64,
    /// Readers that wait for it.
    pub waiting: usize,
    /// Why it does not go on now, where it will by itself.
    pub error: Option<String>,
    /// Why it does not go on.
    pub failure: Option<FailureStatus>,
    /// What is to take its place.
    pub building: Option<BuildStatus>,
    /// How far its output has come into the log that it is, where it is one.
    pub published: Option<PublishStatus>,
    /// What it has passed over by order.
    pub passed_over: Vec<PassedOver>,
    /// The partitions, where there are several.
    pub parts: Vec<PartStatus>,
}

/// Where a view has stopped.
#[derive(Clone, Debug, Serialize)]
pub struct FailureStatus {
    /// The reason that readers are given.
    pub reason: &'static str,
    /// Of the log.
    pub partition: usize,
    /// The entry at which it has stopped; 0 where it is none.
    pub position: u64,
    /// What the store or the log says.
    pub error: String,
    /// That entry as JSON; cut where it is long.
    pub entry: Option<String>,
    /// The command that has it passed over; none where that would not help.
    pub skip: Option<String>,
}

/// A build beside what answers.
#[derive(Clone, Debug, Serialize)]
pub struct BuildStatus {
    /// What is built, as a fingerprint.
    pub definition: String,
    /// The sum of the positions.
    pub position: u64,
    /// Entries that are to come.
    pub left: u64,
    /// Positions a second, lately.
    pub per_second: f64,
    /// About how long the rest takes; none while that cannot be said.
    pub seconds_left: Option<f64>,
    /// For so long it has been built, in seconds.
    pub seconds: f64,
    /// Why it does not go on.
    pub failure: Option<FailureStatus>,
}

/// A partition of a view.
#[derive(Clone, Debug, Serialize)]
pub struct PartStatus {
    /// Of the log.
    pub partition: usize,
    /// How far it has come.
    pub position: u64,
    /// Of the partition.
    pub tail: u64,
}

/// The command that has an entry passed over.
fn skip(name: &str, trouble: &Trouble) -> Option<String> {
    let partition = if trouble.partition > 0 { format!(" --partition {}", trouble.partition) } else { String::new() };
    let (is_entry, position) = (trouble.kind == "failed" && trouble.position > Position::ZERO, trouble.position);
    is_entry.then(|| format!("watershed view skip {name} --position {position}{partition} --yes"))
}

/// What helps a view that has stopped.
pub(super) fn what_to_do(name: &str, trouble: &Trouble) -> String {
    advice(name, skip(name, trouble).as_deref())
}

fn advice(name: &str, skip: Option<&str>) -> String {
    let mend = "correct its definition and send the node SIGHUP";
    match skip {
        Some(skip) => format!("{mend}; or `{skip}`"),
        None => format!("{mend}, which has it tried again; or `watershed view rebuild {name}`"),
    }
}

fn failure(name: &str, trouble: &Trouble) -> FailureStatus {
    FailureStatus {
        reason: super::viewed::unmet_by(trouble).reason(),
        partition: trouble.partition,
        position: trouble.position.0,
        error: trouble.why.clone(),
        entry: trouble.entry.clone(),
        skip: skip(name, trouble),
    }
}

fn position(running: &Running) -> u64 {
    running.parts.iter().map(|part| part.position().0).sum()
}

fn build(name: &str, running: Option<&Running>, wanted: String, trouble: Option<&Trouble>) -> BuildStatus {
    BuildStatus {
        definition: running.map_or(wanted, |running| running.definition.to_string()),
        position: running.map_or(0, position),
        left: running.map_or(0, Running::left),
        per_second: running.map_or(0.0, |running| running.rate),
        seconds_left: running.filter(|running| running.rate > 0.0).map(seconds_left),
        seconds: running.map_or(0.0, |running| running.since.elapsed().as_secs_f64()),
        failure: trouble.map(|trouble| failure(name, trouble)),
    }
}

impl Viewed {
    /// How it is doing, now.
    pub fn status(&self) -> ViewStatus {
        let figures = self.figures().clone();
        let tails: Vec<_> = self.feed().iter().flat_map(|feed| feed.tails()).collect();
        let parts = figures.live.iter().flat_map(|live| live.parts.iter());
        let parts =
            parts.map(|part| PartStatus { partition: part.number, position: part.position().0, tail: part.tail().0 });
        let parts: Vec<PartStatus> = parts.collect();
        let building = (figures.building.is_some() || figures.building_trouble.is_some()).then(|| {
            let (running, trouble) = (figures.building.as_ref(), figures.building_trouble.as_ref());
            build(&self.name, running, self.wanted().to_string(), trouble)
        });
        let quarantined = self.quarantined();
        let stopped = figures.trouble.as_ref().filter(|trouble| !trouble.passes());
        let stopped = quarantined.as_ref().or(stopped);
        ViewStatus {
            name: self.name.to_string(),
            log: self.settings.log.to_string(),
            kind: self.settings.kind.to_string(),
            store: self.settings.store.to_string(),
            state: self.state(&figures),
            definition: figures.live.as_ref().map(|live| live.definition.to_string()),
            cursor: self.cursor(&self.reached()),
            position: figures.live.as_ref().map_or(0, position),
            tail: tails.iter().map(|tail| tail.position.0).sum(),
            behind: figures.live.as_ref().map_or(0, Running::left),
            per_second: figures.live.as_ref().map_or(0.0, |live| live.rate),
            waiting: self.waiting(),
            error: away(&figures),
            failure: stopped.map(|trouble| failure(&self.name, trouble)),
            building,
            published: self.publishing.as_ref().map(|board| board.status()),
            passed_over: self.passed_over(),
            parts: if parts.len() > 1 { parts } else { Vec::new() },
        }
    }

    fn quarantined(&self) -> Option<Trouble> {
        let why = self.record.quarantine.why()?;
        Some(Trouble { kind: "quarantined", partition: 0, position: Position::ZERO, why, entry: None })
    }

    fn state(&self, figures: &Figures) -> &'static str {
        if self.record.quarantine.why().is_some() {
            return "quarantined";
        }
        match (&figures.trouble, &figures.live) {
            (Some(trouble), _) if trouble.kind == "away" => "waiting",
            (Some(trouble), _) if trouble.kind == "rebuilding" => "building",
            (Some(trouble), _) => trouble.kind,
            (None, None) => "waiting",
            (None, Some(_)) if away(figures).is_some() => "waiting",
            (None, Some(live)) if live.is_stalled() => "stalled",
            (None, Some(live)) if self.is_first(live) => "building",
            (None, Some(_)) if !self.waiters.has(&Needed::new()) => "starting",
            (None, Some(live)) if live.left() > 0 => "behind",
            (None, Some(_)) => "current",
        }
    }
}

/// Why it waits.
fn away(figures: &Figures) -> Option<String> {
    let opening = figures.trouble.as_ref().filter(|trouble| trouble.passes()).map(|trouble| trouble.why.clone());
    let parts = figures.live.iter().flat_map(|live| live.parts.iter());
    opening.or_else(|| parts.filter_map(|part| part.state().away.clone()).next())
}

impl ViewStatus {
    /// What wants attention, as a sentence.
    pub fn problem(&self) -> Option<String> {
        let name = &self.name;
        if let Some(failure) = &self.failure {
            let FailureStatus { position, partition, error, entry, .. } = failure;
            let at = entry.as_ref().map(|entry| format!(" ({entry})")).unwrap_or_default();
            return Some(match self.state {
                "quarantined" => format!(
                    "view {name} is in quarantine: {error} / why: replicas of a machine over one log have the same states / do: find out what \
                     differs there, then `watershed view rebuild {name}`"
                ),
                "trimmed" => format!(
                    "view {name} was cut off: {error} / why: retention removed what it had not read / do: give its log a larger budget, \
                     and `watershed view rebuild {name}`"
                ),
                _ => format!(
                    "view {name} has stopped at position {position} of partition {partition}{at}: {error} / why: nothing is passed over \
                     unless an operator says so / do: {}",
                    advice(name, failure.skip.as_deref())
                ),
            });
        }
        let building = self.building.as_ref().and_then(|building| building.failure.as_ref());
        let published = self.published.as_ref();
        let unpublished = published.and_then(|out| Some((&out.log, out.error.as_ref()?)));
        match (&self.error, building) {
            (Some(error), _) => Some(format!("view {name} waits: {error}")),
            (None, Some(failure)) => Some(format!(
                "view {name} cannot be built by its new definition, and answers by the one before: position {}: {} / do: {}",
                failure.position,
                failure.error,
                advice(name, failure.skip.as_deref())
            )),
            (None, None) if unpublished.is_some() => {
                unpublished.map(|(log, why)| format!("view {name} does not publish into {log}: {why}"))
            }
            (None, None) if self.state == "stalled" => {
                Some(format!("view {name} has stalled: its log moves and it does not / do: look at its store"))
            }
            (None, None) => None,
        }
    }
}
