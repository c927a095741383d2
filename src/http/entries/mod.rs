//! A log for readers: replay, then live, without a gap.

mod asked;
mod raw;
mod reading;

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
use self::reading::{Form, Reading};
use super::access::{allowed, limited};
use super::server::{Shared, absent, error};
use crate::log::SourceError;
use crate::model::limits;
use crate::node::feeds::RAW_TYPE;
use crate::node::{Rate, Right};

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
    let Some(feed) = node.feeds.get(&log) else { return absent(&node, &log) };
    // What a database commits is for operators, and for whom a token says it.
    let open = &*feed.name != "main" || feed.takes_appends();
    if let Err(refused) = allowed(&node, &headers, &Right::Read(log.into()), open) {
        return *refused;
    }
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
    let resume = headers.get("last-event-id").and_then(|value| value.to_str().ok()).filter(|id| !id.is_empty());
    let rate = limited(&node, &headers).and_then(|token| token.rate.clone());
    let mut reading = match asked.reading(node, feed, resume, form).await {
        Ok(reading) => reading,
        Err(refused) => return *refused,
    };
    // The first read decides whether the place asked for is there at all.
    if let Err(failed) = reading.begin().await {
        return gone(&failed);
    }
    if let Ok(upgrade) = upgrade {
        return upgrade.max_message_size(1 << 10).on_upgrade(move |socket| send(socket, reading, rate));
    }
    let body = stream::unfold(reading, |mut reading| async move {
        let text = reading.next().await?;
        Some((Ok::<_, Infallible>(text), reading))
    });
    let content_type = if form == Form::Events { "text/event-stream" } else { "application/x-ndjson" };
    Response::builder()
        .header(header::CONTENT_TYPE, content_type)
        .header(header::CACHE_CONTROL, "no-store")
        .body(Body::from_stream(body))
        .expect("the headers are constant")
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
