//! What changes in a view's tables, as events.

use std::borrow::Cow;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::Response;
use futures_util::stream;
use serde::Deserialize;
use serde_json::json;
use tokio::sync::{mpsc, watch};

use super::append::CURSOR;
use super::entries::last_event_id;
use super::server::{Shared, error};
use super::views::{Refusal, asked, found};
use super::views_answer::with_cursor;
use super::views_refused::{bad, refused};
use crate::model::limits;
use crate::node::Node;
use crate::node::views::{Unanswered, Viewed};
use crate::view::{AskError, ChangesFrom, RowChange, ViewChanges};

/// Between pings.
const PING_INTERVAL: Duration = Duration::from_secs(10);

/// What may stand in the query.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wanted {
    after: Option<String>,
    snapshot: Option<String>,
}

/// One reader's place.
struct Reading {
    node: Arc<Node>,
    view: Arc<Viewed>,
    moved: watch::Receiver<u64>,
    /// The build of which the numbers are.
    build: String,
    after: u64,
    /// Rows of the snapshot that is asked for.
    rows: Option<mpsc::Receiver<Result<RowChange, AskError>>>,
    done: bool,
}

fn gone() -> Response {
    let message = "the changes after that place are not kept any more";
    let why = "the view was built anew, or there have been many since";
    error(StatusCode::GONE, "WS-VIEW-066", message, why, "begin anew with snapshot=1")
}

fn none_kept(view: &str) -> Response {
    let message = format!("the view {view:?} keeps no changes");
    let fix = format!("write `changes = true` under [view.{view}]; views by SQL can");
    error(StatusCode::CONFLICT, "WS-VIEW-067", &message, "they are kept where that is asked for", &fix)
}

/// `BUILD-NUMBER`.
fn place(id: &str) -> Option<(String, u64)> {
    let (build, number) = id.split_once('-')?;
    let plain = build.len() == 16 && build.bytes().all(|byte| byte.is_ascii_hexdigit());
    Some((build.to_owned(), number.parse().ok().filter(|_| plain)?))
}

/// `GET /v1/views/{view}/changes`.
pub async fn changes(
    State(node): Shared,
    Path(name): Path<String>,
    wanted: Result<Query<Wanted>, QueryRejection>,
    headers: HeaderMap,
) -> Response {
    let view = match found(&node, &name, &headers) {
        Ok(view) => view.clone(),
        Err(refused) => return *refused,
    };
    let wanted = match wanted {
        Ok(Query(wanted)) => wanted,
        Err(refused) => return *bad(&refused.body_text()),
    };
    let resume = last_event_id(&headers);
    let from = resume.map(Cow::into_owned).or(wanted.after);
    let snapshot = match wanted.snapshot.as_deref() {
        None | Some("0" | "false") => false,
        Some("" | "1" | "true") => from.is_none(),
        Some(_) => return *bad("snapshot is neither 1 nor 0"),
    };
    let cursor = match has_seen(&node, &view, &headers, snapshot).await {
        Ok(cursor) => cursor,
        Err(refused) => return *refused,
    };
    let kept = match view.changes().await {
        Ok(Some(kept)) => kept,
        Ok(None) => return none_kept(&name),
        Err(unmet) => return refused(&view, &Unanswered::Unmet(unmet)),
    };
    match begin(node, view.clone(), kept, from, snapshot).await {
        Ok(Some(reading)) => match cursor {
            Some(cursor) => with_cursor(answer(reading), &cursor),
            None => answer(reading),
        },
        Ok(None) => gone(),
        Err(failed) => refused(&view, &Unanswered::Ask(failed)),
    }
}

/// Waits until the view has what its reader has seen, and for rows what others have; how far it is then.
async fn has_seen(node: &Node, view: &Viewed, headers: &HeaderMap, snapshot: bool) -> Result<Option<String>, Refusal> {
    if !snapshot && !headers.contains_key(CURSOR) {
        return Ok(None);
    }
    let asked = asked(Ok(Query(Default::default())), headers)?;
    let told = view.wait(&node.shared, &asked).await;
    told.map(|told| Some(told.cursor)).map_err(|unmet| Box::new(refused(view, &Unanswered::Unmet(unmet))))
}

async fn begin(
    node: Arc<Node>,
    view: Arc<Viewed>,
    kept: Arc<dyn ViewChanges>,
    from: Option<String>,
    snapshot: bool,
) -> Result<Option<Reading>, AskError> {
    let moved = view.moved();
    let mut reading = Reading { node, view, moved, build: String::new(), after: 0, rows: None, done: false };
    if snapshot {
        let mut rows = kept.rows().await;
        let first = rows.recv().await.unwrap_or_else(|| Err(AskError::Failed("there is no snapshot".into())))?;
        (reading.build, reading.after, reading.rows) = (first.table, first.number, Some(rows));
        return Ok(Some(reading));
    }
    let here = kept.after(u64::MAX, 0).await?;
    (reading.build, reading.after) = (here.build, here.last);
    let Some(from) = from else { return Ok(Some(reading)) };
    let Some((_, number)) = place(&from).filter(|(build, _)| *build == reading.build) else { return Ok(None) };
    reading.after = number;
    Ok((!kept.after(number, 0).await?.gone).then_some(reading))
}

fn answer(reading: Reading) -> Response {
    let body = stream::unfold(reading, |mut reading| async move {
        let text = reading.next().await?;
        Some((Ok::<_, Infallible>(Bytes::from(text)), reading))
    });
    let answer =
        Response::builder().header(header::CONTENT_TYPE, "text/event-stream").header(header::CACHE_CONTROL, "no-store");
    answer.body(Body::from_stream(body)).expect("the headers are constant")
}

fn event(out: &mut String, kind: Option<&str>, id: Option<String>, data: &serde_json::Value) {
    if let Some(id) = id {
        out.push_str(&format!("id: {id}\n"));
    }
    if let Some(kind) = kind {
        out.push_str(&format!("event: {kind}\n"));
    }
    out.push_str(&format!("data: {data}\n\n"));
}

fn shown(change: &RowChange) -> serde_json::Value {
    json!({
        "table": change.table, "op": change.op, "before": change.before, "after": change.after, "cursor": change.cursor,
    })
}

impl Reading {
    fn id(&self) -> String {
        format!("{}-{}", self.build, self.after)
    }

    /// The next piece of the answer; `None` at its end.
    async fn next(&mut self) -> Option<String> {
        if self.done {
            return None;
        }
        if self.rows.is_some() {
            return Some(self.snapshot().await);
        }
        let mut out = String::new();
        loop {
            self.moved.mark_unchanged();
            let found = match self.view.changes().await {
                Ok(Some(kept)) => kept.after(self.after, limits::VIEW_CHANGES_AT_ONCE).await.ok(),
                _ => None,
            };
            if let Some(found) = found {
                if self.take(&mut out, found) {
                    self.done = true;
                }
                if !out.is_empty() {
                    return Some(out);
                }
            }
            tokio::select! {
                () = self.node.shared.stop.cancelled() => return None,
                changed = self.moved.changed() => changed.ok()?,
                () = tokio::time::sleep(PING_INTERVAL) => {
                    event(&mut out, Some("ping"), None, &json!({ "cursor": self.view.cursor(&self.view.reached()) }));
                    return Some(out);
                }
            }
        }
    }

    /// Rows of the snapshot, as many as are there; behind the last one `current`, with the place from which to resume.
    async fn snapshot(&mut self) -> String {
        let mut out = String::new();
        let Some(rows) = self.rows.as_mut() else { return out };
        let mut next = rows.recv().await;
        loop {
            match next {
                Some(Ok(row)) => event(&mut out, Some("row"), None, &shown(&row)),
                Some(Err(failed)) => {
                    event(&mut out, Some("failed"), None, &json!({ "error": failed.to_string() }));
                    self.done = true;
                    return out;
                }
                None => {
                    self.rows = None;
                    event(&mut out, Some("current"), Some(self.id()), &json!({}));
                    return out;
                }
            }
            match rows.try_recv() {
                Ok(more) => next = Some(more),
                Err(_) => return out,
            }
        }
    }

    /// Writes changes; true where nothing can follow: the view was built anew, or there have been too many.
    fn take(&mut self, out: &mut String, found: ChangesFrom) -> bool {
        if found.build != self.build || found.gone {
            event(
                out,
                Some("gone"),
                None,
                &json!({ "why": "the view was built anew, or there have been many changes: begin with snapshot=1" }),
            );
            return true;
        }
        for change in &found.changes {
            self.after = change.number;
            event(out, None, Some(self.id()), &shown(change));
        }
        false
    }
}
