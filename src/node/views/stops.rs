//! A place at which a view stands still for a moment, so that a snapshot is of exactly there.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::model::{LogId, Position, limits};
use crate::view::Needed;

/// The place at which a view is to stand, if there is one. There is one at a time: two could wait for each other, each in a
/// partition.
pub(super) struct Stops {
    now: Mutex<Option<Arc<Stop>>>,
    /// Before that there is none, so that a view goes on for most of the time, whoever asks how often.
    rests_until: Mutex<Option<Instant>>,
    turn: Arc<Semaphore>,
    /// How many wait for their turn.
    others: AtomicUsize,
}

/// Counted while it waits.
struct Counted<'s>(&'s AtomicUsize);

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

struct Stop {
    at: Needed,
    over: CancellationToken,
    /// Since when a partition has stood there.
    stood: OnceLock<Instant>,
}

/// One partition's part of it.
pub(super) struct Stand {
    /// It does not go beyond that.
    pub at: Position,
    stop: Arc<Stop>,
}

impl Stand {
    /// Stands until it is over, but not for long.
    pub(super) async fn still(&self) {
        self.stop.stood.get_or_init(Instant::now);
        let over = self.stop.over.cancelled();
        // Who has stood for so long goes on.
        let _ = tokio::time::timeout(limits::VIEW_STAND_MAX, over).await;
    }
}

/// For as long as this is there the view does not go beyond the place.
pub(super) struct Standing {
    stops: Arc<Stops>,
    stop: Arc<Stop>,
    _turn: OwnedSemaphorePermit,
}

impl Default for Stops {
    fn default() -> Stops {
        Stops {
            now: Mutex::default(),
            rests_until: Mutex::default(),
            turn: Arc::new(Semaphore::new(1)),
            others: AtomicUsize::new(0),
        }
    }
}

impl Stops {
    fn now(&self) -> MutexGuard<'_, Option<Arc<Stop>>> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on the view does not go beyond that; once it is this one's turn. Whatever is beyond it already is not led
    /// back.
    pub(super) async fn begin(self: &Arc<Self>, at: Needed) -> Standing {
        let turn = {
            self.others.fetch_add(1, Ordering::AcqRel);
            let _waits = Counted(&self.others);
            self.turn.clone().acquire_owned().await.expect("the semaphore is never closed")
        };
        let rests_until = *self.rests_until.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(until) = rests_until {
            tokio::time::sleep_until(until).await;
        }
        let stop = Arc::new(Stop { at, over: CancellationToken::new(), stood: OnceLock::new() });
        *self.now() = Some(stop.clone());
        Standing { stops: self.clone(), stop, _turn: turn }
    }

    /// Whether somebody waits for a turn.
    pub(super) fn others_wait(&self) -> bool {
        self.others.load(Ordering::Acquire) > 0
    }

    /// Where the partition of that log is to stand.
    pub(super) fn of(&self, log: LogId) -> Option<Stand> {
        let now = self.now();
        let stop = now.as_ref()?;
        let at = *stop.at.get(&log)?;
        Some(Stand { at, stop: stop.clone() })
    }
}

impl Drop for Standing {
    fn drop(&mut self) {
        *self.stops.now() = None;
        self.stop.over.cancel();
        if let Some(since) = self.stop.stood.get() {
            let stood = since.elapsed().min(limits::VIEW_STAND_MAX);
            let until = Instant::now() + stood * limits::VIEW_STAND_REST;
            *self.stops.rests_until.lock().unwrap_or_else(PoisonError::into_inner) = Some(until);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_has_stood_goes_on_for_longer_before_it_stands_again() {
        let stops = Arc::new(Stops::default());
        let at = Needed::from([(LogId(1), Position(5))]);
        // Nobody stands for this one.
        drop(stops.begin(at.clone()).await);
        assert!(stops.rests_until.lock().expect("nobody panics").is_none());
        let first = stops.begin(at.clone()).await;
        let began = Instant::now();
        let stand = stops.of(LogId(1)).expect("a place");
        let patience = std::time::Duration::from_millis(20);
        assert!(tokio::time::timeout(patience, stand.still()).await.is_err(), "it is not over");
        let stood = stand.stop.stood.get().expect("it stood").elapsed();
        drop(first);
        drop(stops.begin(at).await);
        assert!(began.elapsed() >= stood * (1 + limits::VIEW_STAND_REST));
    }

    #[tokio::test]
    async fn there_is_one_place_at_a_time_and_it_ends_with_whoever_wanted_it() {
        let stops = Arc::new(Stops::default());
        let at = |position| Needed::from([(LogId(1), Position(position))]);
        let first = stops.begin(at(5)).await;
        let stand = stops.of(LogId(1)).expect("a place");
        assert_eq!((stand.at, stand.stop.over.is_cancelled()), (Position(5), false));
        assert!(stops.of(LogId(2)).is_none());
        let waiting = tokio::spawn({
            let stops = stops.clone();
            async move { stops.begin(at(7)).await }
        });
        tokio::task::yield_now().await;
        assert_eq!(stops.of(LogId(1)).map(|stand| stand.at), Some(Position(5)), "the other one waits");
        drop(first);
        stand.still().await;
        let second = waiting.await.expect("no panic");
        assert_eq!(stops.of(LogId(1)).map(|stand| stand.at), Some(Position(7)));
        drop(second);
        assert!(stops.of(LogId(1)).is_none());
    }
}
