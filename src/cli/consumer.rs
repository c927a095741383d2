//! `watershed consumer`

use clap::{Args, Subcommand};
use serde_json::{Value as Json, json};

use super::admin::escape;
use super::{Exit, ExitError, Global, output};

/// Named readers of a log, and how far they have come
#[derive(Debug, Args)]
#[command(before_help = "Examples:
  watershed consumer ls
  watershed consumer ls orders
  watershed consumer show orders billing
  watershed consumer reset orders billing --after 0 --yes
  watershed consumer reset orders billing --forget --yes")]
pub(super) struct Consumer {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Those of a log, or of all
    Ls {
        /// The log
        log: Option<String>,
    },
    /// One of them
    Show {
        /// The log
        log: String,
        /// Its name
        name: String,
    },
    /// Have it read again from somewhere else, or forget it
    Reset(Reset),
}

#[derive(Debug, Args)]
struct Reset {
    /// The log
    log: String,
    /// Its name
    name: String,
    /// To after this position or cursor; 0 to the oldest
    #[arg(long, value_name = "POSITION", required_unless_present = "forget")]
    after: Option<String>,
    /// Forget it: it keeps nothing of the log any more
    #[arg(long, conflicts_with = "after")]
    forget: bool,
    /// Really
    #[arg(long)]
    yes: bool,
}

fn row(log: &str, consumer: &Json) -> Vec<String> {
    let text = |name: &str| match &consumer[name] {
        Json::String(text) => text.clone(),
        other => other.to_string(),
    };
    vec![log.to_string(), text("name"), text("position"), text("behind"), output::time(&text("updated"))]
}

impl Consumer {
    pub(super) fn run(self, global: &Global) -> Result<(), ExitError> {
        let admin = global.admin()?;
        match self.action {
            Action::Ls { log } => {
                let logs = match log {
                    Some(log) => vec![log],
                    None => {
                        let all = admin.get("/v1/logs")?;
                        let all = all["logs"].as_array().cloned().unwrap_or_default();
                        all.iter().filter_map(|log| Some(log["name"].as_str()?.to_owned())).collect()
                    }
                };
                let (mut rows, mut all) = (Vec::new(), Vec::new());
                for log in logs {
                    let answer = admin.get(&format!("/v1/logs/{}/consumers", escape(&log)))?;
                    for one in answer["consumers"].as_array().into_iter().flatten() {
                        rows.push(row(&log, one));
                        let mut one = one.clone();
                        one["log"] = log.as_str().into();
                        all.push(one);
                    }
                }
                if global.json {
                    return output::object(json!({ "consumers": all }));
                }
                if rows.is_empty() {
                    eprintln!("There are no consumers: PUT /v1/logs/NAME/consumers/WHO saves a reader's cursor.");
                    return Ok(());
                }
                output::line(&output::table(&["LOG", "NAME", "POSITION", "BEHIND", "SAVED"], &rows))
            }
            Action::Show { log, name } => {
                let one = admin.get(&format!("/v1/logs/{}/consumers/{}", escape(&log), escape(&name)))?;
                if global.json { output::object(one) } else { output::line(&output::answer(&one)) }
            }
            Action::Reset(reset) => reset.run(global),
        }
    }
}

impl Reset {
    fn run(self, global: &Global) -> Result<(), ExitError> {
        let admin = global.admin()?;
        let path = format!("/v1/logs/{}/consumers/{}", escape(&self.log), escape(&self.name));
        if !self.yes {
            let (why, fix) = ("it would read entries again, or miss some", "give --yes");
            let what = format!("the consumer {} of {} would be reset", self.name, self.log);
            return Err(ExitError::new("WS-CLI-031", Exit::Usage, what, why, fix));
        }
        let Some(after) = self.after else {
            admin.delete(&path)?;
            let text = format!("{} is forgotten.", self.name);
            return if global.json { output::object(json!({ "forgotten": self.name })) } else { output::line(&text) };
        };
        let cursor = match after.parse::<u64>() {
            Ok(position) => {
                let log = admin.get(&format!("/v1/logs/{}", escape(&self.log)))?;
                at(&log, position).ok_or_else(|| {
                    let (why, fix) = ("a position counts in one partition", "give 0, or a cursor for each partition");
                    ExitError::new("WS-CLI-032", Exit::Usage, "the log has several partitions", why, fix)
                })?
            }
            Err(_) => after,
        };
        let answer = admin.put(&path, &json!({ "cursor": cursor }).to_string())?;
        let text = format!("{} is at {} now, {} behind.", self.name, answer["position"], answer["behind"]);
        if global.json { output::object(answer) } else { output::line(&text) }
    }
}

/// The cursor of a position: the tail's, with that position.
fn at(log: &Json, position: u64) -> Option<String> {
    let tails = log["cursor"].as_str()?;
    if position > 0 && tails.contains(',') {
        return None;
    }
    let to = |tail: &str| Some(format!("{}-{position}", tail.rsplit_once('-')?.0));
    tails.split(',').map(to).collect::<Option<Vec<_>>>().map(|cursors| cursors.join(","))
}
