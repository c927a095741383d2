//! `/metrics`, `/healthz` and `/readyz` of a process that copies events.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::get;
use axum::{Router, middleware};
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use serde_json::json;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::guard::local_only;
use super::listener::Served;
use super::server::{ServeError, not_allowed, not_found};
use crate::model::limits;
use crate::node::events::{DestinationStatus, Overview};

type Gauges = Family<Vec<(&'static str, String)>, Gauge<f64, AtomicU64>>;
type Counters = Family<Vec<(&'static str, String)>, Counter>;

/// Binds the address and serves until `stop`; returns the bound address at once.
///
/// # Errors
/// The address cannot be had.
pub async fn serve_events(
    overview: Arc<Overview>,
    address: SocketAddr,
    stop: CancellationToken,
) -> Result<SocketAddr, ServeError> {
    let failed = |source| ServeError { address, source };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    let app = Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .fallback(not_found)
        .method_not_allowed_fallback(not_allowed)
        .layer(middleware::from_fn(local_only))
        .with_state(overview);
    let served = Served { app, tls: None, traffic: Arc::default(), stop, drain: limits::HTTP_DRAIN_MAX };
    tokio::spawn(served.run(listener));
    Ok(bound)
}

async fn readyz(State(overview): State<Arc<Overview>>) -> Response {
    let destinations = overview.status();
    let ready = destinations.iter().all(|status| status.current);
    let code = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, Json(json!({ "schema": 1, "ready": ready, "destinations": destinations }))).into_response()
}

async fn metrics(State(overview): State<Arc<Overview>>) -> Response {
    let mut text = String::new();
    if encode(&mut text, &registry(&overview.status())).is_err() {
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    }
    let content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, content_type)], text).into_response()
}

fn registry(destinations: &[DestinationStatus]) -> Registry {
    let mut registry = Registry::with_prefix("watershed_events");
    let mut gauge = |name: &str, help: &str, value: fn(&DestinationStatus) -> f64| {
        let family = Gauges::default();
        for status in destinations {
            family.get_or_create(&vec![("destination", status.name.clone())]).set(value(status));
        }
        registry.register(name, help, family);
    };
    gauge("up", "1 while the stream to the destination stands", |status| f64::from(u8::from(status.is_up())));
    gauge("current", "1 while the destination lacks nothing for longer than a moment", |status| {
        f64::from(u8::from(status.current))
    });
    gauge("position", "How far the destination has come: the greatest id", |status| status.position as f64);
    gauge("source_position", "How far the source has come, as far as is known", |status| status.tail as f64);
    gauge("behind", "Events that the destination does not have yet", |status| status.behind as f64);
    gauge("lag_seconds", "For how long there has been something that the destination does not have", |status| {
        status.lag_seconds
    });
    let mut counter = |name: &str, help: &str, value: fn(&DestinationStatus) -> u64| {
        let family = Counters::default();
        for status in destinations {
            family.get_or_create(&vec![("destination", status.name.clone())]).inc_by(value(status));
        }
        registry.register(name, help, family);
    };
    counter("written", "Events written to the destination", |status| status.events);
    counter("batches", "Batches written to the destination", |status| status.batches);
    counter("retries", "How often the stream was tried again", |status| status.retries);
    registry
}
