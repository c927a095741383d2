//! A log for readers: replay, then live, without a gap.

mod asked;
mod raw;
mod reading;
mod wanted;

use std::borrow::Cow;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade};
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::Response;
use futures_util::stream;

use self::asked::Asked;
use self::reading::{Form, ReadError, Reading};
use super::access::{allowed, limited};
use super::server::{Shared, absent, error};
use crate::log::SourceError;
use crate::model::{Position, limits};
use crate::node::feeds::{Feed, RAW_TYPE};
use crate::node::{Node, Rate, Right, token_digest};
use crate::stream::Sieve;

/// How long one message may take. A reader that takes nothing at all is cut off by its connection before that.
const SOCKET_SEND_MAX: Duration = limits::HTTP_STALL_MAX.saturating_add(Duration::from_secs(5));

/// `GET /v1/logs/{log}/entries`.
pub async fn read(
    State(node): Shared,
    Path(log): Path<String>,
    asked: Result<Query<Asked>, QueryRejection>,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
    headers: HeaderMap,
) -> Response {
    let Some(feed) = node.shared.feeds.get(&log) else { return absent(&node, &log) };
    let sieve = match sieve(&node, &headers, &feed) {
        Ok(sieve) => sieve,
        Err(refused) => return *refused,
    };
    let asked = match asked {
        Ok(Query(asked)) => asked,
        Err(refused) => return *asked::bad(&refused.body_text(), asked::USAGE),
    };
    let accepts = |kind: &str| {
        let mut values = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
        values.any(|value| value.contains(kind))
    };
    if accepts(RAW_TYPE) {
        return raw::answer(node, feed, &asked).await;
    }
    let form = match &upgrade {
        Ok(_) => Form::Messages,
        Err(_) if accepts("text/event-stream") => Form::Events,
        Err(_) => Form::Lines,
    };
    let resume = last_event_id(&headers);
    let rate = limited(&node, &headers).and_then(|token| token.rate.clone());
    let mut reading = match asked.reading(node, feed, resume.as_deref(), form, sieve).await {
        Ok(reading) => reading,
        Err(refused) => return *refused,
    };
    // The first read decides whether the place asked for is there at all.
    if let Err(failed) = reading.begin().await {
        return match failed {
            ReadError::Source(failed) => gone(&failed),
            ReadError::Withheld(position) => withheld(position),
        };
    }
    let cursor = reading.passed_over();
    if let Ok(upgrade) = upgrade {
        return upgrade.max_message_size(1 << 10).on_upgrade(move |socket| send(socket, reading, rate));
    }
    let body = stream::unfold(reading, |mut reading| async move {
        let text = reading.next().await?;
        Some((Ok::<_, Infallible>(text), reading))
    });
    let content_type = if form == Form::Events { "text/event-stream" } else { "application/x-ndjson" };
    let mut answer =
        Response::builder().header(header::CONTENT_TYPE, content_type).header(header::CACHE_CONTROL, "no-store");
    if let Some(cursor) = cursor {
        answer = answer.header(super::append::CURSOR, cursor);
    }
    answer.body(Body::from_stream(body)).expect("the headers are constant")
}

/// The place that whoever resumes has come to. What is no text is a wrong place, and no lack of one.
pub(super) fn last_event_id(headers: &HeaderMap) -> Option<Cow<'_, str>> {
    let shown = headers.get("last-event-id").map(|value| String::from_utf8_lossy(value.as_bytes()));
    shown.filter(|id| !id.is_empty())
}

/// Sends entries as text messages, one each, until either end has enough.
async fn send(mut socket: WebSocket, mut reading: Reading, rate: Option<Arc<Rate>>) {
    loop {
        let text = tokio::select! {
            text = reading.next() => text,
            // Nothing is expected; pings are answered by the library while it is read.
            message = socket.recv() => match message {
                Some(Ok(Message::Close(_)) | Err(_)) | None => return,
                Some(Ok(_)) => continue,
            },
        };
        let Some(text) = text else { break };
        if let Some(rate) = &rate {
            tokio::time::sleep(rate.bytes(text.len(), Instant::now())).await;
        }
        for line in text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            let Ok(line) = std::str::from_utf8(line) else { continue };
            let sent = tokio::time::timeout(SOCKET_SEND_MAX, socket.send(Message::Text(line.into()))).await;
            match sent {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return,
                Err(_) => {
                    tracing::info!("a reader of the log {} took too long for a message, and is cut off", reading.log());
                    return;
                }
            }
        }
    }
    let end = CloseFrame { code: axum::extract::ws::close_code::AWAY, reason: "the reading has ended".into() };
    // Whoever has gone does not need to be told.
    let _ = tokio::time::timeout(SOCKET_SEND_MAX, socket.send(Message::Close(Some(end)))).await;
}

/// What of a log may leave to whoever asks; `None`: everything.
fn sieve(node: &Node, headers: &HeaderMap, feed: &Feed) -> Result<Option<Sieve>, Box<Response>> {
    let right = Right::Read(feed.name.clone());
    if &*feed.name != "main" {
        return allowed(node, headers, &right, true).map(|()| None);
    }
    // The node's own log is for operators; and for others under [send.feed], or where programs append to it.
    if allowed(node, headers, &Right::Operate, false).is_ok() {
        return Ok(None);
    }
    let shown = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let digest = token_digest(shown.and_then(|value| value.strip_prefix("Bearer ")).unwrap_or_default());
    let reader = node.tokens.iter().fold("", |known, one| if one.is(&digest) { &one.name } else { known });
    let sieve = node.shared.policy.feed_sieve(reader);
    allowed(node, headers, &right, sieve.is_some() || feed.takes_appends())?;
    if sieve.is_some() || feed.takes_appends() {
        return Ok(sieve);
    }
    let why = "nothing of a node's own log leaves unless it is listed";
    let fix = "list tables under [send.feed]; operators read everything with the admin token";
    Err(Box::new(error(StatusCode::FORBIDDEN, "WS-HTTP-032", "this node's main log is not for readers", why, fix)))
}

/// A filter fails: nothing is sent by mistake (law 7). What it says may quote the row, so it is for the node's log only.
fn withheld(position: Position) -> Response {
    let message = format!("reading stops before position {position}: the filter for readers fails on it");
    let (why, fix) =
        ("nothing is sent by mistake", "the node's operator finds the reason in its log, and corrects [send.feed]");
    error(StatusCode::INTERNAL_SERVER_ERROR, "WS-HTTP-033", &message, why, fix)
}

fn gone(failed: &SourceError) -> Response {
    match failed {
        SourceError::Trimmed { oldest, .. } => {
            let fix = format!("read after {} to begin at the oldest that is kept", oldest.0.saturating_sub(1));
            error(StatusCode::GONE, "WS-HTTP-009", &failed.to_string(), "retention has removed it", &fix)
        }
        SourceError::Beyond { .. } => {
            let code = StatusCode::RANGE_NOT_SATISFIABLE;
            error(code, "WS-HTTP-010", &failed.to_string(), "the log does not reach that far", "read after its tail")
        }
        _ => error(
            StatusCode::INTERNAL_SERVER_ERROR,
            "WS-HTTP-011",
            &failed.to_string(),
            "the log cannot be read",
            "run `watershed log verify`",
        ),
    }
}
