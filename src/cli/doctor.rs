//! `watershed doctor`

use std::net::TcpStream;
use std::path::Path;

use clap::Args;
use serde_json::json;

use super::{Admin, Exit, ExitError, Global, output};
use crate::model::limits;
use crate::node::config::{Config, DatabaseUrl};

/// What may be wrong on this machine
#[derive(Debug, Args)]
#[command(before_help = "Examples:
  watershed doctor
  watershed doctor -c branch-7.toml --json")]
pub(super) struct Doctor {}

struct Finding {
    what: &'static str,
    ok: bool,
    text: String,
}

impl Doctor {
    pub(super) fn run(self, global: &Global) -> Result<(), ExitError> {
        let mut findings = vec![Finding { what: "version", ok: true, text: version() }, open_files()];
        match global.config() {
            Ok(config) => look(&config, &mut findings),
            Err(error) => findings.push(Finding { what: "configuration", ok: false, text: error.message.to_string() }),
        }
        let well = findings.iter().all(|finding| finding.ok);
        if global.json {
            let all = findings.iter().map(|one| json!({ "what": one.what, "ok": one.ok, "text": one.text }));
            output::object(json!({ "ok": well, "findings": all.collect::<Vec<_>>() }))?;
        } else {
            let mark = |ok: bool| if ok { "ok" } else { "WRONG" }.to_string();
            let rows = findings.iter().map(|one| vec![mark(one.ok), one.what.to_string(), one.text.clone()]);
            output::line(&output::table(&["", "WHAT", "FOUND"], &rows.collect::<Vec<_>>()))?;
        }
        if well { Ok(()) } else { Err(ExitError::quiet(Exit::Failure)) }
    }
}

fn version() -> String {
    let system = format!("{} {}", std::env::consts::OS, std::env::consts::ARCH);
    format!("watershed {}, SQLite {}, {system}", env!("CARGO_PKG_VERSION"), rusqlite::version())
}

fn open_files() -> Finding {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let line = limits.lines().find(|line| line.starts_with("Max open files"));
    let soft = line.and_then(|line| line.split_whitespace().nth(3)).unwrap_or("unknown").to_string();
    let ok = soft.parse::<u64>().map_or(true, |count| count >= limits::OPEN_FILES_MIN);
    let text = if ok { soft } else { format!("{soft}; raise it: ulimit -n {}", limits::OPEN_FILES_MIN) };
    Finding { what: "open files", ok, text }
}

fn look(config: &Config, findings: &mut Vec<Finding>) {
    let mut add = |what, ok, text: String| findings.push(Finding { what, ok, text });
    add("configuration", true, config.path().display().to_string());
    if let Err(error) = config.ready() {
        error.mistakes().iter().for_each(|mistake| add("configuration", false, mistake.what.clone()));
    }
    let (ok, text) = folder(&config.node.data_dir);
    add("data folder", ok, text);
    match Admin::of(config).and_then(|admin| admin.get("/v1/status")) {
        Ok(_) => add("node", true, format!("runs, and answers on {}", config.node.listen)),
        Err(error) if error.exit == Exit::Unreachable => {
            let taken = TcpStream::connect_timeout(&config.node.listen.0, limits::ADMIN_CONNECT_TIMEOUT).is_ok();
            let text = if taken { "does not run; something else listens on" } else { "does not run; free:" };
            add("node", !taken, format!("{text} {}", config.node.listen));
        }
        Err(error) => add("node", false, error.message.to_string()),
    }
    if let Some(DatabaseUrl::Sqlite(path)) = config.database.as_ref().map(|database| &database.url) {
        let (ok, text) = database(path);
        add("database", ok, text);
    }
}

fn folder(path: &Path) -> (bool, String) {
    let shown = path.display();
    match std::fs::metadata(path) {
        Ok(meta) if !meta.is_dir() => (false, format!("{shown} is not a folder")),
        Ok(meta) if meta.permissions().readonly() => (false, format!("{shown} may not be written")),
        Ok(_) => (true, shown.to_string()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => (true, format!("{shown} (made by `run`)")),
        Err(error) => (false, format!("{shown}: {error}")),
    }
}

/// Opens the database read-only and looks at its header.
fn database(path: &Path) -> (bool, String) {
    let shown = path.display();
    if !path.exists() {
        return (true, format!("{shown} (made by `run`)"));
    }
    let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY | rusqlite::OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let opened = rusqlite::Connection::open_with_flags(path, flags);
    let mode = opened.and_then(|database| database.query_row("PRAGMA journal_mode", [], |row| row.get::<_, String>(0)));
    match mode {
        Ok(mode) => (true, format!("{shown}, journal mode {mode}")),
        Err(error) => (false, format!("{shown}: {error}")),
    }
}
