//! The dialling side: one attempt, a probe, and the loop that keeps a child connected for ever.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::dial::Dial;
use super::handshake::{read_hello, send_hello};
use super::host::{Hello, Host, Refusal, Role};
use super::link;
use super::retry::Retry;
use super::session::{Session, Timing};
use super::url::ParentUrl;
use crate::model::Timestamp;

/// The same trouble with the parent is reported again after this.
const REPEAT_INTERVAL: Duration = Duration::from_secs(60);

/// How a child stands with its parent, for status.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DialState {
    /// Since when the link stands; `None` while it does not.
    pub connected_since: Option<Timestamp>,
    /// Attempts since the link last stood; 0 while it does.
    pub attempts: u32,
    /// Why the last attempt failed, or the last link ended.
    pub last_error: Option<Refusal>,
    /// When the next attempt is made; `None` while connected or trying.
    pub next_attempt: Option<Timestamp>,
}

/// Keeps a link to the parent until `stop`, with the usual times.
pub async fn run_child(
    dial: Dial,
    host: Arc<dyn Host>,
    retry: Retry,
    stop: CancellationToken,
    state: watch::Sender<DialState>,
) {
    run_child_timed(dial, host, retry, Timing::default(), stop, state).await;
}

/// Keeps a link to the parent until `stop`: dials, runs the link, and dials again when it has ended, for ever.
pub async fn run_child_timed(
    dial: impl Into<Dial>,
    host: Arc<dyn Host>,
    retry: Retry,
    timing: Timing,
    stop: CancellationToken,
    state: watch::Sender<DialState>,
) {
    let dial = dial.into();
    let url = &dial.url;
    let mut down_since = Instant::now();
    let (mut failed, mut dialled) = (0, false);
    let mut told: Option<(String, Instant)> = None;
    while !stop.is_cancelled() {
        state.send_modify(|state| {
            state.attempts += 1;
            state.next_attempt = None;
        });
        let mut stood = false;
        let up = |peer: &Hello| {
            stood = true;
            let down = down_since.elapsed();
            let after = if dialled { format!(" again, after {down:.1?}") } else { String::new() };
            tracing::info!(url = %url, "linked with the parent {}{after}", peer.node.name);
            dialled = true;
            let connected_since = Some(Timestamp::now());
            state.send_modify(|state| *state = DialState { connected_since, ..DialState::default() });
        };
        let why = attempt(&dial, &host, timing, &stop, up).await;
        if stood {
            down_since = Instant::now();
            failed = 0;
        }
        failed += 1;
        let wait = retry.wait(failed, why.retryable, rand::random());
        if stop.is_cancelled() {
            state.send_replace(DialState { last_error: Some(why), ..DialState::default() });
            return;
        }
        let known = told.as_ref().is_some_and(|(code, at)| *code == why.code && at.elapsed() < REPEAT_INTERVAL);
        if stood || !known {
            report(url, stood, &why, wait);
            told = Some((why.code.clone(), Instant::now()));
        }
        let next = Timestamp(Timestamp::now().0.saturating_add(wait.as_micros() as i64));
        state.send_modify(|state| {
            state.connected_since = None;
            state.last_error = Some(why);
            state.next_attempt = Some(next);
        });
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = stop.cancelled() => return,
        }
    }
}

fn report(url: &ParentUrl, stood: bool, why: &Refusal, wait: Duration) {
    let what = if stood { "the link to the parent ended" } else { "the parent could not be joined" };
    let slow = if why.retryable { "" } else { " (an operator must decide; tried slowly)" };
    tracing::warn!(url = %url, "{what}, next attempt in {wait:.1?}{slow}: {why}");
}

async fn attempt(
    dial: &Dial,
    host: &Arc<dyn Host>,
    timing: Timing,
    stop: &CancellationToken,
    up: impl FnOnce(&Hello) + Send,
) -> Refusal {
    let connected = tokio::select! {
        connected = dial.connect(timing) => connected,
        () = stop.cancelled() => return super::refusal::stopping(),
    };
    match connected {
        Ok(socket) => link::run(socket, host.clone(), Role::Child, timing, stop.child_token(), up).await,
        Err(why) => why,
    }
}

/// Says hello to a node, hears its hello, and leaves: nothing is recorded at either end.
///
/// # Errors
/// Whatever would keep the link from standing.
pub async fn probe(dial: impl Into<Dial>, hello: Hello) -> Result<Hello, Refusal> {
    let timing = Timing::default();
    let mut socket = dial.into().connect(timing).await?;
    let path = hello.path.clone();
    let mut session = Session::new(Role::Child, hello.node.clone(), path, timing, Instant::now());
    let hello = Hello { probe: true, ..hello };
    send_hello(&mut socket.writer, &hello, timing, &CancellationToken::new()).await?;
    read_hello(&mut socket.reader, &mut session).await
}
