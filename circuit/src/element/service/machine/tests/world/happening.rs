//! What happens in the world by itself, once its time has come.

use std::time::Duration;

use super::super::super::*;
use super::{Body, World};

#[derive(Debug, Clone)]
pub(super) enum Happening {
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

impl World {
    pub(super) fn happen(&mut self, happening: Happening) {
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
}
