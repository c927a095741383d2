//! `watershed status`

use std::io::IsTerminal;

use clap::Args;

use super::{Exit, ExitError, Global, output, signals, status_text};
use crate::model::limits;

/// What a running node is doing
#[derive(Debug, Args)]
#[command(before_help = "Examples:
  watershed status
  watershed status --watch
  watershed status --json | jq .links

A problem comes first. Then:
  LAG       how long the last heartbeat took until it was durable at the peer, with all data before it
  BEHIND    entries of this node's log that the peer has not acknowledged
  RECEIVED  position of the peer's log up to which this node has everything that is meant for it
  ACKED     position of this node's log up to which the peer has everything that is meant for it
  AGE       how long ago another node's clock said what it said when its log had come this far
A table is listed when it does not move with the others: copying, replaying, parked or paused.")]
pub(super) struct Status {
    /// Again every second
    #[arg(long)]
    watch: bool,
}

impl Status {
    pub(super) fn run(self, global: &Global) -> Result<(), ExitError> {
        let admin = global.admin()?;
        if self.watch {
            signals::end_quietly()?;
        }
        let clear = self.watch && !global.json && std::io::stdout().is_terminal();
        loop {
            match admin.get("/v1/status") {
                Ok(answer) if global.json => output::object(answer)?,
                Ok(answer) if clear => output::screen(&status_text::status(&answer))?,
                Ok(answer) => output::line(&status_text::status(&answer))?,
                // Whoever watches wants to see it come back.
                Err(error) if clear && error.exit == Exit::Unreachable => output::screen(&error.to_string())?,
                Err(error) => return Err(error),
            }
            if !self.watch {
                return Ok(());
            }
            std::thread::sleep(limits::HEARTBEAT_INTERVAL);
        }
    }
}
