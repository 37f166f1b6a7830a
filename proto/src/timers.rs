//! The timers of a state machine: a table that holds each of them at most once.
//!
//! A machine has an enum of its timers, and asks for the [next](Timers::next) after each call. Membership and the
//! supervisor of services use it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Which timers run, and until when. Times are the machine's own, from any beginning.
///
/// ```
/// use circuit_proto::timers::Timers;
/// use std::time::Duration;
/// let at = Duration::from_millis;
/// let mut timers = Timers::default();
/// timers.arm("flush", at(5));
/// timers.arm("seek", at(3));
/// assert_eq!(timers.next(), Some(at(3)));
/// assert_eq!(timers.take_due(at(4)), Some("seek"));
/// assert_eq!(timers.take_due(at(4)), None);
/// ```
#[derive(Debug, Clone)]
pub struct Timers<T> {
    due: BTreeMap<T, Duration>,
    order: BTreeSet<(Duration, T)>,
}

impl<T> Default for Timers<T> {
    fn default() -> Timers<T> {
        Timers {
            due: BTreeMap::new(),
            order: BTreeSet::new(),
        }
    }
}

impl<T: Copy + Ord> Timers<T> {
    /// How many run.
    pub fn len(&self) -> usize {
        self.due.len()
    }

    /// Whether none runs.
    pub fn is_empty(&self) -> bool {
        self.due.is_empty()
    }

    /// Lets the timer run until then; if it runs already, until then instead. The end of time does not come.
    pub fn arm(&mut self, timer: T, at: Duration) {
        self.disarm(timer);
        if at < Duration::MAX {
            self.due.insert(timer, at);
            self.order.insert((at, timer));
        }
    }

    /// The same, unless it runs already and ends earlier.
    pub fn arm_by(&mut self, timer: T, at: Duration) {
        if self.due.get(&timer).is_none_or(|due| *due > at) {
            self.arm(timer, at);
        }
    }

    /// The same, if it runs already and ends earlier.
    pub fn delay(&mut self, timer: T, at: Duration) {
        if self.due.get(&timer).is_some_and(|due| *due < at) {
            self.arm(timer, at);
        }
    }

    /// Stops the timer.
    pub fn disarm(&mut self, timer: T) {
        if let Some(before) = self.due.remove(&timer) {
            self.order.remove(&(before, timer));
        }
    }

    /// Stops all of them.
    pub fn clear(&mut self) {
        self.due.clear();
        self.order.clear();
    }

    /// When the first one ends.
    pub fn next(&self) -> Option<Duration> {
        self.order.first().map(|(at, _)| *at)
    }

    /// One that has ended by now, stopped.
    pub fn take_due(&mut self, now: Duration) -> Option<T> {
        let (at, timer) = *self.order.first()?;
        if at > now {
            return None;
        }
        self.disarm(timer);
        Some(timer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timer_runs_once_and_as_last_armed() {
        let at = Duration::from_millis;
        let mut timers = Timers::default();
        timers.arm('a', at(5));
        timers.arm('b', at(3));
        timers.arm('a', at(2));
        timers.arm_by('b', at(9));
        assert_eq!(timers.next(), Some(at(2)));
        assert_eq!(timers.take_due(at(1)), None);
        assert_eq!(timers.take_due(at(9)), Some('a'));
        assert_eq!(timers.take_due(at(9)), Some('b'));
        assert_eq!(timers.take_due(at(9)), None);
        timers.arm('b', Duration::MAX);
        assert_eq!(timers.next(), None);
    }
}
