//! A cheap handle to a running link.

use tokio::sync::mpsc;

use super::feed::FeedMessage;
use super::host::{CopyMessage, Offer, Refusal};

/// What the node asks of a link.
#[derive(Clone, Debug)]
pub enum Control {
    /// Send a message of a first copy.
    Copy(CopyMessage),
    /// Send a message about feeds.
    Feed(FeedMessage),
    /// Announce what will be sent from now on.
    Offers(Vec<Offer>),
    /// Tell the peer why and end the link.
    Close(Refusal),
}

/// Sends control messages to a link and closes it.
#[derive(Clone, Debug)]
pub struct LinkHandle {
    control: mpsc::Sender<Control>,
}

impl LinkHandle {
    /// A handle and the end that the link reads, bounded.
    pub fn new(capacity: usize) -> (LinkHandle, mpsc::Receiver<Control>) {
        let (control, receiver) = mpsc::channel(capacity);
        (LinkHandle { control }, receiver)
    }

    /// Waits for room; false when the link is gone.
    pub async fn send(&self, control: Control) -> bool {
        self.control.send(control).await.is_ok()
    }

    /// Waits until the link is gone.
    pub async fn closed(&self) {
        self.control.closed().await;
    }
}
