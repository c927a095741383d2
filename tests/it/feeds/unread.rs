//! A linked peer that asks for stretches of a feed and takes none of the answers.

use futures_util::{SinkExt, StreamExt};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message as Frame;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use watershed::model::{Cursor, Epoch, LogId};
use watershed::peer::protocol::Message;
use watershed::peer::{Below, FeedMessage, Hello, NodeRef, SUBPROTOCOL};

use super::abuse::memory_kib;
use super::*;
use crate::tree::site::wait;

/// Requests, each for one row.
const REQUESTS: usize = 120;
const ROW_BYTES: usize = 1_000_000;

async fn link(site: &Site) -> WebSocketStream<TcpStream> {
    let stream = TcpStream::connect(("127.0.0.1", site.port)).await.expect("connected");
    let mut request = format!("ws://127.0.0.1:{}/v1/peer", site.port).into_client_request().expect("a request");
    request.headers_mut().insert("sec-websocket-protocol", SUBPROTOCOL.parse().expect("a header"));
    let (mut socket, _) = tokio_tungstenite::client_async(request, stream).await.expect("upgraded");
    let node = NodeRef { name: "b7".into(), log: LogId(77) };
    let hello = Hello {
        path: vec![node.clone()],
        node,
        epoch: Epoch(1),
        probe: false,
        below: Vec::new(),
        offers: Vec::new(),
        received: None,
        mirrors: true,
    };
    socket.send(Frame::Binary(Message::Hello(hello).encode())).await.expect("sent");
    socket
}

#[test]
fn a_peer_that_takes_no_answers_has_few_of_them_in_memory() {
    let ground = Ground::new();
    let site = node(&ground, &format!("{ORDERS}[send.children]\nlogs = [\"orders\"]\n"));
    let row = format!("{{\"row\":\"{}\"}}", "x".repeat(ROW_BYTES));
    let first = append(&site, "orders", &row);
    append(&site, "orders", &row);
    let after: Cursor = first["cursor"].as_str().expect("a cursor").parse().expect("a cursor");
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let mut socket = runtime.block_on(link(&site));
    wait("it is linked", || site.log().contains("b7"));
    let before = memory_kib(&site);
    runtime.block_on(async {
        let ask = Message::Feed(FeedMessage::Request { log: "orders".into(), partition: 0, after }).encode();
        for _ in 0..REQUESTS {
            socket.feed(Frame::Binary(ask.clone())).await.expect("sent");
        }
        let leaf = NodeRef { name: "leaf".into(), log: LogId(78) };
        let below = vec![Below { node: leaf, parent: "b7".into(), away: false }];
        socket.send(Frame::Binary(Message::Below(below).encode())).await.expect("sent");
    });
    // What was asked before it has been heard then.
    wait("all has been heard", || {
        let tree = answer(agent().get(format!("http://127.0.0.1:{}/v1/tree", site.port)).call()).1;
        tree["below"].as_array().is_some_and(|below| below.iter().any(|node| node["name"] == "leaf"))
    });
    // In the end every request has its answer.
    let mut bytes = 0;
    runtime.block_on(async {
        while bytes < REQUESTS * ROW_BYTES {
            let frame = tokio::time::timeout(Duration::from_secs(60), socket.next()).await.expect("in time");
            bytes += frame.expect("it goes on").expect("readable").len();
        }
    });
    let grown = most_kib(&site).saturating_sub(before) >> 10;
    assert!(grown < 100, "{grown} MiB for a peer that does not read");
}

/// The most memory that the node has had.
fn most_kib(site: &Site) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", site.pid())).expect("a process");
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).expect("a figure");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).expect("KiB")
}
