//! The writing half of a link: small messages first, then what the node asks for, then entries.

use std::convert::Infallible;

use bytes::Bytes;
use futures_util::SinkExt;
use tokio::sync::mpsc;

use super::handle::Control;
use super::host::Refusal;
use super::outbox::Outbox;
use super::protocol::{Fragments, Message};
use super::socket::{Frame, Writer};

/// What waits for the writer.
pub(super) struct Queues<'a> {
    pub outbox: &'a Outbox,
    pub control: mpsc::Receiver<Control>,
    /// Encoded entries and heartbeats, in order.
    pub data: mpsc::Receiver<Bytes>,
    /// A stretch of a feed was sent last: entries that wait come before the next one.
    pub data_next: bool,
}

impl Queues<'_> {
    /// The next message that may take several fragments, if one waits.
    fn next_large(&mut self) -> Result<Option<Fragments>, Refusal> {
        if let Some(message) = self.outbox.next_large() {
            return Ok(Some(Fragments::new(message.encode())));
        }
        if std::mem::take(&mut self.data_next)
            && let Ok(encoded) = self.data.try_recv()
        {
            return Ok(Some(Fragments::new(encoded)));
        }
        if let Ok(control) = self.control.try_recv() {
            self.data_next = matches!(control, Control::Feed(_));
            return asked(control).map(Some);
        }
        Ok(self.data.try_recv().ok().map(Fragments::new))
    }

    /// Waits for something to write; gives it if it was taken out of its queue.
    async fn wait(&mut self) -> Result<Option<Fragments>, Refusal> {
        // A node that has dropped its handle asks for nothing more: a closed queue is not waited for.
        let listening = !self.control.is_closed();
        tokio::select! {
            () = self.outbox.changed() => Ok(None),
            Some(control) = self.control.recv(), if listening => asked(control).map(Some),
            Some(encoded) = self.data.recv() => Ok(Some(Fragments::new(encoded))),
        }
    }
}

fn asked(control: Control) -> Result<Fragments, Refusal> {
    match control {
        Control::Copy(copy) => Ok(Fragments::new(Message::Copy(copy).encode())),
        Control::Feed(message) => Ok(Fragments::new(Message::Feed(message).encode())),
        Control::Offers(offers) => Ok(Fragments::new(Message::Offers(offers).encode())),
        Control::Close(why) => Err(why),
    }
}

/// Writes until the connection breaks or the node closes the link.
pub(super) async fn write(writer: &mut Writer, mut queues: Queues<'_>) -> Result<Infallible, Refusal> {
    let mut current: Option<Fragments> = None;
    loop {
        while let Some(frame) = queues.outbox.next_small() {
            writer.feed(frame).await?;
        }
        if current.is_none() {
            current = queues.next_large()?;
        }
        match current.as_mut().map(Iterator::next) {
            Some(Some(bytes)) => writer.feed(Frame::Message(bytes)).await?,
            Some(None) => current = None,
            None => {
                writer.flush().await?;
                current = queues.wait().await?;
            }
        }
    }
}
