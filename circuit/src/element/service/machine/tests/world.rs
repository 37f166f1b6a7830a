//! A world around a machine: processes that start, become ready, end and resist as they are told to,
//! and a clock that is moved by hand. It checks after each call what must always hold.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::super::*;

pub(super) const fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

pub(super) const fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

/// What an instance does.
#[derive(Debug, Clone)]
pub(super) struct Behaviour {
    /// How long the spawn takes, or why it fails.
    pub(super) spawn: Result<Duration, &'static str>,
    /// How long the command before the start takes, and whether it succeeds.
    pub(super) before: (Duration, bool),
    /// How long after the spawn it is ready, to a probe or by its own word.
    pub(super) ready: Option<Duration>,
    /// When it ends by itself, and how.
    pub(super) exit: Option<(Duration, End)>,
    /// How long after the signal the main process ends, if it does.
    pub(super) term: Option<Duration>,
    /// Whether there are others in the tree when the main process ends, and how long they need after
    /// their TERM, if they heed it.
    pub(super) rest: Option<Option<Duration>>,
    /// How long after a KILL the tree is empty, if ever.
    pub(super) kill: Option<Duration>,
    /// How long after the spawn it is alive.
    pub(super) alive: Duration,
    /// How often it says so by itself.
    pub(super) watchdog: Option<Duration>,
    /// The memory that it uses.
    pub(super) memory: u64,
    /// How long the stop command takes, and whether it succeeds; the main process ends with it if so.
    pub(super) stop: (Duration, bool),
    /// How long the reload command takes, and whether it succeeds.
    pub(super) reload: (Duration, bool),
}

impl Default for Behaviour {
    /// A well-behaved program.
    fn default() -> Behaviour {
        Behaviour {
            spawn: Ok(ms(2)),
            before: (ms(100), true),
            ready: Some(ms(500)),
            exit: None,
            term: Some(ms(200)),
            rest: None,
            kill: Some(ms(10)),
            alive: Duration::MAX,
            watchdog: None,
            memory: 1,
            stop: (ms(200), true),
            reload: (ms(100), true),
        }
    }
}

impl Behaviour {
    /// One that ends by itself.
    pub(super) fn exits(after: Duration, code: i32) -> Behaviour {
        Behaviour {
            exit: Some((after, End::Code(code))),
            ..Behaviour::default()
        }
    }
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

#[derive(Debug, Clone)]
enum Happening {
    Spawn(InstanceId),
    Abandon(InstanceId),
    Exit(InstanceId, End),
    Killed(InstanceId),
    Empty(InstanceId),
    Command(InstanceId, Command, bool),
    Probe(InstanceId, Probe),
    Say(InstanceId),
    Watchdog(InstanceId),
    Memory(InstanceId),
    Grant(u32),
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

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Spawn(instance) => {
                let Some(body) = self.bodies.get_mut(&instance) else {
                    return;
                };
                match body.behaviour.spawn {
                    Err(why) => {
                        self.bodies.remove(&instance);
                        let why = NotSpawned::Cannot(why.to_owned());
                        self.handle(Input::NotSpawned { instance, why });
                    }
                    Ok(_) => {
                        body.main = true;
                        body.spawned = Some(self.now);
                        let (exit, ready) = (body.behaviour.exit, body.behaviour.ready);
                        let watchdog = body.behaviour.watchdog;
                        if let Some((after, end)) = exit {
                            self.soon(after, Happening::Exit(instance, end));
                        }
                        let says = matches!(self.policy(instance).ready, Ready::Notify { .. });
                        if let Some(every) = watchdog {
                            self.soon(every, Happening::Watchdog(instance));
                        }
                        if let Some(after) = ready.filter(|_| says) {
                            self.soon(after, Happening::Say(instance));
                        }
                        let pid = instance.number as u32;
                        self.handle(Input::Spawned { instance, pid });
                    }
                }
            }
            Happening::Abandon(instance) => {
                let waits = |body: &Body| body.spawned.is_none();
                if self.bodies.get(&instance).is_some_and(waits) {
                    self.bodies.remove(&instance);
                    let why = NotSpawned::Abandoned;
                    self.handle(Input::NotSpawned { instance, why });
                }
            }
            Happening::Exit(instance, end) => {
                let Some(body) = self.bodies.get_mut(&instance).filter(|body| body.main) else {
                    return;
                };
                body.main = false;
                body.rest = body.behaviour.rest.is_some() && body.killed.is_none();
                self.handle(Input::MainExited { instance, end });
            }
            Happening::Killed(instance) => {
                let Some(body) = self.bodies.get_mut(&instance) else {
                    return;
                };
                body.rest = false;
                let watched = body.watched;
                if body.main {
                    self.happen(Happening::Exit(instance, End::Signal(9)));
                } else if watched {
                    self.happen(Happening::Empty(instance));
                }
            }
            Happening::Empty(instance) => {
                let Some(body) = self.bodies.get_mut(&instance).filter(|body| body.watched) else {
                    return;
                };
                body.rest = false;
                body.watched = false;
                self.handle(Input::TreeEmpty { instance });
            }
            Happening::Command(instance, command, ok) => {
                let Some(body) = self.bodies.get_mut(&instance) else {
                    return;
                };
                if !body.commands.remove(&command) {
                    return;
                }
                if command == Command::Stop && ok {
                    self.soon(Duration::ZERO, Happening::Exit(instance, End::Code(0)));
                }
                self.handle(Input::CommandEnded {
                    instance,
                    command,
                    ok,
                });
            }
            Happening::Probe(instance, probe) => {
                let now = self.now;
                let Some(body) = self.bodies.get_mut(&instance) else {
                    return;
                };
                if !body.probes.remove(&probe) {
                    return;
                }
                let age = now - body.spawned.expect("asked only once spawned");
                let ok = body.main
                    && match probe {
                        Probe::Ready => body.behaviour.ready.is_some_and(|ready| ready <= age),
                        Probe::Alive => age < body.behaviour.alive,
                    };
                self.handle(Input::Probed {
                    instance,
                    probe,
                    ok,
                });
            }
            Happening::Say(instance) => {
                if self.bodies.get(&instance).is_some_and(|body| body.main) {
                    self.handle(Input::Ready { instance });
                }
            }
            Happening::Watchdog(instance) => {
                let now = self.now;
                let Some(body) = self.bodies.get(&instance).filter(|body| body.main) else {
                    return;
                };
                if let Some(every) = body.behaviour.watchdog {
                    self.soon(every, Happening::Watchdog(instance));
                }
                let body = self.body(instance);
                if now - body.spawned.expect("it runs") < body.behaviour.alive {
                    self.handle(Input::Watchdog { instance });
                }
            }
            Happening::Memory(instance) => {
                if let Some(body) = self.bodies.get(&instance) {
                    let bytes = Some(body.behaviour.memory);
                    self.handle(Input::Memory { instance, bytes });
                }
            }
            Happening::Grant(slot) => {
                if self.queued.remove(&slot) {
                    self.handle(Input::MayStart { slot });
                }
            }
        }
    }

    /// Carries out what the machine wants, and checks that it may be wanted.
    fn drain(&mut self) {
        let mut outputs = Vec::new();
        while let Some(output) = self.machine.poll_output() {
            outputs.push(output);
        }
        let most = 40 + 20 * (self.bodies.len() + self.machine.slots.len());
        assert!(
            outputs.len() <= most,
            "{} outputs: {outputs:?}",
            outputs.len()
        );
        let keep = outputs.iter().position(|it| matches!(it, Output::Keep(_)));
        let tail = outputs.iter().rev().take_while(|output| {
            matches!(
                output,
                Output::Keep(_) | Output::Settled { .. } | Output::Ended
            )
        });
        if let Some(keep) = keep {
            assert_eq!(keep, outputs.len() - tail.count(), "{outputs:?}");
        }
        for output in outputs {
            self.log.push((self.now, output.clone()));
            self.carry_out(output);
        }
        self.check();
    }

    fn policy(&self, instance: InstanceId) -> &Policy {
        let instance = self.machine.instance(instance).expect("there");
        &self.policies[&instance.generation]
    }

    /// Whether the services are ready that the instance waits for.
    fn may_start(&self, instance: InstanceId) -> bool {
        let ready = |name| self.after.get(name) == Some(&AfterState::Ready);
        self.policy(instance).after.iter().all(ready)
    }

    /// The instance has had a signal.
    fn signalled(&mut self, instance: InstanceId) {
        let now = self.now;
        let seconds = self.policy(instance).stop.seconds;
        let body = self.body(instance);
        body.signalled.get_or_insert(now);
        // The definition may change in place while it is being stopped.
        body.seconds = body.seconds.min(seconds);
    }

    fn body(&mut self, instance: InstanceId) -> &mut Body {
        self.bodies
            .get_mut(&instance)
            .expect("of an instance that is there")
    }

    fn carry_out(&mut self, output: Output) {
        let now = self.now;
        match output {
            Output::Place { instance, old } => {
                let known = self.machine.instance(instance);
                if let Some(body) = self.bodies.get_mut(&instance) {
                    body.old = old;
                } else if let Some(generation) = known.map(|it| it.generation) {
                    assert!(self.used.insert(instance), "a number twice: {instance:?}");
                    let body = Body {
                        behaviour: (self.behave)(instance, generation),
                        seconds: Duration::MAX,
                        spawned: None,
                        main: false,
                        rest: false,
                        watched: false,
                        old,
                        commands: BTreeSet::new(),
                        probes: BTreeSet::new(),
                        signalled: None,
                        rest_signalled: None,
                        killed: None,
                    };
                    self.bodies.insert(instance, body);
                } else {
                    // It has ended between two lives.
                    assert!(self.machine.slots.contains_key(&instance.slot));
                }
            }
            Output::InstanceGone { instance } => {
                if let Some(body) = self.bodies.remove(&instance) {
                    assert!(!body.main && !body.rest, "{instance:?} is not gone");
                    assert!(body.commands.is_empty() && body.probes.is_empty());
                }
            }
            Output::Ask { slot } => {
                assert!(self.queued.insert(slot), "slot {slot} asks twice");
                if let Some((at, delay)) = self.delayed.remove(&slot) {
                    assert!(now >= at + delay, "slot {slot} does not wait {delay:?}");
                }
                self.soon(self.grant, Happening::Grant(slot));
            }
            Output::Unask { slot } => {
                self.queued.remove(&slot);
            }
            Output::Spawn {
                instance,
                generation,
            } => self.on_spawn(instance, generation),
            // Some drivers have begun by then.
            Output::Abandon { instance } => {
                if instance.number % 2 == 0 {
                    self.soon(ms(1), Happening::Abandon(instance));
                }
            }
            Output::Run {
                instance, command, ..
            } => {
                let may = command != Command::Before || self.may_start(instance);
                assert!(may, "{instance:?} does not wait");
                let body = self.body(instance);
                assert!(body.commands.insert(command), "{command:?} twice");
                let behaviour = &body.behaviour;
                let (time, ok) = match command {
                    Command::Before => behaviour.before,
                    Command::Stop => behaviour.stop,
                    Command::Reload => behaviour.reload,
                };
                if command == Command::Stop {
                    self.signalled(instance);
                }
                self.soon(time, Happening::Command(instance, command, ok));
            }
            Output::KillCommand { instance, command } => {
                assert!(self.body(instance).commands.contains(&command));
                self.soon(ms(1), Happening::Command(instance, command, false));
            }
            Output::Signal { instance, signal } => {
                let body = self.body(instance);
                assert!(body.main, "a signal to nobody");
                let term = body.behaviour.term;
                if signal == Signal::Stop {
                    self.signalled(instance);
                    if let Some(term) = term {
                        self.soon(term, Happening::Exit(instance, End::Signal(15)));
                    }
                }
            }
            Output::SignalRest { instance } => {
                let body = self.body(instance);
                assert!(!body.main && body.rest_signalled.is_none());
                body.rest_signalled = Some(now);
                self.signalled(instance);
            }
            Output::KillTree { instance } => self.on_kill(instance),
            Output::Watch { instance } => {
                let body = self.body(instance);
                assert!(!body.main && !body.watched);
                body.watched = true;
                let heeds = match (body.rest, body.behaviour.rest) {
                    (true, Some(heeds)) => heeds,
                    _ => Some(Duration::ZERO),
                };
                if let Some(time) = heeds {
                    self.soon(time, Happening::Empty(instance));
                }
            }
            Output::Probe {
                instance,
                probe,
                timeout,
                ..
            } => {
                let body = self.body(instance);
                assert!(body.main && body.probes.insert(probe), "{probe:?} twice");
                self.soon(timeout.min(ms(20)), Happening::Probe(instance, probe));
            }
            Output::EndProbe { instance, probe } => {
                assert!(self.body(instance).probes.remove(&probe));
            }
            Output::Sample { instance } => self.soon(ms(5), Happening::Memory(instance)),
            Output::Settled { ticket, outcome } => {
                let before = self.settled.insert(ticket, outcome);
                assert!(before.is_none(), "{ticket:?} is settled twice");
            }
            Output::Event(Event::Backoff {
                slot,
                failures,
                delay,
                ..
            }) => {
                self.delayed.insert(slot, (now, delay));
                self.check_delay(failures, delay);
            }
            Output::Ended => {
                assert!(self.bodies.is_empty());
                self.ended = true;
            }
            Output::SlotMade { .. }
            | Output::SlotGone { .. }
            | Output::Readiness { .. }
            | Output::Event(_)
            | Output::Keep(_)
            | Output::Forget { .. } => {}
        }
    }

    fn on_spawn(&mut self, instance: InstanceId, generation: Generation) {
        assert!(
            self.machine.is_desired(instance.slot),
            "{instance:?} is not wanted"
        );
        assert!(!self.ended);
        assert!(self.policies[&generation].before || self.may_start(instance));
        let surge = self.policies[&generation].surge;
        let beside = self
            .bodies
            .range(
                InstanceId {
                    slot: instance.slot,
                    number: 0,
                }..,
            )
            .take_while(|(id, _)| id.slot == instance.slot)
            .filter(|(id, _)| **id != instance);
        for (id, body) in beside {
            assert!(surge && body.old, "{id:?} is there beside {instance:?}");
        }
        let behaviour = &self.body(instance).behaviour;
        let time = behaviour.spawn.unwrap_or(ms(1));
        self.soon(time, Happening::Spawn(instance));
    }

    fn on_kill(&mut self, instance: InstanceId) {
        let now = self.now;
        let killing = self.machine.killing;
        let body = self
            .bodies
            .get_mut(&instance)
            .expect("of an instance that is there");
        let seconds = body.seconds;
        if !killing {
            let signalled = body.signalled.expect("a signal comes first");
            assert!(now >= signalled + seconds, "killed early: {instance:?}");
            if let Some(rest) = body.rest_signalled.filter(|_| body.killed.is_none()) {
                assert!(now >= rest + s(2), "the rest is killed early: {instance:?}");
            }
        }
        body.killed.get_or_insert(now);
        if let Some(time) = body.behaviour.kill {
            self.soon(time, Happening::Killed(instance));
        }
    }

    /// The delay is that of the specification, for some of the policies.
    fn check_delay(&self, failures: u32, delay: Duration) {
        let fits = self.policies.values().any(|policy| {
            let Backoff { first, most, .. } = policy.backoff;
            if failures < 2 {
                return delay.is_zero();
            }
            let base = 2f64.powi(failures as i32 - 2) * first.as_secs_f64();
            let base = base.min(most.as_secs_f64());
            let delay = delay.as_secs_f64();
            delay >= base * 0.8 - 1e-6 && delay <= base * 1.2 + 1e-6
        });
        assert!(fits, "{delay:?} after {failures} failures");
    }

    /// What holds after each call.
    fn check(&self) {
        for (number, slot) in &self.machine.slots {
            assert!(
                slot.old.len() <= 2,
                "slot {number} has {} old",
                slot.old.len()
            );
            let serving = slot.old.iter().filter(|old| old.stopping.is_none()).count();
            let successor = slot.current.as_ref().is_some_and(|it| it.successor);
            assert!(
                serving == 0 || (serving == 1 && successor),
                "slot {number}: {slot:#?}"
            );
            for instance in slot.all() {
                let id = InstanceId {
                    slot: *number,
                    number: instance.number,
                };
                let current = slot.current.as_ref().map(|it| it.number);
                assert_eq!(self.bodies[&id].old, current != Some(id.number));
            }
            if slot.turn {
                assert!(slot.current.is_some() || slot.is_replacing(), "{slot:#?}");
            }
        }
        if let Some(at) = self.machine.deadline() {
            assert!(at > self.now || !self.machine.outputs.is_empty() || self.calls < 100);
        }
        assert!(self.machine.queue_is_exact(), "{:#?}", self.machine);
        let _ = self.machine.view();
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
