//! Through a proxy: `HTTPS_PROXY`, `NO_PROXY`, and the method CONNECT (RFC 9110, 9.3.6).

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::http::Uri;

use super::host::Refusal;
use super::refusal::{code, printable, refusal};

/// The head of a proxy's answer.
const ANSWER_BYTES_MAX: usize = 8 << 10;

/// A proxy that speaks HTTP.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Proxy {
    host: String,
    port: u16,
    /// `user:password`, in base64.
    credentials: Option<String>,
}

fn variable(name: &str) -> Option<String> {
    let value = std::env::var(name.to_uppercase()).or_else(|_| std::env::var(name.to_lowercase())).ok()?;
    Some(value).filter(|value| !value.is_empty())
}

impl Proxy {
    /// The one that the environment names for that host.
    ///
    /// # Errors
    /// Its address cannot be read; in words, without its password.
    pub(super) fn from_environment(host: &str) -> Result<Option<Proxy>, String> {
        let Some(text) = variable("HTTPS_PROXY").or_else(|| variable("ALL_PROXY")) else { return Ok(None) };
        if is_exempt(host, &variable("NO_PROXY").unwrap_or_default()) {
            return Ok(None);
        }
        Proxy::parse(&text).map(Some)
    }

    /// `http://[USER:PASSWORD@]HOST[:PORT]`.
    fn parse(text: &str) -> Result<Proxy, String> {
        let bad = || "HTTPS_PROXY is not the address of an HTTP proxy, as in http://proxy.example:3128".to_owned();
        let rest = match text.split_once("://") {
            Some(("http", rest)) => rest,
            Some(_) => return Err(bad()),
            None => text,
        };
        let uri: Uri = format!("http://{rest}").parse().map_err(|_| bad())?;
        let authority = uri.authority().ok_or_else(bad)?;
        let credentials = authority.as_str().rsplit_once('@').map(|(user, _)| STANDARD.encode(unescaped(user)));
        let host = authority.host().trim_matches(['[', ']']).to_owned();
        if host.is_empty() {
            return Err(bad());
        }
        Ok(Proxy { host, port: authority.port_u16().unwrap_or(80), credentials })
    }

    /// A connection to a node (`HOST:PORT`), through the proxy.
    pub(super) async fn connect(&self, url: &str) -> Result<TcpStream, Refusal> {
        let refused = |retryable, why: String| {
            let what = format!("the proxy {}:{} does not let through to {url}: {why}", self.host, self.port);
            refusal(
                code::PROXY,
                retryable,
                what,
                "HTTPS_PROXY names it",
                "correct HTTPS_PROXY, or name the host in NO_PROXY",
            )
        };
        let failed = |error: std::io::Error| refused(true, error.to_string());
        let mut stream = TcpStream::connect((&*self.host, self.port)).await.map_err(failed)?;
        let mut request = format!("CONNECT {url} HTTP/1.1\r\nHost: {url}\r\n");
        if let Some(credentials) = &self.credentials {
            request.push_str(&format!("Proxy-Authorization: Basic {credentials}\r\n"));
        }
        request.push_str("\r\n");
        stream.write_all(request.as_bytes()).await.map_err(failed)?;
        let mut head = Vec::new();
        // What comes after the head is the node's: none of it is taken.
        while !head.ends_with(b"\r\n\r\n") {
            if head.len() >= ANSWER_BYTES_MAX {
                return Err(refused(false, "its answer has no end".into()));
            }
            head.push(stream.read_u8().await.map_err(failed)?);
        }
        let line = String::from_utf8_lossy(&head);
        let line = line.lines().next().unwrap_or_default();
        match line.split(' ').nth(1).and_then(|status| status.parse::<u16>().ok()) {
            Some(200..300) if line.starts_with("HTTP/1.") => Ok(stream),
            Some(status) => Err(refused(status >= 500, printable(line))),
            None => Err(refused(false, format!("it answers {:?}", printable(line)))),
        }
    }
}

/// A connection to a node that speaks TLS, through the proxy that the environment names for it, or straight to it.
///
/// # Errors
/// In words: what cannot be reached, or what is wrong with the proxy.
pub async fn reach(host: &str, port: u16) -> Result<TcpStream, String> {
    match Proxy::from_environment(host)? {
        Some(proxy) => {
            let place = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
            proxy.connect(&place).await.map_err(|refused| refused.what().to_owned())
        }
        None => TcpStream::connect((host, port)).await.map_err(|error| error.to_string()),
    }
}

/// Whether a list like `localhost,.example.org,10.0.0.1` has that host. Loopback is never beyond a proxy.
fn is_exempt(host: &str, list: &str) -> bool {
    let host = host.to_ascii_lowercase();
    if host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback()) {
        return true;
    }
    list.split(',').map(|one| one.trim().to_ascii_lowercase()).filter(|one| !one.is_empty()).any(|one| {
        let name = one.trim_start_matches("*.").trim_start_matches('.');
        one == "*" || host == name || host.strip_suffix(name).is_some_and(|rest| rest.ends_with('.'))
    })
}

/// `%40` is `@`.
fn unescaped(text: &str) -> Vec<u8> {
    let (bytes, mut out, mut at) = (text.as_bytes(), Vec::new(), 0);
    while at < bytes.len() {
        let digits = text.get(at + 1..at + 3).filter(|_| bytes[at] == b'%');
        match digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) => {
                out.push(byte);
                at += 3;
            }
            None => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_encoded() {
        let proxy = Proxy::parse("http://me:p%40ss@proxy.example:3128").expect("a proxy");
        assert_eq!((&*proxy.host, proxy.port), ("proxy.example", 3128));
        assert_eq!(proxy.credentials, Some("bWU6cEBzcw==".to_owned()));
        assert_eq!(Proxy::parse("proxy:8080").map(|proxy| proxy.port), Ok(8080));
        for bad in ["https://proxy:1", "http://", "socks5://x", "a b"] {
            assert!(Proxy::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn some_hosts_are_dialled_directly() {
        for (host, list, exempt) in [
            ("127.0.0.1", "", true),
            ("localhost", "", true),
            ("hq.example", "", false),
            ("hq.example", "other, HQ.example", true),
            ("hq.example", ".example", true),
            ("hq.example", "*", true),
            ("hq.example", "q.example", false),
        ] {
            assert_eq!(is_exempt(host, list), exempt, "{host} {list}");
        }
    }
}
