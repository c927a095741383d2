//! `POST /v1/logs/{log}/entries`.

use std::borrow::Cow;
use std::fmt::Write;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, HeaderName, StatusCode, header};
use axum::response::{IntoResponse, Response};
use http_body_util::BodyExt;
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::access::allowed;
use super::server::{Shared, error, refusal};
use crate::log::AppendError;
use crate::model::{Position, TableName, limits};
use crate::node::Right;
use crate::node::feeds::{Appended, Call, CallError, CallRow, Feed, Refused};

/// The token of what was appended.
pub const CURSOR: HeaderName = HeaderName::from_static("watershed-cursor");

/// A body of up to so many times the limit is read to its end before it is refused.
const DRAINED: usize = 8;

/// What may stand in the query.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Options {
    match_position: Option<u64>,
    partition: Option<usize>,
    split: Option<String>,
}

/// A JSON value that is there, be it null.
#[derive(Default)]
struct Given<'a>(Option<&'a RawValue>);

impl<'de: 'a, 'a> Deserialize<'de> for Given<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Given<'a>, D::Error> {
        <&RawValue>::deserialize(deserializer).map(|raw| Given(Some(raw)))
    }
}

/// One of the things to append.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Item<'a> {
    #[serde(borrow)]
    table: Option<Cow<'a, str>>,
    #[serde(borrow)]
    key: Option<&'a RawValue>,
    #[serde(borrow, default)]
    row: Given<'a>,
    #[serde(borrow)]
    correlation: Option<Cow<'a, str>>,
    #[serde(borrow)]
    causation: Option<Cow<'a, str>>,
}

/// A refusal on its way out.
type Refusal = Box<Response>;

fn bad(message: &str, fix: &str) -> Refusal {
    Box::new(error(StatusCode::BAD_REQUEST, "WS-FEED-010", message, "nothing was appended", fix))
}

fn too_large(what: &str, max: usize) -> Refusal {
    let message = format!("{what} is larger than {max} bytes");
    let fix = "send less at once, or put the large thing elsewhere and append where it is";
    Box::new(error(StatusCode::PAYLOAD_TOO_LARGE, "WS-FEED-011", &message, "nothing was appended", fix))
}

/// Appends what the body says.
pub async fn append(
    State(node): Shared,
    Path(log): Path<String>,
    options: Result<Query<Options>, QueryRejection>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let Some(feed) = node.shared.feeds.get(&log) else { return super::server::no_log(&log) };
    if let Err(refused) = allowed(&node, &headers, &Right::Append(log.into()), true) {
        return *refused;
    }
    let options = match options {
        Ok(Query(options)) => options,
        Err(refused) => return *bad(&refused.body_text(), "give match_position, partition or split, or nothing"),
    };
    let body = match read(body).await {
        Ok(body) => body,
        Err(refused) => return *refused,
    };
    let call = match call(&options, &headers, &body) {
        Ok(call) => call,
        Err(refused) => return *refused,
    };
    match feed.append(call).await {
        Ok(appended) => answer(&feed, &appended),
        Err(refused) => refuse(&feed, &refused),
    }
}

async fn read(body: Body) -> Result<Bytes, Refusal> {
    let max = limits::FEED_CALL_BYTES_MAX;
    match tokio::time::timeout(limits::HTTP_BODY_TIMEOUT, collect(body, max)).await {
        Ok(Ok(Some(bytes))) => Ok(bytes),
        Ok(Ok(None)) => Err(too_large("the call", max)),
        Ok(Err(failed)) => Err(bad(&format!("the body did not arrive: {failed}"), "send it again")),
        Err(_) => Err(Box::new(error(
            StatusCode::REQUEST_TIMEOUT,
            "WS-FEED-013",
            &format!("the body did not arrive within {} s", limits::HTTP_BODY_TIMEOUT.as_secs()),
            "nothing was appended",
            "send it again",
        ))),
    }
}

/// The body; `None` if it is longer. Somewhat more is read and thrown away, so that whoever sends it reads the answer.
async fn collect(mut body: Body, max: usize) -> Result<Option<Bytes>, axum::Error> {
    let (mut first, mut rest, mut length) = (Bytes::new(), Vec::new(), 0);
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame?.into_data() else { continue };
        length += data.len();
        if length > max {
            if length > DRAINED * max {
                break;
            }
            (first, rest) = (Bytes::new(), Vec::new());
        } else if first.is_empty() {
            first = data;
        } else {
            if rest.is_empty() {
                rest.extend_from_slice(&first);
            }
            rest.extend_from_slice(&data);
        }
    }
    Ok((length <= max).then(|| if rest.is_empty() { first } else { rest.into() }))
}

/// A header's text, if it is there and usable.
fn id(headers: &HeaderMap, name: &'static str) -> Result<Option<Box<str>>, Refusal> {
    let Some(value) = headers.get(name) else { return Ok(None) };
    let text =
        value.to_str().map_err(|_| bad(&format!("the header {name} is not ASCII text"), "send printable ASCII"))?;
    checked(name, text).map(Some)
}

fn checked(name: &str, text: &str) -> Result<Box<str>, Refusal> {
    if text.len() > limits::FEED_ID_BYTES_MAX {
        return Err(too_large(name, limits::FEED_ID_BYTES_MAX));
    }
    if text.is_empty() || text.chars().any(char::is_control) {
        return Err(bad(&format!("{name} is empty or has control characters"), "send a printable id, or none"));
    }
    Ok(text.into())
}

fn call<'a>(options: &Options, headers: &HeaderMap, body: &'a Bytes) -> Result<Call<'a>, Refusal> {
    let split = match options.split.as_deref() {
        None | Some("0" | "false") => false,
        Some("" | "1" | "true") => true,
        Some(_) => return Err(bad("split is neither 1 nor 0", "send ?split=1 or leave it out")),
    };
    let mut call = Call {
        correlation: id(headers, "correlation-id")?.or(id(headers, "traceparent")?),
        causation: id(headers, "causation-id")?,
        idempotency: id(headers, "idempotency-key")?,
        expected: options.match_position.map(Position),
        partition: options.partition,
        split,
        bytes: body.len(),
        ..Call::default()
    };
    for (index, item) in items(body)?.into_iter().enumerate() {
        let at = |why: &str| format!("item {index}: {why}");
        let correlates = one_id(&mut call.correlation, item.correlation.as_deref(), "correlation");
        if !correlates || !one_id(&mut call.causation, item.causation.as_deref(), "causation") {
            let what = if correlates { "causation" } else { "correlation" };
            let why = at(&format!("its {what} cannot be used, or is not that of the header or of the items before it"));
            return Err(bad(
                &why,
                "a call is one transaction: give one id for all of it, of 1 to 255 printable characters",
            ));
        }
        call.rows.push(row(&item, &at)?);
    }
    Ok(call)
}

/// A transaction has one correlation and one causation: false if an item says another, or one that cannot be used.
fn one_id(known: &mut Option<Box<str>>, said: Option<&str>, name: &str) -> bool {
    match (said, known.as_deref()) {
        (None, _) => true,
        (Some(said), Some(known)) => said == known,
        (Some(said), None) => {
            *known = checked(name, said).ok();
            known.is_some()
        }
    }
}

/// One object, an array of them, or one after the other (NDJSON).
fn items(body: &Bytes) -> Result<Vec<Item<'_>>, Refusal> {
    let text = std::str::from_utf8(body).map_err(|error| {
        bad(&format!("the body is not UTF-8 at offset {}", error.valid_up_to()), "send JSON in UTF-8")
    })?;
    let shape = "send {\"row\": …}, an array of such objects, or one such object per line; keys are table, key, row, \
                 correlation, causation";
    let wrong = |error: serde_json::Error| bad(&format!("the body is not readable: {error}"), shape);
    let mut items: Vec<Item<'_>> = Vec::new();
    if text.trim_ascii_start().starts_with('[') {
        items = serde_json::from_str(text).map_err(wrong)?;
    } else {
        for item in serde_json::Deserializer::from_str(text).into_iter() {
            items.push(item.map_err(wrong)?);
            if items.len() > limits::FEED_CALL_ROWS_MAX {
                break;
            }
        }
    }
    match items.len() {
        0 => Err(bad("there is nothing to append", shape)),
        count if count > limits::FEED_CALL_ROWS_MAX => {
            let message = format!("the call has more than {} rows", limits::FEED_CALL_ROWS_MAX);
            let (code, name) = (StatusCode::PAYLOAD_TOO_LARGE, "WS-FEED-011");
            Err(Box::new(error(code, name, &message, "nothing was appended", "send several calls")))
        }
        _ => Ok(items),
    }
}

fn row<'a>(item: &Item<'a>, at: &dyn Fn(&str) -> String) -> Result<CallRow<'a>, Refusal> {
    let Some(row) = item.row.0 else {
        return Err(bad(&at("it has no row"), "put what you append under \"row\""));
    };
    let table = match &item.table {
        None => None,
        Some(name) => {
            let parsed: Result<TableName, _> = name.parse();
            Some(parsed.map_err(|error| bad(&at(&error.to_string()), "give a short name, or none for the log's"))?)
        }
    };
    if row.get().len() > limits::FEED_ROW_BYTES_MAX {
        return Err(too_large(&at("its row"), limits::FEED_ROW_BYTES_MAX));
    }
    if depth(row.get()) > limits::FEED_JSON_DEPTH_MAX {
        let message = at(&format!("its row has more than {} levels", limits::FEED_JSON_DEPTH_MAX));
        return Err(bad(&message, "nest less deeply: many parsers read no more"));
    }
    Ok(CallRow { table, key: key(item.key, at)?, row: on_one_line(row.get()) })
}

fn key<'a>(raw: Option<&'a RawValue>, at: &dyn Fn(&str) -> String) -> Result<Option<Cow<'a, str>>, Refusal> {
    let Some(raw) = raw.map(RawValue::get).filter(|raw| *raw != "null") else { return Ok(None) };
    let key: Cow<'a, str> = match raw.as_bytes().first() {
        Some(b'"') if !raw.contains('\\') => Cow::Borrowed(&raw[1..raw.len() - 1]),
        Some(b'"') => Cow::Owned(
            serde_json::from_str(raw)
                .map_err(|error| bad(&at(&format!("its key is not readable: {error}")), "give a text as key"))?,
        ),
        Some(b'-' | b'0'..=b'9') => Cow::Borrowed(raw),
        _ => return Err(bad(&at("its key is neither a text nor a number"), "give a text as key, or none")),
    };
    match key.len() {
        0 => Err(bad(&at("its key is empty"), "give a text as key, or none")),
        length if length > limits::FEED_KEY_BYTES_MAX => Err(too_large(&at("its key"), limits::FEED_KEY_BYTES_MAX)),
        _ => Ok(Some(key)),
    }
}

/// Objects and lists within each other, of valid JSON; or as many as begin in it, where that is few enough anyway.
fn depth(json: &str) -> usize {
    // What a processor counts many at once is hardly ever too much.
    let begun = json.bytes().filter(|byte| matches!(byte, b'{' | b'[')).count();
    if begun <= limits::FEED_JSON_DEPTH_MAX {
        return begun;
    }
    let (mut depth, mut deepest, mut in_text, mut escaped) = (0usize, 0, false, false);
    for byte in json.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_text => escaped = true,
            b'"' => in_text = !in_text,
            b'{' | b'[' if !in_text => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b'}' | b']' if !in_text => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

/// Line ends stand only between JSON's tokens; readers get an entry per line.
fn on_one_line(json: &str) -> Cow<'_, str> {
    match json.bytes().filter(|byte| matches!(byte, b'\n' | b'\r')).count() > 0 {
        true => Cow::Owned(json.replace(['\n', '\r'], " ")),
        false => Cow::Borrowed(json),
    }
}

fn put(out: &mut String, feed: &Feed, one: &Appended) {
    let Appended { partition, position, cursor, tail, lamport, replayed } = one;
    // Writing to a String does not fail.
    let _ = write!(
        out,
        "{{\"start\":{position},\"end\":{position},\"tail\":{tail},\"cursor\":\"{cursor}\",\"lamport\":{}",
        lamport.0
    );
    if feed.partitions.len() > 1 {
        let _ = write!(out, ",\"partition\":{partition}");
    }
    if *replayed {
        out.push_str(",\"replayed\":true");
    }
    out.push('}');
}

fn answer(feed: &Feed, appended: &[Appended]) -> Response {
    let mut body = String::with_capacity(192);
    match appended {
        [one] => put(&mut body, feed, one),
        several => {
            body.push_str("{\"parts\":[");
            for (index, one) in several.iter().enumerate() {
                if index > 0 {
                    body.push(',');
                }
                put(&mut body, feed, one);
            }
            body.push_str("]}");
        }
    }
    body.push('\n');
    let cursors: Vec<_> = appended.iter().map(|one| one.cursor).collect();
    let headers =
        [(header::CONTENT_TYPE, "application/json".to_owned()), (CURSOR, crate::node::feeds::joined(&cursors))];
    (StatusCode::CREATED, headers, body).into_response()
}

/// The status, the code, why and what to do.
fn told(refused: &CallError) -> (StatusCode, &'static str, &'static str, &'static str) {
    match refused {
        // Whose mirror it is, is told beside it.
        CallError::Mirror(..) => (
            StatusCode::FORBIDDEN,
            "WS-FEED-030",
            "a mirror has the positions of its original, so nobody else appends; `watershed promote` makes it a log of its own",
            "append at its original",
        ),
        CallError::View(..) => (
            StatusCode::FORBIDDEN,
            "WS-VIEW-101",
            "it has what changes in the view's rows, and nothing else",
            "append to the log that the view is derived from",
        ),
        CallError::ReadOnly(_) => (
            StatusCode::FORBIDDEN,
            "WS-FEED-014",
            "a log takes appends where its section says `append = true`",
            "set it under [log.NAME] (for main: only on a node without a database)",
        ),
        CallError::Empty => (StatusCode::BAD_REQUEST, "WS-FEED-010", "nothing was appended", "send something"),
        CallError::Partitions(..) | CallError::NoPartition(_) | CallError::Condition => (
            StatusCode::BAD_REQUEST,
            "WS-FEED-015",
            "a call is one transaction in one partition, which its key chooses",
            "send a call per key, or ?split=1 for a transaction per partition",
        ),
        CallError::Reused(_) => (
            StatusCode::UNPROCESSABLE_ENTITY,
            "WS-FEED-016",
            "a key stands for one call, so that sending it twice does no harm",
            "draw a new Idempotency-Key for each call",
        ),
        CallError::Busy => (
            StatusCode::SERVICE_UNAVAILABLE,
            "WS-FEED-017",
            "more is sent than the disk takes",
            "send it again a little later",
        ),
        CallError::TablesOfLog => (
            StatusCode::CONFLICT,
            "WS-FEED-036",
            "what a table is, stands in every segment of the log",
            "use keys for what is many, or another log; names that the log has are taken",
        ),
        CallError::Log(AppendError::Moved { .. }) => (
            StatusCode::PRECONDITION_FAILED,
            "WS-FEED-018",
            "somebody else appended",
            "read what came, and decide anew",
        ),
        CallError::Tables | CallError::Log(AppendError::TooLarge { .. }) => {
            (StatusCode::PAYLOAD_TOO_LARGE, "WS-FEED-011", "nothing was appended", "send less at once")
        }
        CallError::Log(AppendError::DiskFull { .. } | AppendError::Failed(_) | AppendError::Closed) => (
            StatusCode::SERVICE_UNAVAILABLE,
            "WS-FEED-019",
            "the log cannot be written at the moment",
            "send it again a little later, with the same Idempotency-Key",
        ),
        CallError::Log(_) => {
            (StatusCode::INTERNAL_SERVER_ERROR, "WS-FEED-020", "the log refused it", "see the node's own log")
        }
    }
}

fn refuse(feed: &Feed, refused: &Refused) -> Response {
    let (code, name, why, fix) = told(&refused.error);
    if let CallError::Mirror(_, of) = &refused.error {
        let fix = match of.strip_prefix("peer:") {
            Some(peer) => format!("append to that log at the node it is of ({peer})"),
            None => format!("append there: POST {of}/entries"),
        };
        return error(code, name, &refused.error.to_string(), why, &fix);
    }
    let mut more = serde_json::Map::new();
    if let CallError::Log(AppendError::Moved { actual, .. }) = &refused.error {
        more.insert("position".into(), actual.0.into());
    }
    if !refused.appended.is_empty() {
        let mut parts = String::from("[");
        for (index, one) in refused.appended.iter().enumerate() {
            parts.push_str(if index > 0 { "," } else { "" });
            put(&mut parts, feed, one);
        }
        parts.push(']');
        more.insert("appended".into(), serde_json::from_str(&parts).unwrap_or_default());
    }
    let wait = (code == StatusCode::SERVICE_UNAVAILABLE).then_some(Duration::from_secs(1));
    refusal(code, name, &refused.to_string(), why, fix, more, wait)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn depth_counts_what_is_nested_outside_of_texts() {
        let many = limits::FEED_JSON_DEPTH_MAX;
        let (flat, deep) = (format!("[{}1]", "[],".repeat(many)), "[".repeat(many + 1) + &"]".repeat(many + 1));
        let text = format!(r#"{{"a":[1,{{"b":"{}\"{{"}}]}}"#, "[".repeat(many));
        for (json, expected) in [(flat, 2), (deep, many + 1), (text, 3), (format!("\"{}\"", "{".repeat(many + 1)), 0)] {
            assert_eq!(depth(&json), expected, "{json}");
        }
        assert!(depth("[[]]") <= many && depth("1") == 0);
    }

    #[test]
    fn a_row_keeps_every_digit_on_one_line() {
        let body = Bytes::from_static(b"{\"row\": {\n\"n\": 1.10e400,\r\n \"s\":\"a\\nb\"}}\n{\"key\":7,\"row\":null}");
        let call = call(&Options::default(), &HeaderMap::new(), &body).expect("a call");
        let rows: Vec<_> = call.rows.iter().map(|row| (row.key.as_deref(), &*row.row)).collect();
        assert_eq!(rows, [(None, "{ \"n\": 1.10e400,   \"s\":\"a\\nb\"}"), (Some("7"), "null")]);
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        let deep = format!("{{\"row\":{}{}}}", "[".repeat(10_000), "]".repeat(10_000));
        let key = format!("{{\"key\":\"{}\",\"row\":1}}", "k".repeat(1 << 20));
        for (body, code) in [
            ("", 400),
            ("[]", 400),
            ("{}", 400),
            ("1", 400),
            ("{\"row\":NaN}", 400),
            ("{\"row\":1", 400),
            ("[{\"row\":1}", 400),
            ("{\"row\":1,\"rwo\":2}", 400),
            ("{\"row\":1}}", 400),
            ("{\"row\":1,\"row\":2}", 400),
            ("{\"row\":01}", 400),
            ("{\"key\":\"\",\"row\":1}", 400),
            ("{\"key\":{},\"row\":1}", 400),
            ("{\"table\":\"\",\"row\":1}", 400),
            ("{\"row\":1,\"correlation\":\"a\"}{\"row\":1,\"correlation\":\"b\"}", 400),
            ("\u{feff}{\"row\":1}", 400),
            (deep.as_str(), 400),
            (key.as_str(), 413),
        ] {
            let body = Bytes::from(body.to_owned());
            let refused = call(&Options::default(), &HeaderMap::new(), &body).err();
            let found = refused.map(|response| response.status().as_u16());
            assert_eq!(found, Some(code), "{:?}", body.slice(..body.len().min(60)));
        }
    }
}
