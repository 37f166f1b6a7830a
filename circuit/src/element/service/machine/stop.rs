//! How an instance ends: the steps of a stop, and what follows once its tree is empty.

use std::time::Duration;

use super::instance::Phase;
use super::slot::{Replace, Rest};
use super::timer::{Clock, Timer};
use super::tuning::{KILL_AGAIN, REST, STUCK};
use super::{
    Command, End, Event, Failed, InstanceId, Last, Machine, Output, Policy, Restart, Signal, Why,
};

/// How an instance is being stopped, or has ended by itself.
#[derive(Debug, Clone)]
pub(super) struct Stopping {
    /// Why.
    pub(super) why: Why,
    /// What is to follow in its slot.
    pub(super) verdict: Verdict,
    /// When the first signal was sent, or the command begun.
    pub(super) first: Option<Duration>,
    /// When the first KILL was sent.
    pub(super) killed: Option<Duration>,
    /// Whether nothing of it may be touched.
    pub(super) foreign: bool,
}

/// What follows an end in its slot, unless a person wants something else by then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Whatever the stop was for: nothing is held against the slot.
    Planned,
    /// A new start, and a failure is counted.
    Failed,
    /// A new start.
    Again,
    /// No new start: the code says that there is no use.
    Fatal,
    /// No new start: the work is done.
    Finished,
}

impl Stopping {
    /// Of an instance that has ended, or was never there.
    pub(super) fn ended(why: Why, verdict: Verdict) -> Stopping {
        Stopping {
            why,
            verdict,
            first: None,
            killed: None,
            foreign: false,
        }
    }
}

/// What follows an end that the machine did not cause.
fn verdict(policy: &Policy, end: End, steady: bool) -> Verdict {
    let ok = matches!(end, End::Code(code) if policy.ok_codes.contains(&code));
    match end {
        End::Code(code) if policy.fatal_codes.contains(&code) => Verdict::Fatal,
        _ if policy.restart == Restart::Never => Verdict::Finished,
        _ if policy.restart == Restart::Failure && ok => Verdict::Finished,
        End::Unknown if policy.unknown_finishes => Verdict::Finished,
        _ if steady && ok => Verdict::Again,
        _ => Verdict::Failed,
    }
}

impl Machine {
    /// Stops an instance. What is being stopped goes on being stopped as it was.
    pub(super) fn stop(&mut self, id: InstanceId, why: Why, verdict: Verdict) {
        let Some(instance) = self.instance_mut(id) else {
            return;
        };
        if instance.stopping.is_some() {
            return;
        }
        instance.stopping = Some(Stopping::ended(why, verdict));
        self.keep_slot(id.slot);
        match self.instance(id).map(|instance| instance.phase) {
            Some(Phase::Before) => self.push(Output::KillCommand {
                instance: id,
                command: Command::Before,
            }),
            Some(Phase::Spawning) => self.push(Output::Abandon { instance: id }),
            _ => self.begin_stop(id),
        }
    }

    /// The machine itself gives an instance up: that is a failure.
    pub(super) fn give_up(&mut self, id: InstanceId, why: Why, failed: Failed) {
        let Some(instance) = self.instance(id) else {
            return;
        };
        if instance.stopping.is_some() {
            return;
        }
        self.stop(id, why, Verdict::Failed);
        self.failed(id, failed);
    }

    /// The first steps, once there is a main process: readiness is withdrawn, and the signal follows,
    /// at once or later.
    pub(super) fn begin_stop(&mut self, id: InstanceId) {
        let now = self.now;
        self.withdraw(id);
        let Some(instance) = self.instance_mut(id) else {
            return;
        };
        instance.enter(Phase::Stopping, now);
        let (was_ready, generation) = (instance.was_ready, instance.generation);
        let why = match &instance.stopping {
            Some(stopping) => stopping.why.clone(),
            None => return,
        };
        self.push(Output::Event(Event::Stopping { instance: id, why }));
        if self.killing {
            self.kill(id);
            return;
        }
        let wait = self.policy(generation).stop.wait;
        if was_ready && !wait.is_zero() {
            self.arm(id, Clock::Wait, now.saturating_add(wait));
        } else {
            self.signal_main(id);
        }
    }

    /// An adopted instance that was being stopped: a signal that it has had is not sent again.
    pub(super) fn go_on_stopping(&mut self, id: InstanceId) {
        let now = self.now;
        let Some(instance) = self.instance(id) else {
            return;
        };
        let first = instance.stopping.as_ref().and_then(|it| it.first);
        let seconds = self.policy(instance.generation).stop.seconds;
        match first {
            Some(first) => self.arm(id, Clock::Kill, first.saturating_add(seconds).max(now)),
            None => self.signal_main(id),
        }
    }

    /// Nothing of a running instance goes on but its end.
    fn withdraw(&mut self, id: InstanceId) {
        self.quiet(id);
        self.call_off(id);
        let Some(instance) = self.instance_mut(id) else {
            return;
        };
        let was_ready = instance.is_ready();
        instance.ready = None;
        if instance.commands.contains(&Command::Reload) {
            self.push(Output::KillCommand {
                instance: id,
                command: Command::Reload,
            });
        }
        self.reloaded(id, true);
        if was_ready {
            self.push(Output::Readiness {
                instance: id,
                ready: false,
            });
        }
    }

    /// The command or the signal to the main process.
    pub(super) fn signal_main(&mut self, id: InstanceId) {
        let now = self.now;
        let Some(instance) = self.instance_mut(id) else {
            return;
        };
        let generation = instance.generation;
        if instance.ended.is_some() {
            return;
        }
        if let Some(stopping) = &mut instance.stopping {
            stopping.first = Some(now);
        }
        let stop = self.policy(generation).stop;
        self.keep_slot(id.slot);
        if stop.command {
            if let Some(instance) = self.instance_mut(id) {
                instance.commands.insert(Command::Stop);
            }
            self.push(Output::Run {
                instance: id,
                command: Command::Stop,
                generation,
            });
        } else {
            self.push(Output::Signal {
                instance: id,
                signal: Signal::Stop,
                generation,
            });
        }
        self.arm(id, Clock::Kill, now.saturating_add(stop.seconds));
    }

    pub(super) fn on_main_exited(&mut self, id: InstanceId, end: End) {
        let now = self.now;
        let Some(instance) = self.instance_mut(id) else {
            return;
        };
        if instance.ended.is_some() || instance.spawned.is_none() {
            return;
        }
        instance.ended = Some((end, now));
        let (steady, generation) = (instance.steady, instance.generation);
        let empty = instance.empty;
        let policy = self.policy(generation);
        self.withdraw(id);
        let Some(instance) = self.instance_mut(id) else {
            return;
        };
        if !matches!(instance.phase, Phase::Stopping | Phase::Stuck) {
            instance.enter(Phase::Stopping, now);
        }
        let itself = instance.stopping.is_none();
        let stopping = instance.stopping.get_or_insert_with(|| {
            let why = if end == End::Unknown {
                Why::Unknown
            } else {
                Why::Exited
            };
            Stopping::ended(why, verdict(&policy, end, steady))
        });
        let why = stopping.why.clone();
        let verdict = stopping.verdict;
        let first = *stopping.first.get_or_insert(now);
        let killed = stopping.killed.is_some();
        self.keep_slot(id.slot);
        self.push(Output::Event(Event::Exit {
            instance: id,
            end,
            why,
        }));
        if empty {
            // Known from before: it ended between two lives of the server.
        } else if self.killing {
            self.kill(id);
        } else if !killed {
            self.push(Output::SignalRest { instance: id });
            let seconds = policy.stop.seconds;
            let at = first.saturating_add(seconds).max(now.saturating_add(REST));
            self.arm(id, Clock::Kill, at);
        }
        if !empty {
            self.push(Output::Watch { instance: id });
        }
        if itself {
            match verdict {
                Verdict::Failed | Verdict::Fatal => self.failed(id, Failed::Ended(end)),
                Verdict::Finished if self.is_current(id) => {
                    self.started(id.slot);
                    self.slot_settled(id.slot);
                }
                Verdict::Finished | Verdict::Again | Verdict::Planned => {}
            }
        }
    }

    /// KILL to the tree, now and once a second until it is empty.
    pub(super) fn kill(&mut self, id: InstanceId) {
        let now = self.now;
        let Some(instance) = self.instance_mut(id) else {
            return;
        };
        let phase = instance.phase;
        let commands = instance.commands.clone();
        let Some(stopping) = &mut instance.stopping else {
            return;
        };
        if stopping.foreign {
            return;
        }
        stopping.first.get_or_insert(now);
        let killed = *stopping.killed.get_or_insert(now);
        for command in commands {
            self.push(Output::KillCommand {
                instance: id,
                command,
            });
        }
        self.push(Output::KillTree { instance: id });
        self.arm(id, Clock::Kill, now.saturating_add(KILL_AGAIN));
        if now.saturating_sub(killed) >= STUCK && phase != Phase::Stuck {
            if let Some(instance) = self.instance_mut(id) {
                instance.enter(Phase::Stuck, now);
            }
            self.stuck(id);
        }
    }

    /// An instance cannot be stopped.
    pub(super) fn stuck(&mut self, id: InstanceId) {
        self.keep_slot(id.slot);
        self.push(Output::Event(Event::Stuck { instance: id }));
    }

    pub(super) fn on_tree_empty(&mut self, id: InstanceId) {
        let now = self.now;
        let Some(instance) = self.instance_mut(id) else {
            return;
        };
        let foreign = instance
            .stopping
            .as_ref()
            .is_some_and(|stopping| stopping.foreign);
        if foreign {
            instance.ended.get_or_insert((End::Unknown, now));
        }
        if instance.ended.is_some() {
            instance.empty = true;
            self.gone_if_empty(id);
        }
    }

    /// Nothing is left of an instance, and no command runs for it.
    pub(super) fn gone_if_empty(&mut self, id: InstanceId) {
        let over = self
            .instance(id)
            .is_some_and(|instance| instance.empty && instance.commands.is_empty());
        if over {
            self.gone(id);
        }
    }

    /// An instance is over: its slot goes on.
    pub(super) fn gone(&mut self, id: InstanceId) {
        let now = self.now;
        self.quiet(id);
        self.timers.disarm(Timer::Instance(id, Clock::Kill));
        let current = self.is_current(id);
        let Some(slot) = self.slots.get_mut(&id.slot) else {
            return;
        };
        let instance = if current {
            slot.current.take()
        } else {
            let at = slot.old.iter().position(|old| old.number == id.number);
            at.map(|at| slot.old.remove(at))
        };
        let Some(instance) = instance else {
            return;
        };
        let (why, verdict) = match instance.stopping {
            Some(stopping) => (stopping.why, stopping.verdict),
            None => (Why::Unknown, Verdict::Planned),
        };
        slot.last = Some(Last {
            end: instance.ended.map(|(end, _)| end),
            why: why.clone(),
            at: instance.ended.map_or(now, |(_, at)| at),
        });
        // The next instance is new in any case.
        let aged = |replace: &mut Replace| {
            !replace.active && matches!(replace.why, Why::MaxAge | Why::MaxMemory)
        };
        if current {
            slot.replace.take_if(aged);
        }
        self.forgetful = true;
        self.keep_slot(id.slot);
        self.push(Output::InstanceGone { instance: id });
        self.reloaded(id, true);
        if current {
            self.follow(id.slot, instance.generation, why, verdict);
        }
    }

    /// Decides what follows in a slot whose instance is over.
    fn follow(&mut self, number: u32, generation: u64, why: Why, verdict: Verdict) {
        let desired = self.is_desired(number);
        let Some(slot) = self.slots.get(&number) else {
            return;
        };
        if slot.has_predecessor() {
            self.restore(number);
            return;
        }
        if slot.is_replacing() {
            self.rest(number, Rest::Due { turn: false }, None);
            return;
        }
        match verdict {
            Verdict::Finished => {
                self.rest(number, Rest::Finished, Some(why));
                self.slot_settled(number);
            }
            Verdict::Fatal => self.fail_for_good(number, why),
            Verdict::Failed if desired => self.fail(number, generation, why),
            Verdict::Again if desired => {
                self.rest(number, Rest::Asked, Some(why));
                self.push(Output::Ask { slot: number });
            }
            Verdict::Planned | Verdict::Failed | Verdict::Again => {
                self.rest(number, Rest::Due { turn: true }, None);
            }
        }
    }
}
