//! A TCP proxy on loopback that cuts, delays, corrupts or swallows what passes.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// What happens to one direction of one connection. Byte counts are from its start.
#[derive(Clone, Copy, Debug, Default)]
pub struct Fault {
    /// The connection is closed once so many bytes have passed.
    pub cut_after: Option<u64>,
    /// This byte is inverted.
    pub corrupt_at: Option<u64>,
    /// Every piece is held back for so long.
    pub delay: Duration,
}

/// The faults of a connection.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// From the dialling to the dialled side.
    pub up: Fault,
    /// Back.
    pub down: Fault,
}

/// Forwards connections to a target until it is dropped.
pub struct FaultProxy {
    address: SocketAddr,
    connections: Arc<AtomicU64>,
    swallow: watch::Sender<bool>,
    cuts: watch::Sender<u64>,
    stop: CancellationToken,
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl FaultProxy {
    /// Listens on a free port; `plan` gives the faults of the n-th connection (0 is the first).
    pub async fn start(
        target: SocketAddr,
        plan: impl Fn(u64) -> Faults + Send + Sync + 'static,
    ) -> io::Result<FaultProxy> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let proxy = FaultProxy {
            address: listener.local_addr()?,
            connections: Arc::default(),
            swallow: watch::Sender::new(false),
            cuts: watch::Sender::new(0),
            stop: CancellationToken::new(),
        };
        let (swallow, cuts, stop) = (proxy.swallow.subscribe(), proxy.cuts.subscribe(), proxy.stop.clone());
        let connections = proxy.connections.clone();
        tokio::spawn(stop.clone().run_until_cancelled_owned(async move {
            while let Ok((client, _)) = listener.accept().await {
                let faults = plan(connections.fetch_add(1, Ordering::SeqCst));
                let connection = forward(client, target, faults, swallow.clone(), cuts.clone());
                tokio::spawn(stop.clone().run_until_cancelled_owned(connection));
            }
        }));
        Ok(proxy)
    }

    /// Where to dial.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Connections accepted so far.
    pub fn connections(&self) -> u64 {
        self.connections.load(Ordering::SeqCst)
    }

    /// Closes every connection that there is.
    pub fn cut(&self) {
        self.cuts.send_modify(|cuts| *cuts += 1);
    }

    /// From here on nothing passes, and nobody is told (`true`), or bytes pass again.
    pub fn black_hole(&self, swallow: bool) {
        self.swallow.send_replace(swallow);
    }
}

async fn forward(
    client: TcpStream,
    target: SocketAddr,
    faults: Faults,
    swallow: watch::Receiver<bool>,
    mut cuts: watch::Receiver<u64>,
) {
    cuts.mark_unchanged();
    let Ok(server) = TcpStream::connect(target).await else { return };
    // Not essential to the test; a proxy that adds delay of its own would only be slower.
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    // The first direction that ends closes both.
    tokio::select! {
        _ = pump(from_client, to_server, faults.up, swallow.clone()) => {}
        _ = pump(from_server, to_client, faults.down, swallow) => {}
        _ = cuts.changed() => {}
    }
}

async fn pump(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    fault: Fault,
    mut swallow: watch::Receiver<bool>,
) -> io::Result<()> {
    let mut buffer = vec![0; 16 << 10];
    let mut passed = 0u64;
    loop {
        let room = fault.cut_after.map_or(buffer.len() as u64, |after| (after - passed).min(buffer.len() as u64));
        if room == 0 {
            return Ok(());
        }
        let count = from.read(&mut buffer[..room as usize]).await?;
        if count == 0 {
            return Ok(());
        }
        if let Some(at) = fault.corrupt_at.filter(|at| (passed..passed + count as u64).contains(at)) {
            buffer[(at - passed) as usize] ^= 0xff;
        }
        if !fault.delay.is_zero() {
            tokio::time::sleep(fault.delay).await;
        }
        if swallow.wait_for(|swallow| !swallow).await.is_err() {
            return Ok(());
        }
        to.write_all(&buffer[..count]).await?;
        passed += count as u64;
    }
}
