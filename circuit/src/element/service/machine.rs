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

use std::collections::BTreeMap;
use std::time::Duration;

mod input;
mod output;
mod policy;
mod record;
mod view;

pub(crate) use input::{AfterState, Command, End, Input, Intent, NotSpawned, Probe, Refused};
pub(crate) use output::{Event, Failed, Failure, Keep, Outcome, Output, Signal, Verb, Why};
pub(crate) use policy::{Alive, Backoff, Policy, Ready, Reload, Restart, Stop};
pub(crate) use record::{
    Found, InstanceRecord, Last, RestRecord, RollRecord, ServiceRecord, SlotRecord, StopRecord,
};
pub(crate) use view::{OldView, Rolling, SlotView, State, View};

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

/// What a person wants of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
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
pub(crate) struct Machine {}

impl Machine {
    /// A service that is down, with the first generation of its definition. An [`Intent::Up`] starts
    /// it.
    ///
    /// `now` is boot time, here and in all calls; it is not less than in the call before.
    pub(crate) fn new(policy: Policy, seed: u64, now: Duration) -> Machine {
        unimplemented!()
    }

    /// A service of the server's life before, as it was kept and found. What was wanted is carried
    /// out by the first call of [`handle`](Self::handle): the first outputs say what was adopted.
    ///
    /// `policies` has one for each kept generation, the newest included. What names a generation that
    /// is not among them gets the newest.
    pub(crate) fn resume(
        service: ServiceRecord,
        slots: Vec<SlotRecord>,
        policies: BTreeMap<Generation, Policy>,
        found: &BTreeMap<InstanceId, Found>,
        seed: u64,
        now: Duration,
    ) -> Machine {
        unimplemented!()
    }

    /// Takes an intent, and begins to carry it out. The outputs are then to be polled: the service's
    /// record is among them, and what became of the intent, now or later.
    pub(crate) fn intend(&mut self, intent: Intent, now: Duration) -> Result<Ticket, Refused> {
        unimplemented!()
    }

    /// Takes note of an input. The outputs are then to be polled.
    pub(crate) fn handle(&mut self, input: Input, now: Duration) {
        unimplemented!()
    }

    /// The next thing to do, in order, if there is one.
    pub(crate) fn poll_output(&mut self) -> Option<Output> {
        unimplemented!()
    }

    /// When to call [`handle`](Self::handle) with [`Input::Tick`] at the latest.
    pub(crate) fn deadline(&self) -> Option<Duration> {
        unimplemented!()
    }

    /// The service at this moment.
    pub(crate) fn view(&self) -> View {
        unimplemented!()
    }

    /// The generations whose definitions are needed: the newest, those that a slot may go back to,
    /// and those of instances that are left.
    pub(crate) fn generations(&self) -> Vec<Generation> {
        unimplemented!()
    }

    /// What is to be kept of the service.
    pub(crate) fn service_record(&self) -> ServiceRecord {
        unimplemented!()
    }

    /// What is to be kept of a slot; none if it is not there.
    pub(crate) fn slot_record(&self, slot: u32) -> Option<SlotRecord> {
        unimplemented!()
    }
}
