//! Accepts connections, within bounds, and serves HTTP/1 on them until the node stops.

use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes, HttpBody};
use axum::http::{Request, StatusCode};
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower_service::Service;

use super::answer::{Answer, NOT_TLS, TOO_MANY};
use super::call::{Call, Listener};
use super::connection::{Connection, UnderWay};
use super::wire::Wire;
use crate::model::limits;
use crate::node::{ServerTls, Traffic, open_files};

/// Between attempts to accept when there are no files left.
const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(100);

/// What a listener serves.
#[derive(Clone)]
pub(super) struct Served {
    /// What answers.
    pub app: Router,
    /// The certificate; without one it is plain HTTP.
    pub tls: Option<Arc<ServerTls>>,
    /// Who counts.
    pub traffic: Arc<Traffic>,
    /// Ends the listening at once, and connections when what is under way on them is done.
    pub stop: CancellationToken,
    /// Ends all connections, done or not, so long after `stop`.
    pub drain: Duration,
}

/// What connections are told.
#[derive(Clone, Default)]
struct Calls {
    /// What is under way is answered, and nothing more.
    last_answer: Call,
    /// Nothing is waited for any more.
    end: Call,
}

/// The bounds of one listener.
struct Bounds {
    places: Arc<Semaphore>,
    count: u32,
    handshakes: Arc<Semaphore>,
    turned_away: Arc<Semaphore>,
}

impl Bounds {
    /// By what the process may open.
    fn new() -> Bounds {
        let allowed = open_files().map_or(usize::MAX, |files| usize::try_from(files).unwrap_or(usize::MAX));
        let share = allowed / 100 * limits::HTTP_CONNECTIONS_SHARE;
        let places = share.clamp(1, limits::HTTP_CONNECTIONS_MAX);
        Bounds {
            places: Arc::new(Semaphore::new(places)),
            count: places as u32,
            handshakes: Arc::new(Semaphore::new(limits::HTTP_HANDSHAKES_MAX)),
            turned_away: Arc::new(Semaphore::new(limits::HTTP_TURNED_AWAY_MAX.min(allowed / 20).max(1))),
        }
    }
}

impl Served {
    /// Serves until it is stopped; returns when the last connection has ended.
    pub(super) async fn run(self, listener: TcpListener) {
        let (bounds, tasks, calls) = (Bounds::new(), TaskTracker::new(), Calls::default());
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = self.stop.cancelled() => break,
            };
            match accepted {
                Ok((stream, from)) => self.accepted(stream, from, &bounds, &tasks, &calls),
                // Somebody who has gone again.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => {
                    tracing::warn!("no connection can be accepted at the moment: {error}");
                    tokio::time::sleep(ACCEPT_RETRY_DELAY).await;
                }
            }
        }
        drop(listener);
        calls.last_answer.tell();
        tasks.close();
        // Answers under way are finished, and links say goodbye; whoever has not asked, or does not read, is waited for no
        // longer.
        let all_gone = async {
            tasks.wait().await;
            // Connections that are not HTTP's any more have their places, too.
            let _ = bounds.places.acquire_many(bounds.count).await;
        };
        if timeout(self.drain, all_gone).await.is_err() {
            calls.end.tell();
            tasks.wait().await;
        }
    }

    fn accepted(&self, stream: TcpStream, from: SocketAddr, bounds: &Bounds, tasks: &TaskTracker, calls: &Calls) {
        // Heartbeats and small transactions leave at once.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!("TCP_NODELAY: {error}");
        }
        let Ok(place) = bounds.places.clone().try_acquire_owned() else {
            Traffic::count(&self.traffic.turned_away);
            // When there are too many of these, too, the connection is closed without a word.
            if let Ok(told) = bounds.turned_away.clone().try_acquire_owned() {
                let (served, end) = (self.clone(), calls.end.listen());
                tasks.spawn(async move {
                    let telling = async {
                        if let Ok(wire) = served.wire(stream).await {
                            say(wire, &TOO_MANY).await;
                        }
                    };
                    tokio::select! {
                        _ = timeout(limits::HTTP_TURNED_AWAY_TIMEOUT, telling) => {}
                        () = end => {}
                    }
                    drop(told);
                });
            }
            return;
        };
        let (served, calls, handshakes) = (self.clone(), calls.clone(), bounds.handshakes.clone());
        tasks.spawn(async move {
            let wire = if served.tls.is_none() {
                Wire::Plain(stream)
            } else {
                let Ok(_shaking) = handshakes.try_acquire() else {
                    return Traffic::count(&served.traffic.turned_away);
                };
                let shaken = tokio::select! {
                    shaken = timeout(limits::HTTP_HANDSHAKE_TIMEOUT, served.wire(stream)) => shaken,
                    () = calls.end.listen() => return,
                };
                match shaken {
                    Ok(Ok(wire)) => wire,
                    Ok(Err(error)) => return tracing::debug!("TLS with {from}: {error}"),
                    Err(_) => return Traffic::count(&served.traffic.late),
                }
            };
            let connection = Connection::new(wire, from, &calls.end, served.traffic.clone(), place);
            served.converse(connection, from, calls.last_answer.listen()).await;
        });
    }

    /// Shakes hands, where TLS is spoken.
    async fn wire(&self, stream: TcpStream) -> io::Result<Wire> {
        let Some(tls) = &self.tls else { return Ok(Wire::Plain(stream)) };
        let mut first = [0];
        // A TLS record never begins with a letter, a request always does.
        if stream.peek(&mut first).await? == 1 && first[0].is_ascii_alphabetic() {
            let _ = timeout(limits::HTTP_TURNED_AWAY_TIMEOUT, say(Wire::Plain(stream), &NOT_TLS)).await;
            return Err(io::Error::new(io::ErrorKind::InvalidData, "plain HTTP came"));
        }
        Ok(Wire::Tls(Box::new(TlsAcceptor::from(tls.config()).accept(stream).await?)))
    }

    async fn converse(self, connection: Connection, from: SocketAddr, last_answer: Listener) {
        let (requests, app) = (connection.requests(), self.app);
        let service = service_fn(move |request: Request<Incoming>| {
            let under_way = UnderWay::begin(&requests);
            let answering = app.clone().call(request);
            async move {
                let response = answering.await?;
                if response.status() == StatusCode::SWITCHING_PROTOCOLS {
                    under_way.for_ever();
                    return Ok::<_, std::convert::Infallible>(
                        response.map(|body| Answering { body, _under_way: None }),
                    );
                }
                Ok(response.map(|body| Answering { body, _under_way: Some(under_way) }))
            }
        });
        let mut http = http1::Builder::new();
        // The connection itself looks at the time.
        http.header_read_timeout(None)
            .max_header_size(limits::HTTP_HEAD_BYTES_MAX)
            .max_buf_size(limits::HTTP_BUFFER_BYTES_MAX);
        let conversing = http.serve_connection(TokioIo::new(connection), service).with_upgrades();
        let mut conversing = pin!(conversing);
        let ended = tokio::select! {
            ended = conversing.as_mut() => ended,
            () = last_answer => {
                conversing.as_mut().graceful_shutdown();
                conversing.await
            }
        };
        if let Err(error) = ended {
            tracing::debug!("the connection of {from} ended: {error}");
        }
    }
}

/// An answer whose request is under way until it has been given away.
struct Answering {
    body: Body,
    _under_way: Option<UnderWay>,
}

impl HttpBody for Answering {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Says it, and waits a moment until the other end has read it: what is closed with something unread is not read.
async fn say(mut wire: Wire, answer: &Answer) {
    let saying = async {
        wire.write_all(&answer.bytes()).await?;
        wire.shutdown().await?;
        let (mut rest, mut left) = ([0; 1024], 64);
        while left > 0 && wire.read(&mut rest).await? > 0 {
            left -= 1;
        }
        Ok::<_, io::Error>(())
    };
    if let Err(error) = saying.await {
        tracing::debug!("{error}");
    }
}
