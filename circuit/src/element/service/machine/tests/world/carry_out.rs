//! What the machine wants of the world, and whether it may.

use std::collections::BTreeSet;
use std::time::Duration;

use super::super::super::*;
use super::happening::Happening;
use super::{Body, World, ms, s};

impl World {
    /// Carries out what the machine wants, and checks that it may be wanted.
    pub(super) fn drain(&mut self) {
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

    pub(super) fn policy(&self, instance: InstanceId) -> &Policy {
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

    pub(super) fn body(&mut self, instance: InstanceId) -> &mut Body {
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
                    self.used.insert(instance);
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
            Output::Signal {
                instance, signal, ..
            } => {
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
}
