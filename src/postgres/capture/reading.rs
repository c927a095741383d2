//! When the stream is read, and when what was gathered is given.

use std::pin::Pin;
use std::time::{Duration, Instant};

use super::failure::{self, Failed};
use super::gather::Need;
use super::{PgCapture, reactor};
use crate::log::{Captured, Polled};
use crate::model::limits;
use crate::postgres::replication::Event;

/// Between two questions where the server's log ends, while data comes all the time.
const TARGET_INTERVAL: Duration = Duration::from_millis(20);
/// One call of `poll` reads no longer than this without giving something back.
const POLL_MAX: Duration = Duration::from_millis(200);

impl PgCapture {
    /// Whether everything has been given that was committed when the target was asked for.
    pub(super) fn reached(&mut self) -> bool {
        let Some(link) = &self.link else { return false };
        let is_reached = link.gather.done.is_empty() && self.has_come();
        if is_reached {
            self.target = None;
        }
        std::mem::take(&mut self.is_reached) || is_reached
    }

    /// Whether everything has come, if not been given, that was committed when the target was asked for.
    fn has_come(&self) -> bool {
        let (Some(link), Some(target)) = (&self.link, self.target) else { return false };
        link.next.is_none() && link.stream.sent_upto() >= target
    }

    /// What the server has not sent, in bytes of its log, as far as is known.
    fn unsent(&self) -> u64 {
        let (Some(link), Some(target)) = (&self.link, self.target) else { return 0 };
        target.0.saturating_sub(link.stream.sent_upto().0)
    }

    /// Whether the server has much that it has not sent: nobody waits for a single transaction of it.
    pub(super) fn is_behind(&self) -> bool {
        self.unsent() > limits::CAPTURE_BEHIND_BYTES
    }

    /// How long what was gathered waits for more: small appends, one by one, would cost whoever follows the log more than
    /// reading does.
    pub(super) fn patience(&self) -> Duration {
        let most = match self.unsent() {
            unsent if unsent > limits::CAPTURE_FAR_BEHIND_BYTES => limits::CAPTURE_FAR_GIVE_INTERVAL,
            unsent if unsent > limits::CAPTURE_BEHIND_BYTES => limits::CAPTURE_GIVE_INTERVAL,
            _ => Duration::ZERO,
        };
        most.saturating_sub(self.given.elapsed())
    }

    /// Takes what is at hand.
    pub(super) async fn read(&mut self) -> Result<(), Failed> {
        let Some(link) = &mut self.link else { return Ok(()) };
        let began = Instant::now();
        let mut count = 0u32;
        while !link.gather.done.is_full() {
            let event = match link.next.take() {
                Some(event) => Some(event),
                None => link.stream.try_next().map_err(|error| failure::streamed(&error))?,
            };
            match event {
                Some(Event::Data(data)) => match link.gather.take(data)? {
                    Need::Nothing => {}
                    need => self.look.answer(need, &self.options, link).await?,
                },
                Some(Event::KeepAlive { end }) => link.gather.position = link.gather.position.max(end),
                None => break,
            }
            count += 1;
            if count.is_multiple_of(1024) && began.elapsed() > POLL_MAX {
                break;
            }
        }
        self.is_flowing = count > 0;
        Ok(())
    }

    /// What the log should have.
    pub(super) fn give(&mut self) -> Option<Captured> {
        let is_waiting = !self.patience().is_zero();
        let has_come = self.has_come();
        let link = self.link.as_mut()?;
        let gather = &mut link.gather;
        if is_waiting && !gather.done.is_full() {
            return None;
        }
        let moved = gather.position.0.saturating_sub(self.place.lsn.0);
        let is_late = self.given.elapsed() >= limits::CAPTURE_EMPTY_INTERVAL || moved >= limits::CAPTURE_EMPTY_BYTES;
        let has_news = !gather.done.is_empty() || !self.look.dropped.is_empty();
        if !(has_news || moved > 0 && is_late) {
            return None;
        }
        self.place.lsn = self.place.lsn.max(gather.position);
        self.given = Instant::now();
        if has_come {
            (self.target, self.is_reached) = (None, true);
        }
        let recreated = std::mem::take(&mut gather.recreated);
        let (drafts, tables, changes) = gather.done.give();
        self.is_unwitnessed |= !drafts.is_empty();
        let dropped = std::mem::take(&mut self.look.dropped);
        Some(Captured { drafts, tables, upto: (&self.place).into(), changes, recreated, dropped, current: false })
    }

    /// Nothing new, so that the log is tried.
    pub(super) fn empty(&self) -> Captured {
        let upto = (&self.place).into();
        let (drafts, tables, recreated, dropped) = (vec![], vec![], vec![], vec![]);
        Captured { drafts, tables, upto, changes: 0, recreated, dropped, current: false }
    }

    /// Asks, not too often, where the server's log ends.
    async fn ask(&mut self) -> Result<(), Failed> {
        let is_time = self.is_idle || self.target_asked.is_none_or(|asked| asked.elapsed() >= TARGET_INTERVAL);
        let Some(link) = self.link.as_mut().filter(|_| self.target.is_none() && is_time) else { return Ok(()) };
        self.target_asked = Some(Instant::now());
        (self.is_idle, self.is_asked) = (false, false);
        self.target = Some(link.side.log_end().await?);
        Ok(())
    }

    /// While there is always something at hand: sees whether there is much of it.
    pub(super) async fn sight(&mut self) -> Result<(), Failed> {
        if self.is_flowing { self.ask().await } else { Ok(()) }
    }

    /// Nothing was at hand: sees whether there is more.
    pub(super) async fn aim(&mut self) -> Result<Polled, Failed> {
        self.ask().await?;
        if self.reached() {
            return Ok(Polled::Current);
        }
        if let Some(link) = self.link.as_ref().filter(|_| self.target.is_some() && !self.is_asked) {
            link.stream.ask_for_reply();
            self.is_asked = true;
        }
        Ok(Polled::Waiting)
    }

    /// Reads and gathers until `logged` has ended.
    pub(super) fn ahead(&mut self, mut logged: Pin<&mut (dyn Future<Output = ()> + Send)>) {
        let reactor = self.reactor.clone();
        loop {
            let is_full = self.link.as_ref().is_none_or(|link| link.gather.done.is_full());
            if is_full || self.broken.is_some() {
                return reactor.block_on(logged);
            }
            // What went wrong is said by the next poll, once it is known what has been logged.
            if let Err(error) = reactor.block_on(self.read()) {
                self.broken = Some(error);
                continue;
            }
            let is_behind = self.is_behind() && self.is_flowing;
            let Some(link) = &mut self.link else { continue };
            let ended = reactor.block_on(async {
                tokio::select! {
                    biased;
                    () = &mut logged => true,
                    () = std::future::ready(()), if is_behind || link.next.is_some() => false,
                    next = link.stream.next() => {
                        match next {
                            Ok(event) => link.next = Some(event),
                            Err(error) => self.broken = Some(failure::streamed(&error)),
                        }
                        false
                    }
                }
            });
            match ended {
                true => return,
                false if is_behind => reactor::nap(),
                false => {}
            }
        }
    }
}
