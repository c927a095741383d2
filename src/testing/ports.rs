//! Ports for servers that are started, stopped and started again.

use std::net::TcpListener;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU16, Ordering};

/// Below the ports that systems give to outgoing connections, which would take one while its server is down.
const FIRST: u16 = 10_000;
const COUNT: u16 = 22_000;

/// A loopback port that nobody listens on, and that this process gives to nobody else.
///
/// # Panics
/// If all ports are taken.
pub fn free_port() -> u16 {
    static NEXT: OnceLock<AtomicU16> = OnceLock::new();
    let next = NEXT.get_or_init(|| AtomicU16::new(rand::random::<u16>() % COUNT));
    let free = |port: &u16| TcpListener::bind(("127.0.0.1", *port)).is_ok();
    let candidates = (0..COUNT).map(|_| FIRST + next.fetch_add(1, Ordering::Relaxed) % COUNT);
    candidates.into_iter().find(free).expect("one of many ports is free")
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    #[test]
    fn no_port_is_given_twice() {
        let ports: HashSet<u16> = (0..100).map(|_| super::free_port()).collect();
        assert_eq!(ports.len(), 100);
    }
}
