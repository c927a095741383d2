//! Named readers: `/v1/logs/{log}/consumers`.

use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Json, Response};
use serde::Deserialize;
use serde_json::{Value, json};

use super::access::allowed;
use super::server::{Shared, error, no_log, refusal, unread};
use crate::model::{Cursor, limits};
use crate::node::feeds::{Consumer, ConsumerError, Feed, joined};
use crate::node::{Node, Right};

fn found(node: &Node, log: &str, headers: &HeaderMap) -> Result<std::sync::Arc<Feed>, Box<Response>> {
    let feed = node.shared.feeds.get(log).ok_or_else(|| Box::new(no_log(log)))?;
    allowed(node, headers, &Right::Read(log.into()), feed.takes_appends() || log != "main")?;
    Ok(feed)
}

fn shown(feed: &Feed, name: &str, consumer: &Consumer) -> Value {
    let tails = feed.tails();
    let read = |tail: &Cursor| consumer.cursors.iter().find(|at| at.log == tail.log).map_or(0, |at| at.position.0);
    let behind: u64 = tails.iter().map(|tail| tail.position.0.saturating_sub(read(tail))).sum();
    json!({
        "name": name, "cursor": joined(&consumer.cursors), "behind": behind, "updated": consumer.updated.to_string(),
        "position": consumer.cursors.iter().map(|at| at.position.0).sum::<u64>(),
    })
}

/// `GET /v1/logs/{log}/consumers`.
pub async fn ls(State(node): Shared, Path(log): Path<String>, headers: HeaderMap) -> Response {
    match found(&node, &log, &headers) {
        Err(refused) => *refused,
        Ok(feed) => {
            let all = feed.consumers.all();
            let all: Vec<Value> = all.iter().map(|(name, consumer)| shown(&feed, name, consumer)).collect();
            Json(json!({ "schema": 1, "log": log, "consumers": all })).into_response()
        }
    }
}

fn unknown(log: &str, name: &str) -> Response {
    let message = format!("the log {log:?} has no consumer {name:?}");
    let fix = "PUT {\"cursor\": …} to make it; begin with `after=0`";
    error(StatusCode::NOT_FOUND, "WS-FEED-023", &message, "nobody has saved a cursor under that name", fix)
}

fn answer(feed: &Feed, name: &str, consumer: &Consumer, code: StatusCode) -> Response {
    let mut value = shown(feed, name, consumer);
    value["schema"] = 1.into();
    let mut response = (code, Json(value)).into_response();
    if let Ok(tag) = HeaderValue::from_str(&format!("\"{}\"", joined(&consumer.cursors))) {
        response.headers_mut().insert(header::ETAG, tag);
    }
    response
}

/// `GET /v1/logs/{log}/consumers/{name}`.
pub async fn show(State(node): Shared, Path((log, name)): Path<(String, String)>, headers: HeaderMap) -> Response {
    match found(&node, &log, &headers) {
        Err(refused) => *refused,
        Ok(feed) => match feed.consumers.get(&name) {
            Some(consumer) => answer(&feed, &name, &consumer, StatusCode::OK),
            None => unknown(&log, &name),
        },
    }
}

/// Where a consumer is.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Place {
    cursor: String,
}

/// The condition of a change: `If-Match: "CURSOR"`, or `If-None-Match: *`.
fn condition(headers: &HeaderMap) -> Option<Option<String>> {
    if headers.get(header::IF_NONE_MATCH).is_some_and(|value| value.as_bytes() == b"*") {
        return Some(None);
    }
    let expected = headers.get(header::IF_MATCH)?.to_str().unwrap_or_default();
    Some(Some(expected.trim_matches('"').to_owned()))
}

fn failed(name: &str, failed: &ConsumerError) -> Response {
    let message = format!("the consumer {name:?} is not changed: {failed}");
    match failed {
        ConsumerError::Moved(at) => {
            let mut more = serde_json::Map::new();
            more.insert("cursor".into(), at.clone().into());
            let fix = "read where it is, and decide anew";
            let (code, why) = (StatusCode::PRECONDITION_FAILED, "somebody else reads under the same name");
            refusal(code, "WS-FEED-024", &message, why, fix, more, None)
        }
        ConsumerError::TooMany => {
            let fix = "forget those that are gone: DELETE, or `watershed consumer ls`";
            error(
                StatusCode::INSUFFICIENT_STORAGE,
                "WS-FEED-025",
                &message,
                "each keeps the log from being trimmed",
                fix,
            )
        }
        ConsumerError::Io(_) => {
            let fix = "send it again a little later";
            error(StatusCode::SERVICE_UNAVAILABLE, "WS-FEED-026", &message, "the disk may be full", fix)
        }
    }
}

/// `PUT /v1/logs/{log}/consumers/{name}`.
pub async fn set(
    State(node): Shared,
    Path((log, name)): Path<(String, String)>,
    headers: HeaderMap,
    place: Result<Json<Place>, JsonRejection>,
) -> Response {
    let feed = match found(&node, &log, &headers) {
        Err(refused) => return *refused,
        Ok(feed) => feed,
    };
    let wrong = |(code, message): (StatusCode, String)| {
        let fix = "send {\"cursor\": …} with a cursor as it came with an entry";
        error(code, "WS-FEED-027", &message, "nothing was changed", fix)
    };
    let bad = |message: &str| wrong((StatusCode::BAD_REQUEST, message.to_owned()));
    if name.is_empty() || name.len() > limits::NAME_BYTES_MAX || name.chars().any(char::is_control) {
        return bad(&format!("{name:?} cannot be a consumer's name"));
    }
    let place = match place {
        Ok(Json(place)) => place,
        Err(refused) => return wrong(unread(&refused)),
    };
    let cursors: Result<Vec<Cursor>, _> = place.cursor.split(',').map(str::parse).collect();
    let cursors = match cursors {
        Ok(cursors) => cursors,
        Err(error) => return bad(&error.to_string()),
    };
    for cursor in &cursors {
        let Some(partition) = feed.partition_with(cursor.log) else {
            return bad(&format!("the cursor {cursor} is of another log"));
        };
        if let Err(refused) = feed.partitions[partition].log.check(*cursor) {
            return bad(&refused.to_string());
        }
    }
    let changed = tokio::task::block_in_place(|| feed.consumers.set(&name, Some(cursors), condition(&headers)));
    match (changed, feed.consumers.get(&name)) {
        (Err(error), _) => failed(&name, &error),
        (Ok(_), None) => unknown(&log, &name),
        (Ok(known), Some(consumer)) => {
            answer(&feed, &name, &consumer, if known { StatusCode::OK } else { StatusCode::CREATED })
        }
    }
}

/// `DELETE /v1/logs/{log}/consumers/{name}`.
pub async fn forget(State(node): Shared, Path((log, name)): Path<(String, String)>, headers: HeaderMap) -> Response {
    let feed = match found(&node, &log, &headers) {
        Err(refused) => return *refused,
        Ok(feed) => feed,
    };
    match tokio::task::block_in_place(|| feed.consumers.set(&name, None, condition(&headers))) {
        Err(error) => failed(&name, &error),
        Ok(false) => unknown(&log, &name),
        Ok(true) => StatusCode::NO_CONTENT.into_response(),
    }
}
