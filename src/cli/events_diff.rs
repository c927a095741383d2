//! `watershed events diff`

use clap::builder::RangedU64ValueParser;
use clap::{Args, ValueEnum};
use indicatif::ProgressBar;
use serde_json::json;

use super::{Exit, ExitError, Global, events, finite, output};
use crate::node::events::{CompareOptions, Comparison, DiffSettings, Finding, Findings, Tables, compare};
use crate::view::EventIds;

/// Compare two events tables
///
/// Digests of chunks are computed on both sides at the same time, and rows are read where they differ; between PostgreSQL
/// and SQLite all rows are read, and JSON is compared by value, with every digit of its numbers. Both tables may be
/// appended to meanwhile: what the one has after the last id of the other is not compared, and said, unless --all is given.
#[derive(Debug, Args)]
#[command(
    after_help = "Without A and B the configuration (-c) says what is compared: events1Params and events2Params of the original's
file (with maxDiffs and maxEventsPerRead), or the source and the one destination of [events].

Exit code 6 when something was found, 130 when a signal came first."
)]
pub(super) struct Diff {
    /// postgres://USER@HOST:PORT/DATABASE or sqlite:PATH
    #[arg(requires = "b")]
    a: Option<String>,
    /// The other
    b: Option<String>,
    /// What one table has after the last id of the other is a difference too
    #[arg(long)]
    all: bool,
    /// End after N differences and faults
    #[arg(long, value_name = "N", value_parser = RangedU64ValueParser::<u64>::new().range(1..))]
    max: Option<u64>,
    /// Check by the stamps of `events load` that every transaction is whole and in order
    #[arg(long)]
    validate_tables: bool,
    /// How ids were given: consecutive from 1, or with gaps. By default as the source among the two says
    #[arg(long, value_enum)]
    ids: Option<Ids>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Ids {
    Table,
    Sequence,
}

impl Diff {
    pub(super) fn run(self, global: &Global) -> Result<(), ExitError> {
        let settings = match (&self.a, &self.b) {
            (Some(a), Some(b)) => DiffSettings::new(events::endpoint(a)?, events::endpoint(b)?),
            _ => {
                let (settings, notes) = DiffSettings::load(global.file())?;
                notes.iter().for_each(|note| eprintln!("note: {note}"));
                settings
            }
        };
        let options = CompareOptions {
            all: self.all,
            last: None,
            differences_only: false,
            findings_max: self.max.or(settings.findings_max),
            groups: self.validate_tables,
            ids: self.ids.map(|ids| match ids {
                Ids::Table => EventIds::Table,
                Ids::Sequence => EventIds::Sequence,
            }),
        };
        let (a, b) = (settings.a.to_string(), settings.b.to_string());
        if !global.json {
            output::line(&format!("a: {a}\nb: {b}"))?;
        }
        let mut shown = Shown { bar: finite::bar(Some(0), global.quiet), json: global.json, failed: None };
        shown.bar.set_message("events");
        let compared = finite::run(async |stop| {
            let (mut a, mut b) = tokio::try_join!(
                settings.a.table(settings.connect_timeout),
                settings.b.table(settings.connect_timeout)
            )?;
            let tables = Tables { a: &mut *a, b: &mut *b };
            Ok(compare(tables, options, &mut shown, &stop).await?)
        });
        shown.bar.finish_and_clear();
        let compared = compared?;
        shown.failed.map_or(Ok(()), Err)?;
        summary(global, &a, &b, &compared, options)?;
        match (compared.is_equal(), compared.interrupted) {
            (_, true) => Err(ExitError::quiet(Exit::Interrupted)),
            (true, _) => Ok(()),
            (false, _) => Err(ExitError::quiet(Exit::Differences)),
        }
    }
}

/// Prints what is found.
struct Shown {
    bar: ProgressBar,
    json: bool,
    failed: Option<ExitError>,
}

impl Findings for Shown {
    fn found(&mut self, finding: &Finding) {
        let printed = self.bar.suspend(|| match self.json {
            true => output::line(&finding.to_json().to_string()),
            false => output::line(&finding.to_string()),
        });
        if let Err(error) = printed {
            self.failed.get_or_insert(error);
        }
    }

    fn compared(&mut self, id: i64, last: i64) {
        self.bar.set_length(last.unsigned_abs());
        self.bar.set_position(id.max(0).unsigned_abs());
    }
}

fn summary(global: &Global, a: &str, b: &str, compared: &Comparison, options: CompareOptions) -> Result<(), ExitError> {
    let Comparison { differences, faults, last, complete, interrupted, .. } = compared;
    let equal = compared.is_equal() && *complete;
    if global.json {
        let side = |name: &str, facts: &crate::view::EventsFacts| json!({"name": name, "count": facts.count, "max_id": facts.max_id});
        return output::object(json!({
            "summary": true, "equal": equal, "a": side(a, &compared.a), "b": side(b, &compared.b), "compared_to_id": last,
            "differences": differences, "faults": faults, "complete": complete, "interrupted": interrupted,
        }));
    }
    let rows = [("a", &compared.a), ("b", &compared.b)];
    let rows: Vec<Vec<String>> =
        rows.map(|(side, facts)| vec![side.into(), facts.count.to_string(), facts.max_id.to_string()]).into();
    output::line(&output::table(&["TABLE", "EVENTS", "GREATEST ID"], &rows))?;
    for (side, facts) in [("a", &compared.a), ("b", &compared.b)] {
        if facts.max_id > *last && !options.all {
            output::line(&format!("compared up to id {last}; {side} has more, up to {}", facts.max_id))?;
        }
    }
    let ended = match (interrupted, complete) {
        (true, _) => ", interrupted before the end",
        (_, false) => ", ended before the end (--max)",
        _ => "",
    };
    match equal {
        true => output::line("equal"),
        false => output::line(&format!("{differences} differences, {faults} faults{ended}")),
    }
}
