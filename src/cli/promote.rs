//! `watershed promote`

use clap::Args;
use serde_json::Value as Json;

use super::admin::escape;
use super::log_feed::answered;
use super::{Exit, ExitError, Global};

/// Make a mirror of a feed a log of its own, that takes appends
#[derive(Debug, Args)]
#[command(before_help = "Examples:
  watershed promote orders --yes
  watershed promote orders --yes --force    although the original answers

The mirror keeps its entries, positions and cursors, and goes on in a new epoch. The original and other mirrors of it have
another history from there on, and refuse to be mixed with it.")]
pub(super) struct Promote {
    /// The mirror, as `watershed log ls` names it
    log: String,
    /// Yes, from here on it is a log of its own
    #[arg(long)]
    yes: bool,
    /// Although the original answers
    #[arg(long)]
    force: bool,
}

impl Promote {
    pub(super) fn run(self, global: &Global) -> Result<(), ExitError> {
        if !self.yes {
            let message = format!("promoting {} cannot be taken back", self.log);
            let why = "it will have another history than its original";
            return Err(ExitError::new("WS-CLI-040", Exit::Usage, message, why, "say so with --yes"));
        }
        let path = format!("/v1/logs/{}/promote?force={}", escape(&self.log), u8::from(self.force));
        let answer: Json = global.admin()?.post(&path)?;
        let text = format!(
            "The log {} takes appends now. Remove `mirror` from its section in the configuration, and name this node in the `mirror` of \
             other mirrors of it.",
            self.log
        );
        answered(global, answer, &text)
    }
}
