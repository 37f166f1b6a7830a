//! A world around a machine: processes that start, become ready, end and resist as they are told to,
//! and a clock that is moved by hand. It checks after each call what must always hold.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::super::*;

mod behaviour;
mod carry_out;
mod happening;

pub(super) use behaviour::Behaviour;
use happening::Happening;

pub(super) const fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

pub(super) const fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

/// An instance in this world.
#[derive(Debug)]
pub(super) struct Body {
    pub(super) behaviour: Behaviour,
    /// How long it has from its first signal, as its definition said then.
    pub(super) seconds: Duration,
    pub(super) spawned: Option<Duration>,
    pub(super) main: bool,
    pub(super) rest: bool,
    pub(super) watched: bool,
    pub(super) old: bool,
    pub(super) commands: BTreeSet<Command>,
    pub(super) probes: BTreeSet<Probe>,
    pub(super) signalled: Option<Duration>,
    pub(super) rest_signalled: Option<Duration>,
    pub(super) killed: Option<Duration>,
}

type Behave = Box<dyn FnMut(InstanceId, Generation) -> Behaviour>;

pub(super) struct World {
    pub(super) machine: Machine,
    pub(super) now: Duration,
    pub(super) bodies: BTreeMap<InstanceId, Body>,
    pub(super) behave: Behave,
    /// How long the limit of automatic restarts lets a slot wait.
    pub(super) grant: Duration,
    /// Everything that was put out, and when.
    pub(super) log: Vec<(Duration, Output)>,
    pub(super) policies: BTreeMap<Generation, Policy>,
    pub(super) settled: BTreeMap<Ticket, Outcome>,
    after: BTreeMap<String, AfterState>,
    queue: BTreeMap<(Duration, u64), Happening>,
    serial: u64,
    queued: BTreeSet<u32>,
    used: BTreeSet<InstanceId>,
    /// The delay that was told for a slot, and when.
    delayed: BTreeMap<u32, (Duration, Duration)>,
    calls: u32,
    pub(super) ended: bool,
}

impl World {
    /// A service that is down, whose instances do as the function says.
    pub(super) fn new(
        policy: Policy,
        behave: impl FnMut(InstanceId, Generation) -> Behaviour + 'static,
    ) -> World {
        World::of(Machine::new(policy.clone(), 1, s(1000)), policy, behave)
    }

    pub(super) fn of(
        machine: Machine,
        policy: Policy,
        behave: impl FnMut(InstanceId, Generation) -> Behaviour + 'static,
    ) -> World {
        World {
            policies: BTreeMap::from([(machine.generation, policy)]),
            machine,
            now: s(1000),
            bodies: BTreeMap::new(),
            behave: Box::new(behave),
            grant: Duration::ZERO,
            log: Vec::new(),
            settled: BTreeMap::new(),
            after: BTreeMap::new(),
            queue: BTreeMap::new(),
            serial: 0,
            queued: BTreeSet::new(),
            used: BTreeSet::new(),
            delayed: BTreeMap::new(),
            calls: 0,
            ended: false,
        }
    }

    /// A service that is up and settled.
    pub(super) fn up(
        policy: Policy,
        behave: impl FnMut(InstanceId, Generation) -> Behaviour + 'static,
    ) -> World {
        let mut world = World::new(policy, behave);
        let ticket = world.intend(Intent::Up);
        world.until(s(600), |world| world.settled.contains_key(&ticket));
        assert_eq!(world.settled[&ticket], Outcome::Reached);
        world
    }

    pub(super) fn intend(&mut self, intent: Intent) -> Ticket {
        self.try_intend(intent).expect("taken")
    }

    pub(super) fn try_intend(&mut self, intent: Intent) -> Option<Ticket> {
        if let Intent::Update { policy, .. } = &intent {
            let generation = self.machine.generation + 1;
            self.policies.insert(generation, (**policy).clone());
        }
        let ticket = self.machine.intend(intent, self.now);
        self.drain();
        ticket.ok()
    }

    pub(super) fn refuse(&mut self, intent: Intent) -> Refused {
        let refused = self.machine.intend(intent, self.now).expect_err("refused");
        self.drain();
        refused
    }

    pub(super) fn handle(&mut self, input: Input) {
        self.machine.handle(input, self.now);
        self.drain();
    }

    pub(super) fn after(&mut self, service: &str, state: AfterState) {
        let service = service.to_owned();
        self.after.insert(service.clone(), state);
        self.handle(Input::After { service, state });
    }

    /// Lets so much time pass.
    pub(super) fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while self.step(end) {}
        self.now = end;
    }

    /// Lets time pass until that holds; panics after so long.
    pub(super) fn until(&mut self, most: Duration, holds: impl Fn(&World) -> bool) -> Duration {
        let begin = self.now;
        while !holds(self) {
            if !self.step(begin + most) {
                panic!(
                    "not so after {most:?}: {:#?}\n{}",
                    self.machine.view(),
                    self.tail()
                );
            }
        }
        self.now - begin
    }

    pub(super) fn tail(&self) -> String {
        let from = self.log.len().saturating_sub(60);
        self.log[from..]
            .iter()
            .map(|(at, output)| format!("{:10.3} {output:?}\n", at.as_secs_f64()))
            .collect()
    }

    /// Whether something happened before then.
    fn step(&mut self, end: Duration) -> bool {
        let happening = self.queue.keys().next().copied();
        let timer = self.machine.deadline();
        let at = happening.map(|(at, _)| at).into_iter().chain(timer).min();
        let Some(at) = at.filter(|at| *at <= end) else {
            return false;
        };
        if at > self.now {
            self.now = at;
            self.calls = 0;
        }
        self.calls += 1;
        let most = 200 + 40 * (self.bodies.len() as u32 + self.machine.instances);
        assert!(self.calls < most, "it spins: {}", self.tail());
        match happening.filter(|(due, _)| *due <= at) {
            Some(key) => {
                let happening = self.queue.remove(&key).expect("just seen");
                self.happen(happening);
            }
            None => self.handle(Input::Tick),
        }
        true
    }

    fn soon(&mut self, after: Duration, happening: Happening) {
        self.serial += 1;
        let at = self.now.saturating_add(after);
        if at < Duration::MAX {
            self.queue.insert((at, self.serial), happening);
        }
    }

    // What tests ask.

    pub(super) fn state(&self, slot: u32) -> State {
        self.slot(slot).state
    }

    pub(super) fn slot(&self, slot: u32) -> SlotView {
        let view = self.machine.view();
        let found = view.slots.iter().find(|it| it.slot == slot);
        found.expect("a slot with this number").clone()
    }

    pub(super) fn states(&self) -> Vec<State> {
        self.machine
            .view()
            .slots
            .iter()
            .map(|it| it.state)
            .collect()
    }

    pub(super) fn settled(&self, ticket: Ticket) -> Option<&Outcome> {
        self.settled.get(&ticket)
    }

    /// When that was put out, in order.
    pub(super) fn times(&self, is: impl Fn(&Output) -> bool) -> Vec<Duration> {
        let fits = self.log.iter().filter(|(_, output)| is(output));
        fits.map(|(at, _)| *at).collect()
    }

    /// When processes were spawned.
    pub(super) fn spawns(&self) -> Vec<Duration> {
        self.times(|output| matches!(output, Output::Spawn { .. }))
    }

    pub(super) fn running(&self) -> usize {
        self.bodies
            .values()
            .filter(|body| body.main || body.rest)
            .count()
    }

    pub(super) fn forget_log(&mut self) {
        self.log.clear();
    }

    /// The next server's machine, made of what this one keeps, with what it finds.
    pub(super) fn next_life(&mut self, found: BTreeMap<InstanceId, Found>) {
        let service = self.machine.service_record();
        let slots = self.machine.slots.keys();
        let slots = slots
            .filter_map(|slot| self.machine.slot_record(*slot))
            .collect();
        let policies = self.machine.policies.iter();
        let policies = policies.map(|(generation, it)| (*generation, (**it).clone()));
        let policies = policies.collect();
        self.machine = Machine::resume(service, slots, policies, &found, 2, self.now);
        self.settled.clear();
        self.after.clear();
        self.queued.clear();
        self.delayed.clear();
        for body in self.bodies.values_mut() {
            body.probes.clear();
            body.commands.clear();
            body.watched = false;
            body.rest_signalled = None;
        }
        let here = |id: &InstanceId| {
            matches!(
                found.get(id),
                Some(Found::Main { .. } | Found::Rest { .. } | Found::Foreign)
            )
        };
        self.bodies.retain(|id, _| here(id));
    }

    /// What a server finds that looks at everything that is there.
    pub(super) fn found(&self) -> BTreeMap<InstanceId, Found> {
        let found = self.bodies.iter().filter_map(|(id, body)| {
            let found = match (body.main, body.rest) {
                (true, _) => Found::Main {
                    pid: id.number as u32,
                },
                (false, true) => Found::Rest { end: End::Unknown },
                (false, false) => return None,
            };
            Some((*id, found))
        });
        found.collect()
    }
}
