//! `watershed log append|create|retain|trim`.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;

use clap::Args;
use serde_json::{Map, Value as Json, json, value::RawValue};

use super::admin::{Admin, escape};
use super::{Exit, ExitError, Global, output};
use crate::model::limits;
use crate::node::config::{Period, Size};

/// Lines of a file or of stdin that go into one call, and so become one transaction.
const BATCH_DEFAULT: usize = 1_000;
/// Bytes of such a call.
const BATCH_BYTES: usize = 1 << 20;

/// What to append.
#[derive(Debug, Args)]
pub(super) struct Append {
    /// The log
    log: String,
    /// A row, as JSON; else lines of stdin. An object with `row` (and perhaps `key`, `table`, `correlation`, `causation`) is
    /// taken as over HTTP
    row: Option<String>,
    /// Lines of this file
    #[arg(long, value_name = "FILE", conflicts_with = "row")]
    file: Option<PathBuf>,
    /// The key of rows that have none
    #[arg(long)]
    key: Option<String>,
    /// The table of rows that have none; by default the log's name
    #[arg(long)]
    table: Option<String>,
    /// What belongs together
    #[arg(long, value_name = "ID")]
    correlation: Option<String>,
    /// Append it once, however often the command is given with this key
    #[arg(long, value_name = "KEY", requires = "row")]
    idempotency_key: Option<String>,
    /// Only if this is the log's tail
    #[arg(long, value_name = "POSITION", requires = "row")]
    match_position: Option<u64>,
    /// Lines that become one transaction
    #[arg(long, value_name = "LINES", default_value_t = BATCH_DEFAULT)]
    batch: usize,
    /// Print the cursor only, which readers of views can wait for
    #[arg(long)]
    token: bool,
}

impl Append {
    pub(super) fn run(self, global: &Global) -> Result<(), ExitError> {
        let admin = global.admin()?;
        if let Some(row) = &self.row {
            let item = self.item(row).map_err(|why| unreadable("the row", &why))?;
            return self.send(global, &admin, &item);
        }
        let reader: Box<dyn Read> = match &self.file {
            Some(path) => {
                Box::new(File::open(path).map_err(|error| unreadable(&path.display().to_string(), &error.to_string()))?)
            }
            None => Box::new(std::io::stdin()),
        };
        let (mut batch, mut items) = (String::new(), 0);
        for (number, line) in BufReader::new(reader).lines().enumerate() {
            let line = line.map_err(|error| unreadable(&format!("line {}", number + 1), &error.to_string()))?;
            if line.trim().is_empty() {
                continue;
            }
            // What came before it is appended all the same, and said.
            let item = self.item(&line).map_err(|why| unreadable(&format!("line {}", number + 1), &why));
            let full = items >= self.batch.max(1) || batch.len() + line.len() > BATCH_BYTES;
            if items > 0 && (full || item.is_err()) {
                self.send(global, &admin, &batch)?;
                (batch, items) = (String::new(), 0);
            }
            batch.push_str(&item?);
            batch.push('\n');
            items += 1;
        }
        if items > 0 { self.send(global, &admin, &batch) } else { Ok(()) }
    }

    /// One thing to append, as HTTP has it.
    fn item(&self, text: &str) -> Result<String, String> {
        let raw: &RawValue = serde_json::from_str(text).map_err(|error| error.to_string())?;
        let known = ["row", "key", "table", "correlation", "causation"];
        let members: Map<String, Json> = serde_json::from_str(raw.get()).unwrap_or_default();
        if members.contains_key("row") && members.keys().all(|name| known.contains(&name.as_str())) {
            return Ok(raw.get().replace(['\n', '\r'], " "));
        }
        let mut item = String::from("{");
        for (name, value) in [("key", &self.key), ("table", &self.table)] {
            if let Some(value) = value {
                item.push_str(&format!("\"{name}\":{},", Json::from(value.as_str())));
            }
        }
        item.push_str(&format!("\"row\":{}}}", raw.get().replace(['\n', '\r'], " ")));
        Ok(item)
    }

    fn send(&self, global: &Global, admin: &Admin, items: &str) -> Result<(), ExitError> {
        let mut path = format!("/v1/logs/{}/entries?split={}", escape(&self.log), u8::from(self.row.is_none()));
        if let Some(position) = self.match_position {
            path.push_str(&format!("&match_position={position}"));
        }
        let headers = [("Correlation-Id", &self.correlation), ("Idempotency-Key", &self.idempotency_key)];
        let headers: Vec<(&str, &str)> =
            headers.iter().filter_map(|(name, value)| Some((*name, value.as_deref()?))).collect();
        let answer = admin.send(&path, items, &headers)?;
        let parts: Vec<&Json> = match answer["parts"].as_array() {
            Some(parts) => parts.iter().collect(),
            None => vec![&answer],
        };
        for part in parts {
            let cursor = part["cursor"].as_str().unwrap_or_default();
            match (self.token, global.json) {
                (true, _) => output::line(cursor)?,
                (false, true) => output::object(part.clone())?,
                (false, false) => output::line(&format!("{} appended at {}  {cursor}", self.log, part["end"]))?,
            }
        }
        Ok(())
    }
}

fn unreadable(what: &str, why: &str) -> ExitError {
    let fix = "give JSON, in one line each";
    ExitError::new("WS-CLI-029", Exit::Failure, format!("{what} cannot be appended"), why, fix)
}

/// A new log.
#[derive(Debug, Args)]
pub(super) struct Create {
    /// Its name
    log: String,
    /// Order holds within one; fixed once the log is made
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=i64::from(limits::FEED_PARTITIONS_MAX)))]
    partitions: u32,
    /// What nobody needs is kept this long
    #[arg(long, value_name = "TIME")]
    time: Option<Period>,
    /// Its size at most
    #[arg(long, value_name = "SIZE")]
    bytes: Option<Size>,
}

pub(super) fn answered(global: &Global, answer: Json, text: &str) -> Result<(), ExitError> {
    if global.json { output::object(answer) } else { output::line(text) }
}

impl Create {
    pub(super) fn run(self, global: &Global) -> Result<(), ExitError> {
        let body = json!({
            "name": self.log, "partitions": self.partitions, "retain_ms": self.time.map(|time| time.0.as_millis() as u64),
            "retain_bytes": self.bytes.map(|bytes| bytes.0),
        });
        let answer = global.admin()?.send("/v1/logs", &body.to_string(), &[])?;
        let text = format!("The log {} is there. Append: POST /v1/logs/{}/entries", self.log, escape(&self.log));
        answered(global, answer, &text)
    }
}

/// How long entries are kept.
#[derive(Debug, Args)]
pub(super) struct Retain {
    /// The log
    log: String,
    /// What nobody needs is kept this long
    #[arg(long, value_name = "TIME", required_unless_present = "bytes")]
    time: Option<Period>,
    /// Its size at most, whoever needs it
    #[arg(long, value_name = "SIZE")]
    bytes: Option<Size>,
}

impl Retain {
    pub(super) fn run(self, global: &Global) -> Result<(), ExitError> {
        let time = self.time.map(|time| time.0.as_millis() as u64);
        let body = json!({ "retain_ms": time, "retain_bytes": self.bytes.map(|bytes| bytes.0) });
        let path = format!("/v1/logs/{}/retain", escape(&self.log));
        let answer = global.admin()?.send(&path, &body.to_string(), &[])?;
        let text = format!(
            "The log {} keeps that from now on; `retain` under [log.{}] would win at the next start.",
            self.log, self.log
        );
        answered(global, answer, &text)
    }
}

/// What is to go.
#[derive(Debug, Args)]
pub(super) struct Trim {
    /// The log
    log: String,
    /// Up to and including this position
    #[arg(long, value_name = "POSITION")]
    upto: u64,
    /// Of this partition
    #[arg(long, value_name = "N", default_value_t = 0)]
    partition: usize,
    /// Really
    #[arg(long)]
    yes: bool,
}

impl Trim {
    pub(super) fn run(self, global: &Global) -> Result<(), ExitError> {
        if !self.yes {
            let (why, fix) = ("who has not read them never will, and they cannot be brought back", "give --yes");
            let what = format!("entries of {} up to {} would be removed", self.log, self.upto);
            return Err(ExitError::new("WS-CLI-030", Exit::Usage, what, why, fix));
        }
        let body = json!({ "upto": self.upto, "partition": self.partition });
        let path = format!("/v1/logs/{}/trim", escape(&self.log));
        let answer = global.admin()?.send(&path, &body.to_string(), &[])?;
        let text = format!("The oldest entry of {} is {} now.", self.log, answer["oldest"]);
        answered(global, answer, &text)
    }
}
