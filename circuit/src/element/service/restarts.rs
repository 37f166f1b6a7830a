//! The rate of automatic restarts after failures, which all services of a server share.
//!
//! Who asks waits for its turn, once, and may call the question off: only a start that takes place counts.

use std::collections::BTreeMap;
use std::time::Duration;

/// How many restarts a second.
const RATE: f64 = 20.0;

/// How many at once.
const BURST: f64 = 100.0;

/// Who asks: the id of a service, and a slot.
type Key = (u64, u32);

/// Those who wait, each with what is needed to tell it.
#[derive(Debug)]
pub(super) struct Restarts<T> {
    allowed: f64,
    at: Duration,
    waiting: BTreeMap<u64, (Key, T)>,
    /// Where each waits.
    places: BTreeMap<Key, u64>,
    next: u64,
    /// Whether somebody is there to call [`next`](Self::next).
    running: bool,
}

/// What is to be done now.
#[derive(Debug, PartialEq)]
pub(super) enum Next<T> {
    /// This one may start.
    Start(T),
    /// Nobody may before this time has passed.
    Pause(Duration),
    /// Nobody waits: [`Restarts::ask`] says when somebody does.
    Nobody,
}

impl<T> Restarts<T> {
    pub(super) fn new(now: Duration) -> Restarts<T> {
        Restarts {
            allowed: BURST,
            at: now,
            waiting: BTreeMap::new(),
            places: BTreeMap::new(),
            next: 0,
            running: false,
        }
    }

    /// Has a slot wait. Whether [`next`](Self::next) is to be called again from now on.
    pub(super) fn ask(&mut self, key: Key, who: T) -> bool {
        if !self.places.contains_key(&key) {
            self.places.insert(key, self.next);
            self.waiting.insert(self.next, (key, who));
            self.next += 1;
        }
        !std::mem::replace(&mut self.running, true)
    }

    /// The slot does not wait any more.
    pub(super) fn unask(&mut self, key: Key) {
        if let Some(place) = self.places.remove(&key) {
            self.waiting.remove(&place);
        }
    }

    pub(super) fn next(&mut self, now: Duration) -> Next<T> {
        let passed = now.saturating_sub(self.at).as_secs_f64();
        self.allowed = (self.allowed + passed * RATE).min(BURST);
        self.at = now;
        if self.waiting.is_empty() {
            self.running = false;
            return Next::Nobody;
        }
        if self.allowed < 1.0 {
            return Next::Pause(Duration::from_secs_f64((1.0 - self.allowed) / RATE));
        }
        match self.waiting.pop_first() {
            Some((_, (key, who))) => {
                self.places.remove(&key);
                self.allowed -= 1.0;
                Next::Start(who)
            }
            None => Next::Nobody,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many may start now.
    fn granted(restarts: &mut Restarts<u32>, now: Duration) -> Vec<u32> {
        std::iter::from_fn(|| match restarts.next(now) {
            Next::Start(slot) => Some(slot),
            Next::Pause(_) | Next::Nobody => None,
        })
        .collect()
    }

    #[test]
    fn a_question_that_was_called_off_takes_nothing_from_the_others() {
        let now = Duration::from_secs(10);
        let mut restarts = Restarts::new(now);
        assert!(restarts.ask((7, 0), 0));
        for slot in 1..200 {
            assert!(!restarts.ask((7, slot), slot));
        }
        // All but the last hundred have something else to do.
        for slot in 0..100 {
            restarts.unask((7, slot));
        }
        assert_eq!(granted(&mut restarts, now), (100..200).collect::<Vec<_>>());
        assert_eq!(restarts.next(now), Next::Nobody);
        assert!(restarts.ask((7, 1), 1));
    }

    #[test]
    fn who_asks_twice_starts_once_and_the_rate_holds() {
        let mut now = Duration::from_secs(10);
        let mut restarts = Restarts::new(now);
        for slot in 0..130 {
            restarts.ask((7, slot), slot);
            restarts.ask((7, slot), slot);
        }
        assert_eq!(granted(&mut restarts, now).len(), 100);
        let Next::Pause(pause) = restarts.next(now) else {
            panic!("it does not pause");
        };
        assert_eq!(pause, Duration::from_millis(50));
        now += Duration::from_secs(1);
        assert_eq!(granted(&mut restarts, now).len(), 20);
        now += Duration::from_secs(1);
        assert_eq!(granted(&mut restarts, now).len(), 10);
    }
}
