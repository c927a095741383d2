//! `watershed events restore`

use clap::Args;
use indicatif::ProgressBar;
use serde_json::json;

use super::{Exit, ExitError, Global, events, finite, output};
use crate::node::events::{RestoreProgress, RestoreStep, restore};

/// Rebuild a source from a destination
///
/// The source is a new one (`events init --role source`), or has the beginning of what the copy has. The events come in
/// one transaction; then both are compared, and the next id is set. A restore that was stopped or killed is run again.
#[derive(Debug, Args)]
pub(super) struct Restore {
    /// The copy: postgres://USER@HOST:PORT/DATABASE or sqlite:PATH. Nothing may write to it meanwhile
    #[arg(long)]
    from: String,
    /// The source
    #[arg(long)]
    to: String,
    /// Do not ask
    #[arg(long)]
    yes: bool,
}

impl Restore {
    pub(super) fn run(self, global: &Global) -> Result<(), ExitError> {
        let (from, to) = (events::endpoint(&self.from)?, events::endpoint(&self.to)?);
        output::confirm(self.yes, &format!("fill {to} with the events of {from}"))?;
        let mut shown = Shown(finite::bar(Some(0), global.quiet));
        let restored = finite::run(async |stop| Ok(restore(&from, &to, &mut shown, &stop).await?));
        shown.0.finish_and_clear();
        let Some(restored) = restored? else {
            eprintln!("interrupted: the source does not go on yet; run it again");
            return Err(ExitError::quiet(Exit::Interrupted));
        };
        if global.json {
            return output::object(json!({
                "from": from.to_string(), "to": to.to_string(), "copied": restored.copied,
                "events": restored.count, "last_id": restored.last, "next_id": restored.next, "verified": true,
            }));
        }
        output::line(&format!(
            "{} events copied; {to} has {} up to id {}, the same as {from}; the next id is {}",
            restored.copied, restored.count, restored.last, restored.next
        ))
    }
}

struct Shown(ProgressBar);

impl RestoreProgress for Shown {
    fn at(&mut self, step: RestoreStep, id: i64, last: i64) {
        self.0.set_message(match step {
            RestoreStep::ComparingPrefix => "comparing what is there",
            RestoreStep::Copying => "copying",
            RestoreStep::Verifying => "verifying",
        });
        self.0.set_length(last.unsigned_abs());
        self.0.set_position(id.max(0).unsigned_abs());
    }
}
