//! The supervisor of one service: decides when its instances are started, stopped and replaced. It is
//! one pure state machine.
//!
//! The service element drives it: it passes on what people want ([`Intent`]) and what happens
//! ([`Input`]), and carries out the [`Output`]s. The machine knows no clock, no process and no
//! definition: time comes in with each call, randomness from its seed, and of a definition it has a
//! [`Policy`] per generation.
//!
//! A *slot* is a numbered place. An *instance* runs in it: a main process and all its descendants,
//! named by the slot and a number that is given once. A slot has at most one instance, unless its
//! policy has `surge`: then up to two others may be beside it, one that still serves until its
//! successor is ready, and those that are being stopped.
//!
//! The machine asks for automatic restarts ([`Output::Ask`]), because their rate is limited for all
//! services of a server together. It does not ask for first starts and a person's; the driver may
//! queue any [`Output::Spawn`] for its own limit of spawns in flight, since deadlines count from
//! [`Input::Spawned`].
//!
//! **Invariants:** a slot gets a new instance only when the tree of the one before is empty, but for
//! a successor under `surge`. A slot that is failed, finished or down is started by a person only.
//! While a roll is unfinished or halted, a slot restarts with the generation that it last ran ready.
//! Each call makes a bounded number of outputs. The same seed and calls give the same outputs.
//!
//! After each [`Machine::intend`] and [`Machine::handle`]: first drain [`Machine::poll_output`], then
//! arm one timer for [`Machine::deadline`], at which [`Input::Tick`] is due.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use circuit_proto::timers::Timers;
use serde::{Deserialize, Serialize};

mod backoff;
mod input;
mod instance;
mod intend;
mod output;
mod plan;
mod policy;
mod pursuit;
mod random;
mod record;
mod resume;
mod roll;
mod slot;
mod stop;
#[cfg(test)]
mod tests;
mod timer;
mod tuning;
mod view;
mod watch;

pub(crate) use input::{AfterState, Command, End, Input, Intent, NotSpawned, Probe, Refused};
pub(crate) use output::{Event, Failed, Failure, Keep, Outcome, Output, Signal, Verb, Why};
pub(crate) use policy::{Alive, Backoff, Policy, Ready, Reload, Restart, Stop};
pub(crate) use record::{Found, InstanceRecord, Last, RestRecord, ServiceRecord, SlotRecord};
pub(crate) use view::{Rolling, SlotView, State, Summary, View};

use instance::Instance;
use plan::Queue;
use pursuit::Pursuit;
use random::Random;
use roll::Roll;
use slot::Slot;
use timer::Timer;

/// Which of a service's definitions: 1 is the first, each change takes the next.
pub(crate) type Generation = u64;

/// An instance: the slot that it is in, and a number that no other instance of the slot has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct InstanceId {
    /// The slot, from 1.
    pub(crate) slot: u32,
    /// The number, from 1.
    pub(crate) number: u64,
}

/// An intent that was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Ticket(pub(crate) u64);

/// The first number of an intent in a life of a machine: 20 random bits tell the lives apart, so that nobody who
/// waits over the end of one is told of another one's intent. Below 2^53, as JSON has it.
fn first_ticket(seed: u64) -> u64 {
    (seed >> 44 << 32) + 1
}

/// What a person wants of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) enum Want {
    /// Its slots run.
    Up,
    /// They do not.
    Down,
    /// They do not, and then the service is forgotten.
    Scrubbed,
}

/// The supervisor of one service.
#[derive(Debug, Clone)]
pub(crate) struct Machine {
    now: Duration,
    random: Random,
    timers: Timers<Timer>,
    outputs: VecDeque<Output>,
    want: Want,
    generation: Generation,
    policies: BTreeMap<Generation, Arc<Policy>>,
    instances: u32,
    /// The number of the first instance of a slot that is made anew.
    first_number: u64,
    slots: BTreeMap<u32, Slot>,
    /// The roll that is unfinished or halted.
    roll: Option<Roll>,
    after: BTreeMap<String, AfterState>,
    pursuits: BTreeMap<Ticket, Pursuit>,
    next_ticket: u64,
    /// What has ended between two lives: taken note of by the first call.
    replay: VecDeque<Input>,
    /// Whether the first call is still to come.
    first: bool,
    /// Whether the server ends.
    ending: bool,
    /// Whether it ends at once.
    killing: bool,
    /// Whether [`Output::Ended`] was said.
    ended: bool,
    /// Whether something has changed that the plan is to look at.
    stale: bool,
    /// The slots that have changed since the plan was looked at.
    touched: BTreeSet<u32>,
    /// Whether that is all of them.
    all_touched: bool,
    /// Whether a generation may not be needed any more.
    forgetful: bool,
    queue: Queue,
    /// Whether the service's record has changed.
    dirty: bool,
    dirty_slots: BTreeSet<u32>,
    settled: Vec<(Ticket, Outcome)>,
}

impl Machine {
    /// A service that is down, with the first generation of its definition. An [`Intent::Up`] starts
    /// it.
    ///
    /// `now` is boot time, here and in all calls; it is not less than in the call before.
    pub(crate) fn new(policy: Policy, seed: u64, now: Duration) -> Machine {
        let instances = policy.instances;
        let policies = BTreeMap::from([(1, Arc::new(policy))]);
        let mut machine = Machine::empty(1, policies, seed, now);
        machine.instances = instances;
        machine.dirty = true;
        machine
    }

    fn empty(
        generation: Generation,
        policies: BTreeMap<Generation, Arc<Policy>>,
        seed: u64,
        now: Duration,
    ) -> Machine {
        Machine {
            now,
            random: Random::new(seed),
            timers: Timers::default(),
            outputs: VecDeque::new(),
            want: Want::Down,
            generation,
            policies,
            instances: 0,
            first_number: 1,
            slots: BTreeMap::new(),
            roll: None,
            after: BTreeMap::new(),
            pursuits: BTreeMap::new(),
            next_ticket: first_ticket(seed),
            replay: VecDeque::new(),
            first: true,
            ending: false,
            killing: false,
            ended: false,
            stale: true,
            touched: BTreeSet::new(),
            all_touched: true,
            forgetful: true,
            queue: Queue::default(),
            dirty: false,
            dirty_slots: BTreeSet::new(),
            settled: Vec::new(),
        }
    }

    /// Takes note of an input. The outputs are then to be polled.
    pub(crate) fn handle(&mut self, input: Input, now: Duration) {
        self.begin(now);
        match input {
            Input::Tick => {}
            Input::MayStart { slot } => self.on_may_start(slot),
            Input::Spawned { instance, pid } => self.on_spawned(instance, pid),
            Input::NotSpawned { instance, why } => self.on_not_spawned(instance, why),
            Input::MainExited { instance, end } => self.on_main_exited(instance, end),
            Input::TreeEmpty { instance } => self.on_tree_empty(instance),
            Input::CommandEnded {
                instance,
                command,
                ok,
            } => self.on_command_ended(instance, command, ok),
            Input::Ready { instance } => self.on_ready_told(instance),
            Input::Watchdog { instance } => self.on_watchdog(instance),
            Input::Probed {
                instance,
                probe,
                ok,
            } => self.on_probed(instance, probe, ok),
            Input::Memory { instance, bytes } => self.on_memory(instance, bytes),
            Input::After { service, state } => self.on_after(service, state),
            Input::End => self.on_end(false),
            Input::Kill => self.on_end(true),
        }
        self.go_on();
    }

    /// Sets the time, and does what the first call of a life is to do.
    fn begin(&mut self, now: Duration) {
        self.now = self.now.max(now);
        if std::mem::take(&mut self.first) {
            self.tell_adopted();
        }
    }

    fn on_after(&mut self, service: String, state: AfterState) {
        self.touch_all();
        if state == AfterState::Missing {
            self.after.remove(&service);
        } else {
            self.after.insert(service, state);
        }
    }

    fn on_end(&mut self, kill: bool) {
        self.ending = true;
        self.touch_all();
        if !kill {
            return;
        }
        self.killing = true;
        let stopping: Vec<InstanceId> = self
            .slots
            .iter()
            .flat_map(|(slot, it)| it.all().map(|instance| (*slot, instance)))
            .filter(|(_, instance)| instance.stopping.is_some() && instance.spawned.is_some())
            .map(|(slot, instance)| InstanceId {
                slot,
                number: instance.number,
            })
            .collect();
        for id in stopping {
            self.kill(id);
        }
    }

    /// The next thing to do, in order, if there is one.
    pub(crate) fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When to call [`handle`](Self::handle) with [`Input::Tick`] at the latest.
    pub(crate) fn deadline(&self) -> Option<Duration> {
        self.timers.next()
    }

    /// What a person wants.
    pub(crate) fn want(&self) -> Want {
        self.want
    }

    /// The newest generation.
    pub(crate) fn generation(&self) -> Generation {
        self.generation
    }

    /// How many slots there are to be.
    pub(crate) fn instances(&self) -> u32 {
        self.instances
    }

    /// Whether no slot is left.
    pub(crate) fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// The generations whose definitions are needed: the newest, those that a slot may go back to,
    /// and those of instances that are left.
    pub(crate) fn generations(&self) -> Vec<Generation> {
        let mut needed = BTreeSet::from([self.generation]);
        for slot in self.slots.values() {
            needed.extend(slot.all().map(|instance| instance.generation));
            if self.roll.is_some() {
                needed.extend(slot.ran_ready.map(|generation| self.known(generation)));
            }
        }
        needed.into_iter().collect()
    }

    fn push(&mut self, output: Output) {
        self.outputs.push_back(output);
    }

    /// The service's record has changed.
    fn keep_service(&mut self) {
        self.dirty = true;
        self.stale = true;
    }

    /// A slot's record has changed.
    fn keep_slot(&mut self, slot: u32) {
        self.dirty_slots.insert(slot);
        self.touch(slot);
    }

    /// A slot has changed.
    fn touch(&mut self, slot: u32) {
        self.touched.insert(slot);
        self.stale = true;
    }

    /// Something has changed that concerns all slots.
    fn touch_all(&mut self) {
        self.all_touched = true;
        self.stale = true;
    }

    /// The policy of a generation; the newest one's where there is none of its own.
    fn policy(&self, generation: Generation) -> Arc<Policy> {
        let policy = self.policies.get(&generation);
        let policy = policy.or_else(|| self.policies.get(&self.generation));
        policy.cloned().unwrap_or_default()
    }

    fn instance(&self, id: InstanceId) -> Option<&Instance> {
        let slot = self.slots.get(&id.slot)?;
        slot.all().find(|instance| instance.number == id.number)
    }

    fn instance_mut(&mut self, id: InstanceId) -> Option<&mut Instance> {
        let slot = self.slots.get_mut(&id.slot)?;
        slot.all_mut().find(|instance| instance.number == id.number)
    }

    /// Whether the instance is the one in its slot.
    fn is_current(&self, id: InstanceId) -> bool {
        let slot = self.slots.get(&id.slot);
        slot.and_then(|slot| slot.current.as_ref())
            .is_some_and(|instance| instance.number == id.number)
    }
}
