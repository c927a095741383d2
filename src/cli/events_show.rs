//! What `watershed events replicate` tells: settings, what it found, and how far it is.

use std::io::IsTerminal;
use std::sync::Arc;
use std::time::{Duration, Instant};

use indicatif::{
    HumanCount, HumanDuration, MultiProgress, ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle,
};
use serde_json::{Value as Json, json};

use super::{ExitError, logging, output};
use crate::model::limits;
use crate::node::events::{DestinationStatus, Overview, Phase, Replication, Settings};
use crate::view::{EventIds, EventsFacts};

/// Between two drawings of the bars.
const DRAW_INTERVAL: Duration = Duration::from_millis(250);

/// Logs what was configured; passwords are not part of names.
pub(super) fn settings(settings: &Settings) {
    tracing::info!("source: {}", settings.source);
    for (index, destination) in settings.destinations.iter().enumerate() {
        tracing::info!("destination {}: {destination}", index + 1);
    }
    let (max, timeout) = (HumanCount(settings.max_events_per_write.into()), settings.connect_timeout);
    tracing::info!("at most {max} events a write, {timeout:?} to connect");
}

fn counts(facts: &EventsFacts) -> String {
    let (count, max) = (HumanCount(facts.count.unsigned_abs()), HumanCount(facts.max_id.unsigned_abs()));
    format!("{count} events, the greatest id is {max}")
}

/// Logs what was found.
pub(super) fn found(replication: &Replication) {
    let overview = &replication.overview;
    tracing::info!("connected to {}: {}", overview.source, counts(&replication.source));
    for (progress, facts) in overview.destinations.iter().zip(&replication.destinations) {
        match facts {
            Some(facts) => tracing::info!("connected to {}: {}", progress.name(), counts(facts)),
            None => tracing::warn!("not connected to {} yet", progress.name()),
        }
    }
}

/// Prints what would be copied.
pub(super) fn plan(replication: &Replication, as_json: bool) -> Result<(), ExitError> {
    let (overview, source) = (&replication.overview, &replication.source);
    let destinations = overview.destinations.iter().zip(&replication.destinations);
    let missing = |facts: &EventsFacts| (source.count - facts.count).max(0);
    if as_json {
        let ids = if source.ids == Some(EventIds::Sequence) { "sequence" } else { "table" };
        let destinations: Vec<Json> = destinations
            .filter_map(|(progress, facts)| {
                let facts = facts.as_ref()?;
                let (name, missing) = (progress.name(), missing(facts));
                Some(json!({ "name": name, "events": facts.count, "max_id": facts.max_id, "to_copy": missing }))
            })
            .collect();
        let source = json!({ "name": overview.source, "events": source.count, "max_id": source.max_id, "ids": ids });
        return output::object(json!({ "dry_run": true, "source": source, "destinations": destinations }));
    }
    let row = |role: &str, name: &str, facts: &EventsFacts, missing: String| {
        vec![role.to_string(), name.to_string(), facts.count.to_string(), facts.max_id.to_string(), missing]
    };
    let mut rows = vec![row("source", &overview.source, source, "-".into())];
    for (progress, facts) in destinations {
        rows.extend(facts.as_ref().map(|facts| row("destination", progress.name(), facts, missing(facts).to_string())));
    }
    output::line(&output::table(&["ROLE", "DATABASE", "EVENTS", "MAX ID", "TO COPY"], &rows))
}

/// Shows how far everybody is: bars on a terminal, a line a minute in the log, and in JSON on stdout.
pub(super) struct Display {
    overview: Arc<Overview>,
    as_json: bool,
    bars: Option<(MultiProgress, Vec<ProgressBar>)>,
}

impl Display {
    pub(super) fn new(overview: Arc<Overview>, as_json: bool, quiet: bool) -> Display {
        let terminal = std::io::stderr().is_terminal() && !quiet;
        let bars = terminal.then(|| {
            let all = MultiProgress::with_draw_target(ProgressDrawTarget::stderr_with_hz(8));
            let bars = overview.destinations.iter().map(|progress| all.add(bar(progress.name()))).collect();
            logging::above(all.clone());
            (all, bars)
        });
        Display { overview, as_json, bars }
    }

    /// Ends only where stdout cannot be written.
    pub(super) async fn run(&self) -> ExitError {
        let mut draw = tokio::time::interval(DRAW_INTERVAL);
        let mut report = tokio::time::interval(limits::EVENTS_REPORT_INTERVAL);
        let mut before: Vec<(u64, Instant)> = Vec::new();
        loop {
            tokio::select! {
                _ = draw.tick(), if self.bars.is_some() => self.draw(),
                _ = report.tick() => {
                    let status = self.overview.status();
                    for (status, (events, at)) in status.iter().zip(&before) {
                        let rate = (status.events - events) as f64 / at.elapsed().as_secs_f64();
                        tracing::info!("{}", line(status, rate));
                    }
                    before = status.iter().map(|status| (status.events, Instant::now())).collect();
                    if let Err(error) = self.print(&status) {
                        return error;
                    }
                }
            }
        }
    }

    fn print(&self, status: &[DestinationStatus]) -> Result<(), ExitError> {
        match self.as_json {
            true => output::object(json!({ "source": self.overview.source, "destinations": status })),
            false => Ok(()),
        }
    }

    /// The last word.
    pub(super) fn finish(&self) -> Result<(), ExitError> {
        if let Some((all, bars)) = &self.bars {
            bars.iter().for_each(ProgressBar::finish_and_clear);
            // Bars that stand no more cannot be drawn over.
            let _ = all.clear();
        }
        let status = self.overview.status();
        for status in &status {
            let (events, name) = (HumanCount(status.events), &status.name);
            tracing::info!("{name}: {events} events copied, up to {}", status.position);
        }
        self.print(&status)
    }

    fn draw(&self) {
        let Some((_, bars)) = &self.bars else { return };
        for (status, bar) in self.overview.status().iter().zip(bars) {
            bar.set_length(status.tail);
            bar.set_position(status.position);
            bar.set_message(match (status.state, status.behind) {
                (Phase::Copying, 0) | (Phase::Current, _) => "current".to_string(),
                (Phase::Copying, behind) => format!("{} behind", HumanCount(behind)),
                (Phase::Connecting, _) => "connecting".to_string(),
                (Phase::Waiting, _) => "not reached, tried again".to_string(),
                (Phase::Failed, _) => "failed".to_string(),
                (Phase::Stopped, _) => "stopped".to_string(),
            });
        }
    }
}

/// A bar with position and tail; rate and time left only where there is something to wait for.
fn bar(name: &str) -> ProgressBar {
    let template = "{prefix} {wide_bar} {human_pos}/{human_len} {rate} {msg}";
    let rate = |state: &ProgressState, out: &mut dyn std::fmt::Write| {
        let behind = state.len().is_some_and(|length| length > state.pos());
        // A terminal that cannot be written shows nothing anyway.
        let _ = match behind && state.per_sec() >= 1.0 {
            true => {
                write!(out, "{}/s, {:#} left,", HumanCount(state.per_sec() as u64), HumanDuration(state.eta()))
            }
            false => Ok(()),
        };
    };
    let style = ProgressStyle::with_template(template).map(|style| style.with_key("rate", rate));
    let bar = ProgressBar::new(0).with_prefix(short(name).to_string());
    match style {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

/// A URL without its scheme and user: lines of a terminal are short.
fn short(name: &str) -> &str {
    let name = name.split_once("://").map_or(name, |(_, rest)| rest);
    name.split_once('@').map_or(name, |(_, rest)| rest)
}

/// What the log says of a destination every minute.
fn line(status: &DestinationStatus, rate: f64) -> String {
    let (name, position, behind) = (&status.name, status.position, HumanCount(status.behind));
    match status.state {
        Phase::Copying | Phase::Current => {
            let lag = status.lag_seconds;
            format!("{name}: at {position}, {behind} behind, {lag:.1} s lag, {rate:.0} events/s")
        }
        Phase::Waiting => format!("{name}: at {position}, not reached: tried again"),
        Phase::Connecting => format!("{name}: at {position}, connecting"),
        Phase::Failed => format!("{name}: at {position}, failed: {}", status.error.as_deref().unwrap_or_default()),
        Phase::Stopped => format!("{name}: at {position}, stopped"),
    }
}
