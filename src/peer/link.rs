//! Runs one link over a connected WebSocket: one task, in which reading, writing, sending, receiving and the clock go on
//! side by side and none of them waits for another.

use std::collections::HashSet;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use futures_util::{SinkExt, StreamExt};
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;

use super::handshake::{Established, Greeted, greet, send};
use super::host::{Hello, Host, Refusal, Role};
use super::outbox::Outbox;
use super::protocol::{Joiner, Message};
use super::receive::{Inbox, Receiver};
use super::refusal::{PEER_SAYS, code, lost, stopping};
use super::send::Sender;
use super::session::{Action, Session, Timing};
use super::socket::{Frame, Reader, Socket, Writer};
use super::write::{Queues, write};
use crate::model::{LinkId, Position, limits};

/// Encoded messages between the sender and the writer.
const DATA_QUEUE: usize = 4;

/// What the halves of a link share.
struct Shared {
    host: Arc<dyn Host>,
    peer: LinkId,
    session: Mutex<Session>,
    outbox: Outbox,
    inbox: Inbox,
    credits: Notify,
}

/// Runs a link until it ends, tells the peer why, and returns it. `up` is called once it stands.
pub(super) async fn run(
    mut socket: Socket,
    host: Arc<dyn Host>,
    role: Role,
    timing: Timing,
    stop: CancellationToken,
    up: impl FnOnce(&Hello) + Send,
) -> Refusal {
    let why = match greet(&mut socket, &host, role, timing, &stop).await {
        Ok(Greeted::Link(link)) => {
            up(&link.peer);
            let peer = LinkId(link.peer.node.log);
            let why = run_established(&mut socket, &host, role, timing, *link, stop).await;
            host.closed(peer, &why);
            return why;
        }
        Ok(Greeted::Probe) => stopping(),
        Err(why) => why,
    };
    farewell(&mut socket, &why).await;
    why
}

async fn run_established(
    socket: &mut Socket,
    host: &Arc<dyn Host>,
    role: Role,
    timing: Timing,
    link: Established,
    stop: CancellationToken,
) -> Refusal {
    let peer = LinkId(link.peer.node.log);
    let shared = Shared {
        host: host.clone(),
        peer,
        session: Mutex::new(link.session),
        outbox: Outbox::default(),
        inbox: Inbox::default(),
        credits: Notify::new(),
    };
    let (data_in, data) = mpsc::channel(DATA_QUEUE);
    let sender = Sender {
        host: &**host,
        session: &shared.session,
        credits: &shared.credits,
        data: data_in,
        me: link.ours.node.log,
        covered: link.peer.received.map_or(Position::ZERO, |cursor| cursor.position),
        defined: HashSet::new(),
        timing,
        told: Vec::new(),
    };
    let act = |actions| shared.act(actions);
    let receiver = Receiver::new(&**host, &shared.session, &shared.inbox, &act, peer);
    let stop_receiving = CancellationToken::new();
    let receiving = receiver.run(stop_receiving.clone());
    tokio::pin!(receiving);
    let queues = Queues { outbox: &shared.outbox, control: link.control, data, data_next: false };
    let ended = tokio::select! {
        ended = shared.read(&mut socket.reader) => ended,
        ended = write(&mut socket.writer, queues) => ended,
        ended = sender.run(link.outgoing) => ended,
        ended = shared.tick() => ended,
        ended = shared.announce(role, &link.ours) => ended,
        ended = &mut receiving => {
            let why = refused(ended);
            farewell(socket, &why).await;
            return why;
        }
        () = stop.cancelled() => Err(stopping()),
    };
    let why = refused(ended);
    // An append that is under way is finished, so that the next hello speaks of a cursor that stands still.
    stop_receiving.cancel();
    let _ = tokio::join!(farewell(socket, &why), receiving);
    why
}

fn refused(ended: Result<Infallible, Refusal>) -> Refusal {
    match ended {
        Ok(never) => match never {},
        Err(why) => why,
    }
}

impl Shared {
    fn session(&self) -> MutexGuard<'_, Session> {
        self.session.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does what the session says, as far as it needs no waiting.
    fn act(&self, actions: Vec<Action>) -> Result<(), Refusal> {
        for action in actions {
            match action {
                Action::Send(message) => self.outbox.push(message)?,
                Action::Ping(number) => self.outbox.ping(number),
                Action::Append(entries) => self.inbox.push(entries),
                Action::Acknowledged(cursor) => self.host.acknowledged(self.peer, cursor),
                Action::Credits => self.credits.notify_one(),
                Action::Delivered(lag) => self.host.delivered(self.peer, lag),
                Action::Reached(heads) => self.host.reached(self.peer, heads),
                Action::Replicas(replicas) => self.host.replicas_say(self.peer, replicas),
                Action::Copy(_) | Action::Feed(_) | Action::Changed(_) | Action::Admit(_) => {
                    unreachable!("the reader does these")
                }
            }
        }
        Ok(())
    }

    async fn read(&self, reader: &mut Reader) -> Result<Infallible, Refusal> {
        let mut joiner = Joiner::default();
        loop {
            let frame = reader.next().await.ok_or_else(|| lost("the connection was closed"))??;
            let bytes = match frame {
                Frame::Message(bytes) => bytes,
                Frame::Close => return Err(lost("the peer closed the connection")),
                Frame::Ping(_) => {
                    self.session().on_sign_of_life(None, Instant::now());
                    continue;
                }
                Frame::Pong(number) => {
                    self.session().on_sign_of_life(number, Instant::now());
                    continue;
                }
            };
            let Some((message, length)) = joiner.push(bytes)? else {
                self.session().on_sign_of_life(None, Instant::now());
                continue;
            };
            let actions = self.session().on_message(message, length, Instant::now())?;
            for action in actions {
                match action {
                    Action::Copy(copy) => self.host.copy(self.peer, copy).await,
                    Action::Feed(message) => self.host.feed(self.peer, message).await,
                    Action::Changed(change) => self.host.changed(self.peer, change).await,
                    other => self.act(vec![other])?,
                }
            }
        }
    }

    async fn tick(&self) -> Result<Infallible, Refusal> {
        loop {
            let next = self.session().next_tick();
            tokio::time::sleep_until(next.into()).await;
            let actions = self.session().on_tick(Instant::now())?;
            self.act(actions)?;
        }
    }

    /// Announces what has changed since our hello: the path to a child, the subtree to a parent.
    async fn announce(&self, role: Role, ours: &Hello) -> Result<Infallible, Refusal> {
        let (mut path, mut below) = (self.host.path(), self.host.below());
        let (mut said_path, mut said_below) = (ours.path.clone(), ours.below.clone());
        loop {
            let now_path = path.borrow_and_update().clone();
            if now_path != said_path {
                said_path.clone_from(&now_path);
                let actions = self.session().on_path_changed(now_path)?;
                self.act(actions)?;
            }
            let now_below = below.borrow_and_update().clone();
            if role == Role::Child && now_below != said_below {
                said_below.clone_from(&now_below);
                self.outbox.below(now_below);
            }
            let gone = tokio::select! {
                changed = path.changed() => changed.is_err(),
                changed = below.changed() => changed.is_err(),
            };
            if gone {
                return Err(stopping());
            }
        }
    }
}

/// Tells the peer why, unless it knows or is gone, and waits a little for it to close.
async fn farewell(socket: &mut Socket, why: &Refusal) {
    if matches!(&*why.code, code::LOST | code::BYE) || why.message.starts_with(PEER_SAYS) {
        return;
    }
    let message = match &*why.code {
        code::STOPPING => Message::Bye("it is stopping".into()),
        _ => Message::Failure(why.clone()),
    };
    let goodbye = async {
        let Socket { reader, writer } = socket;
        close(writer, message).await?;
        // Unread bytes at closing would reset the connection, and the peer might never read why.
        while let Some(Ok(frame)) = reader.next().await {
            if frame == Frame::Close {
                break;
            }
        }
        Ok::<(), Refusal>(())
    };
    // Whether the peer has heard it makes no difference to us.
    let _ = tokio::time::timeout(limits::FAREWELL_TIMEOUT, goodbye).await;
}

async fn close(writer: &mut Writer, message: Message) -> Result<(), Refusal> {
    send(writer, message).await?;
    writer.feed(Frame::Close).await?;
    writer.flush().await
}
