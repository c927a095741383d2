//! A node until a signal stops it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::{Exit, ExitError};
use crate::http::{self, Waiting};
use crate::node::config::{Config, Overrides};
use crate::node::{self, Node, NodeError, Settings};

/// Blocking SQLite calls stand in for one worker each, so there are more than cores.
const WORKERS: usize = 6;

impl From<NodeError> for ExitError {
    fn from(error: NodeError) -> ExitError {
        let exit = match error.exit {
            node::Exit::Failure => Exit::Failure,
            node::Exit::Configuration => Exit::Config,
            node::Exit::Unreachable => Exit::Unreachable,
            node::Exit::Operator => Exit::Operator,
            node::Exit::Locked => Exit::Locked,
        };
        ExitError::new(error.code, exit, error.what, error.why, error.advice)
    }
}

/// The runtime that nodes run on.
pub(super) fn runtime() -> Result<Runtime, ExitError> {
    Ok(tokio::runtime::Builder::new_multi_thread().worker_threads(WORKERS).enable_all().build()?)
}

/// Starts a node and its HTTP server. A database that is locked is waited for; meanwhile the node is not ready.
pub(super) async fn start(config: &Config) -> Result<Arc<Node>, ExitError> {
    let settings = Settings::from_config(config)?;
    let (listen, tls) = (settings.listen, settings.tls.clone());
    if !listen.ip().is_loopback() && tls.is_none() {
        tracing::warn!(
            "the node listens on {listen} without TLS (allow_plaintext): tokens and data can be read by everybody on the way, unless \
             an ingress before it speaks TLS"
        );
    }
    let mut waiting: Option<Waiting> = None;
    let started = Node::start_or(settings, |error| {
        let problem = format!(
            "error[WS-NODE-022]: the node waits for its database: {} / do: find who locks it; the node goes on by itself",
            error.what
        );
        tracing::warn!("{problem}");
        match &waiting {
            Some(waiting) => drop(waiting.problem.send_replace(problem)),
            // If the address is taken, the start ends with that error once the database is free.
            None => {
                waiting =
                    Waiting::open(listen, tls.clone(), problem).inspect_err(|error| tracing::warn!("{error}")).ok()
            }
        }
        true
    });
    let started = started.await;
    if let Some(waiting) = waiting.take() {
        waiting.close().await;
    }
    let node = Arc::new(started?);
    match http::serve(node.clone(), listen).await {
        Ok(address) => {
            let how = if tls.is_some() { " with TLS" } else { "" };
            tracing::info!("node {} runs and listens on {address}{how}", node.shared.name);
            Ok(node)
        }
        Err(error) => {
            node.stop().await;
            let why = "another process has that port, or the address is not of this machine";
            let fix = "change [node] listen, or stop the other process (`ss -ltnp` shows it)";
            Err(ExitError::new("WS-NODE-015", Exit::Failure, error, why, fix))
        }
    }
}

/// What ends a node, or has it read its configuration again.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Signals> {
        Ok(Signals {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// Waits for SIGINT or SIGTERM.
    async fn stop(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }

    /// True: stop. False: reload.
    async fn next(&mut self) -> bool {
        tokio::select! {
            _ = self.interrupt.recv() => true,
            _ = self.terminate.recv() => true,
            _ = self.hangup.recv() => false,
        }
    }
}

/// Runs the node of a configuration until SIGINT or SIGTERM; a second one ends the process at once. SIGHUP reads the file
/// again, and restarts the node in place if it is valid as a whole.
pub(super) fn run_node(config: Config) -> Result<(), ExitError> {
    node::raise_open_files();
    let runtime = runtime()?;
    let done = runtime.block_on(async {
        let mut signals = Signals::new()?;
        let mut config = config;
        let mut before: Option<Config> = None;
        loop {
            let Some(started) = start_unless_stopped(&config, &mut signals).await else { return Ok(()) };
            let node = match (started, before.take()) {
                (Ok(node), _) => node,
                (Err(error), Some(previous)) => {
                    tracing::error!("the node does not start with the reloaded configuration, the one before stays in force: {error}");
                    config = previous;
                    match start_unless_stopped(&config, &mut signals).await {
                        Some(started) => started?,
                        None => return Ok(()),
                    }
                }
                (Err(error), None) => return Err(error),
            };
            let (path, known): (PathBuf, _) = (config.path().into(), config.digest());
            let stop = loop {
                if signals.next().await {
                    break true;
                }
                match reload(&path).await {
                    Ok(reloaded) if renewed(&node, known, &reloaded).await => {}
                    Ok(reloaded) => {
                        before = Some(std::mem::replace(&mut config, reloaded));
                        break false;
                    }
                    Err(error) => {
                        tracing::error!("the configuration is not reloaded, the one before stays in force: {error}")
                    }
                }
            };
            tracing::info!("node {} {}", node.shared.name, if stop { "stops" } else { "reloads its configuration" });
            tokio::select! {
                _ = node.stop() => {}
                _ = signals.stop() => {
                    tracing::warn!("stopped at once, at the second signal; nothing durable is lost");
                    std::process::exit(0);
                }
            }
            if stop {
                return Ok(());
            }
        }
    });
    runtime.shutdown_timeout(Duration::from_secs(1));
    done
}

/// `None`: a signal has stopped it, while it waited for its database.
async fn start_unless_stopped(config: &Config, signals: &mut Signals) -> Option<Result<Arc<Node>, ExitError>> {
    let (name, config) = (config.node.name.clone(), config.clone());
    // A task of its own: waiting for a lock blocks its thread.
    let mut starting = tokio::spawn(async move { start(&config).await });
    tokio::select! {
        started = &mut starting => Some(started.unwrap_or_else(|error| {
            let (why, fix) = ("starting the node panicked", "please report it");
            Err(ExitError::new("WS-NODE-023", Exit::Failure, error, why, fix))
        })),
        () = signals.stop() => {
            starting.abort();
            tracing::info!("node {name} stops");
            None
        }
    }
}

/// Where only the certificate or definitions of views can be new they are exchanged, and everything goes on; true then.
async fn renewed(node: &Node, known: [u8; 32], reloaded: &Config) -> bool {
    if reloaded.digest() != known {
        return false;
    }
    // What views look at from now on has to be captured first.
    let viewed = Settings::from_config(reloaded).map(|settings| settings.policy.viewed);
    if viewed.is_ok_and(|viewed| viewed != node.shared.policy.viewed) {
        return false;
    }
    let changed = match node.shared.views.take_up().await {
        Ok(changed) => changed,
        Err(error) => {
            tracing::error!("the definitions of views are not taken up, those before stay: {error}");
            return true;
        }
    };
    let Some(tls) = &node.tls else { return changed > 0 };
    if let Err(why) = tls.reload().and_then(|()| node.show_certificate().map_err(|error| error.to_string())) {
        tracing::error!("error[WS-NODE-026]: the certificate is not read again, the one before stays: {why}");
        return true;
    }
    tracing::info!("node {} shows the certificate as it is in its file now", node.shared.name);
    true
}

async fn reload(path: &std::path::Path) -> Result<Config, ExitError> {
    let config = Config::load(path, &Overrides::from_environment())?;
    // Filters and owners are looked at against the tables, as at a start.
    node::preflight(&Settings::from_config(&config)?).await?;
    Ok(config)
}

/// Takes back what `run` installed in the database of a node that does not run, so that the next start begins afresh.
pub(super) fn drop_database(config: &Config) -> Result<String, ExitError> {
    let settings = Settings::from_config(config)?;
    Ok(runtime()?.block_on(node::drop_database(&settings))?)
}

/// Takes what follows the node's log out of a copy of a node that does not run.
pub(super) fn drop_copy(config: &Config, name: &str) -> Result<String, ExitError> {
    let settings = Settings::from_config(config)?;
    Ok(runtime()?.block_on(node::drop_copy(&settings, name))?)
}

/// Forgets a peer of a node that does not run.
pub(super) fn drop_peer(config: &Config, name: &str) -> Result<String, ExitError> {
    let settings = Settings::from_config(config)?;
    Ok(node::drop_peer(&settings, name)?)
}
