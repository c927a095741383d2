//! What the state of a view is, as a number.

use axum::extract::{Path, Query, State};
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Json, Response};
use serde_json::json;

use super::server::Shared;
use super::views::{Options, Refusal, asked, found};
use super::views_answer::with_cursor;
use super::views_refused::{bad, bad_token, refused};
use crate::node::Node;
use crate::node::views::{Digested, Place, Told, Viewed};
use crate::view::TokenError;

/// `GET /v1/views/{view}/digest`.
pub async fn digest(State(node): Shared, Path(name): Path<String>, options: Options, headers: HeaderMap) -> Response {
    let view = match found(&node, &name, &headers) {
        Ok(view) => view,
        Err(refused) => return *refused,
    };
    match digested(&node, view, options, &headers).await {
        Ok(Told { what, cursor, stale }) => {
            let Digested { digest, rows, definition } = what;
            let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
            let body = json!({
                "schema": 1, "digest": digest, "rows": rows, "cursor": cursor, "definition": definition.to_string(), "stale": stale,
            });
            with_cursor(Json(body).into_response(), &cursor)
        }
        Err(refused) => *refused,
    }
}

/// At a place exactly, where one is given; else once the view has what is asked for.
async fn digested(
    node: &Node,
    view: &Viewed,
    mut options: Options,
    headers: &HeaderMap,
) -> Result<Told<Digested>, Refusal> {
    let told = |unanswered| Box::new(refused(view, &unanswered));
    let Some(at) = options.as_mut().ok().and_then(|Query(wanted)| wanted.at.take()) else {
        let asked = asked(options, headers)?;
        return view.digest(&node.shared, &asked).await.map_err(told);
    };
    let others = |Query(wanted): &Query<_>| {
        let super::views::Wanted { after, consistency, on_timeout, .. } = wanted;
        after.is_some() || consistency.is_some() || on_timeout.is_some()
    };
    if options.as_ref().is_ok_and(others) {
        return Err(bad("at= says where exactly: it goes with timeout=, and with nothing else"));
    }
    let place: Place = at.parse().map_err(|error: TokenError| bad_token(&error.to_string()))?;
    // What the reader has seen says nothing of a place.
    let timeout = asked(options, &HeaderMap::new())?.timeout;
    view.digest_at(&node.shared, &place, timeout).await.map_err(told)
}
