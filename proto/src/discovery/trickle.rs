//! When to announce: the Trickle timer (RFC 6206, section 4.2), one for each segment.
//!
//! The [machine](super::Machine) tells it who else was heard and asks it when to speak. It knows
//! nothing of packets.
//!
//! **Invariants:** at most one announcement in an interval; an announcement only if fewer than
//! [`REDUNDANCY`] others spoke in the interval before it; a reset never shortens an interval
//! that is the shortest already, so that no flood of resets makes a server speak more often.

use std::collections::BTreeSet;
use std::time::Duration;

use rand_pcg::Pcg64Mcg;
use rand_pcg::rand_core::Rng;

use crate::ServerId;

/// The shortest interval (`Imin`). Ten times the time that a packet takes on the slower of the
/// segments in question, Wi-Fi's 10 ms: RFC 7731, section 5.5, has the factor.
pub const SHORTEST: Duration = Duration::from_millis(100);

/// How often the interval doubles (`Imax`): up to 51.2 s. Chosen, not measured: the most that
/// stays under a minute, the time after which people doubt that anything happens.
pub const DOUBLINGS: u32 = 9;

/// How many others must have spoken in an interval for us to be silent (`k`). Chosen, not measured:
/// RFC 7731, section 5.5, has 1; one more lets one announcement be lost.
pub const REDUNDANCY: usize = 2;

/// A Trickle timer.
#[derive(Debug)]
pub struct Trickle {
    /// The current interval's length (`I`).
    interval: Duration,
    /// When the current interval ends.
    end: Duration,
    /// When to speak in this interval (`t`); `None` after that moment.
    speak: Option<Duration>,
    /// The servers that were heard in this interval; their number is Trickle's `c`. A packet may arrive twice,
    /// through two interfaces, so they are counted by id. At most [`REDUNDANCY`].
    heard: BTreeSet<ServerId>,
}

impl Trickle {
    /// A timer that begins its shortest interval.
    pub fn new(now: Duration, rng: &mut Pcg64Mcg) -> Trickle {
        let mut trickle = Trickle {
            interval: SHORTEST,
            end: now,
            speak: None,
            heard: BTreeSet::new(),
        };
        trickle.begin(now, rng);
        trickle
    }

    /// One of our own was heard: nothing new.
    pub fn on_consistent(&mut self, id: ServerId) {
        if self.heard.len() < REDUNDANCY {
            self.heard.insert(id);
        }
    }

    /// Something new was heard: others should hear of us soon.
    pub fn on_inconsistent(&mut self, now: Duration, rng: &mut Pcg64Mcg) {
        if self.interval > SHORTEST {
            self.interval = SHORTEST;
            self.begin(now, rng);
        }
    }

    /// When [`on_timeout`](Self::on_timeout) should be called next.
    pub fn timeout(&self) -> Duration {
        self.speak.unwrap_or(self.end)
    }

    /// Takes note of the time. Returns whether to announce now.
    pub fn on_timeout(&mut self, now: Duration, rng: &mut Pcg64Mcg) -> bool {
        let due = self.speak.is_some_and(|at| at <= now);
        if due {
            self.speak = None;
        }
        let announce = due && self.heard.len() < REDUNDANCY;
        if self.end <= now {
            self.interval = (self.interval * 2).min(SHORTEST * (1 << DOUBLINGS));
            // From now, not from the old end: a process that slept owes nobody the intervals
            // that it slept through.
            self.begin(now, rng);
        }
        announce
    }

    fn begin(&mut self, now: Duration, rng: &mut Pcg64Mcg) {
        let half = self.interval / 2;
        // Whole milliseconds would let thousands of servers coincide. The half interval has at
        // most 2^35 ns: the product fits 64 bits after the shift.
        let share = rng.next_u64() >> 36;
        let part = (half.as_nanos() * u128::from(share)) >> 28;
        self.speak = Some(now + half + Duration::from_nanos(part as u64));
        self.end = now + self.interval;
        self.heard.clear();
    }
}

#[cfg(test)]
mod tests {
    use rand_pcg::rand_core::SeedableRng;

    use super::*;

    const LONGEST: Duration = Duration::from_millis(51_200);

    fn rng() -> Pcg64Mcg {
        Pcg64Mcg::seed_from_u64(1)
    }

    /// Steps the timer to `until`; the times of its announcements.
    fn run(trickle: &mut Trickle, until: Duration, rng: &mut Pcg64Mcg) -> Vec<Duration> {
        let mut spoken = Vec::new();
        while trickle.timeout() <= until {
            let now = trickle.timeout();
            if trickle.on_timeout(now, rng) {
                spoken.push(now);
            }
        }
        spoken
    }

    #[test]
    fn speaks_once_in_the_second_half_of_each_interval_and_ever_rarer() {
        let rng = &mut rng();
        let mut trickle = Trickle::new(Duration::ZERO, rng);
        let spoken = run(&mut trickle, Duration::from_secs(1000), rng);
        let (mut begin, mut interval) = (Duration::ZERO, SHORTEST);
        for at in &spoken {
            assert!(
                (begin + interval / 2..begin + interval).contains(at),
                "{at:?} in {begin:?}"
            );
            begin += interval;
            interval = (interval * 2).min(LONGEST);
        }
        // Nine intervals end within 51.1 s, then one every 51.2 s.
        assert_eq!(spoken.len(), 9 + 18);
    }

    #[test]
    fn is_silent_when_enough_others_spoke() {
        let check = |others: &[u64], expected: bool| {
            let rng = &mut rng();
            let mut trickle = Trickle::new(Duration::ZERO, rng);
            others
                .iter()
                .for_each(|id| trickle.on_consistent(ServerId(*id)));
            let spoken = run(&mut trickle, SHORTEST, rng);
            assert_eq!(!spoken.is_empty(), expected, "{others:?}");
        };
        check(&[], true);
        check(&[1], true);
        check(&[1, 1, 1], true);
        check(&[1, 2], false);
        check(&[1, 2, 3], false);
    }

    #[test]
    fn forgets_who_spoke_when_the_interval_ends() {
        let rng = &mut rng();
        let mut trickle = Trickle::new(Duration::ZERO, rng);
        trickle.on_consistent(ServerId(1));
        trickle.on_consistent(ServerId(2));
        assert_eq!(
            run(&mut trickle, SHORTEST * 3 - Duration::from_nanos(1), rng).len(),
            1
        );
    }

    #[test]
    fn something_new_begins_the_shortest_interval_but_never_again_within_it() {
        let rng = &mut rng();
        let mut trickle = Trickle::new(Duration::ZERO, rng);
        let now = Duration::from_secs(600);
        run(&mut trickle, now, rng);
        trickle.on_inconsistent(now, rng);
        let at = trickle.timeout();
        assert!((now + SHORTEST / 2..now + SHORTEST).contains(&at));
        trickle.on_inconsistent(now + SHORTEST / 4, rng);
        assert_eq!(trickle.timeout(), at);
    }

    #[test]
    fn a_sleeper_does_not_catch_up() {
        let rng = &mut rng();
        let mut trickle = Trickle::new(Duration::ZERO, rng);
        let now = Duration::from_secs(3600);
        assert!(trickle.on_timeout(now, rng));
        assert!(trickle.timeout() > now);
    }
}
