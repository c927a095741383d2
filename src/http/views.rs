//! Views: asked, looked at, and told what to do.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Json, Response};
use serde::Deserialize;
use serde_json::{Value, json};

use super::access::allowed;
use super::append::CURSOR;
use super::server::Shared;
use super::views_answer::{self, with_cursor};
use super::views_refused::{bad, bad_token, no_view, ordered, refused, unasked};
use crate::model::{Position, limits};
use crate::node::views::{Asked, Viewed};
use crate::node::{Node, Right};
use crate::view::{Bounds, Question, Token, TokenError};

/// What an answer may cost.
const BOUNDS: Bounds = Bounds {
    time: limits::VIEW_ASK_TIME_MAX,
    rows: limits::VIEW_ANSWER_ROWS_MAX,
    bytes: limits::VIEW_ANSWER_BYTES_MAX,
};

/// What may stand in the query of whoever asks.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wanted {
    pub(super) after: Option<String>,
    /// Of a digest.
    pub(super) at: Option<String>,
    timeout: Option<String>,
    pub(super) on_timeout: Option<String>,
    pub(super) consistency: Option<String>,
}

pub(super) type Refusal = Box<Response>;
pub(super) type Options = Result<Query<Wanted>, QueryRejection>;

/// A time: `2s`, `500ms`, or seconds.
fn patience(text: &str) -> Option<Duration> {
    let (number, unit) = match (text.strip_suffix("ms"), text.strip_suffix('s')) {
        (Some(number), _) => (number, 1e3),
        (None, Some(number)) => (number, 1.0),
        (None, None) => (text, 1.0),
    };
    let plain = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    let seconds = number.parse::<f64>().ok().filter(|_| plain)? / unit;
    (seconds <= limits::VIEW_WAIT_MAX.as_secs_f64()).then(|| Duration::from_secs_f64(seconds))
}

/// What the query and the headers say together.
pub(super) fn asked(options: Options, headers: &HeaderMap) -> Result<Asked, Refusal> {
    let Query(wanted) = options.map_err(|refused| bad(&refused.body_text()))?;
    if wanted.at.is_some() {
        return Err(bad("at= is for digests: what an answer has to contain is said by after="));
    }
    let shown = match headers.get(CURSOR) {
        Some(value) => Some(value.to_str().map_err(|_| bad("the header watershed-cursor is not ASCII text"))?),
        None => None,
    };
    let token = |text: &str| -> Result<Token, Refusal> {
        text.parse().map_err(|error: TokenError| bad_token(&error.to_string()))
    };
    let latest = match wanted.consistency.as_deref() {
        None => None,
        Some("latest") => Some(Token::Latest),
        Some(other) => return Err(bad(&format!("consistency {other:?} is not latest"))),
    };
    // All of them say what has been seen: the answer has to have everything.
    let said = [wanted.after.as_deref(), shown].into_iter().flatten();
    let said = said.filter(|text| !text.is_empty()).map(token);
    let tokens = said.chain(latest.map(Ok)).collect::<Result<Vec<Token>, Refusal>>()?;
    let timeout = match &wanted.timeout {
        None => limits::VIEW_WAIT_DEFAULT,
        Some(text) => patience(text).ok_or_else(|| {
            bad(&format!("timeout {text:?} is not a time up to {} s: 2s, 500ms", limits::VIEW_WAIT_MAX.as_secs()))
        })?,
    };
    let stale = match wanted.on_timeout.as_deref() {
        None | Some("error") => false,
        Some("stale") => true,
        Some(other) => return Err(bad(&format!("on_timeout {other:?} is neither error nor stale"))),
    };
    Ok(Asked { tokens, timeout, stale })
}

/// The view, for whoever may ask it.
pub(super) fn found<'n>(node: &'n Node, name: &str, headers: &HeaderMap) -> Result<&'n Arc<Viewed>, Refusal> {
    allowed(node, headers, &Right::Query(name.into()), true)?;
    node.shared.views.get(name).ok_or_else(|| Box::new(no_view(name)))
}

/// What is asked.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Body {
    sql: String,
    #[serde(default)]
    params: Value,
}

/// `POST /v1/views/{view}/query`.
pub async fn query(
    State(node): Shared,
    Path(name): Path<String>,
    options: Options,
    headers: HeaderMap,
    body: Result<Json<Body>, JsonRejection>,
) -> Response {
    let view = match found(&node, &name, &headers) {
        Ok(view) => view,
        Err(refused) => return *refused,
    };
    let asked = match asked(options, &headers) {
        Ok(asked) => asked,
        Err(refused) => return *refused,
    };
    // Whoever waits keeps nothing that is not needed.
    drop(headers);
    let question = match body {
        Ok(Json(Body { params: Value::String(_) | Value::Number(_) | Value::Bool(_), .. })) => {
            return *bad("params is neither a list nor an object");
        }
        Ok(Json(Body { sql, params })) => Question::Sql { sql, params },
        Err(refused) => return unasked(&refused),
    };
    match view.ask(&node.shared, &asked, &question, &BOUNDS).await {
        Ok(told) => views_answer::rows(&told),
        Err(unanswered) => refused(view, &unanswered),
    }
}

/// `GET /v1/views/{view}/{table}/{key}`.
pub async fn row(
    State(node): Shared,
    Path((name, table, key)): Path<(String, String, String)>,
    options: Options,
    headers: HeaderMap,
) -> Response {
    let view = match found(&node, &name, &headers) {
        Ok(view) => view,
        Err(refused) => return *refused,
    };
    let asked = match asked(options, &headers) {
        Ok(asked) => asked,
        Err(refused) => return *refused,
    };
    // Whoever waits keeps nothing that is not needed.
    drop(headers);
    match view.ask(&node.shared, &asked, &Question::Row { table, key }, &BOUNDS).await {
        Ok(told) => views_answer::row(&told),
        Err(unanswered) => refused(view, &unanswered),
    }
}

/// `GET /v1/views`: those that may be asked.
pub async fn ls(State(node): Shared, headers: HeaderMap) -> Response {
    let may = |view: &&Arc<Viewed>| allowed(&node, &headers, &Right::Query(view.name.clone()), true).is_ok();
    let views: Vec<_> = node.shared.views.all().filter(may).map(|view| view.status()).collect();
    Json(json!({ "schema": 1, "views": views })).into_response()
}

/// `GET /v1/views/{view}`: how it is doing, once it has what is asked for.
pub async fn show(State(node): Shared, Path(name): Path<String>, options: Options, headers: HeaderMap) -> Response {
    let view = match found(&node, &name, &headers) {
        Ok(view) => view,
        Err(refused) => return *refused,
    };
    let asks = |Query(wanted): &Query<Wanted>| {
        wanted.after.is_some() || wanted.at.is_some() || wanted.consistency.is_some() || headers.contains_key(CURSOR)
    };
    let mut cursor = None;
    if options.as_ref().map_or(true, asks) {
        let asked = match asked(options, &headers) {
            Ok(asked) => asked,
            Err(refused) => return *refused,
        };
        match view.wait(&node.shared, &asked).await {
            Ok(told) => cursor = Some(told.cursor),
            Err(unmet) => return refused(view, &unmet.into()),
        }
    }
    let mut status = view.status();
    status.cursor = cursor.unwrap_or(status.cursor);
    let mut body = json!(status);
    body["schema"] = 1.into();
    with_cursor(Json(body).into_response(), &status.cursor)
}

/// How a view is built afresh.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Afresh {
    #[serde(default)]
    with_skipped: bool,
}

/// `POST /v1/views/{view}/rebuild`.
pub async fn rebuild(State(node): Shared, Path(name): Path<String>, body: Bytes) -> Response {
    let Some(view) = node.shared.views.get(&name) else { return no_view(&name) };
    // Without a body, as it is.
    let afresh =
        if body.is_empty() { Ok(Afresh::default()) } else { Json::<Afresh>::from_bytes(&body).map(|Json(said)| said) };
    match afresh {
        Ok(afresh) => ordered(&name, view.rebuild(afresh.with_skipped).await),
        Err(refused) => unasked(&refused),
    }
}

/// Which entry is passed over.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Over {
    position: u64,
    #[serde(default)]
    partition: usize,
}

/// `POST /v1/views/{view}/skip`.
pub async fn pass_over(
    State(node): Shared,
    Path(name): Path<String>,
    over: Result<Json<Over>, JsonRejection>,
) -> Response {
    let Some(view) = node.shared.views.get(&name) else { return no_view(&name) };
    match over {
        Ok(Json(over)) => ordered(&name, view.pass_over(over.partition, Position(over.position)).await),
        Err(refused) => unasked(&refused),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_and_what_is_none_is_refused() {
        assert_eq!(patience("2s"), Some(Duration::from_secs(2)));
        assert_eq!(patience("0.5"), Some(Duration::from_millis(500)));
        assert_eq!(patience("250ms"), Some(Duration::from_millis(250)));
        for text in ["", "s", "-1s", "1e9", "inf", "NaN", "99999s", "2 s", "1.2.3"] {
            assert_eq!(patience(text), None, "{text}");
        }
    }
}
