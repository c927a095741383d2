//! `watershed source`

use clap::{Args, Subcommand};

use super::admin::escape;
use super::node_run::{drop_copy, drop_database, drop_peer};
use super::{ExitError, Global, output, status_text};

/// Tables and databases that this node reads and applies
#[derive(Debug, Args)]
#[command(before_help = "Examples:
  watershed source ls
  watershed source retry orders              a parked table, again from where it stopped
  watershed source skip orders --yes         leave out the change at which it stopped
  watershed source resync orders --yes       copy it afresh from its sender
  watershed source retry standby/orders      a table of [copy.standby]

POSITION is that of this node's log up to which it is applied; of a peer, that of the peer's log. A table is live,
copying, replaying, parked or paused; docs/OPERATIONS.md says what to do about each.")]
pub(super) struct Source {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// All of them, with their positions and errors
    Ls,
    /// Stop applying, keep receiving
    Pause {
        /// A table, or the database's name in `source ls`
        name: String,
    },
    /// Go on
    Resume {
        /// As for pause
        name: String,
    },
    /// Try a parked table again
    Retry {
        /// The table
        name: String,
    },
    /// Leave out the change at which a table is parked
    Skip {
        /// The table
        name: String,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
    /// Copy a table afresh from its sender
    Resync {
        /// The table
        name: String,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
    /// Take everything of Watershed's out of the database, or out of a copy (NAME/)
    Drop {
        /// The database's name in `source ls`, or that of a copy with a slash
        name: String,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
}

impl Source {
    pub(super) fn run(self, global: &Global) -> Result<(), ExitError> {
        let (verb, name) = match self.action {
            Action::Ls => return ls(global),
            Action::Pause { name } => ("pause", name),
            Action::Resume { name } => ("resume", name),
            Action::Retry { name } => ("retry", name),
            Action::Skip { name, yes } => {
                output::confirm(yes, &format!("leave out a change of {name}, so that copies differ"))?;
                ("skip", name)
            }
            Action::Resync { name, yes } => {
                output::confirm(yes, &format!("replace the rows of {name} by its sender's"))?;
                ("resync", name)
            }
            Action::Drop { name, yes } => {
                output::confirm(yes, &format!("take triggers and tables of Watershed out of {name}"))?;
                ("drop", name)
            }
        };
        if verb == "drop" && !global.is_running()? {
            let config = global.config()?;
            let message = match name.strip_suffix('/') {
                Some(copy) => drop_copy(&config, copy)?,
                None if name == "database" => drop_database(&config)?,
                None => drop_peer(&config, &name)?,
            };
            return output::done(
                global.json,
                serde_json::json!({ "source": name, "message": message }),
                &format!("{verb}: {name}"),
            );
        }
        let answer = global.admin()?.post(&format!("/v1/sources/{}/{verb}", escape(&name)))?;
        output::done(global.json, answer, &format!("{verb}: {name}"))
    }
}

fn ls(global: &Global) -> Result<(), ExitError> {
    let answer = global.admin()?.get("/v1/sources")?;
    if global.json {
        return output::object(answer);
    }
    output::line(&status_text::sources(&answer["sources"]))
}
