//! `watershed events`

use clap::{Args, Subcommand};

use super::{Exit, ExitError, Global};
use super::{events_diff, events_init, events_load, events_replicate, events_restore};
use crate::node::events::Endpoint;

/// Events tables: copied to many databases the moment something is appended
#[derive(Debug, Args)]
#[command(before_help = "Examples:
  watershed events init --url postgres://app@localhost/source --role source --create-database
  watershed events replicate -c watershed.toml
  watershed events replicate -c config.js --dry-run      the file of the original slate replicator
  watershed events load --url postgres://app@localhost/source --count 100000
  watershed events diff postgres://app@localhost/source postgres://app@other/copy
  watershed events restore --from postgres://app@other/copy --to postgres://app@localhost/source")]
pub(super) struct Events {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    Init(events_init::Init),
    Replicate(events_replicate::Replicate),
    Load(Box<events_load::Load>),
    Diff(Box<events_diff::Diff>),
    Restore(Box<events_restore::Restore>),
}

impl Events {
    /// Whether it goes on until a signal stops it, and tells what it does meanwhile.
    pub(super) fn runs(&self) -> bool {
        matches!(self.action, Action::Replicate(_))
    }

    pub(super) fn run(self, global: &Global) -> Result<(), ExitError> {
        match self.action {
            Action::Init(command) => command.run(global),
            Action::Replicate(command) => command.run(global),
            Action::Load(command) => command.run(global),
            Action::Diff(command) => command.run(global),
            Action::Restore(command) => command.run(global),
        }
    }
}

/// A database by its URL. Not the command line's own reader: that would print what it cannot read, with the password.
pub(super) fn endpoint(url: &str) -> Result<Endpoint, ExitError> {
    let fix = "write postgres://USER:PASSWORD@HOST:PORT/DATABASE or sqlite:PATH";
    url.parse().map_err(|why| ExitError::new("WS-CLI-025", Exit::Usage, "that names no database", why, fix))
}
