//! Peers that are no peers, that lie, or that close a cycle.

use std::net::SocketAddr;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message as Frame;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use watershed::log::Source;
use watershed::model::*;
use watershed::peer::protocol::{Entries, Message, seal};
use watershed::peer::*;

use super::host::*;

async fn connect(to: SocketAddr, subprotocol: Option<&'static str>) -> Result<WebSocketStream<TcpStream>, String> {
    let mut request = format!("ws://{to}/v1/peer").into_client_request().expect("a request");
    if let Some(subprotocol) = subprotocol {
        request.headers_mut().insert("sec-websocket-protocol", subprotocol.parse().expect("a header"));
    }
    let stream = TcpStream::connect(to).await.expect("connected");
    tokio_tungstenite::client_async(request, stream).await.map(|(socket, _)| socket).map_err(|e| e.to_string())
}

/// What the node says at last.
async fn failure(socket: &mut WebSocketStream<TcpStream>) -> Refusal {
    let heard = async {
        while let Some(Ok(frame)) = socket.next().await {
            if let Frame::Binary(bytes) = frame
                && let Message::Failure(why) = Message::decode(bytes).expect("readable")
            {
                return why;
            }
        }
        panic!("the link ended without a word");
    };
    tokio::time::timeout(Duration::from_secs(10), heard).await.expect("in time")
}

fn hello(log: LogId) -> Hello {
    let node = NodeRef { name: "stranger".into(), log };
    Hello {
        path: vec![node.clone()],
        node,
        epoch: Epoch(1),
        probe: false,
        below: Vec::new(),
        offers: Vec::new(),
        received: None,
        mirrors: false,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_the_protocol_is_told_why_and_nothing_is_appended() {
    let hq = TestNode::new("hq");
    let mut times = timing();
    times.handshake = Duration::from_millis(200);
    let server = serve(&hq, times).await;
    let greeting = Message::Hello(hello(LogId(77))).encode();
    let cases: Vec<(&str, Option<Frame>)> = vec![
        (code::UNREADABLE, Some(Frame::Binary(seal(b"\x0a\xff\xff\xff".to_vec())))),
        (code::UNREADABLE, Some(Frame::binary(&b""[..]))),
        (code::UNREADABLE, Some(Frame::binary(&b"GET / HTTP/1.1"[..]))),
        (code::DAMAGED, Some(Frame::binary(&b"\x0a\x00\x7d\x01\x02\x03\x04"[..]))),
        (code::UNKNOWN_KIND, Some(Frame::Binary(seal(b"\xfa\x01\x00".to_vec())))),
        (code::OUT_OF_ORDER, Some(Frame::text("hello"))),
        (code::OUT_OF_ORDER, Some(Frame::Binary(Message::Entries(Entries::default()).encode()))),
        (code::TOO_LARGE, Some(Frame::binary(vec![0; limits::LINK_FRAME_BYTES_MAX + 1]))),
        // Version 9 of the protocol, and nothing else that this version understands.
        (code::NEWER_VERSION, Some(Frame::Binary(seal(b"\x0a\x02\x08\x09".to_vec())))),
        (code::NO_HELLO, None),
    ];
    for (expected, frame) in cases {
        let mut socket = connect(server.address, Some(SUBPROTOCOL)).await.expect("upgraded");
        if let Some(frame) = frame {
            // The node may hang up before it has read all of it.
            let _ = socket.send(frame).await;
        }
        assert_eq!(failure(&mut socket).await.code, expected);
    }
    // After the hello, too.
    let mut socket = connect(server.address, Some(SUBPROTOCOL)).await.expect("upgraded");
    socket.send(Frame::Binary(greeting.clone())).await.expect("sent");
    socket.send(Frame::Binary(greeting)).await.expect("sent");
    assert_eq!(failure(&mut socket).await.code, code::OUT_OF_ORDER);
    assert_eq!(*hq.log.tail().borrow(), Position::ZERO);
    until("the node is told that the link is gone", || hq.told.borrow().closed.len() == 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_ignores_its_credits_is_cut_off() {
    let hq = TestNode::new("hq");
    hq.gate.send_replace(false);
    let server = serve(&hq, timing()).await;
    let mut socket = connect(server.address, Some(SUBPROTOCOL)).await.expect("upgraded");
    socket.send(Frame::Binary(Message::Hello(hello(LogId(77))).encode())).await.expect("sent");
    let header = EntryHeader { tables: vec![hq.table.fingerprint], ..EntryHeader::default() };
    for position in 1..=100 {
        let origin = Some(Origin { log: LogId(77), epoch: Epoch(1), position: Position(position) });
        let entry = Entry::new(EntryHeader { origin, ..header.clone() }, change(&"x".repeat(100 << 10)));
        let tables = vec![hq.table.clone()];
        let encoded = Message::Entries(Entries { tables, entries: vec![entry], upto: origin }).encode();
        if socket.send(Frame::Binary(encoded)).await.is_err() {
            break;
        }
    }
    assert_eq!(failure(&mut socket).await.code, code::CREDITS);
    assert_eq!(*hq.log.tail().borrow(), Position::ZERO);
    hq.gate.send_replace(true);
    until("the append that was under way is let go", || !hq.told.borrow().closed.is_empty()).await;
    assert_eq!(hq.told.borrow().closed[0].code, code::CREDITS);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_without_the_subprotocol_is_refused_before_the_upgrade() {
    let hq = TestNode::new("hq");
    let server = serve(&hq, timing()).await;
    for subprotocol in [None, Some("watershed.v9")] {
        let error = connect(server.address, subprotocol).await.expect_err("refused");
        assert!(error.contains("400"), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_no_node_is_named_as_such() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = [0; 1024];
            assert!(stream.read(&mut request).await.expect("a request") > 0);
            stream.write_all(b"HTTP/1.1 404 Not Found\r\ncontent-length: 4\r\n\r\nnope").await.expect("answered");
        }
    });
    let branch = TestNode::new("branch");
    let hello = branch.hello(Role::Child, None).await.expect("a hello");
    let url = ParentUrl::parse(&address.to_string()).expect("an address");
    let why = probe(&url, hello).await.expect_err("no node");
    assert_eq!(why.code, code::NOT_A_NODE);
    assert!(!why.retryable);
    assert!(why.message.contains("404"), "{why}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_dials_itself_is_told_so() {
    let hq = TestNode::new("hq");
    let server = serve(&hq, timing()).await;
    let dialler = dial(&hq, server.address, timing());
    until("it says why", || dialler.state.borrow().last_error.as_ref().is_some_and(|why| why.code == code::SELF)).await;
    assert_eq!(hq.told.borrow().links.len(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_nodes_that_dial_in_a_circle_find_out_and_nobody_stays_its_own_ancestor() {
    let nodes = ["a", "b", "c"].map(TestNode::new);
    let mut servers = Vec::new();
    for node in &nodes {
        servers.push(serve(node, timing()).await);
    }
    let diallers: Vec<_> = (0..3).map(|i| dial(&nodes[i], servers[(i + 1) % 3].address, timing())).collect();
    until("the circle is found", || {
        let refused =
            |dialler: &Dialler| dialler.state.borrow().last_error.as_ref().is_some_and(|e| e.code == code::CYCLE);
        diallers.iter().any(refused)
    })
    .await;
    for node in &nodes {
        let path = node.path.borrow().clone();
        let above = path.get(1..).unwrap_or_default();
        assert!(above.iter().all(|above| above.log != node.me().log), "{path:?}");
    }
}
