//! `watershed run`

use clap::Args;
use serde_json::json;

use super::node_run::run_node;
use super::{ExitError, Global, output};
use crate::node::config::{Config, DatabaseUrl, SendRule};

/// Run the node
#[derive(Debug, Args)]
#[command(before_help = "Examples:
  watershed run
  watershed run -c branch-7.toml
  watershed run --dry-run            what would be sent where; changes nothing")]
pub(super) struct Run {
    /// Print the plan and change nothing
    #[arg(long)]
    dry_run: bool,
}

impl Run {
    pub(super) fn run(self, global: &Global) -> Result<(), ExitError> {
        let config = global.config()?;
        config.ready()?;
        if self.dry_run {
            let (plan, warnings) = super::check::check_node(&config, false)?;
            for warning in warnings {
                tracing::warn!("{warning}");
            }
            return plan.print(global.json);
        }
        run_node(config)
    }
}

/// What a node with this configuration would do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// What and where, a line each.
    pub lines: Vec<(String, String)>,
}

impl Plan {
    /// Of the configuration alone, without looking at the database.
    pub fn of(config: &Config) -> Plan {
        let mut lines = Vec::new();
        let mut add = |what: &str, text: String| lines.push((what.to_string(), text));
        add("node", config.node.name.clone());
        add("data folder", config.node.data_dir.display().to_string());
        add("listens on", config.node.listen.to_string());
        if let Some(parent) = &config.parent {
            add("dials", parent.url.to_string());
        }
        match config.database.as_ref().map(|database| &database.url) {
            Some(DatabaseUrl::Sqlite(path)) if !path.exists() => {
                add("database", format!("sqlite:{} (made, empty)", path.display()));
            }
            Some(url) => add("database", url.to_string()),
            None => add("database", "none: only a log".into()),
        }
        for (key, rule) in config.send.all() {
            add(&key, sends(rule));
        }
        if config.send.all().is_empty() {
            add("send", "nothing: no [send.…] section lists a table".into());
        }
        for (name, rule) in &config.table {
            let owner = match (&rule.owner_by, rule.owner.as_slice()) {
                (Some(expression), _) => format!("rows are written by {}", expression.text),
                (None, []) => "rows have no owner".to_string(),
                (None, owners) => format!("rows are written by {}", owners.join(" or ")),
            };
            let diverge = if rule.may_diverge() { "; may diverge" } else { "" };
            add(&format!("table.{name}"), format!("{owner}{diverge}"));
        }
        Plan { lines }
    }

    pub(super) fn print(&self, as_json: bool) -> Result<(), ExitError> {
        if as_json {
            let lines: Vec<_> = self.lines.iter().map(|(what, text)| json!({ "what": what, "text": text })).collect();
            return output::object(json!({ "plan": lines }));
        }
        let rows: Vec<_> = self.lines.iter().map(|(what, text)| vec![what.clone(), text.clone()]).collect();
        output::line(&output::table(&["WHAT", "PLAN"], &rows))
    }
}

fn sends(rule: &SendRule) -> String {
    let tables: Vec<&str> = rule.tables.iter().map(|table| table.as_str()).collect();
    let mut text = if tables.is_empty() { "nothing".to_string() } else { tables.join(", ") };
    for filter in &rule.filters {
        let of: Vec<&str> = filter.tables.iter().map(|table| table.as_str()).collect();
        text.push_str(&format!("; of {}", of.join(", ")));
        if let Some(when) = &filter.when {
            text.push_str(&format!(" rows where {}", when.text));
        }
        if !filter.drop_columns.is_empty() {
            text.push_str(&format!(" without {}", filter.drop_columns.join(", ")));
        }
        if !filter.ops.is_empty() {
            let ops: Vec<&str> = filter.ops.iter().map(|op| op.op().name()).collect();
            text.push_str(&format!(" ({} only)", ops.join(", ")));
        }
    }
    text
}
