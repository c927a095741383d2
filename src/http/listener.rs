//! Connections that end with the node, also when their other end neither asks nor reads.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::serve::Listener;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// A listener whose connections break once `end` is cancelled.
pub struct Ending {
    /// Bound.
    pub listener: TcpListener,
    /// Ends every connection.
    pub end: CancellationToken,
}

/// A connection of an [`Ending`] listener.
pub struct EndingStream {
    stream: TcpStream,
    end: [Pin<Box<WaitForCancellationFutureOwned>>; 2],
}

impl Listener for Ending {
    type Io = EndingStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (EndingStream, SocketAddr) {
        let (stream, address) = Listener::accept(&mut self.listener).await;
        // Heartbeats and small transactions leave at once.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!("TCP_NODELAY: {error}");
        }
        let end = || Box::pin(self.end.clone().cancelled_owned());
        (EndingStream { stream, end: [end(), end()] }, address)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

impl EndingStream {
    /// Breaks once the node has ended. Reading (0) and writing (1) are waited for by different tasks.
    fn check(&mut self, half: usize, cx: &mut Context<'_>) -> io::Result<()> {
        match self.end[half].as_mut().poll(cx) {
            Poll::Ready(()) => Err(io::Error::new(io::ErrorKind::ConnectionAborted, "the node has stopped")),
            Poll::Pending => Ok(()),
        }
    }
}

impl AsyncRead for EndingStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.check(0, cx)?;
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for EndingStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.check(1, cx)?;
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.check(1, cx)?;
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
