//! An instance, and its start until there is a process.

use std::collections::BTreeSet;
use std::time::Duration;

use super::slot::Rest;
use super::stop::{Stopping, Verdict};
use super::tuning::AGE_SPREAD;
use super::{
    Command, End, Event, Failed, Generation, InstanceId, Machine, NotSpawned, Output, Signal,
    State, Why,
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
    pub(super) fn enter(&mut self, phase: Phase, now: Duration) {
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
            instance.enter(Phase::Before, now);
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
        instance.enter(Phase::Starting, now);
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
                instance.enter(Phase::Spawning, now);
                let generation = instance.generation;
                self.push(Output::Spawn {
                    instance: id,
                    generation,
                });
            }
            Command::Before => self.not_started(id, Why::BeforeFailed, Failed::Before),
            Command::Stop => {
                let runs = instance.ended.is_none();
                let generation = instance.generation;
                if !ok && runs {
                    self.push(Output::Signal {
                        instance: id,
                        signal: Signal::Stop,
                        generation,
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
}
