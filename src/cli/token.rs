//! `watershed token`

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::json;

use super::{Exit, ExitError, Global, output};

/// Tokens for programs and peers
#[derive(Debug, Args)]
#[command(before_help = "Examples:
  watershed token new team-a --may read:orders --may append:orders
  watershed token new branch-7 --file branch-7.token")]
pub(super) struct Token {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Draw one; it is shown once, with the line for the configuration
    New(New),
}

#[derive(Debug, Args)]
struct New {
    /// Whose it is
    name: String,
    /// What it may: peer:NODE, read:LOG, append:LOG, query:VIEW (* for all), operate, metrics
    #[arg(long, value_name = "RIGHT", value_parser = right)]
    may: Vec<String>,
    /// Write it into a new file (mode 0600) instead of showing it
    #[arg(long)]
    file: Option<PathBuf>,
}

fn right(text: &str) -> Result<String, String> {
    match crate::node::Right::parse(text) {
        Some(right) => Ok(right.to_string()),
        None => Err("rights are peer:NODE, read:LOG, append:LOG, query:VIEW (* for all), operate, metrics".into()),
    }
}

impl Token {
    pub(super) fn run(self, global: &Global) -> Result<(), ExitError> {
        let Action::New(new) = self.action;
        let token = format!("ws_{:032x}{:016x}", rand::random::<u128>(), rand::random::<u64>());
        let may = if new.may.is_empty() { vec!["read:*".to_string()] } else { new.may };
        let list = may.iter().map(|right| toml::Value::from(right.as_str()).to_string()).collect::<Vec<_>>().join(", ");
        let file = new.file.clone().unwrap_or_else(|| format!("{}.token", new.name).into());
        let line = format!(
            "{{ name = {}, token_file = {}, may = [{list}] }}",
            toml::Value::from(new.name.as_str()),
            toml::Value::from(file.display().to_string()),
        );
        if let Some(path) = &new.file {
            let written = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
            written.and_then(|mut file| writeln!(file, "{token}")).map_err(|error| {
                let fix = "name a file that is not there, in a folder that may be written";
                ExitError::new("WS-CLI-033", Exit::Failure, format!("{} is not written", path.display()), error, fix)
            })?;
        }
        if global.json {
            let shown = new.file.is_none().then_some(&token);
            return output::object(json!({ "name": new.name, "token": shown, "file": file, "may": may, "line": line }));
        }
        match &new.file {
            Some(path) => {
                eprintln!("Written to {}. Into [node] of the configuration, under tokens = […]:", path.display())
            }
            None => {
                output::line(&token)?;
                eprintln!("It is not shown again: put it into {} (mode 0600).", file.display());
                eprintln!("Into [node] of the configuration, under tokens = […]:");
            }
        }
        eprintln!("  {line}");
        Ok(())
    }
}
