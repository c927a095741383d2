//! The log for readers: replay, then live, without a gap.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::Response;
use futures_util::stream;
use serde::Deserialize;
use tokio::time::{Instant, timeout_at};

use super::server::{Shared, error};
use crate::log::{Limit, SourceError};
use crate::model::{Cursor, LinkId, LogId, Logged, Position, ReadFrom, TableName, Timestamp};
use crate::node::Node;
use crate::node::entry_json::write_entry;

/// Entries in an answer that asks for none in particular.
const LIMIT_DEFAULT: u64 = 1_000;
/// Between pings on an event stream.
const PING_INTERVAL: Duration = Duration::from_secs(10);

/// What may be asked.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Asked {
    after: Option<String>,
    time: Option<String>,
    tail: Option<u64>,
    limit: Option<u64>,
    tables: Option<String>,
    wait: Option<String>,
}

/// What is sent of the log.
struct Reading {
    node: Arc<Node>,
    from: ReadFrom,
    left: u64,
    tables: Option<Vec<TableName>>,
    since: Option<Timestamp>,
    deadline: Option<Instant>,
    events: bool,
    ready: VecDeque<String>,
    done: bool,
}

/// `GET /v1/logs/{log}/entries`.
pub async fn read(
    State(node): Shared,
    Path(log): Path<String>,
    asked: Result<Query<Asked>, QueryRejection>,
    headers: HeaderMap,
) -> Response {
    let asked = match asked {
        Ok(Query(asked)) => asked,
        Err(refused) => {
            return *bad(&refused.body_text(), "give one of after, time and tail; and tables, limit, wait");
        }
    };
    if log != "main" {
        let message = format!("there is no log {log:?}");
        return error(StatusCode::NOT_FOUND, "WS-HTTP-007", &message, "this node has one log", "ask for `main`");
    }
    let events = headers
        .get(header::ACCEPT)
        .and_then(|value| value.to_str().ok())
        .is_some_and(|value| value.contains("text/event-stream"));
    let resume = headers.get("last-event-id").and_then(|value| value.to_str().ok()).map(str::to_owned);
    let mut reading = match reading(node, &asked, resume, events) {
        Ok(reading) => reading,
        Err(refused) => return *refused,
    };
    // The first read decides whether the place asked for is there at all.
    if let Err(failed) = reading.fill().await {
        return gone(&failed);
    }
    let body = stream::unfold(reading, |mut reading| async move {
        let text = reading.next().await?;
        Some((Ok::<_, Infallible>(text), reading))
    });
    let content_type = if events { "text/event-stream" } else { "application/x-ndjson" };
    Response::builder()
        .header(header::CONTENT_TYPE, content_type)
        .header(header::CACHE_CONTROL, "no-store")
        .body(Body::from_stream(body))
        .expect("the headers are constant")
}

fn bad(message: &str, fix: &str) -> Box<Response> {
    Box::new(error(StatusCode::BAD_REQUEST, "WS-HTTP-008", message, "the request is not understood", fix))
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

fn reading(node: Arc<Node>, asked: &Asked, resume: Option<String>, events: bool) -> Result<Reading, Box<Response>> {
    let tail = *node.shared.log.tail().borrow();
    let oldest = node.shared.log.info().oldest;
    let mut since = None;
    let after = match (resume.as_ref().or(asked.after.as_ref()), &asked.time, asked.tail) {
        (Some(text), None, None) => after(&node, text, oldest)?,
        (None, Some(text), None) => {
            let time: jiff::Timestamp = text
                .parse()
                .map_err(|_| bad(&format!("time {text:?} is not a time"), "write RFC 3339: 2030-01-31T12:00:00Z"))?;
            since = Some(Timestamp(time.as_microsecond()));
            Position(oldest.0.saturating_sub(1))
        }
        (None, None, Some(count)) => Position(tail.0.saturating_sub(count).max(oldest.0.saturating_sub(1))),
        (None, None, None) if events => tail,
        (None, None, None) => Position(oldest.0.saturating_sub(1)),
        _ => return Err(bad("more than one of after, time and tail is given", "give one of them")),
    };
    let tables = match &asked.tables {
        Some(list) => {
            let names: Result<Vec<TableName>, _> = list.split(',').map(str::parse).collect();
            Some(names.map_err(|error| bad(&error.to_string(), "tables=orders,customers"))?)
        }
        None => None,
    };
    let wait = match &asked.wait {
        Some(text) => Some(duration(text).ok_or_else(|| bad(&format!("wait {text:?} is not a time"), "wait=30s"))?),
        None => None,
    };
    Ok(Reading {
        node,
        from: after.into(),
        left: asked.limit.unwrap_or(if events { u64::MAX } else { LIMIT_DEFAULT }),
        tables,
        since,
        deadline: wait.map(|wait| Instant::now() + wait),
        events,
        ready: VecDeque::new(),
        done: false,
    })
}

fn duration(text: &str) -> Option<Duration> {
    let seconds = text.strip_suffix("ms").map(|ms| ms.parse::<f64>().map(|ms| ms / 1e3));
    let seconds = seconds.unwrap_or_else(|| text.strip_suffix('s').unwrap_or(text).parse()).ok()?;
    (0.0..=86_400.0).contains(&seconds).then(|| Duration::from_secs_f64(seconds))
}

/// A position, or a cursor that must be valid here.
fn after(node: &Node, text: &str, oldest: Position) -> Result<Position, Box<Response>> {
    if let Ok(position) = text.parse::<u64>() {
        return Ok(if position == 0 { Position(oldest.0.saturating_sub(1)) } else { Position(position) });
    }
    let fix = "give a position, or a cursor as it came with an entry";
    let cursor: Cursor = text.parse().map_err(|error: crate::model::CursorError| bad(&error.to_string(), fix))?;
    node.shared.log.check(cursor).map_err(|refused| {
        let why = "the log was re-created or restored, or the cursor is of another one";
        Box::new(error(StatusCode::CONFLICT, "WS-HTTP-012", &refused.to_string(), why, "begin anew with after=0"))
    })?;
    Ok(cursor.position)
}

impl Reading {
    /// Reads once into `ready`; true when there was something to read.
    async fn fill(&mut self) -> Result<bool, SourceError> {
        let batch = self.node.shared.log.read(self.from, Limit::default()).await?;
        let moved = batch.next != self.from;
        for logged in &batch.entries {
            if self.left == 0 {
                break;
            }
            if let Some(line) = self.line(logged) {
                self.left -= 1;
                self.ready.push_back(line);
            }
        }
        self.from = batch.next;
        Ok(moved)
    }

    fn line(&self, logged: &Logged) -> Option<String> {
        let shared = &self.node.shared;
        let header = logged.entry.header();
        let catalog = shared.log.catalog();
        let wanted = |tables: &Vec<TableName>| {
            let names = header.tables.iter().filter_map(|fingerprint| catalog.get(*fingerprint));
            names.into_iter().any(|table| tables.contains(&table.name))
        };
        if self.since.is_some_and(|since| header.time < since) || !self.tables.as_ref().is_none_or(wanted) {
            return None;
        }
        let cursor = shared.log.cursor_at(logged.position);
        let from = match logged.from {
            LinkId::LOCAL => None,
            LinkId(log) => Some(self.name_of(log)),
        };
        let mut out = String::new();
        if self.events {
            out.push_str(&format!("id: {cursor}\ndata: "));
        }
        if let Err(error) = write_entry(&mut out, logged, cursor, from.as_deref(), &catalog) {
            out = format!(
                "{{\"position\":{},\"error\":{}}}",
                logged.position,
                serde_json::Value::from(error.to_string())
            );
        }
        out.push_str(if self.events { "\n\n" } else { "\n" });
        Some(out)
    }

    fn name_of(&self, log: LogId) -> String {
        self.node.shared.book.name_of(log).unwrap_or_else(|| log.to_string())
    }

    /// The next piece of the answer.
    async fn next(&mut self) -> Option<String> {
        loop {
            if !self.ready.is_empty() {
                return Some(self.ready.drain(..).collect());
            }
            if self.done || self.left == 0 {
                return None;
            }
            let mut tail = self.node.shared.log.tail();
            tail.mark_unchanged();
            match self.fill().await {
                Ok(true) => continue,
                Ok(false) => {}
                Err(failed) => {
                    self.done = true;
                    return Some(self.failed(&failed));
                }
            }
            let until = match (self.events, self.deadline) {
                (true, _) => Instant::now() + PING_INTERVAL,
                (false, Some(deadline)) => deadline,
                (false, None) => return None,
            };
            let changed = tokio::select! {
                _ = self.node.shared.stop.cancelled() => return None,
                changed = timeout_at(until, tail.changed()) => changed,
            };
            match changed {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return None,
                Err(_) if self.events => {
                    return Some(format!("event: ping\ndata: {{\"tail\":{}}}\n\n", *tail.borrow()));
                }
                Err(_) => return None,
            }
        }
    }

    fn failed(&self, failed: &SourceError) -> String {
        let body = serde_json::json!({ "code": "WS-HTTP-011", "message": failed.to_string() });
        if self.events { format!("event: error\ndata: {body}\n\n") } else { format!("{body}\n") }
    }
}
