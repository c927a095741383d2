//! An original that is asked over HTTP.

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::{Request, Response, StatusCode, header};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;

use super::from::HttpFrom;
use super::original::{Original, Stretches};
use super::tls;
use super::trouble::{self, Trouble};
use crate::model::{Cursor, limits};
use crate::node::feeds::RAW_TYPE;
use crate::peer::protocol::unframe;
use crate::peer::{FeedEntries, FeedFacts, FeedMessage, reach};

/// A feed at a node that answers HTTP.
pub(super) struct HttpOriginal(pub HttpFrom);

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// An answer that goes on.
struct Answer {
    url: String,
    body: Incoming,
    bytes: BytesMut,
    /// Drives the connection; ends with the answer.
    _connection: JoinSet<()>,
}

impl HttpOriginal {
    async fn connect(&self) -> Result<Box<dyn Stream>, Trouble> {
        let HttpFrom { url, host, port, tls, ca_file, .. } = &self.0;
        let away = |error: &dyn std::fmt::Display| trouble::unreachable(format!("{url} cannot be reached: {error}"));
        if !tls {
            let stream = TcpStream::connect((&**host, *port)).await.map_err(|error| away(&error))?;
            stream.set_nodelay(true).map_err(|error| away(&error))?;
            return Ok(Box::new(stream));
        }
        let stream = reach(host, *port).await.map_err(|why| away(&why))?;
        stream.set_nodelay(true).map_err(|error| away(&error))?;
        let config = tls::client(ca_file.as_deref()).map_err(|why| away(&why))?;
        let name = ServerName::try_from(host.clone()).map_err(|error| away(&error))?;
        let stream = TlsConnector::from(config).connect(name, stream).await.map_err(|error| away(&error))?;
        Ok(Box::new(stream))
    }

    async fn ask(&self, query: &str) -> Result<(Response<Incoming>, JoinSet<()>), Trouble> {
        let from = &self.0;
        let broken = |error: hyper::Error| trouble::unreachable(format!("{} broke off: {error}", from.url));
        let stream = self.connect().await?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            // What goes wrong with it is told by the answer.
            let _ = connection.await;
        });
        let mut request = Request::get(format!("{}/entries?{query}", from.path))
            .header(header::HOST, &from.authority)
            .header(header::ACCEPT, RAW_TYPE)
            .header(header::USER_AGENT, concat!("watershed/", env!("CARGO_PKG_VERSION")));
        if let Some(token) = &from.token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        let request = request.body(Empty::<Bytes>::new());
        let request = request.map_err(|error| trouble::forbidden(format!("the token cannot be sent: {error}")))?;
        let answer = sender.send_request(request).await.map_err(broken)?;
        Ok((answer, tasks))
    }
}

#[async_trait]
impl Original for HttpOriginal {
    async fn open(&self, partition: u32, after: Option<Cursor>) -> Result<(FeedFacts, Box<dyn Stretches>), Trouble> {
        let url = &self.0.url;
        let query = match after {
            Some(cursor) => format!("partition={partition}&after={cursor}"),
            None => format!("partition={partition}&limit=0"),
        };
        let asked = async {
            let (answer, connection) = self.ask(&query).await?;
            if answer.status() != StatusCode::OK {
                return Err(refused(url, answer, after).await);
            }
            let raw = answer.headers().get(header::CONTENT_TYPE).is_some_and(|kind| kind == RAW_TYPE);
            if !raw {
                return Err(trouble::unreadable(format!("{url} does not answer with {RAW_TYPE}")));
            }
            let body = answer.into_body();
            let mut answer = Answer { url: url.clone(), body, bytes: BytesMut::new(), _connection: connection };
            match answer.message().await? {
                FeedMessage::Feeds(mut feeds) if feeds.len() == 1 => Ok((feeds.remove(0), answer)),
                _ => Err(trouble::unreadable(format!("{url} does not begin with what the feed is"))),
            }
        };
        let timeout = limits::MIRROR_CONNECT_TIMEOUT;
        let (facts, answer) = tokio::time::timeout(timeout, asked)
            .await
            .map_err(|_| trouble::unreachable(format!("{url} does not answer within {timeout:?}")))??;
        Ok((facts, Box::new(answer)))
    }
}

impl Answer {
    /// The next message. Cancel-safe: what has come stays in the buffer.
    async fn message(&mut self) -> Result<FeedMessage, Trouble> {
        loop {
            match unframe(&mut self.bytes) {
                Ok(Some(message)) => return Ok(message),
                Ok(None) => {}
                Err(error) => return Err(trouble::unreadable(format!("{}: {error}", self.url))),
            }
            let frame = tokio::time::timeout(limits::MIRROR_SILENCE_MAX, self.body.frame()).await;
            let frame = frame.map_err(|_| trouble::silent(limits::MIRROR_SILENCE_MAX.as_secs()))?;
            let broken = |why: &dyn std::fmt::Display| trouble::unreachable(format!("{} broke off: {why}", self.url));
            match frame {
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.bytes.extend_from_slice(&data);
                    }
                }
                Some(Err(error)) => return Err(broken(&error)),
                None => return Err(broken(&"the answer has ended")),
            }
        }
    }
}

#[async_trait]
impl Stretches for Answer {
    async fn next(&mut self) -> Result<FeedEntries, Trouble> {
        match self.message().await? {
            FeedMessage::Entries(entries) => Ok(entries),
            _ => Err(trouble::unreadable(format!("{} sends something else than entries", self.url))),
        }
    }
}

/// What the node of the original says to a request that it refuses.
async fn refused(url: &str, answer: Response<Incoming>, after: Option<Cursor>) -> Trouble {
    let status = answer.status();
    let mut body = http_body_util::Limited::new(answer.into_body(), limits::MIRROR_REFUSAL_BYTES_MAX);
    let mut text = Vec::new();
    // What cannot be read of it is missing from the message, no more.
    while let Some(Ok(frame)) = body.frame().await {
        text.extend_from_slice(&frame.into_data().unwrap_or_default());
    }
    let said: serde_json::Value = serde_json::from_slice(&text).unwrap_or_default();
    let clean = |c: char| if c.is_control() { ' ' } else { c };
    let message: String = said["message"].as_str().unwrap_or_default().chars().take(500).map(clean).collect();
    let what = format!("{url} answers {status} {message}");
    match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => trouble::forbidden(what),
        StatusCode::NOT_FOUND => trouble::missing(what),
        StatusCode::GONE => trouble::trimmed(what),
        StatusCode::CONFLICT | StatusCode::RANGE_NOT_SATISFIABLE => match after {
            Some(here) => trouble::parted_at(here, &message),
            None => trouble::parted(what),
        },
        status if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS => trouble::unreachable(what),
        _ => trouble::unreadable(what),
    }
}
