//! Work that waits, or takes long, among tasks.

use tokio::runtime::{Handle, RuntimeFlavor};

/// Runs blocking work without stopping the other tasks of a multi-threaded runtime.
pub(crate) fn blocking<T>(work: impl FnOnce() -> T) -> T {
    match Handle::try_current().map(|handle| handle.runtime_flavor()) {
        Ok(RuntimeFlavor::MultiThread) => tokio::task::block_in_place(work),
        _ => work(),
    }
}
