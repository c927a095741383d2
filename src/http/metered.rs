//! Bodies whose bytes are counted, and that must come to their end in time.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::body::{Body, Bytes, HttpBody};
use hyper::body::{Frame, SizeHint};
use tokio::time::{Sleep, sleep};

use crate::model::limits;
use crate::node::Rate;

/// Whoever reads the body has its own words for one that is late, and says them first.
const SLACK: Duration = Duration::from_secs(5);

type Next = Poll<Option<Result<Frame<Bytes>, axum::Error>>>;

fn length(frame: &Frame<Bytes>) -> usize {
    frame.data_ref().map_or(0, Bytes::len)
}

/// A request's body: an error once it has taken too long.
pub(super) struct Arriving {
    body: Body,
    late: Pin<Box<Sleep>>,
    rate: Option<Arc<Rate>>,
}

impl Arriving {
    pub(super) fn new(body: Body, rate: Option<Arc<Rate>>) -> Arriving {
        Arriving { body, late: Box::pin(sleep(limits::HTTP_BODY_TIMEOUT + SLACK)), rate }
    }
}

impl HttpBody for Arriving {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Next {
        match Pin::new(&mut self.body).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(rate) = &self.rate {
                    rate.bytes(length(&frame), Instant::now());
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Pending if self.late.as_mut().poll(cx).is_ready() => {
                let late = std::io::Error::new(std::io::ErrorKind::TimedOut, "the body did not arrive in time");
                Poll::Ready(Some(Err(axum::Error::new(late))))
            }
            other => other,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// An answer's body, which waits where it has given more than the rate allows.
pub(super) struct Leaving {
    body: Body,
    rate: Arc<Rate>,
    wait: Option<Pin<Box<Sleep>>>,
}

impl Leaving {
    pub(super) fn new(body: Body, rate: Arc<Rate>) -> Leaving {
        Leaving { body, rate, wait: None }
    }
}

impl HttpBody for Leaving {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Next {
        if let Some(wait) = &mut self.wait {
            if wait.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            self.wait = None;
        }
        let next = Pin::new(&mut self.body).poll_frame(cx);
        if let Poll::Ready(Some(Ok(frame))) = &next {
            let wait = self.rate.bytes(length(frame), Instant::now());
            self.wait = (!wait.is_zero()).then(|| Box::pin(sleep(wait)));
        }
        next
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
