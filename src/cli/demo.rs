//! `watershed demo`

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;

use super::node_run::runtime;
use super::signals::stopped;
use super::{ExitError, Global, demo_tree};

/// Three nodes and their databases in one process, to look at
#[derive(Debug, Args)]
#[command(before_help = "Examples:
  watershed demo
  watershed demo --for 10 --json      a line of JSON for every change
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
    pub(super) fn run(self, global: &Global) -> Result<(), ExitError> {
        run_demo(self.dir.as_deref(), self.seconds.map(Duration::from_secs), global.json)
    }
}

/// Runs head office and two branches in one process; a folder that is not named is removed at the end.
fn run_demo(dir: Option<&Path>, time: Option<Duration>, json: bool) -> Result<(), ExitError> {
    let throwaway = match dir {
        Some(dir) => {
            std::fs::create_dir_all(dir)?;
            None
        }
        None => Some(tempfile::Builder::new().prefix("watershed-demo-").tempdir()?),
    };
    let dir = match (dir, &throwaway) {
        (Some(dir), _) => std::path::absolute(dir)?,
        (None, Some(folder)) => folder.path().to_path_buf(),
        (None, None) => return Ok(()),
    };
    let runtime = runtime()?;
    let done = runtime.block_on(async {
        let stop = async {
            tokio::select! {
                _ = stopped() => {}
                _ = tokio::time::sleep(time.unwrap_or_default()), if time.is_some() => {}
            }
        };
        demo_tree::run(&dir, json, stop).await
    });
    runtime.shutdown_timeout(Duration::from_secs(1));
    done
}
