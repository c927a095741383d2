//! Who may ask: only this machine, and of it who shows a token with the right.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::Next;
use axum::response::Response;

use super::server::error;
use crate::node::{Node, Right, token_digest};

/// Whether a `Host` or `Origin` names this machine: a page of another site that a browser on this machine shows
/// (DNS rebinding) does not.
fn is_local(host: &str) -> bool {
    let host = host.rsplit_once("://").map_or(host, |(_, host)| host);
    let name = match host.strip_prefix('[') {
        Some(v6) => v6.split(']').next().unwrap_or_default(),
        None => match host.split_once(':') {
            Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
            Some(_) => return false,
            None => host,
        },
    };
    name == "localhost" || name.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// Refuses foreign `Host` and `Origin` headers.
pub async fn local_only(request: Request, next: Next) -> Response {
    for name in [header::HOST, header::ORIGIN] {
        let foreign = |headers: &HeaderMap| {
            let mut values = headers.get_all(&name).iter().map(|value| value.to_str().unwrap_or("(not text)"));
            values.find(|value| !is_local(value)).map(str::to_owned)
        };
        if let Some(value) = foreign(request.headers()) {
            let message = format!("the {name} header {value:?} is not of this machine");
            let why =
                "the node listens on loopback only, and a page of another site must not reach it through a browser";
            return error(StatusCode::FORBIDDEN, "WS-HTTP-003", &message, why, "ask for it as 127.0.0.1 or localhost");
        }
    }
    next.run(request).await
}

/// Equal, in a time that does not depend on where they differ.
fn same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |all, (a, b)| all | (a ^ b)) == 0
}

/// Whether whoever sends these headers has the right; the refusal otherwise. Without tokens in the configuration whoever is
/// on this machine has those that are `open`.
pub fn allowed(node: &Node, headers: &HeaderMap, wanted: &Right, open: bool) -> Result<(), Box<Response>> {
    if open && node.tokens.is_empty() {
        return Ok(());
    }
    let shown = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let token = shown.and_then(|value| value.strip_prefix("Bearer ")).unwrap_or_default();
    if same(token.as_bytes(), node.folder.admin_token.as_bytes()) {
        return Ok(());
    }
    let digest = token_digest(token);
    // All are looked at, whichever it is.
    let known = node.tokens.iter().fold(None, |known, one| if one.is(&digest) { Some(one) } else { known });
    let Some(known) = known else {
        let todo = "send `Authorization: Bearer` with a token that [node] tokens lists, or with the content of admin.token in the data \
                    folder; `watershed … -c FILE` on this machine does that";
        let message = if shown.is_none() { "this needs a token" } else { "the token is not one of this node's" };
        let mut refused = error(StatusCode::UNAUTHORIZED, "WS-HTTP-004", message, "not everybody may do this", todo);
        refused.headers_mut().insert(header::WWW_AUTHENTICATE, header::HeaderValue::from_static("Bearer"));
        return Err(Box::new(refused));
    };
    if known.may(wanted) {
        return Ok(());
    }
    let message = format!("the token {:?} may not do this", known.name);
    let (why, todo) =
        (format!("it lacks the right {wanted}"), format!("add {wanted:?} to its `may`", wanted = wanted.to_string()));
    Err(Box::new(error(StatusCode::FORBIDDEN, "WS-HTTP-021", &message, &why, &todo)))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_machine_is_local() {
        for host in ["localhost:7070", "127.0.0.1", "[::1]:7070", "http://127.0.0.1:7070", "http://localhost"] {
            assert!(is_local(host), "{host}");
        }
        for host in [
            "example.org",
            "127.0.0.1.example.org",
            "http://evil.example",
            "localhost:1@evil.example",
            "[2001:db8::1]",
            "",
        ] {
            assert!(!is_local(host), "{host}");
        }
    }
}
