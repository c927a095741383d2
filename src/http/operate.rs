//! Orders of operators, and what they are about.

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Json, Response};
use serde_json::json;

use super::server::{Shared, error};
use crate::node::{Order, OrderError, Status};

/// `POST /v1/sources/{name}/{order}`.
pub async fn source(State(node): Shared, Path((name, order)): Path<(String, String)>) -> Response {
    let Some(order) = Order::parse(&order) else {
        let message = format!("{order:?} is not an order");
        return error(
            StatusCode::NOT_FOUND,
            "WS-HTTP-005",
            &message,
            "orders are words",
            "pause, resume, retry, skip, resync or drop",
        );
    };
    answer(&name, node.order(&name, order).await)
}

/// `POST /v1/peers/{name}/{pause|resume}`.
pub async fn peer(State(node): Shared, Path((name, order)): Path<(String, String)>) -> Response {
    let paused = match order.as_str() {
        "pause" => true,
        "resume" => false,
        _ => {
            return error(
                StatusCode::NOT_FOUND,
                "WS-HTTP-005",
                &format!("{order:?} is not an order"),
                "a link stands or is paused",
                "pause or resume",
            );
        }
    };
    answer(&name, node.pause_peer(&name, paused).await)
}

fn answer(name: &str, done: Result<String, OrderError>) -> Response {
    match done {
        Ok(message) => Json(json!({ "schema": 1, "source": name, "message": message })).into_response(),
        Err(failed) => {
            let code = match &failed {
                OrderError::Unknown(_) => StatusCode::NOT_FOUND,
                OrderError::State(_) => StatusCode::CONFLICT,
                OrderError::View(view) if view.is_retryable() => StatusCode::SERVICE_UNAVAILABLE,
                OrderError::View(_) | OrderError::Io(_) => StatusCode::INTERNAL_SERVER_ERROR,
            };
            let fix = "look at `watershed source ls`";
            error(code, "WS-HTTP-006", &failed.to_string(), "the order does not suit what is there", fix)
        }
    }
}

/// `GET /v1/sources`: the database, its tables, and the peers.
pub async fn sources(State(node): Shared) -> Response {
    let status = Status::of(&node.shared);
    let mut sources = Vec::new();
    if let Some(database) = &status.database {
        sources.push(json!({
            "name": "database", "kind": "database", "state": database.capture, "position": database.applied,
            "error": database.capture_error.as_ref().or(database.apply_error.as_ref()),
        }));
        let uncopied = node.shared.uncopied();
        let state = |table: &str| match uncopied.iter().any(|(name, _)| name.as_str() == table) {
            true => "waiting",
            false => "live",
        };
        let both: std::collections::BTreeSet<&String> = database.tables.iter().chain(&database.received).collect();
        for table in &both {
            let lane = status.tables.iter().find(|lane| lane.name == **table);
            sources.push(json!({
                "name": table, "kind": "table", "state": lane.map_or_else(|| state(table), |lane| lane.state),
                "position": lane.map_or(database.applied, |lane| lane.after),
                "failed_at": lane.and_then(|lane| lane.position), "rows": lane.and_then(|lane| lane.rows),
                "error": lane.and_then(|lane| lane.error.as_ref()),
            }));
        }
        for lane in status.tables.iter().filter(|lane| !both.contains(&lane.name)) {
            sources.push(json!({
                "name": lane.name, "kind": "table", "state": lane.state, "position": lane.after,
                "failed_at": lane.position, "rows": lane.rows, "error": lane.error,
            }));
        }
    }
    for copy in &status.copies {
        let name = &copy.name;
        sources.push(json!({
            "name": name, "kind": "copy", "state": copy.state, "position": copy.applied, "error": copy.error,
        }));
        for table in &copy.live {
            sources.push(json!({
                "name": format!("{name}/{table}"), "kind": "table", "state": "live", "position": copy.applied,
            }));
        }
        for lane in &copy.lanes {
            sources.push(json!({
                "name": format!("{name}/{}", lane.name), "kind": "table", "state": lane.state, "position": lane.after,
                "failed_at": lane.position, "rows": lane.rows, "error": lane.error,
            }));
        }
    }
    for link in &status.links {
        sources.push(json!({
            "name": link.name, "kind": link.role, "state": link.state, "position": link.received, "error": link.error,
        }));
    }
    Json(json!({ "schema": 1, "node": status.node, "sources": sources })).into_response()
}
