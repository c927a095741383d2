//! The parent's address.

use std::fmt;
use std::net::IpAddr;

use tokio_tungstenite::tungstenite::http::Uri;

use super::host::Refusal;
use super::refusal::{code, refusal};

/// Where a parent listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParentUrl {
    /// A name or an address, without brackets.
    pub host: String,
    /// The port.
    pub port: u16,
    /// Whether TLS is spoken.
    pub tls: bool,
}

/// The port when none is named.
const PORT_DEFAULT: u16 = 7070;
/// Where the parent serves links.
pub(super) const PEER_PATH: &str = "/v1/peer";

impl ParentUrl {
    /// Reads `wss://HOST:PORT`, `ws://HOST:PORT` (on loopback) or a bare `HOST:PORT`, which means `ws` on loopback and `wss`
    /// beyond it.
    ///
    /// # Errors
    /// `WS-PEER-015` for what is no such URL, `WS-PEER-016` for `ws` beyond loopback.
    pub fn parse(text: &str) -> Result<ParentUrl, Refusal> {
        ParentUrl::parse_with(text, false)
    }

    /// The same; with `plain` also `ws` beyond loopback.
    ///
    /// # Errors
    /// As for [`ParentUrl::parse`].
    pub fn parse_with(text: &str, plain: bool) -> Result<ParentUrl, Refusal> {
        let bad = |why: &str| {
            let what = format!("{text:?} is not the address of a parent");
            refusal(code::BAD_URL, false, what, why, "write url = \"ws://127.0.0.1:7070\" under [parent]")
        };
        let (scheme, rest) = match text.split_once("://") {
            Some((scheme, rest)) => (Some(scheme), rest),
            None => (None, text),
        };
        let uri: Uri = format!("ws://{rest}").parse().map_err(|_| bad("it is not a URL"))?;
        let authority = uri.authority().ok_or_else(|| bad("it names no host"))?;
        if authority.as_str().contains('@') {
            return Err(bad("it carries a user or password"));
        }
        if !matches!(uri.path(), "" | "/" | PEER_PATH) || uri.query().is_some() {
            return Err(bad("it has a path; links are always served at /v1/peer"));
        }
        let host = authority.host().trim_matches(['[', ']']).to_owned();
        if host.is_empty() {
            return Err(bad("it names no host"));
        }
        let tail = &authority.as_str()[authority.host().len()..];
        let port = match (tail, authority.port_u16()) {
            ("", _) => PORT_DEFAULT,
            (_, Some(port)) => port,
            (_, None) => return Err(bad("its port is not a number from 0 to 65535")),
        };
        match scheme {
            Some("wss" | "https") => Ok(ParentUrl { host, port, tls: true }),
            None => Ok(ParentUrl { tls: !is_loopback(&host), host, port }),
            Some("ws" | "http") if plain || is_loopback(&host) => Ok(ParentUrl { host, port, tls: false }),
            Some("ws" | "http") => {
                let what = format!("{text:?} is without TLS, beyond loopback");
                let why = "changes would cross the network readable by anyone";
                Err(refusal(
                    code::NO_TLS,
                    false,
                    what,
                    why,
                    "dial wss://; on a network of your own set allow_plaintext",
                ))
            }
            Some(_) => Err(bad("its scheme is not ws or wss")),
        }
    }
}

impl fmt::Display for ParentUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

fn is_loopback(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost") || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<(String, u16, bool), String> {
        ParentUrl::parse(text).map(|url| (url.host, url.port, url.tls)).map_err(|why| why.code)
    }

    #[test]
    fn loopback_needs_no_scheme_and_no_tls() {
        assert_eq!(parsed("127.0.0.1:7071"), Ok(("127.0.0.1".into(), 7071, false)));
        assert_eq!(parsed("ws://localhost"), Ok(("localhost".into(), 7070, false)));
        assert_eq!(parsed("ws://[::1]:80/v1/peer"), Ok(("::1".into(), 80, false)));
    }

    #[test]
    fn beyond_loopback_tls_is_demanded() {
        for text in ["hq.example:7070", "wss://hq.example", "https://hq.example:7070/v1/peer"] {
            assert_eq!(parsed(text), Ok(("hq.example".into(), 7070, true)), "{text}");
        }
        assert_eq!(parsed("wss://127.0.0.1:1"), Ok(("127.0.0.1".into(), 1, true)));
        assert_eq!(parsed("ws://10.0.0.1:7070"), Err(code::NO_TLS.into()));
        assert!(ParentUrl::parse_with("ws://10.0.0.1:7070", true).is_ok_and(|url| !url.tls));
    }

    #[test]
    fn what_is_no_address_is_refused_with_a_reason() {
        for text in ["", "ws://", "ftp://localhost", "localhost:99999", "localhost/other", "u:p@localhost:1", "a b"] {
            assert_eq!(parsed(text), Err(code::BAD_URL.into()), "{text}");
        }
    }
}
