//! `watershed log read|tail|export`: entries, as lines.

use clap::Args;
use serde_json::Value as Json;

use super::admin::{Admin, escape};
use super::log::open_stopped;
use super::{Exit, ExitError, Global, block_on, output, signals};
use crate::log::{Limit, Log, SourceError};
use crate::model::{Cursor, Logged, Position, ReadFrom, TableName};
use crate::node::config::{Config, Period};
use crate::node::entry_json::write_entry;

/// Which entries.
#[derive(Clone, Debug, Default, Args)]
pub(super) struct Range {
    /// The log
    #[arg(default_value = "main")]
    log: String,
    /// After this position or cursor, exclusive; 0 from the oldest
    #[arg(long, value_name = "POSITION", conflicts_with = "tail")]
    after: Option<String>,
    /// The last N entries
    #[arg(long, value_name = "N")]
    tail: Option<u64>,
    /// From this time on (RFC 3339); of a running node only
    #[arg(long, value_name = "TIME", conflicts_with_all = ["tail", "after"])]
    time: Option<String>,
    /// From so long ago on (`1h`, `7d`) or from this time on; of a running node only
    #[arg(long, value_name = "AGE", conflicts_with_all = ["tail", "after", "time"])]
    from: Option<String>,
    /// Entries with a row of this key only; of a running node only
    #[arg(long)]
    key: Option<String>,
    /// Entries with a row for which this is true only (CEL over row and table); of a running node only
    #[arg(long = "where", value_name = "EXPR")]
    expression: Option<String>,
    /// Entries with this correlation id only; of a running node only
    #[arg(long, value_name = "ID")]
    correlation: Option<String>,
    /// This partition only
    #[arg(long, value_name = "N")]
    partition: Option<usize>,
    /// At most so many
    #[arg(long, value_name = "N")]
    limit: Option<u64>,
    /// Entries that name one of these tables only
    #[arg(long, value_name = "A,B", value_delimiter = ',')]
    tables: Vec<TableName>,
}

impl Range {
    fn all(log: &str) -> Range {
        Range { log: log.into(), after: Some("0".into()), limit: Some(u64::MAX), ..Range::default() }
    }

    /// The time from which on, where one is given.
    fn since(&self) -> Result<Option<String>, ExitError> {
        let Some(from) = self.from.as_ref().or(self.time.as_ref()) else { return Ok(None) };
        if from.parse::<jiff::Timestamp>().is_ok() {
            return Ok(Some(from.clone()));
        }
        let age: Period = from.parse().map_err(|why: String| {
            let fix = "write an age (1h, 7d) or a time (2030-01-31T12:00:00Z)";
            ExitError::new("WS-CLI-028", Exit::Usage, format!("{from:?} is neither an age nor a time"), why, fix)
        })?;
        let since = jiff::Timestamp::now().checked_sub(age.0).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
        Ok(Some(since.to_string()))
    }

    fn path(&self) -> Result<String, ExitError> {
        let tables: Vec<&str> = self.tables.iter().map(TableName::as_str).collect();
        let number = |value: Option<u64>| value.map(|value| value.to_string());
        let pairs = [
            ("after", self.after.clone()),
            ("tail", number(self.tail)),
            ("time", self.since()?),
            ("key", self.key.clone()),
            ("where", self.expression.clone()),
            ("correlation", self.correlation.clone()),
            ("partition", self.partition.map(|partition| partition.to_string())),
            ("limit", number(self.limit)),
            ("tables", (!tables.is_empty()).then(|| tables.join(","))),
        ];
        let pairs = pairs.into_iter().filter_map(|(name, value)| Some(format!("{name}={}", escape(&value?))));
        Ok(format!("/v1/logs/{}/entries?{}", escape(&self.log), pairs.collect::<Vec<_>>().join("&")))
    }
}

pub(super) fn read(global: &Global, range: &Range) -> Result<(), ExitError> {
    read_as(global, range, global.json)
}

pub(super) fn export(global: &Global, log: &str) -> Result<(), ExitError> {
    read_as(global, &Range::all(log), true)
}

fn read_as(global: &Global, range: &Range, as_json: bool) -> Result<(), ExitError> {
    let config = global.config()?;
    let path = range.path()?;
    let running = Admin::of(&config).and_then(|admin| read_running(&admin, &range.log, &path, as_json));
    match running {
        Err(error) if error.exit == Exit::Unreachable => read_stopped(&config, range, as_json),
        other => other,
    }
}

/// An answer without lines says how far it has looked: reading goes on there, up to what was there when it began.
fn read_running(admin: &Admin, log: &str, path: &str, as_json: bool) -> Result<(), ExitError> {
    let known = admin.get(&format!("/v1/logs/{}", escape(log)))?;
    let tails = cursors(known["cursor"].as_str().unwrap_or_default());
    let behind = |at: &Cursor| tails.iter().any(|tail| tail.log == at.log && at.position < tail.position);
    let mut resume: Option<String> = None;
    loop {
        let mut any = false;
        let reached = admin.lines(path, "application/x-ndjson", resume.as_deref(), |line| {
            any = true;
            print(line, as_json)
        })?;
        let Some(reached) = reached.filter(|_| !any) else { return Ok(()) };
        if !cursors(&reached).iter().any(behind) || resume.as_ref() == Some(&reached) {
            return Ok(());
        }
        resume = Some(reached);
    }
}

/// One for each partition, as they are joined.
fn cursors(text: &str) -> Vec<Cursor> {
    text.split(',').filter_map(|one| one.parse().ok()).collect()
}

pub(super) fn tail(global: &Global, range: &Range) -> Result<(), ExitError> {
    let admin = global.admin()?;
    signals::end_quietly()?;
    let mut range = range.clone();
    if range.after.is_none() && range.tail.is_none() && range.time.is_none() && range.from.is_none() {
        range.tail = Some(0);
    }
    let ended = admin.lines(&range.path()?, "text/event-stream", None, |line| match line.strip_prefix("data:") {
        // Pings carry no entry.
        Some(data) if data.contains("\"changes\"") => print(data.trim_start(), global.json),
        _ => Ok(()),
    });
    ended.map(drop)
}

/// Prints an entry's line as it is, or for people.
fn print(line: &str, as_json: bool) -> Result<(), ExitError> {
    if line.is_empty() {
        return Ok(());
    }
    if as_json {
        return output::line(line);
    }
    match serde_json::from_str::<Json>(line) {
        Ok(entry) => output::line(&for_people(&entry)),
        Err(_) => output::line(line),
    }
}

fn for_people(entry: &Json) -> String {
    let text = |name: &str| entry[name].as_str().unwrap_or("-").to_string();
    let mut shown = format!("{:>8}  {}  {}", entry["position"].to_string(), output::time(&text("time")), text("node"));
    if let Some(part) = entry["part"].as_u64() {
        shown.push_str(&format!("  part {part}{}", if entry["more"] == true { ", more follow" } else { ", the last" }));
    }
    for change in entry["changes"].as_array().into_iter().flatten() {
        let data = if change["row"].is_null() { &change["key"] } else { &change["row"] };
        let data = if data.is_null() { String::new() } else { data.to_string() };
        let (op, table) = (change["op"].as_str().unwrap_or("?"), change["table"].as_str().unwrap_or("?"));
        shown.push_str(&format!("\n          {op:<8} {table}  {data}"));
    }
    shown
}

fn unreadable(error: impl ToString) -> ExitError {
    let fix = "`watershed log verify` says where the damage is";
    ExitError::new("WS-CLI-011", Exit::Failure, "the log cannot be read", error.to_string(), fix)
}

fn read_stopped(config: &Config, range: &Range, as_json: bool) -> Result<(), ExitError> {
    let by_content = range.key.is_some() || range.expression.is_some() || range.correlation.is_some();
    if range.time.is_some() || range.from.is_some() || by_content {
        let fix = "start the node, or read by position";
        return Err(ExitError::new(
            "WS-CLI-012",
            Exit::Unreachable,
            "--from, --time, --key, --where and --correlation need a running node",
            "entries are found by time and content there",
            fix,
        ));
    }
    let place = match range.partition {
        Some(partition) => format!("{}/{partition}", range.log),
        None => range.log.clone(),
    };
    let log = open_stopped(config, &place)?;
    let start = start_of(range, log.as_ref())?;
    let limit = range.limit.unwrap_or(if range.tail.is_some() { u64::MAX } else { 1_000 });
    block_on(async {
        let mut from = ReadFrom::from(start);
        let mut left = limit;
        loop {
            let batch = log.read(from, Limit::default()).await.map_err(|error: SourceError| unreadable(error))?;
            if batch.entries.is_empty() && batch.next == from {
                return Ok(());
            }
            for logged in batch.entries.iter().filter(|logged| wanted(logged, range, &batch.catalog)) {
                if left == 0 {
                    return Ok(());
                }
                let neighbour = (!logged.from.is_local()).then(|| logged.from.0.to_string());
                let mut line = String::new();
                let cursor = log.cursor_at(logged.position);
                write_entry(&mut line, logged, cursor, neighbour.as_deref(), &batch.catalog).map_err(unreadable)?;
                print(&line, as_json)?;
                left -= u64::from(!logged.entry.header().more);
            }
            from = batch.next;
        }
    })
}

fn wanted(logged: &Logged, range: &Range, catalog: &crate::model::Catalog) -> bool {
    let names = |name: &TableName| range.tables.contains(name);
    let tables = &logged.entry.header().tables;
    range.tables.is_empty() || tables.iter().any(|print| catalog.get(*print).is_some_and(|table| names(&table.name)))
}

fn start_of(range: &Range, log: &dyn Log) -> Result<Position, ExitError> {
    let info = log.info();
    let before_oldest = Position(info.oldest.0.saturating_sub(1));
    if let Some(count) = range.tail {
        return Ok(Position(info.tail.0.saturating_sub(count)).max(before_oldest));
    }
    let Some(after) = &range.after else { return Ok(before_oldest) };
    if let Ok(position) = after.parse::<u64>() {
        return Ok(if position == 0 { before_oldest } else { Position(position) });
    }
    let cursor: crate::model::Cursor = after.parse().map_err(|error| {
        ExitError::new(
            "WS-CLI-013",
            Exit::Usage,
            "--after is neither a position nor a cursor",
            error,
            "copy it from `log read`",
        )
    })?;
    let refused = |error| {
        ExitError::new("WS-CLI-014", Exit::Operator, "the cursor is not valid here", error, "is it of this log?")
    };
    log.check(cursor).map_err(refused)?;
    Ok(cursor.position)
}
