//! `watershed events replicate`

use clap::Args;
use tokio_util::sync::CancellationToken;

use super::events_show::{self, Display};
use super::{Exit, ExitError, Global, signals};
use crate::http;
use crate::node::config::Listen;
use crate::node::events::{Haste, Replication, Settings};

/// Copy events to the destinations, and go on
///
/// Every destination gets each transaction whole and in order, the moment it is committed at the source, and on its own:
/// one that is down or slow holds up no other, and catches up. It can be killed at any time. docs/EVENTS.md says more.
#[derive(Debug, Args)]
#[command(
    after_help = "FILE (-c) is a watershed.toml with [events], or the configuration of the original slate replicator.
The first ^C finishes what is being written and ends with 0; a second one ends at once, and nothing is lost either.
Exit codes: 3 the configuration, or a database, is not what it should be; 4 not reached; 5 an operator must decide."
)]
pub(super) struct Replicate {
    /// Reach everybody, check everything, print what would be copied, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// End at the first failure, as the original does, instead of trying again
    #[arg(long)]
    exit_on_error: bool,
    /// Serve /metrics, /healthz and /readyz on this address of this machine, as in 127.0.0.1:9187
    #[arg(long, value_name = "ADDR", value_parser = loopback)]
    listen: Option<Listen>,
}

fn loopback(text: &str) -> Result<Listen, String> {
    let listen: Listen = text.parse()?;
    match listen.0.ip().is_loopback() {
        true => Ok(listen),
        false => Err("it has neither tokens nor TLS, so it listens on this machine only: write 127.0.0.1:9187".into()),
    }
}

impl Replicate {
    pub(super) fn run(self, global: &Global) -> Result<(), ExitError> {
        let (settings, notes) = Settings::load(global.file())?;
        for note in notes {
            tracing::warn!("{note}");
        }
        // One thread is enough, and keeps the process small: a destination takes a fifth of a core while it catches up.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let done = runtime.block_on(self.replicate(settings, global));
        // Blocking work that nobody waits for any more does not keep the process.
        runtime.shutdown_background();
        done
    }

    async fn replicate(self, settings: Settings, global: &Global) -> Result<(), ExitError> {
        let stop = CancellationToken::new();
        tokio::spawn(stop_at_signals(stop.clone()));
        events_show::settings(&settings);
        let haste = Haste { at_start: self.dry_run || self.exit_on_error, exit_on_error: self.exit_on_error };
        let Some(replication) = Replication::prepare(settings, haste, &stop).await? else { return Ok(()) };
        events_show::found(&replication);
        if self.dry_run {
            return events_show::plan(&replication, global.json);
        }
        if let Some(listen) = self.listen {
            let served = http::serve_events(replication.overview.clone(), listen.0, stop.clone()).await;
            let address = served.map_err(|error| {
                let why = "another process has that port, or the address is not of this machine";
                ExitError::new("WS-EVENTS-044", Exit::Failure, error, why, "give another address with --listen")
            })?;
            tracing::info!("metrics on http://{address}/metrics");
        }
        let display = Display::new(replication.overview.clone(), global.json, global.quiet);
        let copied = tokio::select! {
            copied = replication.run(&stop) => copied,
            error = display.run() => return Err(error),
        };
        display.finish()?;
        copied?;
        tracing::info!("stopped");
        Ok(())
    }
}

/// The first SIGINT or SIGTERM drains, the second ends the process at once.
async fn stop_at_signals(stop: CancellationToken) {
    signals::stopped().await;
    tracing::info!("stopping: what is being written is finished");
    stop.cancel();
    signals::stopped().await;
    tracing::warn!("stopped at once, at the second signal; nothing committed is lost");
    std::process::exit(0);
}
