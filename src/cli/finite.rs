//! Commands that take their time and end: they show how far they are, and a signal ends them early.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio_util::sync::CancellationToken;

use super::{Exit, ExitError, signals};

/// Runs work that stops between two steps when its token is cancelled: by the first SIGINT or SIGTERM. The second ends
/// the process at once, with 130.
pub(super) fn run<T, F>(work: impl FnOnce(CancellationToken) -> F) -> Result<T, ExitError>
where
    F: Future<Output = Result<T, ExitError>>,
{
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let stop = CancellationToken::new();
    let signalled = stop.clone();
    let result = runtime.block_on(async move {
        let watch = tokio::spawn(async move {
            signals::stopped().await;
            signalled.cancel();
            signals::stopped().await;
            std::process::exit(Exit::Interrupted as i32);
        });
        let result = work(stop).await;
        watch.abort();
        result
    });
    // Blocking work that nobody waits for any more does not keep the process.
    runtime.shutdown_timeout(Duration::from_millis(100));
    result
}

/// A bar on stderr when that is a terminal, else nothing at all. `total` is in the unit that is counted; `None` has no end.
pub(super) fn bar(total: Option<u64>, quiet: bool) -> ProgressBar {
    if quiet || !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let (bar, template) = match total {
        Some(total) => (ProgressBar::new(total), "{msg} {wide_bar} {human_pos}/{human_len} {per_sec:>14} {eta:>4}"),
        None => (ProgressBar::new_spinner(), "{spinner} {msg} {human_pos} {per_sec:>14}"),
    };
    bar.set_draw_target(ProgressDrawTarget::stderr_with_hz(10));
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar
}
