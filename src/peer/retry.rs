//! When to dial again: exponential backoff with full jitter, so that a parent that comes back is not met by all of its
//! children at once. (Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.)

use std::time::Duration;

/// The bounds of the waits between attempts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retry {
    /// The longest wait after the first failed attempt; doubled with each further one.
    pub first: Duration,
    /// No wait is longer.
    pub max: Duration,
}

impl Default for Retry {
    fn default() -> Self {
        Retry { first: Duration::from_millis(500), max: Duration::from_secs(30) }
    }
}

impl Retry {
    /// How long to wait after the `failed`th failure in a row (1 is the first). `draw` is uniform in 0.0..1.0. Never less
    /// than a hundredth of the bound, so that a parent that refuses is not hammered.
    pub fn wait(&self, failed: u32, retryable: bool, draw: f64) -> Duration {
        let doubled = self.first.saturating_mul(1u32.checked_shl(failed.saturating_sub(1)).unwrap_or(u32::MAX));
        let bound = doubled.min(self.max);
        match retryable {
            true => bound.mul_f64(draw.clamp(0.01, 1.0)),
            // Only an operator can help, but nobody tells us when that has happened.
            false => self.max.mul_f64(0.75 + 0.25 * draw.clamp(0.0, 1.0)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_are_jittered_and_never_exceed_the_bound() {
        let retry = Retry { first: Duration::from_millis(100), max: Duration::from_secs(5) };
        assert_eq!(retry.wait(1, true, 1.0), Duration::from_millis(100));
        assert_eq!(retry.wait(3, true, 1.0), Duration::from_millis(400));
        assert_eq!(retry.wait(3, true, 0.5), Duration::from_millis(200));
        for failed in [7, 31, 32, 33, u32::MAX] {
            assert_eq!(retry.wait(failed, true, 1.0), Duration::from_secs(5), "after {failed} failures");
        }
        assert!(retry.wait(9, true, 0.0) > Duration::ZERO);
    }

    #[test]
    fn what_only_an_operator_can_mend_is_tried_slowly() {
        let retry = Retry { first: Duration::from_millis(100), max: Duration::from_secs(4) };
        assert_eq!(retry.wait(1, false, 0.0), Duration::from_secs(3));
        assert_eq!(retry.wait(1, false, 1.0), Duration::from_secs(4));
    }
}
