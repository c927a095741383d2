//! What is copied where, from `[events]` or from the original's file.

use std::ops::Range;
use std::path::Path;
use std::time::Duration;

use super::endpoint::{Endpoint, completed};
use super::slate::{Placed, SlateFile};
use crate::model::limits;
use crate::node::config::{self, Config, ConfigError, DatabaseUrl, EventsDatabase, EventsFile, Mistake, secret};

/// What is copied where.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The database with the events.
    pub source: Endpoint,
    /// The databases that they are copied to; at least one.
    pub destinations: Vec<Endpoint>,
    /// Events written at once.
    pub max_events_per_write: u32,
    /// How long connecting may take.
    pub connect_timeout: Duration,
}

/// Keys of the original's file, of its replicator and of its programs for tests.
const SLATE_KEYS: [&str; 8] = [
    "maxEventsPerWrite",
    "connectTimeout",
    "eventSource",
    "replicationDestinations",
    "events1Params",
    "events2Params",
    "maxDiffs",
    "maxEventsPerRead",
];

impl Settings {
    /// Reads `watershed.toml`'s `[events]` or the original's file, whichever it is; with notes for people.
    ///
    /// # Errors
    /// Every mistake that can be found at once, each with its place.
    pub fn load(path: &Path) -> Result<(Settings, Vec<String>), ConfigError> {
        let text = config::read(path)?;
        match is_slate(path, &text) {
            true => Settings::of_slate(SlateFile::parse(path, text)?),
            false => Settings::of_events(&Config::parse_events(path, text)?),
        }
    }

    fn of_slate(mut file: SlateFile) -> Result<(Settings, Vec<String>), ConfigError> {
        file.note_unknown(&SLATE_KEYS);
        let source = file.database("eventSource");
        let destinations = file.databases("replicationDestinations");
        let max = file.number("maxEventsPerWrite").map(|(max, span)| {
            let raised = max.max(u64::from(limits::EVENTS_PER_WRITE_MIN));
            if raised > max {
                file.note(&span, &format!("`maxEventsPerWrite` is raised from {max} to {raised}, the least"));
            }
            u32::try_from(raised).unwrap_or(u32::MAX)
        });
        let timeout = file.number("connectTimeout").map(|(millis, _)| Duration::from_millis(millis));
        for mistake in doubles(source.as_ref(), &destinations) {
            file.fail(mistake);
        }
        let settings = source.map(|(source, _)| Settings {
            source,
            destinations: destinations.into_iter().map(|(endpoint, _)| endpoint).collect(),
            max_events_per_write: max.unwrap_or(limits::EVENTS_PER_WRITE_MIN),
            connect_timeout: timeout.unwrap_or(limits::EVENTS_CONNECT_TIMEOUT).min(limits::PERIOD_MAX),
        });
        let (settings, notes) = file.finish(settings)?;
        Ok((settings.expect("without a source there is a mistake"), notes))
    }

    fn of_events(file: &EventsFile) -> Result<(Settings, Vec<String>), ConfigError> {
        let Some(events) = &file.events else {
            let what = "there is no section [events]".to_string();
            let why = "it says which database the events are in, and where they are copied to".to_string();
            let fix = "add [events] with source = \"postgres://…\" and destinations = [\"postgres://…\"]".to_string();
            return Err(file.error(vec![Mistake { code: "WS-EVENTS-006", what, why, fix, span: None }]));
        };
        let (mut mistakes, mut notes) = (Vec::new(), Vec::new());
        let source = endpoint(file, "events.source", &events.source, &mut mistakes);
        let destinations = events.destinations.iter().enumerate();
        let destinations: Vec<_> = destinations
            .filter_map(|(index, one)| endpoint(file, &format!("events.destinations.{index}"), one, &mut mistakes))
            .collect();
        mistakes.extend(doubles(source.as_ref(), &destinations));
        if events.destinations.is_empty() {
            let (what, why) = ("`events.destinations` is empty".into(), "there is nothing to copy to".into());
            let span = file.place("events.destinations");
            mistakes.push(Mistake { code: "WS-EVENTS-007", what, why, fix: "add a URL to the list".into(), span });
        }
        let max = events.max_events_per_write.max(limits::EVENTS_PER_WRITE_MIN);
        if max > events.max_events_per_write {
            let given = events.max_events_per_write;
            notes.push(format!("`max_events_per_write` is raised from {given} to {max}, the least"));
        }
        match source {
            Some((source, _)) if mistakes.is_empty() => {
                let destinations = destinations.into_iter().map(|(endpoint, _)| endpoint).collect();
                let connect_timeout = events.connect_timeout.0;
                Ok((Settings { source, destinations, max_events_per_write: max, connect_timeout }, notes))
            }
            _ => Err(file.error(mistakes)),
        }
    }
}

/// Whether a file is the original's: by its name, else by what it begins with.
pub(crate) fn is_slate(path: &Path, text: &str) -> bool {
    let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
    match extension.to_lowercase().as_str() {
        "toml" => return false,
        "js" | "cjs" | "mjs" | "json" | "json5" => return true,
        _ => {}
    }
    let mut rest = text.trim_start_matches('\u{feff}').trim_start();
    loop {
        if rest.starts_with("//") {
            rest = rest.split_once('\n').map_or("", |(_, after)| after).trim_start();
        } else if let Some(comment) = rest.strip_prefix("/*") {
            rest = comment.split_once("*/").map_or("", |(_, after)| after).trim_start();
        } else {
            break;
        }
    }
    let words =
        ["var ", "let ", "const ", "module.", "exports", "export ", "'use strict'", "\"use strict\"", "function "];
    rest.starts_with(['{', '(']) || words.iter().any(|word| rest.starts_with(word))
}

fn endpoint(
    file: &EventsFile,
    path: &str,
    one: &EventsDatabase,
    mistakes: &mut Vec<Mistake>,
) -> Option<Placed<Endpoint>> {
    let read = || -> Result<Endpoint, (String, String)> {
        if one.password_env.is_some() && one.password_file.is_some() {
            let why = "a password stands in one place".to_string();
            return Err((why, "give one of password_env and password_file".into()));
        }
        let fix = "put the password there, in one line";
        let password = secret(one.password_env.as_deref(), one.password_file.as_deref());
        let password = password.map_err(|why| (why, fix.to_string()))?;
        let url = match (&one.url, password) {
            (DatabaseUrl::Postgres(url), Some(password)) => {
                DatabaseUrl::Postgres(completed(url, None, Some(&password)))
            }
            (url, _) => url.clone(),
        };
        Endpoint::of(&url).map_err(|error| (error.to_string(), "write postgres://USER@HOST:PORT/DATABASE".into()))
    };
    let span = file.place(path);
    match read() {
        Ok(endpoint) => Some((endpoint, span.unwrap_or_default())),
        Err((why, fix)) => {
            let what = format!("`{path}` cannot be used");
            mistakes.push(Mistake { code: "WS-EVENTS-008", what, why, fix, span });
            None
        }
    }
}

/// Destinations that are there twice, or are the source.
fn doubles(source: Option<&Placed<Endpoint>>, destinations: &[Placed<Endpoint>]) -> Vec<Mistake> {
    let mut mistakes = Vec::new();
    let mut mistake = |code, what: String, why: &str, fix: &str, span: &Range<usize>| {
        mistakes.push(Mistake { code, what, why: why.into(), fix: fix.into(), span: Some(span.clone()) });
    };
    for (index, (one, span)) in destinations.iter().enumerate() {
        if source.is_some_and(|(source, _)| source.is_plainly(one)) {
            let what = format!("destination {} is the source: {one}", index + 1);
            mistake("WS-EVENTS-005", what, "events are copied to another database", "name another one", span);
        } else if let Some(earlier) = destinations[..index].iter().position(|(other, _)| other.is_plainly(one)) {
            let what = format!("destination {} is destination {} again: {one}", index + 1, earlier + 1);
            mistake("WS-EVENTS-004", what, "two streams would write the same table", "remove one of them", span);
        }
    }
    mistakes
}
