//! Why a view does not answer.

use axum::extract::rejection::JsonRejection;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Json, Response};
use serde_json::{Map, json};

use super::server::{error, refusal, unread};
use crate::node::views::{OrderRefused, Unanswered, Viewed};
use crate::view::{AskError, Unmet};

/// A request that cannot be understood.
pub(super) fn bad(message: &str) -> Box<Response> {
    let fix = "give after=, timeout=, on_timeout=error|stale, consistency=latest, or nothing; {\"sql\": …, \"params\": […]} to ask";
    Box::new(error(StatusCode::BAD_REQUEST, "WS-VIEW-040", message, "the request is not understood", fix))
}

/// A token that is none.
pub(super) fn bad_token(message: &str) -> Box<Response> {
    let why = "what has been seen is shown as it was given";
    let fix = "pass on the cursor of an append, of an entry or of an answer; or leave it out";
    Box::new(error(StatusCode::BAD_REQUEST, "WS-VIEW-041", message, why, fix))
}

/// A body that cannot be read.
pub(super) fn unasked(refused: &JsonRejection) -> Response {
    let (code, message) = unread(refused);
    let fix = "send {\"sql\": \"select …\", \"params\": […]}";
    error(code, "WS-VIEW-042", &message, "the body is not understood", fix)
}

/// There is no view of that name.
pub(super) fn no_view(name: &str) -> Response {
    let message = format!("there is no view {name:?}");
    let fix = "see `GET /v1/views`; a view is made by a section [view.NAME]";
    error(StatusCode::NOT_FOUND, "WS-VIEW-043", &message, "no view of this node has that name", fix)
}

/// What comes of an order.
pub(super) fn ordered(name: &str, done: Result<String, OrderRefused>) -> Response {
    let refused = match done {
        Ok(message) => return Json(json!({ "schema": 1, "view": name, "message": message })).into_response(),
        Err(refused) => refused,
    };
    let fix = "look at `watershed view ls`";
    match &refused {
        OrderRefused::State(why) => {
            error(StatusCode::CONFLICT, "WS-VIEW-044", why, "the order does not suit the view's state", fix)
        }
        OrderRefused::Failed(why) => {
            error(StatusCode::INTERNAL_SERVER_ERROR, "WS-VIEW-045", why, "the order could not be carried out", fix)
        }
    }
}

/// Why a question was not answered.
pub(super) fn refused(view: &Viewed, unanswered: &Unanswered) -> Response {
    match unanswered {
        Unanswered::Unmet(unmet) => not_there(view, unmet),
        Unanswered::Ask(failed) => not_answered(failed),
        Unanswered::Passed(why) => {
            let fix = "ask for a place ahead of the view, such as the log's tail and a few more; at several nodes for the same one, at once";
            let more = at_present(view, "passed");
            let past = "a state is not kept once it has changed";
            refusal(StatusCode::CONFLICT, "WS-VIEW-120", why, past, fix, more, None)
        }
        Unanswered::Crowded => {
            let (words, more) = (unanswered.to_string(), at_present(view, "not_yet"));
            let why = "each goes through everything that the view has";
            refusal(StatusCode::SERVICE_UNAVAILABLE, "WS-VIEW-121", &words, why, "ask again a little later", more, None)
        }
    }
}

/// The reason in a word, and how far the view has come.
fn at_present(view: &Viewed, reason: &str) -> Map<String, serde_json::Value> {
    let mut more = Map::new();
    more.insert("reason".into(), reason.into());
    more.insert("view".into(), view.name.as_ref().into());
    more.insert("cursor".into(), view.cursor(&view.reached()).into());
    more
}

/// The view has not got what the answer is to contain: why, in a word and in words, and how far it has come.
fn not_there(view: &Viewed, unmet: &Unmet) -> Response {
    let (status, code, why, fix) = match unmet {
        Unmet::NotYet(_) => (
            StatusCode::SERVICE_UNAVAILABLE,
            "WS-VIEW-050",
            "a view follows its log, and has not come so far within the time",
            "ask again; give a longer timeout=, or on_timeout=stale for what there is",
        ),
        Unmet::Crowded => {
            (StatusCode::SERVICE_UNAVAILABLE, "WS-VIEW-051", "a node has room for so many", "ask again a little later")
        }
        Unmet::Rebuilding(_) => (
            StatusCode::SERVICE_UNAVAILABLE,
            "WS-VIEW-052",
            "it has not been whole yet",
            "ask again later; `watershed view ls` shows how far it is",
        ),
        Unmet::Failed(_) => (
            StatusCode::CONFLICT,
            "WS-VIEW-053",
            "nothing is passed over unless an operator says so",
            "the node's operator corrects its definition, or has it pass over the entry: `watershed view ls`",
        ),
        Unmet::Trimmed(_) => (
            StatusCode::CONFLICT,
            "WS-VIEW-054",
            "retention removed what it had not read",
            "the node's operator gives its log a larger budget, and has it built afresh",
        ),
        Unmet::Unknown(_) => (
            StatusCode::CONFLICT,
            "WS-VIEW-055",
            "this view can never contain what the token stands for",
            "show a token of the log that the view is of; or ask without one",
        ),
    };
    refusal(status, code, &unmet.to_string(), why, fix, at_present(view, unmet.reason()), None)
}

fn not_answered(failed: &AskError) -> Response {
    let words = failed.to_string();
    let (status, code, why, fix) = match failed {
        AskError::Invalid(_) => (
            StatusCode::UNPROCESSABLE_ENTITY,
            "WS-VIEW-060",
            "the store does not understand the question",
            "correct the SQL, or its parameters",
        ),
        AskError::Forbidden(_) => {
            (StatusCode::FORBIDDEN, "WS-VIEW-061", "a question only reads, and only the view", "ask with one SELECT")
        }
        AskError::Slow(_) => (
            StatusCode::UNPROCESSABLE_ENTITY,
            "WS-VIEW-062",
            "one question may not hold up the others",
            "ask for less; or have the view keep an index, or the figure itself",
        ),
        AskError::Large { .. } => (
            StatusCode::PAYLOAD_TOO_LARGE,
            "WS-VIEW-063",
            "an answer is held in memory",
            "ask for fewer rows or columns: LIMIT, and WHERE key > the last one",
        ),
        AskError::Absent(_) => (
            StatusCode::NOT_FOUND,
            "WS-VIEW-064",
            "the view was looked at, and has none",
            "check the names and the key",
        ),
        AskError::Failed(_) => (
            StatusCode::SERVICE_UNAVAILABLE,
            "WS-VIEW-065",
            "the view's store does not answer",
            "ask again a little later; `watershed view ls` says what is wrong",
        ),
    };
    error(status, code, &words, why, fix)
}
