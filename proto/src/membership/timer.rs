//! The machine's timers: a table that holds each at most once.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::Fingerprint;

/// Something that comes due at some time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Timer {
    /// Heartbeats are to be sent on all links.
    Heartbeat,
    /// News is to be sent.
    Flush,
    /// A link may have been silent for too long.
    Silence(Fingerprint),
    /// A connection that is no link may have been idle for too long.
    Idle(Fingerprint),
    /// A request for a link was not answered.
    Asked(Fingerprint),
    /// A connection takes long to open.
    Connecting(Fingerprint),
    /// Two merged circuits want a link between them.
    Bridge(Fingerprint),
    /// A probe goes on.
    Probe(Fingerprint),
    /// An indirect probe goes on.
    IndirectProbe(Fingerprint),
    /// A suspicion nears its end.
    Suspicion(Fingerprint),
    /// Missing links are to be sought.
    Seek,
    /// A link is to be exchanged for a random one.
    Rewire,
    /// A member is to be audited.
    Audit,
    /// A tombstone is to be pinged.
    Tombstone,
    /// Old tombstones are to be dropped.
    Expire,
}

/// Which timers run, and until when.
#[derive(Debug, Clone, Default)]
pub(super) struct Timers {
    due: BTreeMap<Timer, Duration>,
    order: BTreeSet<(Duration, Timer)>,
}

impl Timers {
    /// How many run.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.due.len()
    }

    /// Lets the timer run until then; if it runs already, until then instead.
    pub(super) fn arm(&mut self, timer: Timer, at: Duration) {
        if let Some(before) = self.due.insert(timer, at) {
            self.order.remove(&(before, timer));
        }
        self.order.insert((at, timer));
    }

    /// The same, unless it runs already and ends earlier.
    pub(super) fn arm_by(&mut self, timer: Timer, at: Duration) {
        if self.due.get(&timer).is_none_or(|due| *due > at) {
            self.arm(timer, at);
        }
    }

    /// The same, if it runs already and ends earlier.
    pub(super) fn delay(&mut self, timer: Timer, at: Duration) {
        if self.due.get(&timer).is_some_and(|due| *due < at) {
            self.arm(timer, at);
        }
    }

    /// Stops the timer.
    pub(super) fn disarm(&mut self, timer: Timer) {
        if let Some(before) = self.due.remove(&timer) {
            self.order.remove(&(before, timer));
        }
    }

    /// Stops all of them.
    pub(super) fn clear(&mut self) {
        self.due.clear();
        self.order.clear();
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
        timers.arm(Timer::Flush, at(5));
        timers.arm(Timer::Seek, at(3));
        timers.arm(Timer::Flush, at(2));
        timers.arm_by(Timer::Seek, at(9));
        assert_eq!(timers.next(), Some(at(2)));
        assert_eq!(timers.take_due(at(1)), None);
        assert_eq!(timers.take_due(at(9)), Some(Timer::Flush));
        assert_eq!(timers.take_due(at(9)), Some(Timer::Seek));
        assert_eq!(timers.take_due(at(9)), None);
        assert_eq!(timers.next(), None);
    }
}
