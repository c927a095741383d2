//! Links through a proxy.

use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;

use super::tls::{child_file, secured};
use super::*;
use crate::tree::site::wait;

/// A proxy that lets through to this machine, whatever the name; it tells each request's head. With `refuse` it lets nobody.
fn proxy(refuse: bool) -> (u16, mpsc::Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let (told, heard) = mpsc::channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let (mut head, mut byte) = (Vec::new(), [0]);
            while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|read| read == 1) {
                head.push(byte[0]);
            }
            let head = String::from_utf8_lossy(&head).into_owned();
            let to = head.split([' ', ':']).nth(2).and_then(|port| port.parse::<u16>().ok());
            if told.send(head).is_err() {
                return;
            }
            if refuse {
                let _ = stream.write_all(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n");
                continue;
            }
            let Some(Ok(node)) = to.map(|port| TcpStream::connect(("127.0.0.1", port))) else { continue };
            let _ = stream.write_all(b"HTTP/1.1 200 Connection established\r\nvia: test\r\n\r\n");
            for (mut from, mut to) in [(&stream, &node), (&node, &stream)]
                .map(|(from, to)| (from.try_clone().expect("a handle"), to.try_clone().expect("a handle")))
            {
                std::thread::spawn(move || std::io::copy(&mut from, &mut to));
            }
        }
    });
    (port, heard)
}

/// Ends with the test.
struct Run(Child);

impl Drop for Run {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn run(site: &Site, environment: &[(&str, &str)]) -> Run {
    let log = std::fs::File::options().create(true).append(true).open(site.dir.join("node.log")).expect("a log");
    let mut command = Command::new(env!("CARGO_BIN_EXE_watershed"));
    command.args(["run", "-c"]).arg(site.config()).stdin(Stdio::null()).stderr(log);
    command.envs(environment.iter().copied());
    Run(command.spawn().expect("starts"))
}

#[test]
fn a_link_goes_through_the_proxy_that_the_environment_names() {
    let ground = Ground::new();
    let hub = secured(&ground, "");
    let (port, heard) = proxy(false);
    let north = child_file(&ground, "north", &hub, "hub.test", "ca_file = \"HUB/ca.pem\"\n");
    let through = format!("http://me:p%40ss@127.0.0.1:{port}");
    let process = run(&north, &[("HTTPS_PROXY", &through), ("NO_PROXY", "other.test")]);
    wait("it is linked", || north.log().contains("linked with the parent hub"));
    let head = heard.recv_timeout(Duration::from_secs(10)).expect("a request");
    assert!(head.starts_with(&format!("CONNECT hub.test:{} HTTP/1.1\r\n", hub.port)), "{head}");
    assert!(head.contains("Proxy-Authorization: Basic bWU6cEBzcw=="), "{head}");
    drop(process);
    assert!(!north.log().contains("p%40ss") && !north.log().contains("p@ss"), "{}", north.log());
    // One that is named in NO_PROXY is dialled itself; this name leads nowhere.
    let south = child_file(&ground, "south", &hub, "hub.test", "ca_file = \"HUB/ca.pem\"\n");
    let _process = run(&south, &[("HTTPS_PROXY", &through), ("NO_PROXY", ".test")]);
    wait("it is not reached", || south.log().contains("WS-PEER-012"));
}

#[test]
fn a_proxy_that_refuses_is_named() {
    let ground = Ground::new();
    let hub = secured(&ground, "");
    let (port, _heard) = proxy(true);
    let north = child_file(&ground, "north", &hub, "hub.test", "ca_file = \"HUB/ca.pem\"\n");
    let _process = run(&north, &[("HTTPS_PROXY", &format!("127.0.0.1:{port}"))]);
    wait("it says so", || north.log().contains("WS-PEER-024") && north.log().contains("407"));
}

#[test]
fn a_mirror_goes_through_the_proxy_that_the_environment_names() {
    let ground = Ground::new();
    let hub = secured(&ground, "");
    hub.does(&["log", "append", "orders", "{\"n\":1}"]);
    let (port, heard) = proxy(false);
    let mut north = ground.log_site("north");
    let ca = hub.dir.join("ca.pem");
    let url = format!("https://hub.test:{}/v1/logs/orders", hub.port);
    north.configure(None, &format!("[log.orders]\nmirror = \"{url}\"\nca_file = {ca:?}\n"));
    let _process = run(&north, &[("HTTPS_PROXY", &format!("http://127.0.0.1:{port}"))]);
    wait("it is mirrored", || {
        let asked = agent().get(format!("http://127.0.0.1:{}/v1/logs/orders", north.port)).call();
        asked.is_ok_and(|mut asked| asked.body_mut().read_to_string().is_ok_and(|text| text.contains("\"tail\":1")))
    });
    let head = heard.recv_timeout(Duration::from_secs(10)).expect("a request");
    assert!(head.starts_with(&format!("CONNECT hub.test:{} HTTP/1.1\r\n", hub.port)), "{head}");
}
