//! The machine's timers: a table that holds each at most once.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::InstanceId;

/// Something that comes due at some time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Timer {
    /// A slot's back-off is over.
    Backoff(u32),
    /// A slot may be replaced again for its age or memory.
    Hold(u32),
    /// Something of an instance.
    Instance(InstanceId, Clock),
}

/// What there is to be timed of an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Clock {
    /// It has run long enough to be ready.
    Up,
    /// It had to be ready by now.
    Deadline,
    /// It was ready long enough for failures to be forgotten.
    Steady,
    /// It has reached its age.
    Age,
    /// Ask whether it is ready.
    Ready,
    /// Ask whether it is alive, or count that it did not say so.
    Alive,
    /// Measure its memory.
    Sample,
    /// Its readiness was withdrawn long enough ago for the signal.
    Wait,
    /// KILL to its tree.
    Kill,
}

impl Clock {
    /// All of them.
    pub(super) const ALL: [Clock; 9] = [
        Clock::Up,
        Clock::Deadline,
        Clock::Steady,
        Clock::Age,
        Clock::Ready,
        Clock::Alive,
        Clock::Sample,
        Clock::Wait,
        Clock::Kill,
    ];
}

/// Which timers run, and until when.
#[derive(Debug, Clone, Default)]
pub(super) struct Timers {
    due: BTreeMap<Timer, Duration>,
    order: BTreeSet<(Duration, Timer)>,
}

impl Timers {
    /// Lets the timer run until then; if it runs already, until then instead. The end of time does not
    /// come.
    pub(super) fn arm(&mut self, timer: Timer, at: Duration) {
        self.disarm(timer);
        if at == Duration::MAX {
            return;
        }
        self.due.insert(timer, at);
        self.order.insert((at, timer));
    }

    /// Stops the timer.
    pub(super) fn disarm(&mut self, timer: Timer) {
        if let Some(at) = self.due.remove(&timer) {
            self.order.remove(&(at, timer));
        }
    }

    /// Stops all timers of an instance but [`Clock::Kill`].
    pub(super) fn quiet(&mut self, instance: InstanceId) {
        for clock in Clock::ALL {
            if clock != Clock::Kill {
                self.disarm(Timer::Instance(instance, clock));
            }
        }
    }

    /// When the first one ends.
    pub(super) fn next(&self) -> Option<Duration> {
        self.order.first().map(|(at, _)| *at)
    }

    /// One that has ended by now, stopped.
    pub(super) fn take_due(&mut self, now: Duration) -> Option<Timer> {
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
        timers.arm(Timer::Backoff(1), at(5));
        timers.arm(Timer::Hold(1), at(3));
        timers.arm(Timer::Backoff(1), at(2));
        assert_eq!(timers.next(), Some(at(2)));
        assert_eq!(timers.take_due(at(1)), None);
        assert_eq!(timers.take_due(at(9)), Some(Timer::Backoff(1)));
        assert_eq!(timers.take_due(at(9)), Some(Timer::Hold(1)));
        assert_eq!(timers.take_due(at(9)), None);
        timers.arm(Timer::Hold(1), Duration::MAX);
        assert_eq!(timers.next(), None);
    }
}
