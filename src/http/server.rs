//! The routes.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::extract::rejection::JsonRejection;
use axum::extract::ws::WebSocketUpgrade;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse, Json, Response};
use axum::routing::{get, post};
use serde_json::json;
use thiserror::Error;
use tokio::net::TcpListener;

use super::guard::Guard;
use super::listener::Served;
use super::{access, append, consumers, entries, logs, metrics, operate, views, views_changes, views_digest};
use crate::model::limits;
use crate::node::{Node, Right, Status, Tree, ready};
use crate::peer::{Serving, Timing};

/// The HTTP server could not start.
#[derive(Debug, Error)]
#[error("cannot listen on {address}: {source}")]
pub struct ServeError {
    /// Where.
    pub address: SocketAddr,
    /// Why.
    pub source: std::io::Error,
}

/// What handlers share.
pub type Shared = State<Arc<Node>>;

/// Binds the address and serves until the node stops; returns the bound address at once.
pub async fn serve(node: Arc<Node>, address: SocketAddr) -> Result<SocketAddr, ServeError> {
    let failed = |source| ServeError { address, source };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    if !bound.ip().is_loopback() && node.tokens.is_empty() {
        return Err(failed(std::io::Error::other("beyond loopback tokens are needed, and none are listed")));
    }
    // With TLS no page can lead a browser here under another name: it has no certificate for it.
    let local = bound.ip().is_loopback() && node.tls.is_none();
    let guard = Arc::new(Guard { node: node.clone(), local });
    let served = Served {
        app: router(node.clone(), guard),
        tls: node.tls.clone(),
        traffic: node.traffic.clone(),
        stop: node.shared.stop.clone(),
        drain: limits::HTTP_DRAIN_MAX,
    };
    node.shared.tasks.spawn(served.run(listener));
    Ok(bound)
}

fn router(node: Arc<Node>, guard: Arc<Guard>) -> Router {
    let orders = Router::new()
        .route("/v1/sources/{name}/{order}", post(operate::source))
        .route("/v1/peers/{name}/{order}", post(operate::peer))
        .route("/v1/logs/{log}/trim", post(logs::trim))
        .route("/v1/logs/{log}/promote", post(logs::promote))
        .route("/v1/logs/{log}/retain", post(logs::retain))
        .route("/v1/views/{view}/rebuild", post(views::rebuild))
        .route("/v1/views/{view}/skip", post(views::pass_over))
        .layer(from_fn_with_state(node.clone(), access::operator));
    let shown = Router::new()
        .route("/v1/status", get(status))
        .route("/v1/tree", get(tree))
        .route("/v1/sources", get(operate::sources))
        .route("/metrics", get(metrics::metrics))
        .layer(from_fn_with_state(node.clone(), access::onlooker));
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .route("/v1/openapi.json", get(openapi))
        .route("/v1/logs", get(logs::ls).post(logs::create))
        .route("/v1/logs/{log}", get(logs::show))
        .route("/v1/logs/{log}/entries", get(entries::read).post(append::append))
        .route("/v1/logs/{log}/consumers", get(consumers::ls))
        .route("/v1/logs/{log}/consumers/{name}", get(consumers::show).put(consumers::set).delete(consumers::forget))
        .route("/v1/views", get(views::ls))
        .route("/v1/views/{view}", get(views::show))
        .route("/v1/views/{view}/query", post(views::query))
        .route("/v1/views/{view}/digest", get(views_digest::digest))
        .route("/v1/views/{view}/changes", get(views_changes::changes))
        .route("/v1/views/{view}/{table}/{key}", get(views::row))
        .route("/v1/peer", get(peer))
        .merge(shown)
        .merge(orders)
        .fallback(not_found)
        .method_not_allowed_fallback(not_allowed)
        .layer(DefaultBodyLimit::max(limits::HTTP_ORDER_BYTES_MAX))
        .layer(from_fn_with_state(guard, super::guard::guard))
        .with_state(node)
}

/// Every call, for programs.
async fn openapi() -> Response {
    ([(header::CONTENT_TYPE, "application/json")], include_str!("../../docs/openapi.json")).into_response()
}

async fn status(State(node): Shared) -> Json<Status> {
    Json(Status::of(&node.shared))
}

async fn tree(State(node): Shared) -> Json<Tree> {
    Json(Tree::of(&node.shared))
}

async fn readyz(State(node): Shared, headers: HeaderMap) -> Response {
    let (ready, mut problems) = ready(&node.shared);
    // Who only wants to know whether it is ready learns no names.
    if access::allowed(&node, &headers, &Right::Metrics, true).is_err() {
        problems.clear();
    }
    let code = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, Json(json!({ "schema": 1, "ready": ready, "problems": problems }))).into_response()
}

async fn peer(
    State(node): Shared,
    headers: HeaderMap,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Response {
    let token = match access::linker(&node, &headers) {
        Ok(token) => token,
        Err(refused) => return *refused,
    };
    let upgrade = match upgrade {
        Ok(upgrade) => upgrade,
        Err(refused) => {
            let fix = "nodes link here ([parent] url); readers use /v1/logs";
            return error(refused.status(), "WS-HTTP-027", &refused.body_text(), "this is for WebSockets", fix);
        }
    };
    let serving =
        Serving { stop: node.shared.stop.clone(), tasks: node.shared.tasks.clone(), timing: Timing::default() };
    crate::peer::serve_peer(upgrade, node.host(token), serving)
}

pub(super) async fn not_found(request: Request) -> Response {
    let message = format!("there is no {} {}", request.method(), request.uri().path());
    error(
        StatusCode::NOT_FOUND,
        "WS-HTTP-002",
        &message,
        "the path is not one of this node's",
        "see `/v1/status`, `/v1/tree`, `/metrics`",
    )
}

pub(super) async fn not_allowed(request: Request) -> Response {
    let message = format!("{} is not answered with {}", request.uri().path(), request.method());
    let why = "reading is GET, orders are POST";
    error(StatusCode::METHOD_NOT_ALLOWED, "WS-HTTP-013", &message, why, "see the `allow` header")
}

/// A body of JSON that was not read: the status, and what happened.
pub fn unread(refused: &JsonRejection) -> (StatusCode, String) {
    match refused.status() {
        StatusCode::PAYLOAD_TOO_LARGE => {
            (StatusCode::PAYLOAD_TOO_LARGE, format!("the body has more than {} bytes", limits::HTTP_ORDER_BYTES_MAX))
        }
        _ => (StatusCode::BAD_REQUEST, refused.body_text()),
    }
}

/// There is no log of that name.
pub fn no_log(name: &str) -> Response {
    let message = format!("there is no log {name:?}");
    let fix = "see `GET /v1/logs`; a log is made by a section [log.NAME] or `watershed log create NAME`";
    error(StatusCode::NOT_FOUND, "WS-HTTP-007", &message, "no log of this node has that name", fix)
}

/// There is no log of that name, or not yet.
pub fn absent(node: &Node, name: &str) -> Response {
    if !node.shared.feeds.expects(name) {
        return no_log(name);
    }
    let message = format!("the log {name:?} is a mirror that has not reached its original yet");
    let why = "what it is, its original says";
    error(
        StatusCode::SERVICE_UNAVAILABLE,
        "WS-HTTP-031",
        &message,
        why,
        "ask again; `watershed status` says why it takes long",
    )
}

/// An error as DESIGN's HTTP surface has it.
pub fn error(code: StatusCode, name: &str, message: &str, why: &str, fix: &str) -> Response {
    refusal(code, name, message, why, fix, serde_json::Map::new(), None)
}

/// The same, with more members; `wait` tells when to ask again.
pub fn refusal(
    code: StatusCode,
    name: &str,
    message: &str,
    why: &str,
    fix: &str,
    more: serde_json::Map<String, serde_json::Value>,
    wait: Option<Duration>,
) -> Response {
    let retryable = matches!(code, StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS);
    let side_effects = more.contains_key("appended");
    let mut body = json!({ "code": name, "message": message, "why": why, "do": fix, "retryable": retryable, "side_effects": side_effects });
    if let Some(body) = body.as_object_mut() {
        body.extend(more);
    }
    let mut response = (code, Json(body)).into_response();
    if let Some(wait) = wait.or(retryable.then_some(Duration::from_secs(1))) {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(wait.as_secs().max(1)));
    }
    response
}
