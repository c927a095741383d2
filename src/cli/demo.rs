//! `watershed demo`

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;

use super::{ExitError, Global};

/// Two nodes and two databases in one process, to look at
#[derive(Debug, Args)]
#[command(before_help = "Examples:
  watershed demo
  watershed demo --for 10
  watershed demo --dir /tmp/demo      keeps databases, logs and configurations there")]
pub(super) struct Demo {
    /// Where to put everything; by default a folder that is removed at the end
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Stop after so many seconds; by default at Ctrl-C
    #[arg(long = "for", value_name = "SECONDS")]
    seconds: Option<u64>,
}

impl Demo {
    pub(super) fn run(self, _global: &Global) -> Result<(), ExitError> {
        run_demo(self.dir.as_deref(), self.seconds.map(Duration::from_secs))
    }
}

/// Runs head office and a branch in one process.
fn run_demo(_dir: Option<&Path>, _time: Option<Duration>) -> Result<(), ExitError> {
    Err(ExitError::not_connected("demo"))
}
