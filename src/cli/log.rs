//! `watershed log`: of a running node over HTTP; of a stopped one from its data folder, read-only.

use std::path::Path;

use clap::{Args, Subcommand};
use serde_json::{Value as Json, json};

use super::log_follow::{Range, export, read, tail};
use super::{Exit, ExitError, Global, block_on, output};
use crate::log::Log as LogStore;
use crate::node::config::Config;

/// What is in the logs
#[derive(Debug, Args)]
#[command(before_help = "Examples:
  watershed log ls
  watershed log read --tail 10
  watershed log read --after 120 --tables orders --json
  watershed log tail
  watershed log verify
  watershed log export > main.ndjson")]
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
}

impl Log {
    pub(super) fn run(self, global: &Global) -> Result<(), ExitError> {
        match self.action {
            Action::Ls => ls(global),
            Action::Read(range) => read(global, &range),
            Action::Verify { log } => verify(global, &log),
            Action::Tail(range) => tail(global, &range),
            Action::Export { log } => export(global, &log),
        }
    }
}

/// The folder of a log.
fn folder(config: &Config, log: &str) -> Result<std::path::PathBuf, ExitError> {
    if log != "main" {
        let why = "this version has one log per node";
        return Err(ExitError::new("WS-CLI-009", Exit::Usage, format!("there is no log {log:?}"), why, "use `main`"));
    }
    let folder = config.node.data_dir.join("logs").join(log);
    if folder.is_dir() {
        return Ok(folder);
    }
    let (message, why) = (format!("there is no log in {}", folder.display()), "the node has not run yet");
    let fix = format!("start it: `watershed run -c {}`", config.path().display());
    Err(ExitError::new("WS-CLI-010", Exit::Failure, message, why, fix))
}

/// Opens the log of a stopped node; writes and repairs nothing.
pub(super) fn open_stopped(config: &Config, log: &str) -> Result<Box<dyn LogStore>, ExitError> {
    open_folder(&folder(config, log)?)
}

/// The segments engine, read-only.
fn open_folder(_folder: &Path) -> Result<Box<dyn LogStore>, ExitError> {
    Err(ExitError::not_connected("log"))
}

/// Checks every byte of a log's folder; gives what was found, for printing.
fn verify_folder(_folder: &Path) -> Result<Json, ExitError> {
    Err(ExitError::not_connected("log verify"))
}

fn ls(global: &Global) -> Result<(), ExitError> {
    let config = global.config()?;
    let answer = match super::Admin::of(&config).and_then(|admin| admin.get("/v1/logs")) {
        Ok(answer) => answer,
        Err(error) if error.exit == Exit::Unreachable => {
            let info = open_stopped(&config, "main")?.info();
            json!({ "logs": [{
                "name": "main", "state": "stopped", "id": info.id.to_string(), "oldest": info.oldest.0,
                "tail": info.tail.0, "bytes": info.bytes, "epochs": info.epochs.len(), "torn_bytes": info.torn_bytes,
            }]})
        }
        Err(error) => return Err(error),
    };
    output::listing(global.json, answer, "logs")
}

fn verify(global: &Global, log: &str) -> Result<(), ExitError> {
    let found = block_on(async { verify_folder(&folder(&global.config()?, log)?) })?;
    if global.json { output::object(found) } else { output::line(&output::answer(&found)) }
}
