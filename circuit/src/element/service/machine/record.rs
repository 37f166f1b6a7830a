//! What is kept of a service, so that the server's next life goes on where this one ended.
//!
//! The times in it are boot time, as the machine's are; [`SlotRecord::after_reboot`] is for records
//! of another boot.

use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::time::Duration;

use super::instance::Instance;
use super::slot::{Rest, Slot};
use super::stop::Verdict;
use super::{End, Failure, Generation, Machine, Want, Why};

/// What is kept of the service as a whole, besides the definition of each kept generation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ServiceRecord {
    /// What a person wants.
    pub(crate) want: Want,
    /// The newest generation.
    pub(crate) generation: Generation,
    /// How many slots there are.
    pub(crate) instances: u32,
    /// The number of the first instance of a slot that is made anew: above those of all slots that
    /// are gone.
    pub(crate) first_number: u64,
    /// The roll that is unfinished or halted.
    pub(crate) roll: Option<RollRecord>,
    /// The single slots that are to be replaced because a person said so.
    pub(crate) restarts: BTreeSet<u32>,
}

/// What is kept of a roll.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RollRecord {
    /// Whether the definition changed; otherwise a person restarts.
    pub(crate) update: bool,
    /// The slots that have no new instance yet.
    pub(crate) pending: BTreeSet<u32>,
    /// What halted it.
    pub(crate) halted: Option<Failure>,
}

/// What is kept of a slot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
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
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
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
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Last {
    /// The end of its main process; none if there was no process.
    pub(crate) end: Option<End>,
    /// Why.
    pub(crate) why: Why,
    /// When.
    pub(crate) at: Duration,
}

/// What is kept of an instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
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
    /// How its main process ended, if it has.
    pub(crate) ended: Option<End>,
    /// How it is being stopped, if it is. None if it has ended by itself.
    pub(crate) stopping: Option<StopRecord>,
}

/// What is kept of a stop.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
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
    /// It may live, and may not be touched: it was of another pid namespace, or there are too few
    /// descriptors to hold it. The slot is stuck until [`TreeEmpty`](super::Input::TreeEmpty) comes,
    /// or a person says that it is gone.
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

impl Machine {
    /// What is to be kept of the service.
    pub(crate) fn service_record(&self) -> ServiceRecord {
        let single = |slot: &Slot| {
            let replace = slot.replace.as_ref();
            replace.is_some_and(|it| !it.roll && it.why == Why::Restart)
        };
        ServiceRecord {
            want: self.want,
            generation: self.generation,
            instances: self.instances,
            first_number: self.first_number,
            roll: self.roll.as_ref().map(|roll| RollRecord {
                update: roll.update,
                pending: roll.pending.clone(),
                halted: roll.halted.clone(),
            }),
            restarts: self
                .slots
                .iter()
                .filter(|(_, slot)| single(slot))
                .map(|(number, _)| *number)
                .collect(),
        }
    }

    /// What is to be kept of a slot; none if it is not there.
    pub(crate) fn slot_record(&self, number: u32) -> Option<SlotRecord> {
        let slot = self.slots.get(&number)?;
        let mut instances: Vec<InstanceRecord> = slot.all().map(instance_record).collect();
        instances.sort_by_key(|instance| instance.number);
        Some(SlotRecord {
            slot: number,
            next: slot.next,
            ran_ready: slot.ran_ready,
            starts: slot.starts,
            failures: slot.failures,
            delay: slot.delay,
            rest: match slot.rest {
                Rest::Due { .. } | Rest::Down | Rest::Asked => RestRecord::Free,
                Rest::Backoff { until } => RestRecord::Backoff(until),
                Rest::Failed => RestRecord::Failed,
                Rest::Finished => RestRecord::Finished,
            },
            last: slot.last.clone(),
            instances,
        })
    }
}

fn instance_record(instance: &Instance) -> InstanceRecord {
    let itself = |why: &Why| matches!(why, Why::Exited | Why::Unknown);
    let stopping = instance.stopping.as_ref();
    InstanceRecord {
        number: instance.number,
        generation: instance.generation,
        pid: instance.pid,
        spawned: instance.spawned,
        was_ready: instance.was_ready,
        ready: instance.ready,
        age: instance.age,
        ended: instance.ended.map(|(end, _)| end),
        stopping: stopping
            .filter(|stopping| !itself(&stopping.why))
            .map(|stopping| StopRecord {
                why: stopping.why.clone(),
                counts: stopping.verdict == Verdict::Failed,
                first: stopping.first,
            }),
    }
}
