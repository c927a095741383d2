//! `watershed status`

use std::io::IsTerminal;

use clap::Args;

use super::{ExitError, Global, output, signals};
use crate::model::limits;

/// What a running node is doing
#[derive(Debug, Args)]
#[command(before_help = "Examples:
  watershed status
  watershed status --watch
  watershed status --json | jq .links

Lag is measured from heartbeats that travel the whole path in order with the data.")]
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
        loop {
            let answer = admin.get("/v1/status")?;
            if global.json {
                output::object(answer)?;
            } else {
                let clear = self.watch && std::io::stdout().is_terminal();
                output::line(&format!("{}{}", if clear { "\x1b[2J\x1b[H" } else { "" }, output::answer(&answer)))?;
            }
            if !self.watch {
                return Ok(());
            }
            std::thread::sleep(limits::HEARTBEAT_INTERVAL);
        }
    }
}
