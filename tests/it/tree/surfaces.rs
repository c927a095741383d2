//! Bad input at every surface, and shutdown while others hold connections open.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::{Duration, Instant};

use super::decisions::{ORDERS, pair};
use super::site::{Ground, Site, wait, wait_equal};

/// What a node answers to these bytes.
fn raw(site: &Site, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", site.port)).expect("connected");
    stream.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout");
    // The node may refuse before it has read everything.
    let _ = stream.write_all(bytes);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

fn ask(site: &Site, line: &str, headers: &str) -> String {
    raw(site, format!("{line} HTTP/1.1\r\nConnection: close\r\n{headers}\r\n").as_bytes())
}

#[test]
fn what_is_not_asked_as_it_should_be_is_refused_with_a_code_and_the_tree_works_on() {
    let ground = Ground::new();
    let (hq, north) = pair(&ground);
    let here = "Host: localhost\r\n";
    let token = std::fs::read_to_string(hq.data().join("admin.token")).expect("a token");
    let operator = format!("{here}Authorization: Bearer {}\r\n", token.trim());
    for (line, headers, status, code) in [
        ("GET /v1/status", "Host: evil.example\r\n".to_owned(), "403", "WS-HTTP-003"),
        ("GET /v1/status", "Host: localhost:1@evil.example\r\n".into(), "403", "WS-HTTP-003"),
        ("GET /v1/status", format!("{here}Origin: http://evil.example\r\n"), "403", "WS-HTTP-003"),
        ("GET /v1/status", format!("{here}Origin: http://localhost\r\nOrigin: null\r\n"), "403", "WS-HTTP-003"),
        ("DELETE /v1/status", here.into(), "405", "WS-HTTP-013"),
        ("GET /v1/sources/orders/pause", here.into(), "405", "WS-HTTP-013"),
        ("GET /nowhere", here.into(), "404", "WS-HTTP-002"),
        ("POST /v1/sources/orders/pause", format!("{here}Content-Length: 0\r\n"), "401", "WS-HTTP-004"),
        ("GET /v1/logs/main/entries", format!("{here}Authorization: Bearer \r\n"), "401", "WS-HTTP-004"),
        ("GET /v1/logs/main/entries?limit=-1", operator.clone(), "400", "WS-HTTP-008"),
        ("GET /v1/logs/main/entries?bogus=1", operator.clone(), "400", "WS-HTTP-008"),
        ("GET /v1/logs/main/entries?after=99999", operator.clone(), "416", "WS-HTTP-010"),
        ("POST /v1/sources/orders/explode", format!("{operator}Content-Length: 0\r\n"), "404", "WS-HTTP-005"),
    ] {
        let answer = ask(&hq, line, &headers);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{line} {headers:?}: {answer}");
        assert!(answer.contains(code), "{line} {headers:?}: {answer}");
    }
    let long = format!("{here}X: {}\r\n", "a".repeat(2 << 20));
    assert!(ask(&hq, "GET /v1/status", &long).starts_with("HTTP/1.1 431"));
    assert!(
        raw(&hq, &[0x16, 3, 1, 0, 200, 1, 0, 0, 1, 3]).starts_with("HTTP/1.1 400"),
        "TLS is spoken to a plain port"
    );
    north.sql("insert into orders values (1, 'still here')");
    wait_equal(ORDERS, &[&hq, &north]);
    assert!(!hq.log().contains("panicked"), "{}", hq.log());
}

const UPGRADE: &str = "GET /v1/peer HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: watershed.v1\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

/// A masked frame (the mask is 0) that says it has `length` bytes.
fn frame(head: u8, payload: &[u8], length: u64) -> Vec<u8> {
    let mut frame = vec![head, 0x80 | 127];
    frame.extend(length.to_be_bytes());
    frame.extend([0; 4]);
    frame.extend(payload);
    frame
}

#[test]
fn garbage_from_a_peer_ends_its_link_only() {
    let ground = Ground::new();
    let (hq, north) = pair(&ground);
    let random: Vec<u8> = (0..400_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    for (what, sent, code) in [
        ("no message", frame(0x82, &random, 400), "WS-PEER-001"),
        ("an empty message", frame(0x82, &[], 0), "WS-PEER-001"),
        ("text", frame(0x81, b"hello", 5), "WS-PEER-004"),
        ("a terabyte", frame(0x82, &random, 1 << 40), "WS-PEER-005"),
    ] {
        let answer = raw(&hq, &[UPGRADE.as_bytes(), &sent].concat());
        assert!(answer.contains(code), "{what}: {answer}");
    }
    for length in 0..100 {
        let mut stream = TcpStream::connect(("127.0.0.1", hq.port)).expect("connected");
        let _ = stream.write_all(&[UPGRADE.as_bytes(), &random[..length]].concat());
    }
    north.sql("insert into orders values (1, 'still here')");
    wait_equal(ORDERS, &[&hq, &north]);
    assert!(!hq.log().contains("panicked"), "{}", hq.log());
}

#[test]
fn idle_connections_hold_up_neither_the_tree_nor_its_end() {
    let ground = Ground::new();
    let (mut hq, north) = pair(&ground);
    let connections: Vec<TcpStream> = (0..200)
        .map(|i| {
            let mut stream = TcpStream::connect(("127.0.0.1", hq.port)).expect("connected");
            let sent: &[u8] = match i % 3 {
                0 => b"",
                1 => b"GET /v1/sta",
                _ => UPGRADE.as_bytes(),
            };
            stream.write_all(sent).expect("sent");
            stream
        })
        .collect();
    north.sql("insert into orders values (1, 'a')");
    wait_equal(ORDERS, &[&hq, &north]);
    let started = Instant::now();
    assert_eq!(hq.stop(), Some(0));
    assert!(started.elapsed() < Duration::from_secs(20), "it took {:?}", started.elapsed());
    hq.up();
    assert_eq!(hq.status()["log"]["torn_bytes"], 0, "a clean end needs no recovery");
    drop(connections);
}

#[test]
fn a_reload_is_not_held_up_by_an_idle_connection() {
    let ground = Ground::new();
    let (hq, north) = pair(&ground);
    let mut idle = TcpStream::connect(("127.0.0.1", hq.port)).expect("connected");
    idle.write_all(b"GET /v1/sta").expect("sent");
    let started = hq.status()["started"].clone();
    let pid = std::fs::read_to_string(hq.data().join("node.lock")).expect("the holder");
    assert!(Command::new("kill").args(["-HUP", pid.trim()]).status().expect("kill").success());
    wait("it has started anew", || {
        let status = hq.status();
        !status.is_null() && status["started"] != started
    });
    north.sql("insert into orders values (1, 'a')");
    wait_equal(ORDERS, &[&hq, &north]);
}
