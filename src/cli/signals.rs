//! Followers end with 0 when a signal stops them.

use super::exit::ExitError;

/// From here on SIGINT and SIGTERM end the process at once, with 0. For commands that only read.
pub(super) fn end_quietly() -> Result<(), ExitError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    // The thread lives as long as the process, which it ends.
    std::thread::spawn(move || {
        runtime.block_on(stopped());
        std::process::exit(0);
    });
    Ok(())
}

/// Returns at the first SIGINT or SIGTERM.
#[cfg(unix)]
pub(super) async fn stopped() {
    use tokio::signal::unix::{SignalKind, signal};
    let Ok(mut terminate) = signal(SignalKind::terminate()) else { return std::future::pending().await };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = terminate.recv() => {}
    }
}

#[cfg(not(unix))]
pub(super) async fn stopped() {
    if tokio::signal::ctrl_c().await.is_err() {
        std::future::pending::<()>().await;
    }
}
