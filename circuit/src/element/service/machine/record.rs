//! What is kept of a service, so that the server's next life goes on where this one ended.
//!
//! The times in it are boot time, as the machine's are; [`SlotRecord::after_reboot`] is for records
//! of another boot.

use std::collections::BTreeSet;
use std::time::Duration;

use super::{End, Failure, Generation, Want, Why};

/// What is kept of the service as a whole, besides the definition of each kept generation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ServiceRecord {
    /// What a person wants.
    pub(crate) want: Want,
    /// The newest generation.
    pub(crate) generation: Generation,
    /// How many slots there are.
    pub(crate) instances: u32,
    /// The roll that is unfinished or halted.
    pub(crate) roll: Option<RollRecord>,
    /// The single slots that are to be replaced because a person said so.
    pub(crate) restarts: BTreeSet<u32>,
}

/// What is kept of a roll.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RollRecord {
    /// Whether the definition changed; otherwise a person restarts.
    pub(crate) update: bool,
    /// The slots that have no new instance yet.
    pub(crate) pending: BTreeSet<u32>,
    /// What halted it.
    pub(crate) halted: Option<Failure>,
}

/// What is kept of a slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SlotRecord {
    /// Its number.
    pub(crate) slot: u32,
    /// The number of its next instance. Each is given once.
    pub(crate) next: u64,
    /// The generation that last ran ready in it.
    pub(crate) ran_ready: Option<Generation>,
    /// How many instances were spawned.
    pub(crate) starts: u64,
    /// The failures in a row.
    pub(crate) failures: u32,
    /// The delay before the last start.
    pub(crate) delay: Duration,
    /// What it waits for where no instance is in it.
    pub(crate) rest: RestRecord,
    /// How its last instance ended.
    pub(crate) last: Option<Last>,
    /// Its instances, the oldest first.
    pub(crate) instances: Vec<InstanceRecord>,
}

/// What a slot without an instance waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum RestRecord {
    /// To be started, or down, as the service is.
    Free,
    /// To be started, at this time at the earliest.
    Backoff(Duration),
    /// A person, after failures.
    Failed,
    /// A person, after it did its work.
    Finished,
}

/// How an instance ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Last {
    /// The end of its main process; none if there was no process.
    pub(crate) end: Option<End>,
    /// Why.
    pub(crate) why: Why,
    /// When.
    pub(crate) at: Duration,
}

/// What is kept of an instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct InstanceRecord {
    /// Its number.
    pub(crate) number: u64,
    /// Its definition.
    pub(crate) generation: Generation,
    /// Its main process, once it was spawned.
    pub(crate) pid: Option<u32>,
    /// When it was spawned.
    pub(crate) spawned: Option<Duration>,
    /// Whether it has been ready.
    pub(crate) was_ready: bool,
    /// Since when it is ready without a break, if it is.
    pub(crate) ready: Option<Duration>,
    /// At what age it is to be replaced: drawn once.
    pub(crate) age: Option<Duration>,
    /// How it is being stopped, if it is.
    pub(crate) stopping: Option<StopRecord>,
}

/// What is kept of a stop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StopRecord {
    /// Why it is stopped.
    pub(crate) why: Why,
    /// Whether it counts as a failure.
    pub(crate) counts: bool,
    /// When the first signal was sent, or the command begun.
    pub(crate) first: Option<Duration>,
}

/// What a server found of an instance that its life before left. An instance of which nothing is
/// said is gone, and nobody saw how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Found {
    /// Its main process lives, or its end is told by a later
    /// [`MainExited`](super::Input::MainExited).
    Main {
        /// The main process.
        pid: u32,
    },
    /// Its main process is gone, and others of its tree may live.
    Rest {
        /// How the main process ended.
        end: End,
    },
    /// Nothing is left of it.
    Gone {
        /// How the main process ended.
        end: End,
    },
    /// Something that may be it lives, and may not be touched (another pid namespace): the slot is
    /// stuck until [`TreeEmpty`](super::Input::TreeEmpty) comes.
    Foreign,
}

impl SlotRecord {
    /// The same after the host was started again: no time in it means anything any more, and what
    /// was waited for is over. To be read with nothing found: all instances are gone.
    pub(crate) fn after_reboot(mut self) -> SlotRecord {
        self.failures = 0;
        self.delay = Duration::ZERO;
        self.last = None;
        if matches!(self.rest, RestRecord::Backoff(_)) {
            self.rest = RestRecord::Free;
        }
        for instance in &mut self.instances {
            instance.spawned = None;
            instance.ready = None;
        }
        self
    }
}
