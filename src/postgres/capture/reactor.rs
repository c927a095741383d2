//! The runtime of the capturing thread itself: it waits for its socket without another thread between, which would cost two
//! changes of threads for every message of the server.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};
use tokio_util::sync::CancellationToken;

use super::failure::{self, Failed};

/// What a server writes within this time is read at once: it goes on writing without being held up by our waking.
const NAP: Duration = Duration::from_micros(150);

/// A runtime without threads: whoever calls it runs it.
#[derive(Clone)]
pub(super) struct Reactor(Arc<Owned>);

struct Owned(Option<Runtime>);

impl Drop for Owned {
    fn drop(&mut self) {
        // It may be dropped within another runtime, where waiting is not allowed. There is nothing to wait for.
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

impl Reactor {
    fn new() -> io::Result<Reactor> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        Ok(Reactor(Arc::new(Owned(Some(runtime)))))
    }

    /// Runs it until the work is done; not within a runtime.
    pub fn block_on<T>(&self, work: impl Future<Output = T>) -> T {
        self.0.0.as_ref().expect("only its end takes it").block_on(work)
    }

    /// Does something over connections that belong to a new one, from within another runtime. Nothing of it is left when
    /// this is dropped before it is ready, at once or a little later.
    pub async fn begin<T: Send + 'static, W>(work: impl FnOnce(Reactor) -> W + Send + 'static) -> Result<T, Failed>
    where
        W: Future<Output = Result<T, Failed>>,
    {
        let cancelled = CancellationToken::new();
        let _guard = cancelled.clone().drop_guard();
        let working = tokio::task::spawn_blocking(move || {
            let reactor = Reactor::new().map_err(failure::not_begun)?;
            let its = reactor.clone();
            reactor.block_on(async {
                tokio::select! {
                    done = work(its) => done,
                    () = cancelled.cancelled() => Err(failure::not_begun("it is not waited for any more")),
                }
            })
        });
        match working.await {
            Ok(done) => done,
            Err(ended) if ended.is_panic() => std::panic::resume_unwind(ended.into_panic()),
            Err(_) => Err(failure::not_begun("it is not waited for any more")),
        }
    }
}

/// Lets a server that has much to send write on, instead of being woken by every message of it.
pub(super) fn nap() {
    std::thread::sleep(NAP);
}
