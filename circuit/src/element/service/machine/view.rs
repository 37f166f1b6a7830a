//! What `peek` and `ls` show of a service: a read-only picture.

use std::collections::BTreeSet;
use std::time::Duration;

use super::instance::Instance;
use super::slot::{Rest, Slot};
use super::{AfterState, Failure, Generation, InstanceId, Last, Machine, Want, Why};

/// A service at one moment. Times are boot time.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct View {
    /// What a person wants.
    pub(crate) want: Want,
    /// The newest generation.
    pub(crate) generation: Generation,
    /// The generation before, while a roll is unfinished or halted and some slot would go back to it.
    pub(crate) previous: Option<Generation>,
    /// How many slots there are to be.
    pub(crate) instances: u32,
    /// How many slots have a ready instance, old ones included.
    pub(crate) ready: u32,
    /// The roll, if one is unfinished or halted.
    pub(crate) rolling: Option<Rolling>,
    /// The slots, in the order of their numbers; more than `instances` while some are being stopped.
    pub(crate) slots: Vec<SlotView>,
}

/// What a listing shows of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Summary {
    /// What a person wants.
    pub(crate) want: Want,
    /// How many slots have a ready instance, old ones included.
    pub(crate) ready: u32,
    /// Whether a roll was halted.
    pub(crate) is_halted: bool,
    /// The states that its slots have.
    pub(crate) states: BTreeSet<State>,
}

/// A roll at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Rolling {
    /// It goes on.
    Unfinished {
        /// Whether the definition changed; otherwise a person restarts.
        update: bool,
        /// The slots that are being replaced now.
        now: Vec<u32>,
        /// The slots that wait for their turn.
        pending: Vec<u32>,
    },
    /// It was halted.
    Halted(Failure),
}

/// A slot at one moment.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct SlotView {
    /// Its number.
    pub(crate) slot: u32,
    /// Its state.
    pub(crate) state: State,
    /// Why it is in that state, if anything but its start led to it.
    pub(crate) why: Option<Why>,
    /// Since when.
    pub(crate) since: Duration,
    /// The instance in it.
    pub(crate) instance: Option<InstanceId>,
    /// The main process of that instance, while it lives.
    pub(crate) pid: Option<u32>,
    /// The definition of that instance, or of the next one.
    pub(crate) generation: Generation,
    /// Whether that instance is of an earlier life of the server.
    pub(crate) adopted: bool,
    /// What it waits for, in the state `waiting`; empty there means its turn (`Parallel`).
    pub(crate) waiting: Vec<(String, AfterState)>,
    /// How many instances were spawned in it.
    pub(crate) starts: u64,
    /// The failures in a row.
    pub(crate) failures: u32,
    /// When the next try is due.
    pub(crate) next: Option<Duration>,
    /// How the last instance ended.
    pub(crate) last: Option<Last>,
    /// The instances that are being replaced or that have been, while they run.
    pub(crate) old: Vec<OldView>,
}

/// An instance beside its slot at one moment.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct OldView {
    /// The instance.
    pub(crate) instance: InstanceId,
    /// The main process, while it lives.
    pub(crate) pid: Option<u32>,
    /// Its definition.
    pub(crate) generation: Generation,
    /// Its state.
    pub(crate) state: State,
    /// Since when.
    pub(crate) since: Duration,
}

/// The states of a slot; those of an instance are `starting` to `stopping`, and `stuck`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum State {
    /// It waits for other services, or for its turn.
    Waiting,
    /// It is not ready yet.
    Starting,
    /// It is ready.
    Ready,
    /// It was ready and is not any more.
    Unready,
    /// It is being stopped.
    Stopping,
    /// It is started again after a delay.
    Backoff,
    /// It cannot be stopped.
    Stuck,
    /// It is given up until a person says otherwise.
    Failed,
    /// It did its work.
    Finished,
    /// It is down.
    Down,
}

impl State {
    /// Its word.
    pub(crate) fn word(self) -> &'static str {
        match self {
            State::Waiting => "waiting",
            State::Starting => "starting",
            State::Ready => "ready",
            State::Unready => "unready",
            State::Stopping => "stopping",
            State::Backoff => "backoff",
            State::Stuck => "stuck",
            State::Failed => "failed",
            State::Finished => "finished",
            State::Down => "down",
        }
    }
}

impl Machine {
    /// The service at this moment.
    pub(crate) fn view(&self) -> View {
        let slots: Vec<SlotView> = self
            .slots
            .iter()
            .map(|(number, slot)| self.slot_view(*number, slot))
            .collect();
        let ready = self.slots.values().filter(|slot| slot.is_ready()).count();
        View {
            want: self.want,
            generation: self.generation,
            previous: self.previous(),
            instances: self.instances,
            ready: u32::try_from(ready).unwrap_or(u32::MAX),
            rolling: self.rolling(),
            slots,
        }
    }

    /// The service at this moment in a few words.
    pub(crate) fn summary(&self) -> Summary {
        let states = self
            .slots
            .iter()
            .map(|(number, slot)| self.slot_state(*number, slot));
        let ready = self.slots.values().filter(|slot| slot.is_ready()).count();
        let is_halted = self.roll.as_ref().is_some_and(|roll| roll.halted.is_some());
        Summary {
            want: self.want,
            ready: u32::try_from(ready).unwrap_or(u32::MAX),
            is_halted,
            states: states.collect(),
        }
    }

    /// The state of a slot, if it is there.
    pub(crate) fn state(&self, number: u32) -> Option<State> {
        Some(self.slot_state(number, self.slots.get(&number)?))
    }

    /// How the service is for those that wait for it: ready if all its slots are ready or finished.
    pub(crate) fn standing(&self) -> AfterState {
        if self.want != Want::Up {
            return AfterState::Down;
        }
        let all = (1..=self.instances).all(|number| {
            let slot = self.slots.get(&number);
            slot.is_some_and(|slot| slot.is_settled())
        });
        if all {
            AfterState::Ready
        } else {
            AfterState::NotReady
        }
    }

    /// Whether nothing runs, and nothing will before a person wants it: all slots are down, finished
    /// or failed, and empty.
    pub(crate) fn is_over(&self) -> bool {
        self.slots.values().all(|slot| {
            slot.is_empty() && matches!(slot.rest, Rest::Down | Rest::Finished | Rest::Failed)
        })
    }

    fn previous(&self) -> Option<Generation> {
        self.roll.as_ref()?;
        let generations = self.generations();
        let before = |generation: &Generation| *generation < self.generation;
        generations.into_iter().filter(before).max()
    }

    fn rolling(&self) -> Option<Rolling> {
        let roll = self.roll.as_ref()?;
        if let Some(failure) = &roll.halted {
            return Some(Rolling::Halted(failure.clone()));
        }
        let active = |number: &u32| self.slots.get(number).is_some_and(Slot::is_replacing);
        let (now, pending) = roll.pending.iter().partition(|number| active(number));
        Some(Rolling::Unfinished {
            update: roll.update,
            now,
            pending,
        })
    }

    fn slot_view(&self, number: u32, slot: &Slot) -> SlotView {
        let current = slot.current.as_ref();
        let state = self.slot_state(number, slot);
        let next_generation = self.next_generation(number);
        let generation = current.map_or(next_generation, |it| it.generation);
        SlotView {
            slot: number,
            state,
            why: match current {
                Some(instance) => instance.stopping.as_ref().map(|it| it.why.clone()),
                None => slot.rest_why.clone(),
            },
            since: current.map_or(slot.rest_since, |instance| instance.since),
            instance: current.map(|instance| id(number, instance)),
            pid: current.and_then(pid),
            generation,
            adopted: current.is_some_and(|instance| instance.adopted),
            waiting: match state {
                State::Waiting => self.waits_for(next_generation),
                _ => Vec::new(),
            },
            starts: slot.starts,
            failures: slot.failures,
            next: match (current, slot.rest) {
                (None, Rest::Backoff { until }) => Some(until),
                _ => None,
            },
            last: slot.last.clone(),
            old: slot
                .old
                .iter()
                .map(|instance| OldView {
                    instance: id(number, instance),
                    pid: pid(instance),
                    generation: instance.generation,
                    state: instance.state(),
                    since: instance.since,
                })
                .collect(),
        }
    }

    fn slot_state(&self, number: u32, slot: &Slot) -> State {
        match &slot.current {
            Some(instance) => instance.state(),
            None => self.rest_state(number, slot),
        }
    }

    fn rest_state(&self, number: u32, slot: &Slot) -> State {
        match slot.rest {
            // What keeps it from being filled is what is to be seen.
            Rest::Due { .. } if !slot.old.is_empty() && !self.may_fill(number) => slot
                .old
                .iter()
                .map(Instance::state)
                .max()
                .unwrap_or(State::Waiting),
            Rest::Due { .. } => State::Waiting,
            Rest::Backoff { .. } | Rest::Asked => State::Backoff,
            Rest::Failed => State::Failed,
            Rest::Finished => State::Finished,
            Rest::Down if slot.old.is_empty() => State::Down,
            Rest::Down => slot
                .old
                .iter()
                .map(Instance::state)
                .max()
                .unwrap_or(State::Down),
        }
    }
}

fn id(slot: u32, instance: &Instance) -> InstanceId {
    let number = instance.number;
    InstanceId { slot, number }
}

/// The main process, while it lives.
fn pid(instance: &Instance) -> Option<u32> {
    instance.pid.filter(|_| instance.ended.is_none())
}
