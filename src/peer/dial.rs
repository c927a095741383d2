//! From an address to a connection: through a proxy perhaps, with TLS, and with a token.

use std::io;
use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_tungstenite::client_async_with_config;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::{HeaderValue, Response, StatusCode, header};
use tokio_tungstenite::tungstenite::{self, error::ProtocolError};

use super::host::Refusal;
use super::proxy::Proxy;
use super::refusal::{code, printable, refusal};
use super::session::Timing;
use super::socket::{SUBPROTOCOL, Socket, config};
use super::tls::roots;
use super::url::{PEER_PATH, ParentUrl};

/// How a parent is dialled.
#[derive(Clone)]
pub struct Dial {
    /// Where it listens.
    pub url: ParentUrl,
    token: Option<HeaderValue>,
    tls: Option<TlsConnector>,
    proxy: Option<Proxy>,
}

impl From<ParentUrl> for Dial {
    /// Without a token and without TLS: for a parent on this machine.
    fn from(url: ParentUrl) -> Dial {
        Dial { url, token: None, tls: None, proxy: None }
    }
}

impl From<&ParentUrl> for Dial {
    fn from(url: &ParentUrl) -> Dial {
        url.clone().into()
    }
}

impl From<&Dial> for Dial {
    fn from(dial: &Dial) -> Dial {
        dial.clone()
    }
}

/// What a connection is made of.
trait Wire: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Wire for T {}

impl Dial {
    /// With what the parent asks for; `ca_file`: who may have signed its certificate. Through the proxy that `HTTPS_PROXY` and
    /// `NO_PROXY` name, where TLS is spoken.
    ///
    /// # Errors
    /// `WS-PEER-023`: the file, the token or the proxy cannot be used.
    pub fn new(url: ParentUrl, token: Option<&str>, ca_file: Option<&Path>) -> Result<Dial, Refusal> {
        let unusable =
            |what: String, todo: &str| refusal(code::UNUSABLE, false, what, "the parent is dialled with it", todo);
        let bearer = |token: &str| HeaderValue::from_str(&format!("Bearer {token}"));
        let token = token.map(bearer).transpose().map_err(|_| {
            unusable(
                "the token for the parent has characters that no header can carry".into(),
                "draw one with `watershed token new`",
            )
        })?;
        let token = token.map(|mut token| {
            token.set_sensitive(true);
            token
        });
        let (mut tls, mut proxy) = (None, None);
        if url.tls {
            let known = roots(ca_file).map_err(|why| {
                unusable(
                    format!("the certificates by which the parent is known cannot be used: {why}"),
                    "correct [parent] ca_file",
                )
            })?;
            tls = Some(TlsConnector::from(Arc::new(known)));
            proxy =
                Proxy::from_environment(&url.host).map_err(|why| unusable(why, "correct HTTPS_PROXY, or unset it"))?;
        }
        Ok(Dial { url, token, tls, proxy })
    }

    /// One attempt.
    pub(super) async fn connect(&self, timing: Timing) -> Result<Socket, Refusal> {
        match tokio::time::timeout(timing.connect, self.connecting()).await {
            Ok(connected) => connected,
            Err(_) => Err(self.unreachable(&format!("no answer within {:?}", timing.connect))),
        }
    }

    fn unreachable(&self, why: &str) -> Refusal {
        let todo = "check [parent] url and that the parent runs; the attempt is repeated";
        let what = format!("{} cannot be reached: {why}", self.url);
        refusal(code::UNREACHABLE, true, what, "nothing answers there", todo)
    }

    async fn connecting(&self) -> Result<Socket, Refusal> {
        let unreachable = |error: &dyn std::error::Error| self.unreachable(&error.to_string());
        let stream = match &self.proxy {
            None => TcpStream::connect((&*self.url.host, self.url.port)).await.map_err(|error| unreachable(&error))?,
            Some(proxy) => proxy.connect(&self.url.to_string()).await?,
        };
        // A transaction must not wait for the acknowledgement of the one before it (Nagle's algorithm).
        stream.set_nodelay(true).map_err(|error| unreachable(&error))?;
        // The scheme says nothing more here: TLS is spoken below.
        let mut request =
            format!("ws://{}{PEER_PATH}", self.url).into_client_request().map_err(|error| unreachable(&error))?;
        request.headers_mut().insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(SUBPROTOCOL));
        if let Some(token) = &self.token {
            request.headers_mut().insert(header::AUTHORIZATION, token.clone());
        }
        let wire: Box<dyn Wire> = match &self.tls {
            None => Box::new(stream),
            Some(tls) => Box::new(self.shake(tls, stream).await?),
        };
        let connected = client_async_with_config(request, wire, Some(config())).await;
        Ok(Socket::from_tungstenite(connected.map_err(|error| self.no_node(error))?.0))
    }

    async fn shake(
        &self,
        tls: &TlsConnector,
        stream: TcpStream,
    ) -> Result<tokio_rustls::client::TlsStream<TcpStream>, Refusal> {
        let name = ServerName::try_from(self.url.host.clone()).map_err(|error| {
            let what = format!("{:?} cannot be the name in a certificate: {error}", self.url.host);
            refusal(code::TLS, false, what, "the parent's certificate is checked by it", "correct [parent] url")
        })?;
        tls.connect(name, stream).await.map_err(|error| match error.kind() {
            io::ErrorKind::InvalidData => {
                let what = format!("TLS with {} fails: {error}", self.url);
                let why = "its certificate is not for that name, is not signed by who is known here, or no TLS is spoken there";
                refusal(code::TLS, false, what, why, "name who signed it in [parent] ca_file; correct [parent] url")
            }
            _ => self.unreachable(&format!("TLS broke off: {error}")),
        })
    }

    /// Something answered, but not as a node does that lets this one in.
    fn no_node(&self, error: tungstenite::Error) -> Refusal {
        let url = &self.url;
        if let tungstenite::Error::Http(answer) = &error
            && (answer.status() == StatusCode::UNAUTHORIZED || lacks_right(answer))
        {
            let why = "it lists tokens, and a node shows one that may link under its name";
            let todo =
                "draw one there (`watershed token new NAME --may peer:NAME`), and name it in [parent] token_file";
            return refusal(code::NOT_LET_IN, false, self.answered(answer), why, todo);
        }
        let (retryable, what) = match error {
            tungstenite::Error::Io(error) => (true, format!("{url} broke off: {error}")),
            tungstenite::Error::Protocol(ProtocolError::HandshakeIncomplete) => (true, format!("{url} broke off")),
            tungstenite::Error::Http(answer) => {
                let later = answer.status().is_server_error() || answer.status() == StatusCode::TOO_MANY_REQUESTS;
                (later, self.answered(&answer))
            }
            error => (false, format!("{url} does not speak {SUBPROTOCOL}: {error}")),
        };
        let why = "what listens there is no Watershed node, or one that does not let this one in";
        refusal(code::NOT_A_NODE, retryable, what, why, "check [parent] url, and the parent's log")
    }

    fn answered(&self, answer: &Response<Option<Vec<u8>>>) -> String {
        let body = answer.body().as_deref().unwrap_or_default();
        let body = printable(&String::from_utf8_lossy(&body[..body.len().min(500)]));
        format!("{} answered {} {body}", self.url, answer.status())
    }
}

/// Whether the token is known, and is no node's.
fn lacks_right(answer: &Response<Option<Vec<u8>>>) -> bool {
    let body = String::from_utf8_lossy(answer.body().as_deref().unwrap_or_default());
    answer.status() == StatusCode::FORBIDDEN && body.contains("it lacks the right")
}
