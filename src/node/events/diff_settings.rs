//! What is compared with what, from `[events]` or from the original's file.

use std::path::Path;
use std::time::Duration;

use super::settings::is_slate;
use super::slate::SlateFile;
use super::{Endpoint, Settings};
use crate::model::limits;
use crate::node::config::{self, ConfigError, Mistake};

/// Two tables, and how they are compared.
#[derive(Clone, Debug)]
pub struct DiffSettings {
    /// The first.
    pub a: Endpoint,
    /// The second.
    pub b: Endpoint,
    /// End after so many findings.
    pub findings_max: Option<u64>,
    /// How long connecting may take.
    pub connect_timeout: Duration,
}

/// Keys of the original's files.
const KEYS: [&str; 8] = [
    "events1Params",
    "events2Params",
    "maxDiffs",
    "maxEventsPerRead",
    "connectTimeout",
    "eventSource",
    "replicationDestinations",
    "maxEventsPerWrite",
];
/// The original's least number of events for one read. Here reads are bounded by bytes, so the number changes nothing.
const EVENTS_PER_READ_MIN: u64 = 50_000;

impl DiffSettings {
    /// Two tables as they come.
    pub fn new(a: Endpoint, b: Endpoint) -> DiffSettings {
        DiffSettings { a, b, findings_max: None, connect_timeout: limits::EVENTS_CONNECT_TIMEOUT }
    }

    /// Reads the original's file, or the source and the one destination of `[events]`; with notes for people.
    ///
    /// # Errors
    /// Every mistake that can be found at once, each with its place.
    pub fn load(path: &Path) -> Result<(DiffSettings, Vec<String>), ConfigError> {
        let text = config::read(path)?;
        if is_slate(path, &text) {
            return DiffSettings::of_slate(SlateFile::parse(path, text)?);
        }
        let (settings, mut notes) = Settings::load(path)?;
        let mut destinations = settings.destinations.into_iter();
        let b = destinations.next().expect("settings have at least one destination");
        if let Some(next) = destinations.next() {
            notes.push(format!(
                "only the first destination is compared; name the others: `watershed events diff A {next}`"
            ));
        }
        let (a, connect_timeout) = (settings.source, settings.connect_timeout);
        Ok((DiffSettings { a, b, findings_max: None, connect_timeout }, notes))
    }

    fn of_slate(mut file: SlateFile) -> Result<(DiffSettings, Vec<String>), ConfigError> {
        file.note_unknown(&KEYS);
        let (a, b) = (file.database("events1Params"), file.database("events2Params"));
        let findings_max = file.number("maxDiffs").map(|(max, _)| max);
        if let Some((max, span)) = file.number("maxEventsPerRead").filter(|(max, _)| *max < EVENTS_PER_READ_MIN) {
            file.note(&span, &format!("`maxEventsPerRead` is raised from {max} to {EVENTS_PER_READ_MIN}, the least"));
        }
        let timeout = file.number("connectTimeout").map(|(millis, _)| Duration::from_millis(millis));
        if let (Some((a, _)), Some((b, span))) = (&a, &b)
            && a.is_plainly(b)
        {
            file.fail(Mistake {
                code: "WS-EVENTS-131",
                what: "`events1Params` and `events2Params` are the same database".into(),
                why: "a table is always equal to itself".into(),
                fix: "name another database in one of them".into(),
                span: Some(span.clone()),
            });
        }
        let connect_timeout = timeout.unwrap_or(limits::EVENTS_CONNECT_TIMEOUT).min(limits::PERIOD_MAX);
        let settings = a.zip(b).map(|((a, _), (b, _))| DiffSettings { a, b, findings_max, connect_timeout });
        let (settings, notes) = file.finish(settings)?;
        Ok((settings.expect("without a database there is a mistake"), notes))
    }
}
