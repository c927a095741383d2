//! How much a token may ask for in a second.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The limits of a token; what is not limited is `None`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct RateLimit {
    /// Requests per second.
    pub requests: Option<f64>,
    /// Bytes of bodies per second, those that are sent and those that are answered together.
    pub bytes: Option<f64>,
}

/// What is left of it: a second's worth can be saved up, and a body may be larger than that, which is paid for afterwards.
#[derive(Debug)]
pub struct Rate {
    limit: RateLimit,
    left: Mutex<Left>,
}

#[derive(Clone, Copy, Debug)]
struct Left {
    requests: f64,
    bytes: f64,
    at: Instant,
}

impl RateLimit {
    /// What may be saved up of requests; the least is one.
    fn requests_max(&self) -> f64 {
        self.requests.map_or(f64::INFINITY, |rate| rate.max(1.0))
    }

    fn bytes_max(&self) -> f64 {
        self.bytes.unwrap_or(f64::INFINITY)
    }
}

impl Rate {
    /// With a full second's worth.
    pub fn new(limit: RateLimit, now: Instant) -> Rate {
        let left = Left { requests: limit.requests_max(), bytes: limit.bytes_max(), at: now };
        Rate { limit, left: Mutex::new(left) }
    }

    fn with<T>(&self, now: Instant, then: impl FnOnce(&mut Left) -> T) -> T {
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        let seconds = now.saturating_duration_since(left.at).as_secs_f64();
        let limit = &self.limit;
        let grown = |left: f64, rate: Option<f64>, max: f64| (left + seconds * rate.unwrap_or(0.0)).min(max);
        left.requests = grown(left.requests, limit.requests, limit.requests_max());
        left.bytes = grown(left.bytes, limit.bytes, limit.bytes_max());
        left.at = left.at.max(now);
        then(&mut left)
    }

    /// One more request.
    ///
    /// # Errors
    /// It is one too many: how long to wait.
    pub fn request(&self, now: Instant) -> Result<(), Duration> {
        self.with(now, |left| {
            let missing = [(1.0 - left.requests, self.limit.requests), (-left.bytes, self.limit.bytes)];
            let waits = missing.iter().map(|(missing, rate)| match rate {
                Some(rate) if *missing > 0.0 => missing / rate,
                _ => 0.0,
            });
            let wait = waits.fold(0.0, f64::max);
            if wait > 0.0 {
                return Err(period(wait));
            }
            left.requests -= 1.0;
            Ok(())
        })
    }

    /// That many bytes went by; how long to wait before more should.
    pub fn bytes(&self, count: usize, now: Instant) -> Duration {
        let Some(rate) = self.limit.bytes else { return Duration::ZERO };
        self.with(now, |left| {
            left.bytes -= count as f64;
            period((-left.bytes / rate).max(0.0))
        })
    }
}

/// At most a day: a rate may be small.
fn period(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds.clamp(0.0, 86_400.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    #[test]
    fn a_second_s_worth_can_be_saved_up_and_no_more() {
        let start = Instant::now();
        let rate = Rate::new(RateLimit { requests: Some(2.0), bytes: None }, start);
        assert_eq!([rate.request(start), rate.request(start)], [Ok(()), Ok(())]);
        let wait = rate.request(start).expect_err("one too many");
        assert!(wait > ms(499) && wait < ms(501), "{wait:?}");
        assert!(rate.request(start + ms(400)).is_err());
        assert_eq!(rate.request(start + ms(600)), Ok(()));
        // However long nothing is asked.
        let later = start + Duration::from_secs(3600);
        assert_eq!((0..5).filter(|_| rate.request(later).is_ok()).count(), 2);
    }

    #[test]
    fn a_large_body_is_paid_for_afterwards() {
        let start = Instant::now();
        let rate = Rate::new(RateLimit { requests: None, bytes: Some(1000.0) }, start);
        assert_eq!(rate.request(start), Ok(()));
        assert_eq!(rate.bytes(4000, start), Duration::from_secs(3));
        assert_eq!(rate.request(start + ms(1000)), Err(Duration::from_secs(2)));
        assert_eq!(rate.request(start + ms(3001)), Ok(()));
        assert_eq!(rate.bytes(0, start + ms(3001)), Duration::ZERO);
    }

    #[test]
    fn a_rate_below_one_a_second_lets_one_through() {
        let start = Instant::now();
        let rate = Rate::new(RateLimit { requests: Some(1.0 / 60.0), bytes: None }, start);
        assert_eq!(rate.request(start), Ok(()));
        let wait = rate.request(start).expect_err("one a minute");
        assert!(wait > Duration::from_secs(59) && wait <= Duration::from_secs(60), "{wait:?}");
        // A clock that goes back gives nothing and takes nothing.
        assert!(rate.request(start - Duration::from_secs(1)).is_err());
    }
}
