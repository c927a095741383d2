//! The process's own log, on stderr: lines for people, or bunyan's JSON.

use std::fmt;
use std::io::{IsTerminal, Write};
use std::sync::OnceLock;

use clap::ValueEnum;
use indicatif::MultiProgress;
use serde_json::{Map, Value as Json, json};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

use crate::model::Timestamp;

/// `--log-format`: lines for people, or bunyan's fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum LogFormat {
    Human,
    Json,
}

/// Installs the log. `verbose` counts `-v`; a command that `runs` a node tells more by itself.
pub(super) fn install(format: LogFormat, verbose: u8, quiet: bool, runs: bool) {
    let level = match (quiet, verbose, runs) {
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
        LogFormat::Human => registry.with(Lines::new(verbose > 0)).try_init(),
    };
}

/// Bars that stand on the terminal while lines are written above them.
static BARS: OnceLock<MultiProgress> = OnceLock::new();

/// From now on lines are written above these bars.
pub(super) fn above(bars: MultiProgress) {
    // A second set in one process (tests) is drawn over by lines; nothing else is lost.
    let _ = BARS.set(bars);
}

/// Writes a line to stderr. A log that cannot be written has nowhere to say so.
fn write(line: &str) {
    let write = || {
        let _ = writeln!(std::io::stderr().lock(), "{line}");
    };
    match BARS.get() {
        Some(bars) => bars.suspend(write),
        None => write(),
    }
}

/// Lines for people. On a terminal: local time, colours, and `why` and `do` on lines of their own. Elsewhere: one line
/// each, with the date in UTC.
struct Lines {
    terminal: bool,
    colours: bool,
    /// Fields that the message does not have in it are shown too.
    fields: bool,
}

impl Lines {
    fn new(fields: bool) -> Lines {
        let terminal = std::io::stderr().is_terminal();
        Lines { terminal, colours: terminal && std::env::var_os("NO_COLOR").is_none(), fields }
    }

    fn line(&self, level: Level, time: &str, message: &str) -> String {
        let (start, end) = match (self.colours, level) {
            (false, _) | (_, Level::INFO) => ("", ""),
            (_, Level::ERROR) => ("\x1b[1;31m", "\x1b[0m"),
            (_, Level::WARN) => ("\x1b[33m", "\x1b[0m"),
            _ => ("\x1b[2m", "\x1b[0m"),
        };
        let message = match self.terminal {
            true => {
                let indent = format!("\n{}", " ".repeat(time.len() + 8));
                let parts = message.replace(" / why: ", "\nwhy: ").replace(" / do: ", "\ndo: ");
                parts.replace('\n', &indent)
            }
            false => message.replace('\n', " / "),
        };
        format!("{time}  {start}{level:<5}{end} {message}")
    }
}

impl<S: Subscriber> Layer<S> for Lines {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut fields = Fields(Map::new());
        event.record(&mut fields);
        let text = |value: &Json| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let mut message = fields.0.remove("message").as_ref().map(text).unwrap_or_default();
        for (name, value) in fields.0.iter().filter(|_| self.fields) {
            message.push_str(&format!("  {name}={}", text(value)));
        }
        let time = match self.terminal {
            true => jiff::Zoned::now().strftime("%H:%M:%S%.3f").to_string(),
            false => Timestamp::now().to_string(),
        };
        write(&self.line(*event.metadata().level(), &time, &message));
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
        write(&Json::Object(line).to_string());
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_stand_below_on_a_terminal_and_in_the_line_elsewhere() {
        let message = "error[WS-X-001]: it broke / why: it was old / do: mend it";
        let shown = |terminal| Lines { terminal, colours: false, fields: false }.line(Level::WARN, "10:00", message);
        let indent = " ".repeat(13);
        assert_eq!(
            shown(true),
            format!("10:00  WARN  error[WS-X-001]: it broke\n{indent}why: it was old\n{indent}do: mend it")
        );
        assert_eq!(shown(false), format!("10:00  WARN  {message}"));
    }
}
