//! `/metrics`, in Prometheus' text format: a registry per request, filled from the status.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::registry::Registry;

use super::server::Shared;
use crate::node::views::ViewStatus;
use crate::node::{Status, Traffic};

type ByName = Family<Vec<(&'static str, String)>, Gauge<f64, AtomicU64>>;

/// `GET /metrics`.
pub async fn metrics(State(node): Shared) -> Response {
    let mut text = String::new();
    let mut registry = registry(&Status::of(&node.shared));
    connections(&mut registry, &node.traffic);
    if encode(&mut text, &registry).is_err() {
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    }
    let content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, content_type)], text).into_response()
}

fn connections(registry: &mut Registry, traffic: &Traffic) {
    let open = ConstGauge::new(traffic.open.load(Relaxed) as f64);
    registry.register("http_connections", "Connections that are open", open);
    let mut counter = |name: &str, help: &str, value: &AtomicU64| {
        registry.register(name, help, ConstCounter::new(value.load(Relaxed)));
    };
    counter("http_turned_away", "Connections turned away because there were too many", &traffic.turned_away);
    counter("http_cut_off", "Connections cut off because they took nothing of their answer", &traffic.cut_off);
    counter("http_late", "Requests and TLS handshakes that did not arrive in time", &traffic.late);
    counter("http_limited", "Requests refused because their token asks too much", &traffic.limited);
}

fn registry(status: &Status) -> Registry {
    let mut registry = Registry::with_prefix("watershed");
    let mut gauge = |name: &str, help: &str, value: u64| {
        registry.register(name, help, ConstGauge::new(value as f64));
    };
    gauge("ready", "1 when capture runs and first copies are done", u64::from(status.ready));
    gauge("log_tail", "Last position of the log", status.log.tail);
    gauge("log_oldest", "First position that can be read", status.log.oldest);
    gauge("log_size_bytes", "Bytes of the log on disk", status.log.bytes);
    if let Some(database) = &status.database {
        gauge("database_applied", "Position of the log that the database has applied", database.applied);
        gauge("database_behind", "Entries of the log that the database has not applied", database.behind);
        gauge("capture_running", "1 while local changes are captured", u64::from(database.capture == "running"));
    }
    let count = |state: &str| status.tables.iter().filter(|table| table.state == state).count() as u64;
    gauge("tables_copying", "Tables whose rows are being copied from a peer", count("copying"));
    gauge("tables_replaying", "Tables that are catching up with the others from the log", count("replaying"));
    gauge("tables_parked", "Tables that stopped at an error", count("parked"));
    gauge("tables_paused", "Tables that an operator has paused", count("paused"));
    let mut counter = |name: &str, help: &str, value: u64| {
        registry.register(name, help, ConstCounter::new(value));
    };
    counter("captured_transactions", "Local transactions logged", status.counters.captured);
    counter("captured_changes", "Changes in them", status.counters.captured_changes);
    counter("received_transactions", "Transactions received over links", status.counters.received);
    counter(
        "refused_writes",
        "Writes left out because the writer does not own the row",
        status.counters.refused_writes,
    );
    counter("links_established", "Links that have stood", status.counters.links);
    counter("copied_rows", "Rows of first copies written", status.counters.copied_rows);
    counter("links_fallen_out", "Links that began anew because the log was trimmed", status.counters.fell_out);
    counter("torn_transactions", "Transactions applied without the part of a parked table", status.counters.torn);
    let (connected, behind, lag) = (ByName::default(), ByName::default(), ByName::default());
    for link in &status.links {
        let labels = vec![("peer", link.name.clone()), ("role", link.role.clone())];
        connected.get_or_create(&labels).set(if link.state == "connected" { 1.0 } else { 0.0 });
        behind.get_or_create(&labels).set(link.behind.unwrap_or_default() as f64);
        if let Some(lag_ms) = link.lag_ms {
            lag.get_or_create(&labels).set(lag_ms / 1e3);
        }
    }
    let (following, missing, late) = (ByName::default(), ByName::default(), ByName::default());
    for mirror in &status.mirrors {
        let labels = vec![("log", mirror.name.clone())];
        following.get_or_create(&labels).set(if mirror.state == "following" { 1.0 } else { 0.0 });
        missing.get_or_create(&labels).set(mirror.behind as f64);
        if let Some(lag_ms) = mirror.lag_ms {
            late.get_or_create(&labels).set(lag_ms / 1e3);
        }
    }
    views(&mut registry, status);
    registry.register("mirror_following", "1 while the mirror is connected with its original", following);
    registry.register("mirror_behind", "Entries of the original that are not here", missing);
    registry.register("mirror_lag_seconds", "Time since the mirror had everything", late);
    registry.register("link_connected", "1 while the link stands", connected);
    registry.register("link_behind", "Entries of our log that the peer has not acknowledged", behind);
    registry.register(
        "link_lag_seconds",
        "Time until the last heartbeat was durable at the peer, data before it included",
        lag,
    );
    registry
}

fn views(registry: &mut Registry, status: &Status) {
    let mut gauge = |name: &str, help: &str, value: fn(&ViewStatus) -> f64| {
        let family = ByName::default();
        for view in &status.views {
            family.get_or_create(&vec![("view", view.name.clone())]).set(value(view));
        }
        registry.register(name, help, family);
    };
    gauge("view_up", "1 while the view goes on", |view| {
        f64::from(u8::from(!matches!(view.state, "failed" | "trimmed" | "stalled" | "waiting")))
    });
    gauge("view_position", "How far the view has come, the sum of all partitions", |view| view.position as f64);
    gauge("view_behind", "Entries of its log that the view does not have", |view| view.behind as f64);
    gauge("view_waiting", "Readers that wait for the view", |view| view.waiting as f64);
    gauge("view_building", "1 while a new definition of the view is built", |view| {
        f64::from(u8::from(view.building.is_some()))
    });
    gauge("view_building_left", "Entries that are still to come while it is built", |view| {
        view.building.as_ref().map_or(0.0, |building| building.left as f64)
    });
    gauge("view_passed_over", "Entries that the view has passed over by order", |view| view.passed_over.len() as f64);
}
