//! A token bucket: how often something may be done that others can provoke.
//!
//! The [machine](super::Machine) has one for each such thing.

use std::time::Duration;

/// Allows `burst` at once, and then one in every `refill`.
#[derive(Debug)]
pub(super) struct Bucket {
    burst: u32,
    refill: Duration,
    /// When the bucket will be full: how much is in it follows from that.
    full: Duration,
}

impl Bucket {
    /// A full bucket.
    pub(super) fn new(burst: u32, refill: Duration) -> Bucket {
        Bucket {
            burst,
            refill,
            full: Duration::ZERO,
        }
    }

    /// Takes a token; whether there was one.
    pub(super) fn take(&mut self, now: Duration) -> bool {
        let full = self.full.max(now) + self.refill;
        let fits = full <= now + self.refill * self.burst;
        if fits {
            self.full = full;
        }
        fits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn allows_a_burst_and_then_one_at_a_time() {
        let mut bucket = Bucket::new(3, Duration::from_secs(1));
        let mut check = |at: u64, expected: u32| {
            let now = Duration::from_secs(at);
            let taken = (0..10).filter(|_| bucket.take(now)).count();
            assert_eq!(taken, expected as usize, "at {at}");
        };
        check(0, 3);
        check(1, 1);
        check(3, 2);
        check(100, 3);
    }
}
