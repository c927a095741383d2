//! A connection that ends with the node, and that nobody can keep open for nothing: heads of requests that do not come to
//! their end, answers that nobody takes, and silence have their time.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, Sleep, sleep_until};

use super::answer::HEAD_LATE;
use super::call::{Call, Listener};
use super::wire::Wire;
use crate::model::limits;
use crate::node::Traffic;

const READ: usize = 0;
const WRITE: usize = 1;

/// Requests of one connection.
#[derive(Debug, Default)]
pub(super) struct Requests {
    begun: AtomicU64,
    under_way: AtomicUsize,
}

/// A request that is under way as long as this lives: until its answer has been given to the connection.
pub(super) struct UnderWay(Arc<Requests>);

impl UnderWay {
    pub(super) fn begin(requests: &Arc<Requests>) -> UnderWay {
        requests.under_way.fetch_add(1, Ordering::AcqRel);
        requests.begun.fetch_add(1, Ordering::AcqRel);
        UnderWay(requests.clone())
    }

    /// The connection is not HTTP's any more: it stays under way.
    pub(super) fn for_ever(self) {
        self.0.under_way.fetch_add(1, Ordering::AcqRel);
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Ordering::AcqRel);
    }
}

/// A timer that is only made where something is waited for.
#[derive(Default)]
struct Alarm(Option<Pin<Box<Sleep>>>);

impl Alarm {
    /// Whether that time has come; if not, the task is woken then.
    fn rings(&mut self, at: Instant, cx: &mut Context<'_>) -> bool {
        if Instant::now() >= at {
            return true;
        }
        let sleep = self.0.get_or_insert_with(|| Box::pin(sleep_until(at)));
        if sleep.deadline() > at {
            sleep.as_mut().reset(at);
        }
        // It may be set to an earlier time: then it is set anew.
        while sleep.as_mut().poll(cx).is_ready() {
            if Instant::now() >= at {
                return true;
            }
            sleep.as_mut().reset(at);
        }
        false
    }
}

/// A connection that was accepted.
pub(super) struct Connection {
    wire: Wire,
    from: SocketAddr,
    /// Reading and writing are waited for by different tasks.
    end: [Listener; 2],
    alarms: [Alarm; 2],
    requests: Arc<Requests>,
    traffic: Arc<Traffic>,
    /// Requests that had begun when the head that is waited for was not there yet.
    begun: u64,
    busy: bool,
    head_since: Option<Instant>,
    quiet_since: Instant,
    stalled_since: Option<Instant>,
    over: bool,
    _place: OwnedSemaphorePermit,
}

impl Connection {
    pub(super) fn new(
        wire: Wire,
        from: SocketAddr,
        end: &Call,
        traffic: Arc<Traffic>,
        place: OwnedSemaphorePermit,
    ) -> Connection {
        Traffic::count(&traffic.open);
        Connection {
            wire,
            from,
            end: [end.listen(), end.listen()],
            alarms: [Alarm::default(), Alarm::default()],
            requests: Arc::default(),
            traffic,
            begun: 0,
            busy: false,
            head_since: None,
            quiet_since: Instant::now(),
            stalled_since: None,
            over: false,
            _place: place,
        }
    }

    /// Who counts its requests.
    pub(super) fn requests(&self) -> Arc<Requests> {
        self.requests.clone()
    }

    /// Breaks once the node has ended.
    fn check(&mut self, half: usize, cx: &mut Context<'_>) -> io::Result<()> {
        match Pin::new(&mut self.end[half]).poll(cx) {
            Poll::Ready(()) => Err(io::Error::new(io::ErrorKind::ConnectionAborted, "the node has stopped")),
            Poll::Pending => Ok(()),
        }
    }

    /// Whether a request is under way. The head of one that has begun is forgotten; silence begins when it has ended.
    fn is_busy(&mut self) -> bool {
        let begun = self.requests.begun.load(Ordering::Acquire);
        if begun != self.begun {
            (self.begun, self.head_since, self.busy) = (begun, None, true);
        }
        let busy = self.requests.under_way.load(Ordering::Acquire) > 0;
        if self.busy && !busy {
            (self.busy, self.quiet_since) = (false, Instant::now());
        }
        busy
    }

    /// No request is under way, and nothing comes: for so long, and no longer. True is the end of reading.
    fn is_too_late(&mut self, cx: &mut Context<'_>) -> bool {
        let until = match self.head_since {
            Some(since) => since + limits::HTTP_HEAD_TIMEOUT,
            None => self.quiet_since + limits::HTTP_IDLE_MAX,
        };
        if !self.alarms[READ].rings(until, cx) {
            return false;
        }
        if self.head_since.is_some() {
            Traffic::count(&self.traffic.late);
            // Who does not take it was not to be told.
            let _ = Pin::new(&mut self.wire).poll_write(cx, &HEAD_LATE.bytes());
            let _ = Pin::new(&mut self.wire).poll_flush(cx);
        }
        self.over = true;
        true
    }

    /// Cuts off who takes nothing for too long.
    fn taken<T>(&mut self, done: Poll<io::Result<T>>, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        if done.is_ready() {
            if self.stalled_since.take().is_some() {
                self.quiet_since = Instant::now();
            }
            return done;
        }
        let since = *self.stalled_since.get_or_insert_with(Instant::now);
        if !self.alarms[WRITE].rings(since + limits::HTTP_STALL_MAX, cx) {
            return Poll::Pending;
        }
        if !std::mem::replace(&mut self.over, true) {
            let seconds = limits::HTTP_STALL_MAX.as_secs();
            tracing::info!("{} has taken nothing of its answer for {seconds} s, and is cut off", self.from);
            Traffic::count(&self.traffic.cut_off);
            self.wire.break_off();
        }
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "nothing of the answer was taken")))
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        Traffic::uncount(&self.traffic.open);
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.check(READ, cx)?;
        if self.over {
            return Poll::Ready(Ok(()));
        }
        let (before, busy) = (buf.filled().len(), self.is_busy());
        match Pin::new(&mut self.wire).poll_read(cx, buf) {
            Poll::Ready(done) => {
                if !busy && buf.filled().len() > before {
                    self.head_since.get_or_insert_with(Instant::now);
                }
                Poll::Ready(done)
            }
            Poll::Pending if !busy && self.is_too_late(cx) => Poll::Ready(Ok(())),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.check(WRITE, cx)?;
        let done = Pin::new(&mut self.wire).poll_write(cx, bytes);
        self.taken(done, cx)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check(WRITE, cx)?;
        let done = Pin::new(&mut self.wire).poll_flush(cx);
        self.taken(done, cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check(WRITE, cx)?;
        let done = Pin::new(&mut self.wire).poll_shutdown(cx);
        self.taken(done, cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.check(WRITE, cx)?;
        let done = Pin::new(&mut self.wire).poll_write_vectored(cx, bufs);
        self.taken(done, cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.wire.is_write_vectored()
    }
}
