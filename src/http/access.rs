//! Who may ask: whoever shows a token with the right.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::Next;
use axum::response::Response;

use super::server::error;
use crate::node::{Node, Right, Token, token_digest};

/// Equal, in a time that does not depend on where they differ.
fn same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |all, (a, b)| all | (a ^ b)) == 0
}

/// What stands behind `Bearer`; empty where nothing does.
fn bearer(headers: &HeaderMap) -> &str {
    let shown = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    shown.and_then(|value| value.strip_prefix("Bearer ")).unwrap_or_default()
}

/// The token of the configuration that it is. All are looked at, whichever it is.
fn known<'a>(node: &'a Node, token: &str) -> Option<&'a Token> {
    let digest = token_digest(token);
    node.tokens.iter().fold(None, |known, one| if one.is(&digest) { Some(one) } else { known })
}

/// The token that these headers show, if it is one whose rate is limited.
pub fn limited<'a>(node: &'a Node, headers: &HeaderMap) -> Option<&'a Token> {
    let any = node.tokens.iter().any(|token| token.rate.is_some());
    known(node, any.then(|| bearer(headers)).filter(|token| !token.is_empty())?).filter(|token| token.rate.is_some())
}

fn unknown(headers: &HeaderMap) -> Box<Response> {
    let todo = "send `Authorization: Bearer` with a token that [node] tokens lists, or with the content of admin.token in the data \
                folder; `watershed … -c FILE` on this machine does that";
    let shown = headers.contains_key(header::AUTHORIZATION);
    let message = if shown { "the token is not one of this node's" } else { "this needs a token" };
    let mut refused = error(StatusCode::UNAUTHORIZED, "WS-HTTP-004", message, "not everybody may do this", todo);
    refused.headers_mut().insert(header::WWW_AUTHENTICATE, header::HeaderValue::from_static("Bearer"));
    Box::new(refused)
}

fn forbidden(token: &Token, wanted: &str) -> Box<Response> {
    let message = format!("the token {:?} may not do this", token.name);
    let (why, todo) = (format!("it lacks the right {wanted}"), format!("add {wanted:?} to its `may`"));
    Box::new(error(StatusCode::FORBIDDEN, "WS-HTTP-021", &message, &why, &todo))
}

/// The token with which a node links; `None` where none are listed. Its name is compared once it has been said.
pub fn linker(node: &Node, headers: &HeaderMap) -> Result<Option<Token>, Box<Response>> {
    if node.tokens.is_empty() {
        return Ok(None);
    }
    let known = known(node, bearer(headers)).ok_or_else(|| unknown(headers))?;
    if known.is_peer() { Ok(Some(known.clone())) } else { Err(forbidden(known, "peer:NAME")) }
}

/// Whether whoever sends these headers has the right; the refusal otherwise. Without tokens in the configuration whoever is
/// on this machine has those that are `open`.
pub fn allowed(node: &Node, headers: &HeaderMap, wanted: &Right, open: bool) -> Result<(), Box<Response>> {
    if open && node.tokens.is_empty() {
        return Ok(());
    }
    let token = bearer(headers);
    if same(token.as_bytes(), node.folder.admin_token.as_bytes()) {
        return Ok(());
    }
    let known = known(node, token).ok_or_else(|| unknown(headers))?;
    if known.may(wanted) {
        return Ok(());
    }
    Err(forbidden(known, &wanted.to_string()))
}

/// Lets through who may give orders.
pub async fn operator(State(node): State<Arc<Node>>, request: Request, next: Next) -> Response {
    match allowed(&node, request.headers(), &Right::Operate, false) {
        Ok(()) => next.run(request).await,
        Err(refused) => *refused,
    }
}

/// Lets through who may see how the node is doing.
pub async fn onlooker(State(node): State<Arc<Node>>, request: Request, next: Next) -> Response {
    match allowed(&node, request.headers(), &Right::Metrics, true) {
        Ok(()) => next.run(request).await,
        Err(refused) => *refused,
    }
}
