//! `watershed log`: of a running node over HTTP; of a stopped one from its data folder, read-only.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::log_feed::{Append, Create, Retain, Trim};
use super::log_follow::{Range, export, read, tail};
use super::{Exit, ExitError, Global, output, status_text};
use crate::log::Log as LogStore;
use crate::log::segments::{self, OpenError, SegmentLog};
use crate::node::config::Config;
use crate::node::feeds::{feeds_dir, stored};

/// What is in the logs
#[derive(Debug, Args)]
#[command(before_help = "Examples:
  watershed log ls
  watershed log read --tail 10
  watershed log read --after 120 --tables orders --json
  watershed log tail
  watershed log verify               of a stopped node
  watershed log export > main.ndjson
  watershed log create orders --partitions 4
  watershed log append orders '{\"customer\":\"a\",\"amount\":1.10}' --key a
  watershed log append orders --file orders.ndjson
  watershed log tail orders --from 1h --where 'row.amount > 100'
  watershed log retain orders --time 30d --bytes 10GiB
  watershed log trim orders --upto 1000 --yes")]
pub(super) struct Log {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Logs, with their ids, positions and sizes
    Ls,
    /// Entries, oldest first
    Read(Range),
    /// Read every byte of a stopped node's log and check it
    Verify {
        /// The log
        #[arg(default_value = "main")]
        log: String,
    },
    /// Entries as they are logged, until stopped
    Tail(Range),
    /// All entries as lines of JSON
    Export {
        /// The log
        #[arg(default_value = "main")]
        log: String,
    },
    /// Append rows to a log: one, or those of a file or of stdin, a line each
    Append(Append),
    /// Make a log beside `main`
    Create(Create),
    /// Change how long a log keeps its entries
    Retain(Retain),
    /// Remove a log's oldest entries, whether somebody needs them or not
    Trim(Trim),
}

impl Log {
    pub(super) fn run(self, global: &Global) -> Result<(), ExitError> {
        match self.action {
            Action::Ls => ls(global),
            Action::Read(range) => read(global, &range),
            Action::Verify { log } => verify(global, &log),
            Action::Tail(range) => tail(global, &range),
            Action::Export { log } => export(global, &log),
            Action::Append(append) => append.run(global),
            Action::Create(create) => create.run(global),
            Action::Retain(retain) => retain.run(global),
            Action::Trim(trim) => trim.run(global),
        }
    }
}

/// The folder of a log that has run. A partition of a feed is `NAME/NUMBER`, the first one just `NAME`.
fn folder(config: &Config, log: &str) -> Result<PathBuf, ExitError> {
    let (name, partition) = log.split_once('/').unwrap_or((log, "0"));
    let plain = |part: &str| {
        part.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.')) && !part.starts_with('.')
    };
    if !plain(name) || !plain(partition) {
        let (why, fix) = ("a log's name has letters, digits, `-`, `_` and `.`", "see `watershed log ls`");
        return Err(ExitError::new("WS-CLI-009", Exit::Usage, format!("there is no log {log:?}"), why, fix));
    }
    let folder = match name {
        "main" => config.node.log_dir("main"),
        feed => feeds_dir(&config.node.data_dir).join(feed).join(partition),
    };
    if folder.is_dir() {
        return Ok(folder);
    }
    Err(missing(config, &folder.display().to_string()))
}

fn missing(config: &Config, place: &str) -> ExitError {
    let fix = format!("start it: `watershed run -c {}`", config.path().display());
    ExitError::new("WS-CLI-010", Exit::Failure, format!("there is no log in {place}"), "the node has not run yet", fix)
}

/// Why a log on disk cannot be opened, as an exit.
fn not_opened(config: &Config, error: OpenError) -> ExitError {
    let why = error.to_string();
    let (exit, message, fix) = match error {
        OpenError::Missing(place) => return missing(config, &place),
        OpenError::Locked { .. } => {
            (Exit::Locked, "another process has the log", "stop that node first; `watershed log read` asks it instead")
        }
        OpenError::Damaged { .. } => (
            Exit::Operator,
            "the log is damaged",
            "nothing was changed; copy the folder before anything else; then put it back from a backup of both it and the \
             database, or move it away and run `watershed source drop database --yes` to begin a new log",
        ),
        OpenError::DiskFull { .. } | OpenError::Io(_) => (Exit::Failure, "the log cannot be opened", "see the reason"),
    };
    ExitError::new("WS-CLI-020", exit, message, why, fix)
}

/// Opens the log of a stopped node; writes and repairs nothing.
pub(super) fn open_stopped(config: &Config, log: &str) -> Result<Box<dyn LogStore>, ExitError> {
    let opened = SegmentLog::open_read_only(&folder(config, log)?);
    Ok(Box::new(opened.map_err(|error| not_opened(config, error))?))
}

fn ls(global: &Global) -> Result<(), ExitError> {
    let config = global.config()?;
    let answer = match super::Admin::of(&config).and_then(|admin| admin.get("/v1/logs")) {
        Ok(answer) => answer,
        Err(error) if error.exit == Exit::Unreachable => ls_stopped(&config)?,
        Err(error) => return Err(error),
    };
    if global.json {
        return output::object(answer);
    }
    output::line(&status_text::logs(&answer["logs"]))
}

/// What the data folder holds.
fn ls_stopped(config: &Config) -> Result<Value, ExitError> {
    let feeds = stored(&config.node.data_dir).map_err(ExitError::from)?;
    let mut logs = Vec::new();
    for (name, partitions) in [("main".to_owned(), 1)].into_iter().chain(feeds) {
        let opened = (0..partitions).map(|number| Ok(open_stopped(config, &format!("{name}/{number}"))?.info()));
        let infos = opened.collect::<Result<Vec<_>, ExitError>>()?;
        logs.push(json!({
            "name": name, "state": "stopped", "id": infos[0].id.to_string(), "oldest": infos[0].oldest.0,
            "tail": infos.iter().map(|info| info.tail.0).sum::<u64>(), "bytes": infos.iter().map(|info| info.bytes).sum::<u64>(),
            "epochs": infos[0].epochs.len(), "torn_bytes": infos.iter().map(|info| info.torn_bytes).sum::<u64>(),
            "partitions": partitions,
        }));
    }
    Ok(json!({ "logs": logs }))
}

fn verify(global: &Global, log: &str) -> Result<(), ExitError> {
    let config = global.config()?;
    let found = segments::verify(&folder(&config, log)?).map_err(|error| not_opened(&config, error))?;
    let found = json!({
        "log": log, "state": "whole", "segments": found.segments, "batches": found.batches, "entries": found.entries,
        "oldest": found.oldest.0, "tail": found.tail.0, "torn_bytes": found.torn_bytes,
    });
    if global.json { output::object(found) } else { output::line(&output::answer(&found)) }
}
