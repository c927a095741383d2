//! What a view has answered, as JSON: written in one go, because many may be waiting for theirs at the same moment.

use std::fmt::Display;

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Serialize, Serializer};
use serde_json::Value;

use super::append::CURSOR;
use crate::model::Fingerprint;
use crate::node::views::Told;
use crate::view::Answer;

/// Bytes of an answer beside its values, about.
const FRAME: usize = 320;

#[derive(Serialize)]
struct Rows<'a> {
    schema: u32,
    columns: &'a [String],
    rows: &'a [Vec<Value>],
    cursor: &'a str,
    #[serde(serialize_with = "as_text")]
    definition: Fingerprint,
    stale: bool,
}

#[derive(Serialize)]
struct OneRow<'a> {
    schema: u32,
    row: Row<'a>,
    cursor: &'a str,
    #[serde(serialize_with = "as_text")]
    definition: Fingerprint,
    stale: bool,
}

/// One row as an object.
struct Row<'a> {
    columns: &'a [String],
    values: &'a [Value],
}

impl Serialize for Row<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.columns.iter().zip(self.values))
    }
}

fn as_text<S: Serializer>(shown: &impl Display, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(shown)
}

/// What a value takes, about; escapes may take more.
fn size(value: &Value) -> usize {
    match value {
        Value::String(text) => text.len() + text.len() / 8 + 4,
        _ => 24,
    }
}

/// The answer to a query.
pub(super) fn rows(told: &Told<Answer>) -> Response {
    let Answer { columns, rows, definition, .. } = &told.what;
    let room = rows.iter().flatten().map(size).sum();
    let body = Rows { schema: 1, columns, rows, cursor: &told.cursor, definition: *definition, stale: told.stale };
    written(&body, room, &told.cursor)
}

/// The one row that was asked for.
pub(super) fn row(told: &Told<Answer>) -> Response {
    let Answer { columns, rows, definition, .. } = &told.what;
    let row = Row { columns, values: rows.first().map_or(&[], Vec::as_slice) };
    let room = row.values.iter().map(size).sum::<usize>() + columns.iter().map(String::len).sum::<usize>();
    let body = OneRow { schema: 1, row, cursor: &told.cursor, definition: *definition, stale: told.stale };
    written(&body, room, &told.cursor)
}

fn written(body: &impl Serialize, room: usize, cursor: &str) -> Response {
    let mut text = Vec::with_capacity(FRAME + room);
    if let Err(error) = serde_json::to_writer(&mut text, body) {
        // Numbers, texts and lists of them can always be written.
        return (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response();
    }
    let mut response = Response::new(Body::from(text));
    *response.headers_mut() = HeaderMap::with_capacity(3);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    with_cursor(response, cursor)
}

/// With the header that says as of where an answer is.
pub(super) fn with_cursor(mut response: Response, cursor: &str) -> Response {
    if let Ok(value) = HeaderValue::from_str(cursor) {
        response.headers_mut().insert(CURSOR, value);
    }
    response
}

#[cfg(test)]
mod tests {
    use axum::body::to_bytes;
    use serde_json::json;

    use super::*;

    async fn read(response: Response) -> Value {
        assert_eq!(response.headers()[header::CONTENT_TYPE], "application/json");
        assert_eq!(response.headers()[CURSOR], "the cursor");
        serde_json::from_slice(&to_bytes(response.into_body(), 1 << 20).await.expect("a body")).expect("JSON")
    }

    #[tokio::test]
    async fn answers_are_json_whatever_the_values_are() {
        let values = vec![json!("\u{1}\"é\\\n"), json!(null), json!(-1.5), json!({"a": [1]})];
        let columns: Vec<String> = ["odd \" name", "b", "c", "d"].map(String::from).into();
        let what = Answer {
            columns: columns.clone(),
            rows: vec![values.clone()],
            cursors: Vec::new(),
            definition: Fingerprint(7),
        };
        let mut told = Told { what, cursor: "the cursor".into(), stale: false };
        let one: serde_json::Map<String, Value> = columns.iter().cloned().zip(values.clone()).collect();
        let frame = |mut more: Value| {
            let known = json!({"schema": 1, "cursor": "the cursor", "definition": "0000000000000007", "stale": false});
            more.as_object_mut().expect("an object").extend(known.as_object().expect("an object").clone());
            more
        };
        assert_eq!(read(row(&told)).await, frame(json!({ "row": one })));
        assert_eq!(read(rows(&told)).await, frame(json!({ "columns": columns, "rows": [values] })));
        told.what.rows.clear();
        assert_eq!(read(row(&told)).await, frame(json!({ "row": {} })));
        assert_eq!(read(rows(&told)).await, frame(json!({ "columns": columns, "rows": [] })));
    }
}
