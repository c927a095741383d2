//! One connection before it streams: messages asked and answered.

use std::io;

use bytes::{Bytes, BytesMut};
use tokio::io::AsyncWriteExt;

use super::error::ReplicationError;
use super::socket::Duplex;
use super::wire::{Incoming, server_error};
use crate::postgres::Endpoint;

/// A socket with what was read from it.
pub(super) struct Connection {
    pub(super) url: String,
    pub(super) socket: Box<dyn Duplex>,
    pub(super) incoming: Incoming,
    /// Of the server: what it is set to.
    parameters: Vec<(String, String)>,
}

impl Connection {
    pub(super) fn new(endpoint: &Endpoint, socket: Box<dyn Duplex>) -> Connection {
        let url = endpoint.name().to_string();
        Connection { url, socket, incoming: Incoming::default(), parameters: Vec::new() }
    }

    pub(super) fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.iter().rfind(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    pub(super) fn lost(&self, doing: &str, source: io::Error) -> ReplicationError {
        lost(&self.url, doing, source)
    }

    pub(super) fn unexpected(&self, doing: &str, why: impl Into<String>) -> ReplicationError {
        ReplicationError::Unexpected { url: self.url.clone(), doing: doing.into(), why: why.into() }
    }

    pub(super) fn refused(&self, doing: &str, content: &[u8]) -> ReplicationError {
        refused(&self.url, doing, content)
    }

    pub(super) async fn send(&mut self, doing: &str, bytes: &BytesMut) -> Result<(), ReplicationError> {
        let sent = async {
            self.socket.write_all(bytes).await?;
            self.socket.flush().await
        };
        sent.await.map_err(|source| self.lost(doing, source))
    }

    /// The next message but notices and settings: tag and content.
    pub(super) async fn receive(&mut self, doing: &str) -> Result<(u8, Bytes), ReplicationError> {
        loop {
            let Some(frame) = self.incoming.next().map_err(|source| lost(&self.url, doing, source))? else {
                let read = self.incoming.read(&mut self.socket).await;
                match read.map_err(|source| lost(&self.url, doing, source))? {
                    0 => return Err(self.lost(doing, io::ErrorKind::UnexpectedEof.into())),
                    _ => continue,
                }
            };
            let content = self.incoming.block().slice(frame.range);
            match frame.tag {
                b'N' => tracing::debug!("{}: {}", self.url, server_error(&content)),
                b'S' => {
                    let mut fields = super::wire::Fields(&content);
                    self.parameters.extend(fields.text().zip(fields.text()));
                }
                tag => return Ok((tag, content)),
            }
        }
    }
}

/// The connection broke, or has what no connection has.
pub(super) fn lost(url: &str, doing: &str, source: io::Error) -> ReplicationError {
    let (url, doing) = (url.to_string(), doing.to_string());
    match source.kind() {
        io::ErrorKind::InvalidData => ReplicationError::Unexpected { url, doing, why: source.to_string() },
        _ => ReplicationError::Lost { url, doing, source },
    }
}

/// The server's refusal.
pub(super) fn refused(url: &str, doing: &str, content: &[u8]) -> ReplicationError {
    let error = Box::new(server_error(content));
    ReplicationError::Server { url: url.to_string(), doing: doing.to_string(), error }
}
