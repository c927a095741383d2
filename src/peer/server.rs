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
        let mut child = None;
        let up = |peer: &super::host::Hello| {
            tracing::info!("linked with the child {}", peer.node.name);
            child = Some(peer.node.name.clone());
        };
        let stop = serving.stop.child_token();
        let why = link::run(Socket::from_axum(socket), host, Role::Parent, serving.timing, stop, up).await;
        report(child.as_deref(), &why);
        drop(token);
    })
}

fn report(child: Option<&str>, why: &Refusal) {
    let what = match child {
        Some(name) => format!("the link with the child {name} ended"),
        None => "a link with a child did not come about".into(),
    };
    match &*why.code {
        // `watershed check` asks and goes.
        code::STOPPING | code::BYE if child.is_none() => tracing::debug!("{what}: {}", why.what()),
        code::STOPPING | code::BYE => tracing::info!("{what}: {}", why.what()),
        code::LOST => tracing::warn!("{what}: {}; it dials again", why.what()),
        _ => tracing::error!("{what}: {why}"),
    }
}
