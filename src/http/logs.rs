//! The logs of a node: what there is, making one, trimming one.

use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Json, Response};
use serde::Deserialize;
use serde_json::{Value, json};

use super::access::allowed;
use super::server::{Shared, absent, error, no_log, unread};
use crate::model::{Position, limits};
use crate::node::feeds::{Feed, FeedSpec, joined};
use crate::node::{Node, Right, Status};

/// A log as objects show it.
fn shown(node: &Node, feed: &Feed) -> Value {
    if &*feed.name == "main" {
        let log = Status::of(&node.shared).log;
        return json!({
            "name": "main", "id": log.id, "oldest": log.oldest, "tail": log.tail, "cursor": log.cursor, "bytes": log.bytes,
            "pins": log.pins, "append": feed.takes_appends(), "partitions": 1,
        });
    }
    let infos: Vec<_> = feed.partitions.iter().map(|partition| partition.log.info()).collect();
    let mut pins: std::collections::BTreeMap<String, u64> = std::collections::BTreeMap::new();
    for (who, position) in infos.iter().flat_map(|info| feed.needs(info.id)) {
        *pins.entry(who).or_default() += position.0;
    }
    let pins: Vec<Value> = pins.iter().map(|(who, position)| json!({ "who": who, "position": position })).collect();
    let mut value = json!({
        "name": feed.name, "id": infos[0].id.to_string(), "oldest": infos[0].oldest.0,
        "tail": infos.iter().map(|info| info.tail.0).sum::<u64>(), "cursor": joined(&feed.tails()),
        "bytes": infos.iter().map(|info| info.bytes).sum::<u64>(), "pins": pins, "append": feed.takes_appends(),
        "partitions": infos.len(),
    });
    if let Some(of) = feed.mirror_of() {
        value["mirror"] = of.into();
        let status = node.shared.mirrors.get(&feed.name).map(|mirror| mirror.status());
        value["state"] = status.as_ref().map_or("stopped", |status| status.state).into();
        value["behind"] = status.as_ref().map(|status| status.behind).into();
    }
    if let Some(view) = feed.view_of() {
        value["view"] = view.into();
    }
    if infos.len() > 1 {
        let parts = infos.iter().enumerate().map(|(number, info)| {
            json!({ "partition": number, "id": info.id.to_string(), "oldest": info.oldest.0, "tail": info.tail.0, "bytes": info.bytes })
        });
        value["parts"] = parts.collect();
    }
    value
}

/// `GET /v1/logs`: those that may be read.
pub async fn ls(State(node): Shared, headers: HeaderMap) -> Response {
    let may = |feed: &Feed| allowed(&node, &headers, &Right::Read(feed.name.clone()), true).is_ok();
    let logs: Vec<Value> =
        node.shared.feeds.all().iter().filter(|feed| may(feed)).map(|feed| shown(&node, feed)).collect();
    Json(json!({ "schema": 1, "logs": logs })).into_response()
}

/// `GET /v1/logs/{log}`.
pub async fn show(State(node): Shared, Path(log): Path<String>, headers: HeaderMap) -> Response {
    let Some(feed) = node.shared.feeds.get(&log) else { return absent(&node, &log) };
    if let Err(refused) = allowed(&node, &headers, &Right::Read(log.into()), true) {
        return *refused;
    }
    let mut value = shown(&node, &feed);
    value["schema"] = 1.into();
    Json(value).into_response()
}

/// What a new log is to be.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct New {
    name: String,
    partitions: Option<u32>,
    append: Option<bool>,
    retain_ms: Option<u64>,
    retain_bytes: Option<u64>,
}

/// `POST /v1/logs`.
pub async fn create(State(node): Shared, headers: HeaderMap, new: Result<Json<New>, JsonRejection>) -> Response {
    if let Err(refused) = allowed(&node, &headers, &Right::Operate, false) {
        return *refused;
    }
    let wrong = |(code, message): (StatusCode, String)| {
        let fix = "send {\"name\":\"orders\"}, and perhaps partitions, append, retain_ms, retain_bytes";
        error(code, "WS-FEED-021", &message, "no log was made", fix)
    };
    let bad = |message: &str| wrong((StatusCode::BAD_REQUEST, message.to_owned()));
    let new = match new {
        Ok(Json(new)) => new,
        Err(refused) => return wrong(unread(&refused)),
    };
    let clean = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let length = 1..=limits::NAME_BYTES_MAX;
    if !length.contains(&new.name.len()) || !new.name.chars().all(clean) || new.name.starts_with('.') {
        return bad(&format!("{:?} cannot be a name: letters, digits, `-`, `_` and `.`, not first", new.name));
    }
    let partitions = new.partitions.unwrap_or(1);
    if !(1..=limits::FEED_PARTITIONS_MAX).contains(&partitions) {
        return bad(&format!("a log has 1 to {} partitions", limits::FEED_PARTITIONS_MAX));
    }
    let (retain_ms, retain_bytes) = (new.retain_ms, new.retain_bytes);
    let spec =
        FeedSpec { partitions, append: new.append.unwrap_or(true), retain_ms, retain_bytes, ..FeedSpec::default() };
    match tokio::task::block_in_place(|| node.shared.feeds.create(&new.name, &spec)) {
        Err(failed) => error(StatusCode::CONFLICT, failed.code, &failed.what, &failed.why, &failed.advice),
        Ok(made) => {
            let Some(feed) = node.shared.feeds.get(&new.name) else { return no_log(&new.name) };
            let code = if made { StatusCode::CREATED } else { StatusCode::OK };
            (code, Json(shown(&node, &feed))).into_response()
        }
    }
}

/// What is to be removed.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Trim {
    upto: u64,
    partition: Option<usize>,
}

/// `POST /v1/logs/{log}/trim`.
pub async fn trim(State(node): Shared, Path(log): Path<String>, trim: Result<Json<Trim>, JsonRejection>) -> Response {
    let Some(feed) = node.shared.feeds.get(&log) else { return no_log(&log) };
    let trim = match trim {
        Ok(Json(trim)) => trim,
        Err(refused) => {
            let fix = "send {\"upto\": POSITION}, and the partition where there are several";
            let (code, message) = unread(&refused);
            return error(code, "WS-FEED-021", &message, "nothing was removed", fix);
        }
    };
    let trimmed = feed.trim(trim.partition.unwrap_or(0), Position(trim.upto)).await;
    // What is out of sight is not given out of memory either.
    node.shared.feeds.pieces.clear();
    match trimmed {
        Ok(()) => Json(shown(&node, &feed)).into_response(),
        Err(failed) => error(StatusCode::CONFLICT, failed.code, &failed.what, &failed.why, &failed.advice),
    }
}

/// How long entries are to be kept.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Keep {
    retain_ms: Option<u64>,
    retain_bytes: Option<u64>,
}

/// `POST /v1/logs/{log}/retain`.
pub async fn retain(State(node): Shared, Path(log): Path<String>, keep: Result<Json<Keep>, JsonRejection>) -> Response {
    let Some(feed) = node.shared.feeds.get(&log) else { return no_log(&log) };
    let keep = match keep {
        Ok(Json(keep)) => keep,
        Err(refused) => {
            let fix = "send {\"retain_ms\": N, \"retain_bytes\": N}, or one of them";
            let (code, message) = unread(&refused);
            return error(code, "WS-FEED-021", &message, "nothing was changed", fix);
        }
    };
    match tokio::task::block_in_place(|| feed.keep(keep.retain_ms, keep.retain_bytes)) {
        Ok(()) => Json(shown(&node, &feed)).into_response(),
        Err(failed) => error(StatusCode::CONFLICT, failed.code, &failed.what, &failed.why, &failed.advice),
    }
}

/// Whether a mirror is promoted although its original answers.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Promote {
    force: Option<String>,
}

/// `POST /v1/logs/{log}/promote`.
pub async fn promote(
    State(node): Shared,
    Path(log): Path<String>,
    asked: Result<Query<Promote>, QueryRejection>,
) -> Response {
    let force = match asked {
        Ok(Query(asked)) => asked.force.is_some_and(|force| force == "1"),
        Err(refused) => {
            let fix = "give force=1, or nothing";
            return error(StatusCode::BAD_REQUEST, "WS-FEED-021", &refused.body_text(), "nothing was changed", fix);
        }
    };
    if node.shared.feeds.get(&log).is_none() {
        return absent(&node, &log);
    }
    match node.promote(&log, force).await {
        Ok(feed) => Json(shown(&node, &feed)).into_response(),
        Err(failed) => error(StatusCode::CONFLICT, failed.code, &failed.what, &failed.why, &failed.advice),
    }
}
