//! What is watched of a running instance: whether it is ready and alive, its age and its memory.

use std::time::Duration;

use super::instance::Phase;
use super::timer::Clock;
use super::tuning::{ADOPTED_UP, AGE_SPREAD, LEAST_EVERY, SAMPLE, SAMPLES};
use super::{Event, Failed, InstanceId, Machine, Output, Policy, Probe, Ready, Why};

impl Machine {
    /// Arms whatever decides when a running instance that is not ready yet becomes so.
    pub(super) fn watch_start(&mut self, id: InstanceId) {
        let now = self.now;
        let Some(instance) = self.instance(id) else {
            return;
        };
        let spawned = instance.spawned.unwrap_or(now);
        let adopted = instance.adopted;
        match self.policy(instance.generation).ready {
            Ready::Up(up) => self.arm(id, Clock::Up, spawned.saturating_add(up)),
            Ready::Probe {
                every,
                timeout,
                deadline,
            } => {
                // An adopted instance is asked once more before it is given up.
                let least = now.saturating_add(every).saturating_add(timeout);
                let at = spawned.saturating_add(deadline);
                let at = if adopted { at.max(least) } else { at };
                self.arm(id, Clock::Deadline, at);
                self.ask(id, Probe::Ready);
            }
            Ready::Notify { .. } if adopted => {
                self.arm(id, Clock::Up, now.saturating_add(ADOPTED_UP))
            }
            Ready::Notify { deadline } => {
                self.arm(id, Clock::Deadline, spawned.saturating_add(deadline))
            }
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
            self.arm(id, Clock::Age, spawned.saturating_add(age));
        }
        if policy.max_memory.is_some() {
            self.arm(id, Clock::Sample, now.saturating_add(SAMPLE));
        }
        if let Some(alive) = policy.alive
            // What an adopted instance said before is not known: its first message arms the timer.
            && !(alive.watchdog && adopted)
        {
            self.arm(
                id,
                Clock::Alive,
                now.saturating_add(alive.every.max(LEAST_EVERY)),
            );
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
            Ready::Up(_) | Ready::Notify { .. } => self.became_ready(id),
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
                self.arm(
                    id,
                    Clock::Ready,
                    now.max(asked.saturating_add(every.max(LEAST_EVERY))),
                );
                if ok {
                    self.became_ready(id);
                } else {
                    self.became_unready(id);
                }
            }
            (Probe::Alive, _, Some(alive)) if !alive.watchdog => {
                self.arm(
                    id,
                    Clock::Alive,
                    now.max(asked.saturating_add(alive.every.max(LEAST_EVERY))),
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
            self.became_ready(id);
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
            self.arm(
                id,
                Clock::Alive,
                now.saturating_add(alive.every.max(LEAST_EVERY)),
            );
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
    pub(super) fn became_ready(&mut self, id: InstanceId) {
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
        instance.enter(Phase::Ready, now);
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
        self.arm(id, Clock::Steady, ready.saturating_add(steady.max(delay)));
    }

    fn became_unready(&mut self, id: InstanceId) {
        let now = self.now;
        let Some(instance) = self.instance_mut(id) else {
            return;
        };
        if instance.phase != Phase::Ready {
            return;
        }
        instance.enter(Phase::Unready, now);
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
            Clock::Up => self.became_ready(id),
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
                    self.arm(
                        id,
                        Clock::Alive,
                        now.saturating_add(alive.every.max(LEAST_EVERY)),
                    );
                    self.count_alive(id, false, alive.fails);
                } else {
                    self.ask(id, Probe::Alive);
                }
            }
            Clock::Sample => {
                self.arm(id, Clock::Sample, now.saturating_add(SAMPLE));
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
        self.quiet(id);
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
