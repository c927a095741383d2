//! Where a mirror's original is.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;

use hyper::Uri;

use crate::model::limits;

/// What stands before the name of a feed.
const LOGS: &str = "/v1/logs/";

/// A feed elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MirrorFrom {
    /// At a node that is asked over HTTP.
    Http(HttpFrom),
    /// At a linked peer.
    Peer {
        /// The peer's name.
        node: Box<str>,
        /// The feed's name there.
        log: Box<str>,
    },
}

/// A feed's address.
#[derive(Clone, PartialEq, Eq)]
pub struct HttpFrom {
    /// As it was written, without a slash at its end.
    pub url: String,
    /// A name or an address, without brackets.
    pub host: String,
    /// The port.
    pub port: u16,
    /// Whether it is asked over TLS.
    pub tls: bool,
    /// From `/` on.
    pub path: String,
    /// For the header `Host`.
    pub authority: String,
    /// Shown to it.
    pub token: Option<String>,
    /// Who signed its certificate; without it, those that the system knows.
    pub ca_file: Option<PathBuf>,
}

impl fmt::Debug for HttpFrom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpFrom").field("url", &self.url).finish_non_exhaustive()
    }
}

impl fmt::Display for MirrorFrom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MirrorFrom::Http(http) => f.write_str(&http.url),
            MirrorFrom::Peer { node, log } => write!(f, "peer:{node}/{log}"),
        }
    }
}

fn is_name(text: &str) -> bool {
    let clean = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    (1..=limits::NAME_BYTES_MAX).contains(&text.len()) && text.chars().all(clean) && !text.starts_with('.')
}

impl MirrorFrom {
    /// Reads `https://HOST:PORT/v1/logs/NAME` (`http` on loopback), or `peer:NODE/NAME`.
    ///
    /// # Errors
    /// Why it is none, in words.
    pub fn parse(text: &str) -> Result<MirrorFrom, String> {
        if let Some(rest) = text.strip_prefix("peer:") {
            let names = rest.split_once('/').filter(|(node, log)| is_name(node) && is_name(log));
            let (node, log) = names.ok_or("after `peer:` stand a node's and a log's name, with `/` between them")?;
            return Ok(MirrorFrom::Peer { node: node.into(), log: log.into() });
        }
        let url = text.trim_end_matches('/');
        let uri: Uri = url.parse().map_err(|error| format!("it is no URL: {error}"))?;
        let tls = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err("it begins neither with https:// nor with peer:".into()),
        };
        let authority = uri.authority().ok_or("it names no host")?;
        if authority.as_str().contains('@') {
            return Err("it carries a user or password; a token stands in token_env or token_file".into());
        }
        let host = authority.host().trim_matches(['[', ']']).to_owned();
        let port = match (authority.as_str().len() > authority.host().len(), authority.port_u16()) {
            (true, None) => return Err("its port is not a number from 0 to 65535".into()),
            (_, port) => port.unwrap_or(if tls { 443 } else { 80 }),
        };
        if !tls && !is_loopback(&host) {
            return Err(
                "beyond loopback it has to be https: what is in the feed would cross the network readable by anyone"
                    .into(),
            );
        }
        let log = uri.path().rsplit_once(LOGS).map(|(_, log)| log);
        if uri.query().is_some() || !log.is_some_and(is_name) {
            return Err(format!("it does not end with {LOGS} and the log's name"));
        }
        if log == Some("main") {
            return Err(
                "the log of a node is not mirrored: it has what a database commits, and is sent over links".into()
            );
        }
        let (path, authority) = (uri.path().to_owned(), authority.to_string());
        let url = url.to_owned();
        Ok(MirrorFrom::Http(HttpFrom { url, host, port, tls, path, authority, token: None, ca_file: None }))
    }
}

fn is_loopback(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost") || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_says_where_and_which() {
        let MirrorFrom::Http(http) = MirrorFrom::parse("https://hq.example:7070/v1/logs/orders/").expect("a URL")
        else {
            panic!("it is a URL");
        };
        assert_eq!((&*http.host, http.port, http.tls, &*http.path), ("hq.example", 7070, true, "/v1/logs/orders"));
        let MirrorFrom::Http(http) = MirrorFrom::parse("http://[::1]:70/proxied/v1/logs/o").expect("a URL") else {
            panic!("it is a URL");
        };
        assert_eq!((&*http.host, http.port, http.tls, &*http.path), ("::1", 70, false, "/proxied/v1/logs/o"));
        let peer = MirrorFrom::parse("peer:branch-7/orders").expect("a peer");
        assert_eq!(peer, MirrorFrom::Peer { node: "branch-7".into(), log: "orders".into() });
        assert_eq!(peer.to_string(), "peer:branch-7/orders");
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for text in [
            "",
            "orders",
            "http://hq.example/v1/logs/orders",
            "http://10.0.0.1:7070/v1/logs/orders",
            "https://u:p@hq/v1/logs/orders",
            "https://hq/v1/logs/",
            "https://hq/v1/logs/main",
            "https://hq/v1/logs/a/b",
            "https://hq/v1/logs/orders?after=1",
            "https://hq:99999/v1/logs/orders",
            "ftp://hq/v1/logs/orders",
            "https:///v1/logs/orders",
            "peer:",
            "peer:hq",
            "peer:hq/../x",
            "peer:/orders",
        ] {
            assert!(MirrorFrom::parse(text).is_err(), "{text}");
        }
    }
}
