//! What every request passes first: foreign pages, bodies that are encoded or do not come, and who asks too much.

use std::sync::Arc;
use std::time::Instant;

use axum::body::{Body, HttpBody};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::access::limited;
use super::metered::{Arriving, Leaving};
use super::server::{error, refusal};
use crate::node::{Node, Traffic};

/// Headers that pages may send.
const ASKED: &str = "authorization, content-type, accept, idempotency-key, correlation-id, causation-id, traceparent, \
                     last-event-id, if-match, if-none-match, watershed-cursor";
/// Headers that pages may read.
const EXPOSED: &str = "etag, retry-after, watershed-cursor";
/// How long a browser remembers what it may, in seconds.
const REMEMBERED: &str = "600";

/// What a node's requests are looked at by.
pub struct Guard {
    /// The node.
    pub node: Arc<Node>,
    /// It listens on loopback, without TLS: whoever names another host was led here.
    pub local: bool,
}

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

/// The value of a `Host` or `Origin` header that does not please.
fn odd(headers: &HeaderMap, name: header::HeaderName, fits: impl Fn(&str) -> bool) -> Option<&str> {
    let mut values = headers.get_all(&name).iter().map(|value| value.to_str().unwrap_or("(not text)"));
    values.find(|value| !fits(value))
}

fn foreign(name: &str, value: &str) -> Response {
    let message = format!("the {name} header {value:?} is not of this node");
    let why = "a page of another site must not reach it through a browser";
    let fix =
        "ask for it by its own name (on loopback 127.0.0.1 or localhost); pages: list their origin in [node] cors";
    error(StatusCode::FORBIDDEN, "WS-HTTP-003", &message, why, fix)
}

/// Refuses foreign `Host` and `Origin` headers, for what only this machine may ask.
pub async fn local_only(request: Request, next: Next) -> Response {
    for name in [header::HOST, header::ORIGIN] {
        if let Some(value) = odd(request.headers(), name.clone(), is_local) {
            return foreign(name.as_str(), value);
        }
    }
    next.run(request).await
}

impl Guard {
    /// The refusal of foreign pages, or the origin of a page that may.
    fn origin(&self, headers: &HeaderMap) -> Result<Option<HeaderValue>, Box<Response>> {
        if self.local
            && let Some(host) = odd(headers, header::HOST, is_local)
        {
            return Err(Box::new(foreign("host", host)));
        }
        let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
        let listed = |origin: &str| self.node.cors.iter().any(|one| **one == *origin);
        let own = |origin: &str| match self.local {
            true => is_local(origin),
            false => origin.split_once("://").is_some_and(|(_, name)| name == host),
        };
        match odd(headers, header::ORIGIN, |origin| listed(origin) || own(origin)) {
            Some(origin) => Err(Box::new(foreign("origin", origin))),
            None => Ok(headers.get(header::ORIGIN).filter(|origin| origin.to_str().is_ok_and(listed)).cloned()),
        }
    }

    /// A browser asks whether it may ask.
    fn preflight(&self, request: &Request) -> Option<Response> {
        let asks = request.headers().contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
        (asks && request.method() == Method::OPTIONS).then(|| {
            let may = [
                (header::ACCESS_CONTROL_ALLOW_METHODS, "GET, POST, PUT, DELETE"),
                (header::ACCESS_CONTROL_ALLOW_HEADERS, ASKED),
                (header::ACCESS_CONTROL_MAX_AGE, REMEMBERED),
            ];
            (StatusCode::NO_CONTENT, may).into_response()
        })
    }
}

fn encoded(headers: &HeaderMap) -> Option<Response> {
    let encoding = headers.get(header::CONTENT_ENCODING).filter(|value| value.as_bytes() != b"identity")?;
    let message = format!("the body is encoded ({encoding:?})");
    let (code, why) = (StatusCode::UNSUPPORTED_MEDIA_TYPE, "bodies are not unpacked");
    Some(error(code, "WS-FEED-012", &message, why, "send it as it is, without Content-Encoding"))
}

/// Looks at a request before it is answered.
pub async fn guard(State(guard): State<Arc<Guard>>, mut request: Request, next: Next) -> Response {
    let origin = match guard.origin(request.headers()) {
        Ok(origin) => origin,
        Err(refused) => return *refused,
    };
    let mut response = match guard.preflight(&request) {
        Some(answer) if origin.is_some() => answer,
        _ => answered(&guard.node, &mut request, next).await,
    };
    if let Some(origin) = origin {
        let headers = response.headers_mut();
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(EXPOSED));
        headers.append(header::VARY, HeaderValue::from_static("origin"));
    }
    response
}

async fn answered(node: &Node, request: &mut Request, next: Next) -> Response {
    if let Some(refused) = encoded(request.headers()) {
        return refused;
    }
    let token = limited(node, request.headers());
    let rate = token.and_then(|token| token.rate.clone());
    if let (Some(token), Some(rate)) = (token, &rate)
        && let Err(wait) = rate.request(Instant::now())
    {
        Traffic::count(&node.traffic.limited);
        let message = format!("the token {:?} asks for more than its rate", token.name);
        let (code, why) = (StatusCode::TOO_MANY_REQUESTS, "its `rate` in [node] tokens limits it");
        let fix = "come again after Retry-After, send more at once, or raise the rate";
        return refusal(code, "WS-HTTP-026", &message, why, fix, serde_json::Map::new(), Some(wait));
    }
    let mut request = std::mem::take(request);
    if !request.body().is_end_stream() {
        request = request.map(|body| Body::new(Arriving::new(body, rate.clone())));
    }
    let response = next.run(request).await;
    match rate {
        Some(rate) if !response.body().is_end_stream() => response.map(|body| Body::new(Leaving::new(body, rate))),
        _ => response,
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
