//! The dialled side: `GET /v1/peer`.

use std::sync::Arc;

use axum::extract::ws::WebSocketUpgrade;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::host::{Host, Refusal, Role};
use super::link;
use super::refusal::{code, refusal};
use super::session::Timing;
use super::socket::{SUBPROTOCOL, Socket, bounded};

/// How links of children run.
#[derive(Clone, Debug, Default)]
pub struct Serving {
    /// Ends all of them.
    pub stop: CancellationToken,
    /// Knows when the last one has ended.
    pub tasks: TaskTracker,
    /// The link's times.
    pub timing: Timing,
}

/// Answers a child's request and runs its link. (The listener should set `TCP_NODELAY` on what it accepts.)
pub fn serve_peer(upgrade: WebSocketUpgrade, host: Arc<dyn Host>, serving: Serving) -> Response {
    let upgrade = bounded(upgrade.protocols([SUBPROTOCOL]));
    if upgrade.selected_protocol().is_none() {
        let what = format!("the WebSocket subprotocol {SUBPROTOCOL} was not asked for");
        let why = refusal(code::NOT_A_NODE, false, what, "only nodes connect here", "readers use /v1/logs");
        return (StatusCode::BAD_REQUEST, why.to_string()).into_response();
    }
    // Taken now: whoever waits for the tracker waits for this link too.
    let token = serving.tasks.token();
    upgrade.on_upgrade(async move |socket| {
        let up = |peer: &super::host::Hello| tracing::info!(peer = &*peer.node.name, "child connected");
        let stop = serving.stop.child_token();
        let why = link::run(Socket::from_axum(socket), host, Role::Parent, serving.timing, stop, up).await;
        report(&why);
        drop(token);
    })
}

fn report(why: &Refusal) {
    match &*why.code {
        code::STOPPING | code::BYE => tracing::info!("link to a child ended: {why}"),
        code::LOST => tracing::warn!("link to a child ended: {why}"),
        _ => tracing::error!("link to a child ended: {why}"),
    }
}
