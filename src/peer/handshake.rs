//! From a connected socket to an established link: who says what first.

use std::sync::Arc;
use std::time::Instant;

use futures_util::{SinkExt, StreamExt};
use tokio_util::sync::CancellationToken;

use super::handle::{Control, LinkHandle};
use super::host::{Hello, Host, NodeRef, Outgoing, Refusal, Role};
use super::protocol::{Fragments, Joiner, Message};
use super::refusal::{lost, out_of_order, stopping};
use super::session::{Action, Session, Timing};
use super::socket::{Frame, Reader, Socket, Writer};
use crate::model::limits;

/// A link that stands.
pub(super) struct Established {
    pub session: Session,
    pub ours: Hello,
    pub peer: Hello,
    pub outgoing: Box<dyn Outgoing>,
    pub control: tokio::sync::mpsc::Receiver<Control>,
}

/// What became of a handshake that was not refused.
pub(super) enum Greeted {
    /// Data may flow.
    Link(Box<Established>),
    /// The peer only looked.
    Probe,
}

/// Our own name, as our path says it.
fn me(path: &[NodeRef]) -> Result<NodeRef, Refusal> {
    path.first().cloned().ok_or_else(|| out_of_order("this node's path is empty: it starts with the node itself"))
}

/// Shakes hands: the child says hello first; the parent admits it and answers; the child admits the parent.
pub(super) async fn greet(
    socket: &mut Socket,
    host: &Arc<dyn Host>,
    role: Role,
    timing: Timing,
    stop: &CancellationToken,
) -> Result<Greeted, Refusal> {
    let path = host.path().borrow().clone();
    let mut session = Session::new(role, me(&path)?, path, timing, Instant::now());
    let ours = match role {
        Role::Child => {
            let hello = host.hello(role, None).await?;
            send_hello(&mut socket.writer, &hello, timing, stop).await?;
            Some(hello)
        }
        Role::Parent => None,
    };
    let peer = tokio::select! {
        peer = read_hello(&mut socket.reader, &mut session) => peer?,
        () = stop.cancelled() => return Err(stopping()),
    };
    host.admit(role, &peer).await?;
    let hello = match ours {
        Some(hello) => hello,
        None => host.hello(role, Some(&peer)).await?,
    };
    if peer.probe {
        send_hello(&mut socket.writer, &hello, timing, stop).await?;
        return Ok(Greeted::Probe);
    }
    let (handle, control) = LinkHandle::new(limits::LINK_CONTROL_MAX);
    let outgoing = host.established(role, &peer, handle).await?;
    session.established();
    if role == Role::Parent
        && let Err(why) = send_hello(&mut socket.writer, &hello, timing, stop).await
    {
        host.closed(crate::model::LinkId(peer.node.log), &why);
        return Err(why);
    }
    Ok(Greeted::Link(Box::new(Established { session, ours: hello, peer, outgoing, control })))
}

/// Says hello to a peer that may not be reading. The stop is heard here and not around the whole handshake, so that a node
/// that was told of a link is told of its end, too.
pub(super) async fn send_hello(
    writer: &mut Writer,
    hello: &Hello,
    timing: Timing,
    stop: &CancellationToken,
) -> Result<(), Refusal> {
    tokio::select! {
        sent = send(writer, Message::Hello(hello.clone())) => sent,
        () = tokio::time::sleep(timing.handshake) => Err(lost("the peer did not read our hello")),
        () = stop.cancelled() => Err(stopping()),
    }
}

/// Sends one message and flushes.
pub(super) async fn send(writer: &mut Writer, message: Message) -> Result<(), Refusal> {
    for bytes in Fragments::new(message.encode()) {
        writer.feed(Frame::Message(bytes)).await?;
    }
    writer.flush().await
}

/// Reads until the peer has said hello, or until it has taken too long.
pub(super) async fn read_hello(reader: &mut Reader, session: &mut Session) -> Result<Hello, Refusal> {
    let mut joiner = Joiner::default();
    let deadline = tokio::time::sleep_until(session.next_tick().into());
    tokio::pin!(deadline);
    loop {
        let frame = tokio::select! {
            frame = reader.next() => frame,
            () = &mut deadline => {
                session.on_tick(Instant::now())?;
                return Err(out_of_order("the handshake ended early"));
            }
        };
        let message = match frame {
            Some(frame) => frame?,
            None => return Err(lost("the connection was closed during the handshake")),
        };
        let Frame::Message(bytes) = message else {
            if message == Frame::Close {
                return Err(lost("the peer closed the connection during the handshake"));
            }
            continue;
        };
        if let Some((message, length)) = joiner.push(bytes)? {
            let mut actions = session.on_message(message, length, Instant::now())?;
            if let Some(Action::Admit(hello)) = actions.pop() {
                return Ok(hello);
            }
        }
    }
}
