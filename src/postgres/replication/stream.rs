//! What the server streams.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::io::ReadHalf;
use tokio::task::JoinHandle;

use super::Lsn;
use super::connection::{self, Connection};
use super::error::ReplicationError;
use super::pgoutput::{Decoder, Message};
use super::socket::Duplex;
use super::status::{self, Standing};
use super::wire::{Fields, Frame, Incoming};

/// Before a message's content: where it stands, how far the server is, and when it was sent.
const DATA_HEADER_BYTES: usize = 1 + 8 + 8 + 8;

/// What comes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A message of `pgoutput`.
    Data(Data),
    /// Everything that there is to send before `end` has been sent. If all of it is stored, `end` can be acknowledged: so the
    /// slot moves on though nothing is published, and a server that stops need not wait for us.
    KeepAlive {
        /// How far the server is.
        end: Lsn,
    },
}

/// A message of `pgoutput`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Data {
    /// Where it stands in the transaction log; 0 for what stands nowhere (relations, parts).
    pub start: Lsn,
    /// The transaction or subtransaction that it belongs to, between [`Message::StreamStart`] and [`Message::StreamStop`].
    pub xid: Option<u32>,
    /// What it says.
    pub message: Message,
}

/// A stream of changes. While it exists the server is told every few seconds that we are alive, whether or not anybody calls
/// [`ReplicationStream::next`]. Dropping it ends the connection. After an error it is of no more use.
pub struct ReplicationStream {
    url: String,
    doing: String,
    socket: ReadHalf<Box<dyn Duplex>>,
    incoming: Incoming,
    decoder: Decoder,
    sent_upto: Lsn,
    silence: Duration,
    standing: Arc<Standing>,
    status: JoinHandle<io::Result<()>>,
}

impl Drop for ReplicationStream {
    fn drop(&mut self) {
        self.status.abort();
    }
}

impl ReplicationStream {
    pub(super) fn new(
        connection: Connection,
        doing: String,
        from: Lsn,
        status_interval: Duration,
        silence: Duration,
    ) -> ReplicationStream {
        let Connection { url, socket, incoming, .. } = connection;
        let (socket, writing) = tokio::io::split(socket);
        let standing = Arc::new(Standing::new(from));
        let status = tokio::spawn(status::report(writing, Arc::clone(&standing), status_interval));
        let decoder = Decoder::new();
        ReplicationStream { url, doing, socket, incoming, decoder, sent_upto: from, silence, standing, status }
    }

    /// The next event. Nothing is lost when this is dropped before it is ready.
    ///
    /// # Errors
    /// The connection is lost, the server stops or refuses (a slot that was invalidated, a publication that is none), is silent,
    /// or sends what cannot be read.
    pub async fn next(&mut self) -> Result<Event, ReplicationError> {
        loop {
            if let Some(event) = self.at_hand()? {
                return Ok(event);
            }
            self.wait().await?;
        }
    }

    /// The next event if it is there already, read or about to be; `None`: it is worth waiting.
    ///
    /// # Errors
    /// As [`ReplicationStream::next`].
    pub fn try_next(&mut self) -> Result<Option<Event>, ReplicationError> {
        loop {
            if let Some(event) = self.at_hand()? {
                return Ok(Some(event));
            }
            match self.incoming.read(&mut self.socket).now_or_never() {
                Some(read) => self.has_read(read)?,
                None => return Ok(None),
            }
        }
    }

    /// The server's position, as far as it was heard: everything before it has been sent, and what was heard last.
    pub fn sent_upto(&self) -> Lsn {
        self.sent_upto
    }

    /// What is acknowledged so far, and told the server soon.
    pub fn acknowledged(&self) -> Lsn {
        self.standing.acknowledged()
    }

    /// Everything before it is stored: the server forgets it, and a later stream from the slot begins behind it. It is told
    /// soon, not at once. What was acknowledged remains so: a lower place changes nothing.
    pub fn acknowledge(&self, upto: Lsn) {
        self.standing.acknowledge(upto);
    }

    /// Has the server say how far it is: a [`Event::KeepAlive`] comes, behind what is under way.
    pub fn ask_for_reply(&self) {
        self.standing.ask();
    }

    /// Ends the stream in good order, so that the slot is free when this returns: the server hears what was acknowledged, and
    /// what it has under way is thrown away.
    ///
    /// # Errors
    /// It does not end within `limit`, or the connection is lost.
    pub async fn close(mut self, limit: Duration) -> Result<(), ReplicationError> {
        self.standing.end();
        let ended = tokio::time::timeout(limit, async {
            loop {
                match self.frame() {
                    Ok(Some(frame)) if frame.tag == b'Z' => return Ok(()),
                    Ok(Some(frame)) if frame.tag == b'E' => return Err(self.refused(&frame)),
                    Ok(Some(_)) => {}
                    Ok(None) => match self.incoming.read(&mut self.socket).await {
                        Ok(0) => return Ok(()),
                        read => self.has_read(read)?,
                    },
                    Err(error) => return Err(error),
                }
            }
        });
        let ended = ended.await;
        ended.map_err(|_| ReplicationError::Timeout { url: self.url.clone(), limit })?
    }

    /// Reads, and asks whether the server is there when nothing comes.
    async fn wait(&mut self) -> Result<(), ReplicationError> {
        let half = self.silence / 2;
        let read = match tokio::time::timeout(half, self.incoming.read(&mut self.socket)).await {
            Ok(read) => read,
            Err(_) => {
                self.standing.ask();
                let silent = |_| ReplicationError::Silent { url: self.url.clone(), limit: self.silence };
                tokio::time::timeout(half, self.incoming.read(&mut self.socket)).await.map_err(silent)?
            }
        };
        self.has_read(read)
    }

    fn has_read(&self, read: io::Result<usize>) -> Result<(), ReplicationError> {
        match read {
            Ok(0) => Err(self.lost(io::ErrorKind::UnexpectedEof.into())),
            Ok(_) => Ok(()),
            Err(error) => Err(self.lost(error)),
        }
    }

    /// The next event of what was read.
    fn at_hand(&mut self) -> Result<Option<Event>, ReplicationError> {
        while let Some(frame) = self.frame()? {
            match frame.tag {
                b'd' => return self.event(frame).map(Some),
                b'E' => return Err(self.refused(&frame)),
                b'C' | b'c' => return Err(ReplicationError::Ended { url: self.url.clone() }),
                b'N' | b'S' => {}
                tag => return Err(self.unexpected(format!("a message {:?} came", char::from(tag)))),
            }
        }
        Ok(None)
    }

    fn frame(&mut self) -> Result<Option<Frame>, ReplicationError> {
        self.incoming.next().map_err(|error| self.lost(error))
    }

    fn event(&mut self, frame: Frame) -> Result<Event, ReplicationError> {
        let block = self.incoming.block();
        let mut fields = Fields(&block[frame.range.clone()]);
        match fields.u8() {
            Some(b'w') => {
                let (Some(start), Some(_), Some(_)) = (fields.u64(), fields.u64(), fields.u64()) else {
                    return Err(self.unexpected("a message of data ends too early"));
                };
                let range = frame.range.start + DATA_HEADER_BYTES..frame.range.end;
                let decoded = self.decoder.decode_within(block, range);
                let decoded = decoded.map_err(|error| ReplicationError::Decode { url: self.url.clone(), error })?;
                self.heard(Lsn(start));
                Ok(Event::Data(Data { start: Lsn(start), xid: decoded.xid, message: decoded.message }))
            }
            Some(b'k') => {
                let (Some(end), Some(_), Some(asks)) = (fields.u64(), fields.u64(), fields.u8()) else {
                    return Err(self.unexpected("a sign of life ends too early"));
                };
                self.heard(Lsn(end));
                if asks == 1 {
                    self.standing.answer();
                }
                Ok(Event::KeepAlive { end: Lsn(end) })
            }
            kind => Err(self.unexpected(format!("copied data of kind {kind:?} came"))),
        }
    }

    fn heard(&mut self, upto: Lsn) {
        if upto > self.sent_upto {
            self.sent_upto = upto;
            self.standing.receive(upto);
        }
    }

    fn lost(&self, source: io::Error) -> ReplicationError {
        connection::lost(&self.url, &self.doing, source)
    }

    fn refused(&self, frame: &Frame) -> ReplicationError {
        let content = &self.incoming.block()[frame.range.clone()];
        connection::refused(&self.url, &self.doing, content)
    }

    fn unexpected(&self, why: impl Into<String>) -> ReplicationError {
        ReplicationError::Unexpected { url: self.url.clone(), doing: self.doing.clone(), why: why.into() }
    }
}
