//! What a node answers while it waits for its database.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Json, Response};
use axum::routing::get;
use axum::{Router, middleware};
use serde_json::json;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::guard::local_only;
use super::listener::Served;
use super::server::{ServeError, error};
use crate::node::ServerTls;

/// A node that is starting: it is healthy, not ready, and says what it waits for.
pub struct Waiting {
    /// What it waits for.
    pub problem: watch::Sender<String>,
    end: CancellationToken,
    task: JoinHandle<()>,
}

impl Waiting {
    /// Binds the address and answers until it is closed; must be called on a runtime.
    pub fn open(address: SocketAddr, tls: Option<Arc<ServerTls>>, problem: String) -> Result<Waiting, ServeError> {
        let failed = |source| ServeError { address, source };
        let listener = TcpListener::bind(address).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        let listener = tokio::net::TcpListener::from_std(listener).map_err(failed)?;
        let end = CancellationToken::new();
        let (problem, told) = watch::channel(problem);
        let router = Router::new()
            .route("/healthz", get(|| async { "ok\n" }))
            .route("/readyz", get(readyz))
            .fallback(later)
            .with_state(Told { problem: told, is_local: address.ip().is_loopback() });
        let app = if address.ip().is_loopback() { router.layer(middleware::from_fn(local_only)) } else { router };
        let served = Served { app, tls, traffic: Arc::default(), stop: end.clone(), drain: Duration::ZERO };
        let task = tokio::spawn(served.run(listener));
        Ok(Waiting { problem, end, task })
    }

    /// Gives the address back.
    pub async fn close(self) {
        self.end.cancel();
        // It has been told to end, and waits for nobody.
        let _ = self.task.await;
    }
}

/// What it waits for, and whether only this machine asks: others are not told where the database is.
#[derive(Clone)]
struct Told {
    problem: watch::Receiver<String>,
    is_local: bool,
}

impl Told {
    fn words(&self) -> String {
        match self.is_local {
            true => self.problem.borrow().clone(),
            false => "it waits for its database; its log says why".to_owned(),
        }
    }
}

async fn readyz(State(told): State<Told>) -> Response {
    let problems = [told.words()];
    (StatusCode::SERVICE_UNAVAILABLE, Json(json!({ "schema": 1, "ready": false, "problems": problems })))
        .into_response()
}

async fn later(State(told): State<Told>) -> Response {
    let why = told.words();
    error(StatusCode::SERVICE_UNAVAILABLE, "WS-HTTP-014", "the node is starting", &why, "ask again a little later")
}
