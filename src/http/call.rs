//! What is told once to many who look for it all the time.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};

use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// Something that will be told. A token of its own would do, but every look at one takes locks that all connections share.
#[derive(Clone, Default)]
pub(super) struct Call(Arc<Inner>);

#[derive(Default)]
struct Inner {
    told: AtomicBool,
    token: CancellationToken,
}

impl Call {
    /// Tells everybody who listens, now and later.
    pub(super) fn tell(&self) {
        self.0.told.store(true, Ordering::Release);
        self.0.token.cancel();
    }

    /// Somebody who listens.
    pub(super) fn listen(&self) -> Listener {
        let waiting = Box::pin(self.0.token.clone().cancelled_owned());
        Listener { call: self.clone(), waiting, waker: None }
    }
}

/// Is ready, again and again, once it has been told.
pub(super) struct Listener {
    call: Call,
    waiting: Pin<Box<WaitForCancellationFutureOwned>>,
    /// Who is woken.
    waker: Option<Waker>,
}

impl Future for Listener {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.call.0.told.load(Ordering::Acquire) {
            return Poll::Ready(());
        }
        if self.waker.as_ref().is_some_and(|known| known.will_wake(cx.waker())) {
            return Poll::Pending;
        }
        // Whoever has polled a token's future once is woken by it, for as long as it stays the same task.
        self.waker = Some(cx.waker().clone());
        self.waiting.as_mut().poll(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn everybody_who_listens_is_told_whenever_they_began() {
        let call = Call::default();
        let listen = || tokio::spawn(call.listen());
        let before: Vec<_> = (0..100).map(|_| listen()).collect();
        let (telling, its) = (call.clone(), call.listen());
        tokio::spawn(async move { telling.tell() });
        for one in before.into_iter().chain((0..100).map(|_| listen())) {
            one.await.expect("no panic");
        }
        its.await;
        call.listen().await;
    }

    #[tokio::test]
    async fn whoever_goes_to_another_task_is_told_there() {
        let call = Call::default();
        let mut listener = call.listen();
        assert!(futures_util::poll!(&mut listener).is_pending());
        let moved = tokio::spawn(listener);
        tokio::task::yield_now().await;
        call.tell();
        moved.await.expect("no panic");
    }
}
