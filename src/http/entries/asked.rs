//! What a reader asks for.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use axum::http::StatusCode;
use axum::response::Response;
use serde::Deserialize;
use tokio::time::Instant;

use super::reading::{Form, Part, Reading};
use super::wanted::Wanted;
use crate::http::server::error;
use crate::log::{CursorRefused, Limit, Log, SourceError};
use crate::model::{Cursor, CursorError, LogId, Position, TableName, Timestamp};
use crate::node::Node;
use crate::node::feeds::Feed;
use crate::stream::{Expression, Sieve};

/// Entries in an answer that asks for none in particular.
const LIMIT_DEFAULT: u64 = 1_000;
/// For the query of a reader.
pub const USAGE: &str = "give one of after, time and tail; and tables, key, correlation, where, partition, limit, wait";

/// The query.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Asked {
    after: Option<String>,
    time: Option<String>,
    tail: Option<u64>,
    limit: Option<u64>,
    tables: Option<String>,
    key: Option<String>,
    correlation: Option<String>,
    #[serde(rename = "where")]
    expression: Option<String>,
    partition: Option<usize>,
    wait: Option<String>,
}

/// A request that cannot be understood.
pub fn bad(message: &str, fix: &str) -> Box<Response> {
    Box::new(error(StatusCode::BAD_REQUEST, "WS-HTTP-008", message, "the request is not understood", fix))
}

/// Where reading begins.
enum Start {
    /// At the oldest that is kept.
    Oldest,
    /// After what is there now.
    Now,
    /// With the last so many.
    Last(u64),
    /// After a position.
    After(Position),
    /// After these, and at the oldest of partitions that are not named.
    Cursors(HashMap<LogId, Position>),
    /// With the first of that time or later.
    Time(Timestamp),
}

impl Asked {
    /// What is to be sent; `resume` is where an earlier answer ended.
    pub async fn reading(
        &self,
        node: Arc<Node>,
        feed: Arc<Feed>,
        resume: Option<&str>,
        form: Form,
        sieve: Option<Sieve>,
    ) -> Result<Reading, Box<Response>> {
        let (start, partition) = self.start(&feed, resume, form)?;
        let numbers: Vec<usize> = match self.partition.or(partition) {
            Some(number) if number >= feed.partitions.len() => {
                return Err(bad(&format!("there is no partition {number}"), "partitions are numbered from 0"));
            }
            Some(number) => vec![number],
            None => (0..feed.partitions.len()).collect(),
        };
        let several = numbers.len() > 1;
        let mut parts = Vec::with_capacity(numbers.len());
        for number in numbers {
            let log = feed.partitions[number].log.clone();
            let after = place(&start, &log, several).await?;
            parts.push(Part::new(number, log, after));
        }
        // Who resumes does not get what is older either.
        let since = self.since()?;
        let wait = match &self.wait {
            Some(text) => Some(duration(text).ok_or_else(|| bad(&format!("wait {text:?} is not a time"), "wait=30s"))?),
            None => None,
        };
        let live = form != Form::Lines;
        let left = self.limit.unwrap_or(if live { u64::MAX } else { LIMIT_DEFAULT });
        let deadline = wait.map(|wait| Instant::now() + wait);
        Ok(Reading::new(node, feed, parts, self.wanted(since)?, form, left, deadline).through(sieve))
    }

    /// What a mirror asks for: a partition, a cursor, and how much.
    pub fn raw(&self) -> Result<(u32, Option<Cursor>, Option<u64>), Box<Response>> {
        let usage = "give partition=N, and after=CURSOR for what comes behind it, or limit=0";
        let others = self.time.is_some() || self.tail.is_some() || self.tables.is_some() || self.key.is_some();
        if others || self.correlation.is_some() || self.expression.is_some() || self.wait.is_some() {
            return Err(bad("the raw stream has everything", usage));
        }
        let after = match self.after.as_deref().filter(|after| *after != "0") {
            Some(text) => Some(text.parse().map_err(|error: CursorError| bad(&error.to_string(), usage))?),
            None => None,
        };
        let partition = u32::try_from(self.partition.unwrap_or(0)).unwrap_or(u32::MAX);
        Ok((partition, after, self.limit))
    }

    fn start(&self, feed: &Feed, resume: Option<&str>, form: Form) -> Result<(Start, Option<usize>), Box<Response>> {
        let only = |one: Start| Ok((one, None));
        match (resume.or(self.after.as_deref()), &self.time, self.tail) {
            (Some(text), _, _) if resume.is_some() => after(feed, text),
            (Some(text), None, None) => after(feed, text),
            (None, Some(_), None) => {
                let time = self.since()?.expect("it is given");
                only(Start::Time(time))
            }
            (None, None, Some(count)) => only(Start::Last(count)),
            (None, None, None) if form == Form::Lines => only(Start::Oldest),
            (None, None, None) => only(Start::Now),
            _ => Err(bad("more than one of after, time and tail is given", "give one of them")),
        }
    }

    /// The time before which nothing is wanted.
    fn since(&self) -> Result<Option<Timestamp>, Box<Response>> {
        let Some(text) = &self.time else { return Ok(None) };
        let time: Result<jiff::Timestamp, _> = text.parse();
        let wrong = |_| bad(&format!("time {text:?} is not a time"), "write RFC 3339: 2030-01-31T12:00:00Z");
        time.map(|time| Some(Timestamp(time.as_microsecond()))).map_err(wrong)
    }

    fn wanted(&self, since: Option<Timestamp>) -> Result<Wanted, Box<Response>> {
        let tables = match &self.tables {
            Some(list) => {
                let names: Result<Vec<TableName>, _> = list.split(',').map(str::parse).collect();
                Some(names.map_err(|error| bad(&error.to_string(), "tables=orders,customers"))?)
            }
            None => None,
        };
        let expression = match &self.expression {
            Some(text) => Some(Expression::new(text).map_err(|error| {
                bad(&error.to_string(), "write CEL over row and table, as in where=row.amount > 100, escaped for a URL")
            })?),
            None => None,
        };
        Ok(Wanted { tables, key: self.key.clone(), correlation: self.correlation.clone(), expression, since })
    }
}

fn duration(text: &str) -> Option<Duration> {
    let seconds = text.strip_suffix("ms").map(|ms| ms.parse::<f64>().map(|ms| ms / 1e3));
    let seconds = seconds.unwrap_or_else(|| text.strip_suffix('s').unwrap_or(text).parse()).ok()?;
    (0.0..=86_400.0).contains(&seconds).then(|| Duration::from_secs_f64(seconds))
}

/// A position, a cursor that must be valid here, or one for each of several partitions.
fn after(feed: &Feed, text: &str) -> Result<(Start, Option<usize>), Box<Response>> {
    if let Ok(position) = text.parse::<u64>() {
        return Ok((if position == 0 { Start::Oldest } else { Start::After(Position(position)) }, None));
    }
    let mut places = HashMap::new();
    for one in text.split(',') {
        let fix = "give a position, or a cursor as it came with an entry";
        let cursor: Cursor = one.trim().parse().map_err(|error: CursorError| bad(&error.to_string(), fix))?;
        let partition = feed.partition_with(cursor.log);
        let log = &feed.partitions[partition.unwrap_or(0)].log;
        log.check(cursor).map_err(|refused| {
            let tail = *log.tail().borrow();
            match feed.mirror_of() {
                // The original may have it already, in an epoch that has not come here either.
                Some(_) if partition.is_some() && cursor.position > tail => {
                    Box::new(super::gone(&SourceError::Beyond { asked: cursor.position, tail }))
                }
                _ => no_cursor(&refused),
            }
        })?;
        places.insert(cursor.log, cursor.position);
    }
    // A single cursor is of an entry of one partition, and that is what goes on.
    let single = places.keys().next().filter(|_| places.len() == 1).and_then(|log| feed.partition_with(*log));
    Ok((Start::Cursors(places), single))
}

/// A cursor that is not valid here.
pub fn no_cursor(refused: &CursorRefused) -> Box<Response> {
    let why = "the log was re-created or restored, or the cursor is of another one";
    Box::new(error(StatusCode::CONFLICT, "WS-HTTP-012", &refused.to_string(), why, "begin anew with after=0"))
}

async fn place(start: &Start, log: &Arc<dyn Log>, several: bool) -> Result<Position, Box<Response>> {
    let info = log.info();
    let before_oldest = Position(info.oldest.0.saturating_sub(1));
    Ok(match start {
        Start::Oldest => before_oldest,
        Start::Now => info.tail,
        Start::Last(count) => Position(info.tail.0.saturating_sub(*count)).max(before_oldest),
        Start::After(_) if several => {
            return Err(bad("a position counts in one partition", "give partition=N with it, or a cursor"));
        }
        Start::After(position) => *position,
        Start::Cursors(places) => places.get(&log.id()).copied().unwrap_or(before_oldest),
        Start::Time(time) if info.oldest <= info.tail => before(log, before_oldest, info.tail, *time).await,
        Start::Time(_) => before_oldest,
    })
}

/// A position before which everything is older than that time, as far as times ascend (those of a log's own appends do); the
/// reader passes over what is older all the same.
async fn before(log: &Arc<dyn Log>, oldest: Position, tail: Position, time: Timestamp) -> Position {
    let (mut low, mut high) = (oldest.0, tail.0);
    while low < high {
        let middle = low + (high - low) / 2;
        let one = Limit { entries: 1, ..Limit::default() };
        let Ok(batch) = log.read(Position(middle).into(), one).await else { return oldest };
        match batch.entries.first() {
            // Received ones have the time of elsewhere: nothing can be told by it.
            Some(logged) if !logged.from.is_local() => return oldest,
            Some(logged) if logged.entry.header().time < time => low = middle + 1,
            _ => high = middle,
        }
    }
    // The clock may have gone back a little.
    Position(low.saturating_sub(CLOCK_SLACK).max(oldest.0))
}

/// Entries before the place found by time that are looked at, too.
const CLOCK_SLACK: u64 = 1_000;
