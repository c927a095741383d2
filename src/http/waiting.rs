//! What a node answers while it waits for its database.

use std::future::IntoFuture;
use std::net::{SocketAddr, TcpListener};

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Json, Response};
use axum::routing::get;
use axum::{Router, middleware};
use serde_json::json;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::access;
use super::listener::Ending;
use super::server::{ServeError, error};

/// A node that is starting: it is healthy, not ready, and says what it waits for.
pub struct Waiting {
    /// What it waits for.
    pub problem: watch::Sender<String>,
    end: CancellationToken,
    task: JoinHandle<()>,
}

impl Waiting {
    /// Binds the address and answers until it is closed; must be called on a runtime.
    pub fn open(address: SocketAddr, problem: String) -> Result<Waiting, ServeError> {
        let failed = |source| ServeError { address, source };
        let listener = TcpListener::bind(address).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        let listener = tokio::net::TcpListener::from_std(listener).map_err(failed)?;
        let end = CancellationToken::new();
        let ending = Ending { listener, end: end.clone() };
        let (problem, told) = watch::channel(problem);
        let router = Router::new()
            .route("/healthz", get(|| async { "ok\n" }))
            .route("/readyz", get(readyz))
            .fallback(later)
            .layer(middleware::from_fn(access::local_only))
            .with_state(told);
        let stop = end.clone();
        let task = tokio::spawn(async move {
            tokio::select! {
                served = axum::serve(ending, router).into_future() => if let Err(error) = served {
                    tracing::error!("the HTTP server ended: {error}");
                },
                () = stop.cancelled() => {}
            }
        });
        Ok(Waiting { problem, end, task })
    }

    /// Gives the address back.
    pub async fn close(self) {
        self.end.cancel();
        // It has been told to end, and waits for nobody.
        let _ = self.task.await;
    }
}

async fn readyz(State(problem): State<watch::Receiver<String>>) -> Response {
    let problems = [problem.borrow().clone()];
    (StatusCode::SERVICE_UNAVAILABLE, Json(json!({ "schema": 1, "ready": false, "problems": problems })))
        .into_response()
}

async fn later(State(problem): State<watch::Receiver<String>>) -> Response {
    let why = problem.borrow().clone();
    error(StatusCode::SERVICE_UNAVAILABLE, "WS-HTTP-014", "the node is starting", &why, "ask again a little later")
}
