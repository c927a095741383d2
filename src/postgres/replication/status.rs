//! The server is told how far we are, and that we are alive.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use super::Lsn;
use crate::model::{Timestamp, limits};

/// Microseconds from 1970-01-01 to 2000-01-01, where PostgreSQL's clock begins.
const POSTGRES_EPOCH_US: i64 = 946_684_800_000_000;

/// How far we are, for whoever tells it: `acknowledged ≤ received`, unless what was acknowledged is from an earlier stream.
#[derive(Debug, Default)]
pub(super) struct Standing {
    received: AtomicU64,
    acknowledged: AtomicU64,
    /// The server is to answer.
    asks: AtomicBool,
    /// The server asked.
    asked: AtomicBool,
    ends: AtomicBool,
    changed: Notify,
}

impl Standing {
    pub(super) fn new(from: Lsn) -> Standing {
        Standing { received: AtomicU64::new(from.0), ..Standing::default() }
    }

    pub(super) fn acknowledged(&self) -> Lsn {
        Lsn(self.acknowledged.load(Ordering::Acquire))
    }

    pub(super) fn acknowledge(&self, upto: Lsn) {
        if self.acknowledged.fetch_max(upto.0, Ordering::AcqRel) < upto.0 {
            self.changed.notify_one();
        }
    }

    /// Nobody is woken for it: it is told along with the rest.
    pub(super) fn receive(&self, upto: Lsn) {
        self.received.store(upto.0, Ordering::Relaxed);
    }

    pub(super) fn ask(&self) {
        self.asks.store(true, Ordering::Release);
        self.changed.notify_one();
    }

    pub(super) fn answer(&self) {
        self.asked.store(true, Ordering::Release);
        self.changed.notify_one();
    }

    pub(super) fn end(&self) {
        self.ends.store(true, Ordering::Release);
        self.changed.notify_one();
    }

    /// When it is to be told next, after it was told `last` that `told` is acknowledged.
    fn due(&self, last: Instant, told: Lsn, every: Duration) -> Instant {
        let now = [&self.asks, &self.asked, &self.ends].iter().any(|flag| flag.load(Ordering::Acquire));
        match self.acknowledged() > told {
            _ if now => last,
            // Each makes the server write its slot: not too often.
            true => last + limits::REPLICATION_ACKNOWLEDGE_INTERVAL.min(every),
            false => last + every,
        }
    }
}

/// Tells the server at once when it asks or is asked, soon when more is acknowledged, and else every so often; until the
/// stream ends.
///
/// # Errors
/// It cannot be written to.
pub(super) async fn report(
    mut to: impl AsyncWrite + Unpin,
    standing: Arc<Standing>,
    every: Duration,
) -> io::Result<()> {
    let mut last = Instant::now();
    let mut told = Lsn::NONE;
    loop {
        loop {
            let due = standing.due(last, told, every);
            if due <= Instant::now() || timeout_at(due, standing.changed.notified()).await.is_err() {
                break;
            }
        }
        standing.asked.store(false, Ordering::Release);
        let asks = standing.asks.swap(false, Ordering::AcqRel);
        let ends = standing.ends.load(Ordering::Acquire);
        told = standing.acknowledged();
        let received = Lsn(standing.received.load(Ordering::Relaxed)).max(told);
        let mut bytes = update(received, told, Timestamp::now(), asks).to_vec();
        if ends {
            bytes.extend_from_slice(b"c\0\0\0\x04");
        }
        to.write_all(&bytes).await?;
        to.flush().await?;
        last = Instant::now();
        if ends {
            return Ok(());
        }
    }
}

/// A standby status update: received, flushed and applied up to where, when, and whether an answer is wanted.
fn update(received: Lsn, acknowledged: Lsn, now: Timestamp, asks: bool) -> [u8; 39] {
    let mut bytes = [0; 39];
    bytes[0] = b'd';
    bytes[1..5].copy_from_slice(&38u32.to_be_bytes());
    bytes[5] = b'r';
    bytes[6..14].copy_from_slice(&received.0.to_be_bytes());
    bytes[14..22].copy_from_slice(&acknowledged.0.to_be_bytes());
    bytes[22..30].copy_from_slice(&acknowledged.0.to_be_bytes());
    bytes[30..38].copy_from_slice(&(now.0.saturating_sub(POSTGRES_EPOCH_US)).to_be_bytes());
    bytes[38] = u8::from(asks);
    bytes
}
