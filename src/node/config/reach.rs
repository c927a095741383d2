//! Who can reach a node, and what that asks for.

use super::load::Places;
use super::{Config, Mistake};
use crate::model::limits;

/// Adds every mistake found.
pub(super) fn reach(config: &Config, places: &Places<'_>, mistakes: &mut Vec<Mistake>) {
    let mut fail = |path: &[&str], what: String, why: &str, fix: &str| {
        let span = places.nearest_span(path);
        mistakes.push(Mistake { code: "WS-CFG-008", what, why: why.into(), fix: fix.into(), span });
    };
    let node = &config.node;
    if !node.listen.0.ip().is_loopback() {
        if node.tokens.is_empty() {
            let what = format!("`node.listen` is {}, and no tokens are listed", node.listen);
            let why = "beyond loopback everybody could read and append";
            fail(&["node", "listen"], what, why, "list `tokens` (`watershed token new NAME`), or listen on 127.0.0.1");
        }
        if node.tls.is_none() && !node.allow_plaintext {
            let what = format!("`node.listen` is {}, without TLS", node.listen);
            let why = "beyond loopback tokens and data could be read on the way";
            let fix =
                "give `tls = { cert_file, key_file }`; or `allow_plaintext = true` behind an ingress that has TLS";
            fail(&["node", "listen"], what, why, fix);
        }
    }
    if node.cors.len() > limits::CORS_ORIGINS_MAX {
        let what = format!("`node.cors` lists more than {} origins", limits::CORS_ORIGINS_MAX);
        fail(&["node", "cors"], what, "each request is compared with all of them", "list fewer");
    }
    for (index, origin) in node.cors.iter().enumerate() {
        if !is_origin(origin) {
            let what = format!("`node.cors`: {origin:?} is not an origin");
            let why = "an origin is a scheme, a host in small letters and perhaps a port, as browsers send it; there is no `*`";
            let index = index.to_string();
            fail(&["node", "cors", &index], what, why, "write \"https://app.example\", without a path");
        }
    }
    if let Some(parent) = &config.parent
        && let Some(host) = parent.url.as_str().strip_prefix("ws://")
    {
        let name = host.split('/').next().unwrap_or_default();
        let loopback = ["localhost", "127.", "[::1]"].iter().any(|local| name.starts_with(local));
        if !loopback && !parent.allow_plaintext {
            let what = format!("`parent.url` is {}, without TLS", parent.url);
            let why = "everybody on the way could read what is sent, the token too";
            fail(&["parent", "url"], what, why, "write wss://; or `allow_plaintext = true` on a network that is yours");
        }
        if parent.ca_file.is_some() {
            let what = "`parent.ca_file` is given, and `parent.url` is without TLS".to_string();
            fail(&["parent", "ca_file"], what, "there is no certificate to check", "write wss://, or remove it");
        }
    }
}

/// As a browser writes it: `https://app.example`, `http://localhost:5173`.
fn is_origin(text: &str) -> bool {
    let Some((scheme, rest)) = text.split_once("://") else { return false };
    let (host, port) = match rest.rsplit_once(':') {
        Some((host, port)) if !rest.ends_with(']') => (host, Some(port)),
        _ => (rest, None),
    };
    let number = |port: &str| port.parse::<u16>().is_ok_and(|number| number.to_string() == port);
    let known = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'.' | b'-' | b'_');
    let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let named = match bracketed {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => !host.is_empty() && host.bytes().all(known),
    };
    matches!(scheme, "https" | "http") && named && port.is_none_or(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_what_browsers_send() {
        for good in ["https://app.example", "http://localhost:5173", "http://[::1]:80", "https://a-b.c"] {
            assert!(is_origin(good), "{good}");
        }
        for bad in [
            "*",
            "null",
            "app.example",
            "https://",
            "https://app.example/",
            "https://App.example",
            "ftp://x",
            "https://a:b",
            "https://a:080",
            "https://*.example",
            "https://a b",
            "http://[::1",
        ] {
            assert!(!is_origin(bad), "{bad}");
        }
    }
}
