//! The process's own log, on stderr: lines for people, or bunyan's JSON.

use std::fmt;
use std::io::{IsTerminal, Write};

use clap::ValueEnum;
use serde_json::{Map, Value as Json, json};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, fmt as human};

use crate::model::Timestamp;

/// `--log-format`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum LogFormat {
    /// Lines for people.
    Human,
    /// Bunyan's fields: v, name, hostname, pid, level, time, msg.
    Json,
}

/// Installs the log. `verbose` counts `-v`; a `long` command (a server) tells more by itself.
pub(super) fn install(format: LogFormat, verbose: u8, quiet: bool, long: bool) {
    let level = match (quiet, verbose, long) {
        (true, ..) => "error",
        (_, 0, false) => "warn",
        (_, 0, true) => "info",
        (_, 1, _) => "debug",
        _ => "trace",
    };
    let filter = std::env::var("WATERSHED_LOG").ok().and_then(|text| text.parse::<EnvFilter>().ok());
    let filter = filter.unwrap_or_else(|| EnvFilter::new(format!("warn,watershed={level}")));
    let registry = tracing_subscriber::registry().with(filter);
    // A second installation in one process (tests) keeps the first.
    let _ = match format {
        LogFormat::Json => registry.with(Bunyan::new()).try_init(),
        LogFormat::Human => {
            let ansi = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
            let layer = human::layer().with_writer(std::io::stderr).with_ansi(ansi).with_target(false);
            registry.with(layer.with_timer(Clock)).try_init()
        }
    };
}

struct Clock;

impl human::time::FormatTime for Clock {
    fn format_time(&self, f: &mut human::format::Writer<'_>) -> fmt::Result {
        write!(f, "{}", Timestamp::now())
    }
}

/// Bunyan's line format (v 0).
struct Bunyan {
    hostname: String,
}

impl Bunyan {
    fn new() -> Bunyan {
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").ok().map(|text| text.trim().to_string());
        let host = host.filter(|name| !name.is_empty()).or_else(|| std::env::var("HOSTNAME").ok());
        Bunyan { hostname: host.unwrap_or_else(|| "localhost".into()) }
    }
}

impl<S: Subscriber> Layer<S> for Bunyan {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let level = match *event.metadata().level() {
            Level::TRACE => 10,
            Level::DEBUG => 20,
            Level::INFO => 30,
            Level::WARN => 40,
            Level::ERROR => 50,
        };
        let mut fields = Fields(Map::new());
        event.record(&mut fields);
        let msg = fields.0.remove("message").unwrap_or_else(|| "".into());
        let mut line = fields.0;
        let fixed = json!({
            "v": 0, "name": "watershed", "hostname": self.hostname, "pid": std::process::id(), "level": level,
            "time": Timestamp::now().to_string(), "msg": msg, "target": event.metadata().target(),
        });
        if let Json::Object(fixed) = fixed {
            line.extend(fixed);
        }
        // A log that cannot be written has nowhere to say so.
        let _ = writeln!(std::io::stderr().lock(), "{}", Json::Object(line));
    }
}

struct Fields(Map<String, Json>);

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0.insert(field.name().into(), format!("{value:?}").into());
    }
    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name().into(), value.into());
    }
    fn record_i64(&mut self, field: &Field, value: i64) {
        self.0.insert(field.name().into(), value.into());
    }
    fn record_u64(&mut self, field: &Field, value: u64) {
        self.0.insert(field.name().into(), value.into());
    }
    fn record_bool(&mut self, field: &Field, value: bool) {
        self.0.insert(field.name().into(), value.into());
    }
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.0.insert(field.name().into(), value.into());
    }
}
