//! An instance: from its start until it is ready, and the questions that it is asked while it runs.

use std::collections::BTreeSet;
use std::time::Duration;

use super::slot::Rest;
use super::stop::{Stopping, Verdict};
use super::timer::Clock;
use super::tuning::{ADOPTED_UP, AGE_SPREAD, LEAST_EVERY, SAMPLE, SAMPLES};
use super::{
    Command, End, Event, Failed, Generation, InstanceId, Machine, NotSpawned, Output, Policy,
    Probe, Ready, Signal, State, Why,
};

/// One instance.
#[derive(Debug, Clone)]
pub(super) struct Instance {
    /// Its number.
    pub(super) number: u64,
    /// Its definition.
    pub(super) generation: Generation,
    /// Its main process, once there is one.
    pub(super) pid: Option<u32>,
    /// How far it has come.
    pub(super) phase: Phase,
    /// Since when.
    pub(super) since: Duration,
    /// When its main process was spawned.
    pub(super) spawned: Option<Duration>,
    /// How its main process ended, and when.
    pub(super) ended: Option<(End, Duration)>,
    /// Whether nothing is left of its tree.
    pub(super) empty: bool,
    /// Whether it has been ready.
    pub(super) was_ready: bool,
    /// Since when it is ready without a break, if it is.
    pub(super) ready: Option<Duration>,
    /// Whether it was ready long enough for failures to be forgotten.
    pub(super) steady: bool,
    /// The age at which it is replaced.
    pub(super) age: Option<Duration>,
    /// Whether it was made by the replacement that is under way.
    pub(super) successor: bool,
    /// Whether it is of an earlier life of the server.
    pub(super) adopted: bool,
    /// How it is being stopped, if it is.
    pub(super) stopping: Option<Stopping>,
    /// When the probe for readiness that is under way began.
    pub(super) asked_ready: Option<Duration>,
    /// When the probe for life that is under way began.
    pub(super) asked_alive: Option<Duration>,
    /// How many times in a row it was not alive.
    pub(super) alive_fails: u32,
    /// How many samples in a row of its memory were too large.
    pub(super) over: u32,
    /// The commands that run for it.
    pub(super) commands: BTreeSet<Command>,
    /// Whether the reload command is to run again when it has ended.
    pub(super) reload_again: bool,
}

/// How far an instance has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// The command before its start runs.
    Before,
    /// Its main process is to be spawned.
    Spawning,
    /// It is not ready yet.
    Starting,
    /// It is ready.
    Ready,
    /// It was ready and is not any more.
    Unready,
    /// It is being stopped, or ended by itself.
    Stopping,
    /// It cannot be stopped.
    Stuck,
}

impl Instance {
    pub(super) fn new(number: u64, generation: Generation, now: Duration) -> Instance {
        Instance {
            number,
            generation,
            pid: None,
            phase: Phase::Spawning,
            since: now,
            spawned: None,
            ended: None,
            empty: false,
            was_ready: false,
            ready: None,
            steady: false,
            age: None,
            successor: false,
            adopted: false,
            stopping: None,
            asked_ready: None,
            asked_alive: None,
            alive_fails: 0,
            over: 0,
            commands: BTreeSet::new(),
            reload_again: false,
        }
    }

    /// Whether it is ready now.
    pub(super) fn is_ready(&self) -> bool {
        self.phase == Phase::Ready
    }

    /// Whether it has become ready and is not being stopped.
    pub(super) fn serves(&self) -> bool {
        matches!(self.phase, Phase::Ready | Phase::Unready)
    }

    /// Its state, as it is shown.
    pub(super) fn state(&self) -> State {
        match self.phase {
            Phase::Stuck => State::Stuck,
            _ if self.stopping.is_some() => State::Stopping,
            Phase::Before | Phase::Spawning | Phase::Starting => State::Starting,
            Phase::Ready => State::Ready,
            Phase::Unready => State::Unready,
            Phase::Stopping => State::Stopping,
        }
    }

    /// Changes its phase.
    pub(super) fn turn(&mut self, phase: Phase, now: Duration) {
        self.phase = phase;
        self.since = now;
    }
}

impl Machine {
    /// Makes an instance in the slot, which has none, and begins to start it.
    pub(super) fn start(&mut self, slot: u32, successor: bool) {
        let generation = self.next_generation(slot);
        let policy = self.policy(generation);
        let now = self.now;
        let Some(place) = self.slots.get_mut(&slot) else {
            return;
        };
        let id = InstanceId {
            slot,
            number: place.next,
        };
        place.next += 1;
        let mut instance = Instance::new(id.number, generation, now);
        instance.successor = successor;
        if policy.before {
            instance.turn(Phase::Before, now);
            instance.commands.insert(Command::Before);
        }
        place.current = Some(instance);
        place.rest = Rest::Due { turn: true };
        place.rest_why = None;
        self.keep_slot(slot);
        self.push(Output::Place {
            instance: id,
            old: false,
        });
        self.push(match policy.before {
            true => Output::Run {
                instance: id,
                command: Command::Before,
                generation,
            },
            false => Output::Spawn {
                instance: id,
                generation,
            },
        });
    }

    pub(super) fn on_spawned(&mut self, id: InstanceId, pid: u32) {
        let now = self.now;
        let Some(instance) = self.instance_mut(id) else {
            return;
        };
        if instance.phase != Phase::Spawning {
            return;
        }
        instance.pid = Some(pid);
        instance.spawned = Some(now);
        instance.turn(Phase::Starting, now);
        let generation = instance.generation;
        let stopping = instance.stopping.is_some();
        let policy = self.policy(generation);
        let age = policy
            .max_age
            .map(|age| self.random.spread(age, 1.0, 1.0 + AGE_SPREAD));
        if let Some(instance) = self.instance_mut(id) {
            instance.age = age;
        }
        if let Some(slot) = self.slots.get_mut(&id.slot) {
            slot.starts += 1;
        }
        self.keep_slot(id.slot);
        self.push(Output::Event(Event::Spawn {
            instance: id,
            pid,
            generation,
        }));
        if stopping {
            self.begin_stop(id);
        } else {
            self.watch_start(id);
        }
    }

    pub(super) fn on_not_spawned(&mut self, id: InstanceId, why: NotSpawned) {
        let Some(instance) = self.instance_mut(id) else {
            return;
        };
        if instance.phase != Phase::Spawning {
            return;
        }
        match why {
            NotSpawned::Cannot(why) if instance.stopping.is_none() => {
                self.not_started(
                    id,
                    Why::CannotExecute(why.clone()),
                    Failed::CannotExecute(why),
                );
            }
            // A driver that gives up what nobody called off is to be asked again.
            NotSpawned::Abandoned if instance.stopping.is_none() => {
                self.not_started(id, Why::Unknown, Failed::Ended(End::Unknown));
            }
            NotSpawned::Cannot(_) | NotSpawned::Abandoned => self.gone(id),
        }
    }

    /// The start failed before there was a process.
    fn not_started(&mut self, id: InstanceId, why: Why, failed: Failed) {
        if let Some(instance) = self.instance_mut(id) {
            instance.stopping = Some(Stopping::ended(why, Verdict::Failed));
        }
        self.failed(id, failed);
        self.gone(id);
    }

    pub(super) fn on_command_ended(&mut self, id: InstanceId, command: Command, ok: bool) {
        let now = self.now;
        let Some(instance) = self.instance_mut(id) else {
            return;
        };
        if !instance.commands.remove(&command) {
            return;
        }
        match command {
            Command::Before if instance.stopping.is_some() => self.gone(id),
            Command::Before if ok => {
                instance.turn(Phase::Spawning, now);
                let generation = instance.generation;
                self.push(Output::Spawn {
                    instance: id,
                    generation,
                });
            }
            Command::Before => self.not_started(id, Why::BeforeFailed, Failed::Before),
            Command::Stop => {
                let runs = instance.ended.is_none();
                if !ok && runs {
                    self.push(Output::Signal {
                        instance: id,
                        signal: Signal::Stop,
                    });
                }
                self.gone_if_empty(id);
            }
            Command::Reload => {
                if instance.reload_again && instance.stopping.is_none() {
                    instance.reload_again = false;
                    instance.commands.insert(Command::Reload);
                    let generation = instance.generation;
                    self.push(Output::Run {
                        instance: id,
                        command: Command::Reload,
                        generation,
                    });
                } else {
                    let stopping = instance.stopping.is_some();
                    self.reloaded(id, ok || stopping);
                    self.gone_if_empty(id);
                }
            }
        }
    }

    /// Arms whatever decides when a running instance that is not ready yet becomes so.
    pub(super) fn watch_start(&mut self, id: InstanceId) {
        let now = self.now;
        let Some(instance) = self.instance(id) else {
            return;
        };
        let spawned = instance.spawned.unwrap_or(now);
        let adopted = instance.adopted;
        match self.policy(instance.generation).ready {
            Ready::Up(up) => self.arm(id, Clock::Up, spawned + up),
            Ready::Probe {
                every,
                timeout,
                deadline,
            } => {
                // An adopted instance is asked once more before it is given up.
                let least = now + every + timeout;
                let at = spawned + deadline;
                let at = if adopted { at.max(least) } else { at };
                self.arm(id, Clock::Deadline, at);
                self.ask(id, Probe::Ready);
            }
            Ready::Notify { .. } if adopted => self.arm(id, Clock::Up, now + ADOPTED_UP),
            Ready::Notify { deadline } => self.arm(id, Clock::Deadline, spawned + deadline),
        }
    }

    /// Arms whatever is watched of an instance that has been ready.
    pub(super) fn watch_service(&mut self, id: InstanceId) {
        let now = self.now;
        let Some(instance) = self.instance(id) else {
            return;
        };
        let policy = self.policy(instance.generation);
        let spawned = instance.spawned.unwrap_or(now);
        let adopted = instance.adopted;
        if let Some(age) = instance.age {
            self.arm(id, Clock::Age, spawned + age);
        }
        if policy.max_memory.is_some() {
            self.arm(id, Clock::Sample, now + SAMPLE);
        }
        if let Some(alive) = policy.alive
            // What an adopted instance said before is not known: its first message arms the timer.
            && !(alive.watchdog && adopted)
        {
            self.arm(id, Clock::Alive, now + alive.every.max(LEAST_EVERY));
        }
    }

    /// Goes on asking an instance that has been ready.
    pub(super) fn watch_ready(&mut self, id: InstanceId) {
        let Some(instance) = self.instance(id) else {
            return;
        };
        match self.policy(instance.generation).ready {
            Ready::Probe { .. } => self.ask(id, Probe::Ready),
            // Nothing else would make it ready again.
            Ready::Up(_) | Ready::Notify { .. } => self.is_ready(id),
        }
    }

    /// Begins a probe, unless one of that kind is under way.
    fn ask(&mut self, id: InstanceId, probe: Probe) {
        let now = self.now;
        let Some(instance) = self.instance_mut(id) else {
            return;
        };
        let generation = instance.generation;
        let asked = match probe {
            Probe::Ready => &mut instance.asked_ready,
            Probe::Alive => &mut instance.asked_alive,
        };
        if asked.is_some() {
            return;
        }
        *asked = Some(now);
        let policy = self.policy(generation);
        let timeout = match (probe, policy.ready, policy.alive) {
            (Probe::Ready, Ready::Probe { timeout, .. }, _) => timeout,
            (Probe::Alive, _, Some(alive)) => alive.timeout,
            _ => return,
        };
        self.push(Output::Probe {
            instance: id,
            probe,
            timeout,
            generation,
        });
    }

    pub(super) fn on_probed(&mut self, id: InstanceId, probe: Probe, ok: bool) {
        let now = self.now;
        let Some(instance) = self.instance_mut(id) else {
            return;
        };
        let asked = match probe {
            Probe::Ready => instance.asked_ready.take(),
            Probe::Alive => instance.asked_alive.take(),
        };
        let Some(asked) = asked else {
            return;
        };
        let generation = instance.generation;
        let policy = self.policy(generation);
        match (probe, policy.ready, policy.alive) {
            (Probe::Ready, Ready::Probe { every, .. }, _) => {
                self.arm(id, Clock::Ready, now.max(asked + every.max(LEAST_EVERY)));
                if ok {
                    self.is_ready(id);
                } else {
                    self.is_unready(id);
                }
            }
            (Probe::Alive, _, Some(alive)) if !alive.watchdog => {
                self.arm(
                    id,
                    Clock::Alive,
                    now.max(asked + alive.every.max(LEAST_EVERY)),
                );
                self.count_alive(id, ok, alive.fails);
            }
            _ => {}
        }
    }

    pub(super) fn on_ready_told(&mut self, id: InstanceId) {
        let Some(instance) = self.instance(id) else {
            return;
        };
        if matches!(self.policy(instance.generation).ready, Ready::Notify { .. }) {
            self.is_ready(id);
        }
    }

    pub(super) fn on_watchdog(&mut self, id: InstanceId) {
        let now = self.now;
        let Some(instance) = self.instance(id) else {
            return;
        };
        let Some(alive) = self.policy(instance.generation).alive else {
            return;
        };
        if alive.watchdog && instance.serves() {
            self.arm(id, Clock::Alive, now + alive.every.max(LEAST_EVERY));
            self.count_alive(id, true, alive.fails);
        }
    }

    fn count_alive(&mut self, id: InstanceId, ok: bool, most: u32) {
        let Some(instance) = self.instance_mut(id) else {
            return;
        };
        if ok {
            instance.alive_fails = 0;
            return;
        }
        instance.alive_fails += 1;
        if instance.alive_fails >= most && instance.stopping.is_none() {
            self.give_up(id, Why::Alive, Failed::Alive);
        }
    }

    pub(super) fn on_memory(&mut self, id: InstanceId, bytes: Option<u64>) {
        let Some(instance) = self.instance_mut(id) else {
            return;
        };
        let generation = instance.generation;
        let Some(most) = self.policy(generation).max_memory else {
            return;
        };
        let Some(instance) = self.instance_mut(id) else {
            return;
        };
        if bytes.is_none_or(|bytes| bytes <= most) {
            instance.over = 0;
            return;
        }
        instance.over += 1;
        if instance.over < SAMPLES || !instance.serves() {
            return;
        }
        instance.over = 0;
        if instance.steady {
            self.want_replacement(id, Why::MaxMemory);
        } else {
            self.give_up(id, Why::MaxMemory, Failed::MaxMemory);
        }
    }

    /// An instance is ready: by its time, by a probe, or because it says so.
    pub(super) fn is_ready(&mut self, id: InstanceId) {
        let now = self.now;
        let Some(instance) = self.instance_mut(id) else {
            return;
        };
        if !matches!(instance.phase, Phase::Starting | Phase::Unready)
            || instance.stopping.is_some()
        {
            return;
        }
        let first = !instance.was_ready;
        instance.turn(Phase::Ready, now);
        instance.was_ready = true;
        instance.ready = Some(now);
        let generation = instance.generation;
        let steady = instance.steady;
        self.disarm(id, Clock::Up);
        self.disarm(id, Clock::Deadline);
        if let Some(slot) = self.slots.get_mut(&id.slot) {
            slot.ran_ready = Some(generation);
        }
        if !steady {
            self.arm_steady(id);
        }
        self.keep_slot(id.slot);
        self.push(Output::Event(Event::Ready { instance: id }));
        self.push(Output::Readiness {
            instance: id,
            ready: true,
        });
        if first {
            self.watch_service(id);
            if self.is_current(id) {
                self.started(id.slot);
            }
        }
        self.slot_settled(id.slot);
    }

    /// Arms the timer at which the failures before this instance are forgotten.
    pub(super) fn arm_steady(&mut self, id: InstanceId) {
        let Some(instance) = self.instance(id) else {
            return;
        };
        let Some(ready) = instance.ready else {
            return;
        };
        let steady = self.policy(instance.generation).backoff.steady;
        let delay = self
            .slots
            .get(&id.slot)
            .map_or(Duration::ZERO, |slot| slot.delay);
        self.arm(id, Clock::Steady, ready + steady.max(delay));
    }

    fn is_unready(&mut self, id: InstanceId) {
        let now = self.now;
        let Some(instance) = self.instance_mut(id) else {
            return;
        };
        if instance.phase != Phase::Ready {
            return;
        }
        instance.turn(Phase::Unready, now);
        instance.ready = None;
        self.disarm(id, Clock::Steady);
        self.keep_slot(id.slot);
        self.push(Output::Event(Event::Unready { instance: id }));
        self.push(Output::Readiness {
            instance: id,
            ready: false,
        });
    }

    pub(super) fn on_clock(&mut self, id: InstanceId, clock: Clock) {
        let now = self.now;
        let Some(instance) = self.instance_mut(id) else {
            return;
        };
        let generation = instance.generation;
        match clock {
            Clock::Up => self.is_ready(id),
            Clock::Deadline => {
                let deadline = match self.policy(generation).ready {
                    Ready::Probe { deadline, .. } | Ready::Notify { deadline } => deadline,
                    Ready::Up(up) => up,
                };
                self.give_up(id, Why::NotReady, Failed::NotReady(deadline));
            }
            Clock::Steady => {
                instance.steady = true;
                if let Some(slot) = self.slots.get_mut(&id.slot) {
                    slot.forgive();
                }
                self.keep_slot(id.slot);
            }
            Clock::Age => self.want_replacement(id, Why::MaxAge),
            Clock::Ready => self.ask(id, Probe::Ready),
            Clock::Alive => {
                let Some(alive) = self.policy(generation).alive else {
                    return;
                };
                if alive.watchdog {
                    // From now, not from when it was due: a host that was suspended counts once.
                    self.arm(id, Clock::Alive, now + alive.every.max(LEAST_EVERY));
                    self.count_alive(id, false, alive.fails);
                } else {
                    self.ask(id, Probe::Alive);
                }
            }
            Clock::Sample => {
                self.arm(id, Clock::Sample, now + SAMPLE);
                self.push(Output::Sample { instance: id });
            }
            Clock::Wait => self.signal_main(id),
            Clock::Kill => self.kill(id),
        }
    }

    /// Applies a changed policy to a running instance whose process stays.
    pub(super) fn watch_again(&mut self, id: InstanceId, policy: &Policy) {
        let Some(instance) = self.instance(id) else {
            return;
        };
        if instance.stopping.is_some() || instance.spawned.is_none() {
            return;
        }
        let phase = instance.phase;
        self.call_off(id);
        self.timers.quiet(id);
        let age = policy
            .max_age
            .map(|age| self.random.spread(age, 1.0, 1.0 + AGE_SPREAD));
        if let Some(instance) = self.instance_mut(id) {
            instance.age = age;
            instance.alive_fails = 0;
            instance.over = 0;
        }
        match phase {
            Phase::Starting => self.watch_start(id),
            Phase::Ready | Phase::Unready => {
                self.watch_service(id);
                self.arm_steady(id);
                self.watch_ready(id);
            }
            Phase::Before | Phase::Spawning | Phase::Stopping | Phase::Stuck => {}
        }
    }

    /// Calls off the probes that are under way.
    pub(super) fn call_off(&mut self, id: InstanceId) {
        let Some(instance) = self.instance_mut(id) else {
            return;
        };
        let ready = instance.asked_ready.take().map(|_| Probe::Ready);
        let alive = instance.asked_alive.take().map(|_| Probe::Alive);
        for probe in ready.into_iter().chain(alive) {
            self.push(Output::EndProbe {
                instance: id,
                probe,
            });
        }
    }
}
