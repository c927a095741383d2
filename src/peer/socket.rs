//! One shape for the WebSockets of both sides: axum's (dialled) and tokio-tungstenite's (dialling).

use std::pin::Pin;

use axum::extract::ws::{self, WebSocket};
use bytes::Bytes;
use futures_util::{Sink, SinkExt, Stream, StreamExt, future};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::{self, protocol::WebSocketConfig};

use super::host::Refusal;
use super::refusal::{code, lost, out_of_order, refusal};
use crate::model::limits;

/// The WebSocket subprotocol of links.
pub const SUBPROTOCOL: &str = "watershed.v1";

/// What travels.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Frame {
    /// A message of the protocol, or a fragment of one.
    Message(Bytes),
    /// Answered by the socket itself.
    Ping(u64),
    /// The answer to a ping; `None` if it is not one of ours.
    Pong(Option<u64>),
    /// The peer closes the connection.
    Close,
}

/// The reading half.
pub(super) type Reader = Pin<Box<dyn Stream<Item = Result<Frame, Refusal>> + Send>>;
/// The writing half.
pub(super) type Writer = Pin<Box<dyn Sink<Frame, Error = Refusal> + Send>>;

/// Both halves of a connection.
pub(super) struct Socket {
    pub reader: Reader,
    pub writer: Writer,
}

/// Buffers and bounds of a link's socket.
pub(super) fn config() -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(limits::LINK_READ_BUFFER_BYTES)
        .write_buffer_size(limits::LINK_WRITE_BUFFER_BYTES)
        .max_message_size(Some(limits::LINK_FRAME_BYTES_MAX))
        .max_frame_size(Some(limits::LINK_FRAME_BYTES_MAX))
}

/// The same for the dialled side.
pub(super) fn bounded(upgrade: ws::WebSocketUpgrade) -> ws::WebSocketUpgrade {
    upgrade
        .read_buffer_size(limits::LINK_READ_BUFFER_BYTES)
        .write_buffer_size(limits::LINK_WRITE_BUFFER_BYTES)
        .max_message_size(limits::LINK_FRAME_BYTES_MAX)
        .max_frame_size(limits::LINK_FRAME_BYTES_MAX)
}

fn number(payload: &[u8]) -> Option<u64> {
    payload.try_into().ok().map(u64::from_be_bytes)
}

fn payload(number: u64) -> Bytes {
    Bytes::copy_from_slice(&number.to_be_bytes())
}

fn text() -> Refusal {
    out_of_order("a text message came; messages are binary")
}

fn failed(error: &tungstenite::Error) -> Refusal {
    match error {
        tungstenite::Error::Capacity(why) => {
            let todo = "run the same version of Watershed at both ends; what connects there may not be Watershed";
            refusal(code::TOO_LARGE, false, why.to_string(), "larger messages travel in fragments", todo)
        }
        error => lost(format!("the connection broke: {error}")),
    }
}

impl Socket {
    /// The dialled side.
    pub(super) fn from_axum(socket: WebSocket) -> Socket {
        let (writer, reader) = socket.split();
        let reader = reader.map(|message| match message {
            Ok(ws::Message::Binary(bytes)) => Ok(Frame::Message(bytes)),
            Ok(ws::Message::Ping(bytes)) => Ok(Frame::Ping(number(&bytes).unwrap_or(0))),
            Ok(ws::Message::Pong(bytes)) => Ok(Frame::Pong(number(&bytes))),
            Ok(ws::Message::Close(_)) => Ok(Frame::Close),
            Ok(ws::Message::Text(_)) => Err(text()),
            Err(error) => Err(from_axum_error(error)),
        });
        let writer = writer.sink_map_err(from_axum_error).with(|frame| {
            future::ok::<_, Refusal>(match frame {
                Frame::Message(bytes) => ws::Message::Binary(bytes),
                Frame::Ping(number) => ws::Message::Ping(payload(number)),
                Frame::Pong(number) => ws::Message::Pong(payload(number.unwrap_or(0))),
                Frame::Close => ws::Message::Close(None),
            })
        });
        Socket { reader: Box::pin(reader), writer: Box::pin(writer) }
    }

    /// The dialling side.
    pub(super) fn from_tungstenite<S>(socket: WebSocketStream<S>) -> Socket
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        use tungstenite::Message;
        let (writer, reader) = socket.split();
        let reader = reader.map(|message| match message {
            Ok(Message::Binary(bytes)) => Ok(Frame::Message(bytes)),
            Ok(Message::Ping(bytes)) => Ok(Frame::Ping(number(&bytes).unwrap_or(0))),
            Ok(Message::Pong(bytes)) => Ok(Frame::Pong(number(&bytes))),
            Ok(Message::Close(_)) => Ok(Frame::Close),
            Ok(Message::Text(_) | Message::Frame(_)) => Err(text()),
            Err(error) => Err(failed(&error)),
        });
        let writer = writer.sink_map_err(|error| failed(&error)).with(|frame| {
            future::ok::<_, Refusal>(match frame {
                Frame::Message(bytes) => Message::Binary(bytes),
                Frame::Ping(number) => Message::Ping(payload(number)),
                Frame::Pong(number) => Message::Pong(payload(number.unwrap_or(0))),
                Frame::Close => Message::Close(None),
            })
        });
        Socket { reader: Box::pin(reader), writer: Box::pin(writer) }
    }
}

fn from_axum_error(error: axum::Error) -> Refusal {
    match error.into_inner().downcast::<tungstenite::Error>() {
        Ok(error) => failed(&error),
        Err(error) => lost(format!("the connection broke: {error}")),
    }
}
