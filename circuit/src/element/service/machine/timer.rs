//! The machine's timers.

use std::time::Duration;

use super::{InstanceId, Machine};

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

impl Machine {
    pub(super) fn arm(&mut self, id: InstanceId, clock: Clock, at: Duration) {
        self.timers.arm(Timer::Instance(id, clock), at);
    }

    pub(super) fn disarm(&mut self, id: InstanceId, clock: Clock) {
        self.timers.disarm(Timer::Instance(id, clock));
    }

    /// Stops all timers of an instance but [`Clock::Kill`].
    pub(super) fn quiet(&mut self, id: InstanceId) {
        for clock in Clock::ALL.into_iter().filter(|clock| *clock != Clock::Kill) {
            self.disarm(id, clock);
        }
    }
}
