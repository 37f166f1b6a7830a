//! A slot: what is in it, and what it waits for when nothing is.

use std::time::Duration;

use super::instance::Instance;
use super::{Failed, Generation, Last, Ticket, Why};

/// A numbered place for instances.
#[derive(Debug, Clone)]
pub(super) struct Slot {
    /// The number of the next instance.
    pub(super) next: u64,
    /// The generation that last ran ready in it.
    pub(super) ran_ready: Option<Generation>,
    /// How many instances were spawned.
    pub(super) starts: u64,
    /// The failures in a row.
    pub(super) failures: u32,
    /// The delay before the last start.
    pub(super) delay: Duration,
    /// What it waits for while nothing is in it.
    pub(super) rest: Rest,
    /// Why it came to wait for that.
    pub(super) rest_why: Option<Why>,
    /// Since when.
    pub(super) rest_since: Duration,
    /// How the last instance ended.
    pub(super) last: Option<Last>,
    /// The last failure, for intents that find the slot failed.
    pub(super) trouble: Option<(u64, Failed)>,
    /// The instance in it.
    pub(super) current: Option<Instance>,
    /// The instances beside it: at most one that serves until its successor, which is `current`, is
    /// ready; all others are being stopped.
    pub(super) old: Vec<Instance>,
    /// Whether it takes one of the places that `parallel` gives.
    pub(super) turn: bool,
    /// The replacement of its instance that is wanted or under way.
    pub(super) replace: Option<Replace>,
    /// Before when it is not replaced for its age or memory, after such a replacement failed.
    pub(super) hold: Option<Duration>,
}

/// What a slot without an instance waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rest {
    /// To be started: when it is its turn, or at once.
    Due {
        /// Whether it waits for its turn.
        turn: bool,
    },
    /// The end of its back-off.
    Backoff {
        /// When that is.
        until: Duration,
    },
    /// The limit of automatic restarts.
    Asked,
    /// A person, after failures.
    Failed,
    /// A person, after its work was done.
    Finished,
    /// That the service goes up.
    Down,
}

/// A replacement of a slot's instance by a new one.
#[derive(Debug, Clone)]
pub(super) struct Replace {
    /// Why.
    pub(super) why: Why,
    /// By which generation; none for the one that the slot last ran ready.
    pub(super) generation: Option<Generation>,
    /// Whether it is a step of the roll.
    pub(super) roll: bool,
    /// Whether the instance stops first, and no turn is waited for.
    pub(super) now: bool,
    /// Whether it is under way.
    pub(super) active: bool,
    /// Who waits for just this one.
    pub(super) ticket: Option<Ticket>,
}

impl Slot {
    /// One that is to be started. `next` is the number of its first instance.
    pub(super) fn new(next: u64, now: Duration) -> Slot {
        Slot {
            next,
            ran_ready: None,
            starts: 0,
            failures: 0,
            delay: Duration::ZERO,
            rest: Rest::Due { turn: true },
            rest_why: None,
            rest_since: now,
            last: None,
            trouble: None,
            current: None,
            old: Vec::new(),
            turn: false,
            replace: None,
            hold: None,
        }
    }

    /// All its instances, the one in it first.
    pub(super) fn all(&self) -> impl Iterator<Item = &Instance> {
        self.current.iter().chain(&self.old)
    }

    /// The same, to be changed.
    pub(super) fn all_mut(&mut self) -> impl Iterator<Item = &mut Instance> {
        self.current.iter_mut().chain(&mut self.old)
    }

    /// Whether it has no instance at all.
    pub(super) fn is_empty(&self) -> bool {
        self.current.is_none() && self.old.is_empty()
    }

    /// Whether one of its instances is ready.
    pub(super) fn is_ready(&self) -> bool {
        self.all().any(|instance| instance.is_ready())
    }

    /// Whether it is ready, or needs not be.
    pub(super) fn is_settled(&self) -> bool {
        self.is_ready() || (self.current.is_none() && self.rest == Rest::Finished)
    }

    /// Whether an instance beside it serves until its successor is ready.
    pub(super) fn has_predecessor(&self) -> bool {
        self.old.iter().any(|old| old.stopping.is_none())
    }

    /// Whether a replacement is under way.
    pub(super) fn is_replacing(&self) -> bool {
        self.replace.as_ref().is_some_and(|replace| replace.active)
    }

    /// Whether a replacement is wanted and not yet under way.
    pub(super) fn wants_replacement(&self) -> bool {
        self.replace.as_ref().is_some_and(|replace| !replace.active)
    }

    /// Forgets the failures, because a person asked.
    pub(super) fn forgive(&mut self) {
        self.failures = 0;
        self.delay = Duration::ZERO;
        self.hold = None;
    }
}
