//! A machine that goes on where the server's life before ended.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::instance::{Instance, Phase};
use super::roll::Roll;
use super::slot::{Replace, Rest, Slot};
use super::stop::{Stopping, Verdict};
use super::timer::Timer;
use super::tuning::AGE_SPREAD;
use super::{
    End, Event, Found, Generation, Input, InstanceId, InstanceRecord, Machine, Output, Policy,
    RestRecord, ServiceRecord, SlotRecord, Want, Why,
};

/// The records, and for what was found without one (the server was killed before it was written)
/// one of an instance that was being started.
fn with_unrecorded(
    slots: Vec<SlotRecord>,
    service: &ServiceRecord,
    found: &BTreeMap<InstanceId, Found>,
) -> Vec<SlotRecord> {
    let mut slots: BTreeMap<u32, SlotRecord> = slots
        .into_iter()
        .map(|record| (record.slot, record))
        .collect();
    for id in found.keys() {
        let slot = slots.entry(id.slot).or_insert_with(|| SlotRecord {
            slot: id.slot,
            next: service.first_number,
            ran_ready: None,
            starts: 0,
            failures: 0,
            delay: Duration::ZERO,
            rest: RestRecord::Free,
            last: None,
            instances: Vec::new(),
        });
        if slot.instances.iter().all(|it| it.number != id.number) {
            slot.instances.push(InstanceRecord {
                number: id.number,
                generation: service.generation,
                pid: None,
                spawned: None,
                was_ready: false,
                ready: None,
                age: None,
                ended: None,
                stopping: None,
            });
            slot.instances.sort_by_key(|instance| instance.number);
        }
    }
    slots.into_values().collect()
}

impl Machine {
    /// A service of the server's life before, as it was kept and found. What was wanted is carried
    /// out by the first call of [`handle`](Self::handle) or [`intend`](Self::intend): its first
    /// outputs say what was adopted.
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
        let mut policies: BTreeMap<Generation, Arc<Policy>> = policies
            .into_iter()
            .map(|(generation, policy)| (generation, Arc::new(policy)))
            .collect();
        // Without the newest definition the newest that is there stands for it.
        let newest = policies
            .get(&service.generation)
            .or(policies.values().last());
        let newest = newest.cloned().unwrap_or_default();
        policies.insert(service.generation, newest);
        let mut machine = Machine::empty(service.generation, policies, seed, now);
        machine.want = service.want;
        machine.instances = service.instances;
        machine.first_number = service.first_number.max(1);
        for record in with_unrecorded(slots, &service, found) {
            machine.resume_slot(record, found);
        }
        if let Some(roll) = service.roll {
            machine.resume_roll(roll.update, roll.pending, roll.halted.is_some());
            if let Some(now) = &mut machine.roll {
                now.halted = roll.halted;
            }
        }
        for number in service.restarts {
            if let Some(slot) = machine.slots.get_mut(&number) {
                slot.replace.get_or_insert(Replace {
                    why: Why::Restart,
                    generation: None,
                    roll: false,
                    now: false,
                    active: false,
                    ticket: None,
                });
            }
        }
        machine.resume_replacements();
        machine
    }

    fn resume_slot(&mut self, record: SlotRecord, found: &BTreeMap<InstanceId, Found>) {
        let number = record.slot;
        let mut slot = Slot::new(record.next, self.now);
        slot.ran_ready = record.ran_ready;
        slot.starts = record.starts;
        slot.failures = record.failures;
        slot.delay = record.delay;
        slot.last = record.last;
        slot.rest_why = slot.last.as_ref().map(|last| last.why.clone());
        slot.rest = match record.rest {
            RestRecord::Free => Rest::Due { turn: true },
            RestRecord::Backoff(until) => {
                self.timers.arm(Timer::Backoff(number), until);
                Rest::Backoff { until }
            }
            RestRecord::Failed => Rest::Failed,
            RestRecord::Finished => Rest::Finished,
        };
        if self.want != Want::Up {
            slot.rest = Rest::Down;
        }
        let mut instances: Vec<Instance> = Vec::new();
        for record in record.instances {
            let id = InstanceId {
                slot: number,
                number: record.number,
            };
            slot.next = slot.next.max(record.number.saturating_add(1));
            let end = found.get(&id).cloned();
            let end = end.unwrap_or(Found::Gone { end: End::Unknown });
            // A start that never came to a process has left nothing that could have ended.
            let process = record.spawned.is_some() || record.pid.is_some();
            if matches!(end, Found::Gone { .. }) && !process {
                continue;
            }
            instances.push(self.adopt(id, record, &end));
        }
        // The newest that is not being stopped is in the slot; one before it that is not being stopped
        // either is its predecessor.
        let in_place = instances
            .iter()
            .rposition(|instance| instance.stopping.is_none())
            .or(instances.len().checked_sub(1));
        slot.current = in_place.map(|at| instances.remove(at));
        slot.old = instances;
        self.slots.insert(number, slot);
    }

    /// An instance as it was kept and found.
    fn adopt(&mut self, id: InstanceId, record: InstanceRecord, found: &Found) -> Instance {
        let now = self.now;
        let mut instance = Instance::new(id.number, self.known(record.generation), now);
        instance.adopted = true;
        instance.pid = record.pid;
        instance.spawned = Some(record.spawned.unwrap_or(now).min(now));
        instance.since = record.ready.or(record.spawned).unwrap_or(now);
        instance.was_ready = record.was_ready;
        instance.ready = record.ready;
        let policy = self.policy(instance.generation);
        instance.age = record.age.or_else(|| {
            let age = policy.max_age?;
            Some(self.random.spread(age, 1.0, 1.0 + AGE_SPREAD))
        });
        instance.phase = match (record.ready, record.was_ready) {
            (Some(_), _) => Phase::Ready,
            (None, true) => Phase::Unready,
            (None, false) => Phase::Starting,
        };
        if let Some(stop) = record.stopping {
            instance.phase = Phase::Stopping;
            let verdict = if stop.counts {
                Verdict::Failed
            } else {
                Verdict::Planned
            };
            let mut stopping = Stopping::ended(stop.why, verdict);
            stopping.first = stop.first;
            instance.stopping = Some(stopping);
        }
        let exited = |end: &End| Input::MainExited {
            instance: id,
            end: record.ended.unwrap_or(*end),
        };
        match found {
            Found::Main { pid } => instance.pid = Some(*pid),
            Found::Rest { end } => self.replay.push_back(exited(end)),
            Found::Gone { end } => {
                instance.empty = true;
                let empty = Input::TreeEmpty { instance: id };
                self.replay.extend([exited(end), empty]);
            }
            Found::Foreign => {
                instance.phase = Phase::Stuck;
                let mut stopping = Stopping::ended(Why::Unknown, Verdict::Planned);
                stopping.foreign = true;
                instance.stopping = Some(stopping);
            }
        }
        instance
    }

    fn resume_roll(&mut self, update: bool, pending: BTreeSet<u32>, halted: bool) {
        let pending: BTreeSet<u32> = pending
            .into_iter()
            .filter(|number| self.slots.contains_key(number) || *number <= self.instances)
            .collect();
        for number in &pending {
            if let Some(slot) = self.slots.get_mut(number)
                && !halted
            {
                slot.replace = Some(Replace {
                    why: if update { Why::Update } else { Why::Restart },
                    generation: Some(self.generation),
                    roll: true,
                    now: false,
                    active: false,
                    ticket: None,
                });
            }
        }
        self.roll = Some(Roll {
            update,
            ticket: None,
            pending,
            halted: None,
        });
    }

    /// Replacements that were under way go on: those whose new instance was started.
    fn resume_replacements(&mut self) {
        let generation = self.generation;
        for slot in self.slots.values_mut() {
            let predecessor = slot.has_predecessor();
            let Some(current) = &mut slot.current else {
                continue;
            };
            if current.was_ready || current.stopping.is_some() {
                continue;
            }
            let wanted = slot.replace.is_some() && current.generation == generation;
            if !predecessor && !wanted {
                continue;
            }
            let replace = slot.replace.get_or_insert(Replace {
                why: Why::Restart,
                generation: Some(current.generation),
                roll: false,
                now: false,
                active: false,
                ticket: None,
            });
            if replace.generation.unwrap_or(current.generation) == current.generation {
                replace.active = true;
                current.successor = true;
                slot.turn = true;
            }
        }
    }

    /// What the first call of a life does before anything else: tells what was adopted, and what has
    /// ended since.
    pub(super) fn tell_adopted(&mut self) {
        let mut adopted = Vec::new();
        for (number, slot) in &self.slots {
            self.outputs.push_back(Output::SlotMade { slot: *number });
            for instance in slot.old.iter().chain(&slot.current) {
                let id = InstanceId {
                    slot: *number,
                    number: instance.number,
                };
                let old = slot.current.as_ref().map(|it| it.number) != Some(instance.number);
                adopted.push((id, old));
            }
        }
        let ended: BTreeSet<InstanceId> = self
            .replay
            .iter()
            .filter_map(|input| match input {
                Input::MainExited { instance, .. } => Some(*instance),
                _ => None,
            })
            .collect();
        for (id, old) in adopted {
            self.push(Output::Place { instance: id, old });
            let Some(instance) = self.instance(id) else {
                continue;
            };
            let (pid, generation, phase) = (instance.pid, instance.generation, instance.phase);
            if phase == Phase::Stuck {
                self.stuck(id);
                continue;
            }
            if ended.contains(&id) {
                continue;
            }
            self.push(Output::Event(Event::Adopted {
                instance: id,
                pid: pid.unwrap_or(0),
                generation,
            }));
            self.keep_slot(id.slot);
            match phase {
                Phase::Starting => self.watch_start(id),
                Phase::Ready | Phase::Unready => {
                    if phase == Phase::Ready {
                        self.push(Output::Readiness {
                            instance: id,
                            ready: true,
                        });
                    }
                    self.watch_service(id);
                    self.arm_steady(id);
                    self.watch_ready(id);
                }
                Phase::Stopping => self.go_on_stopping(id),
                Phase::Before | Phase::Spawning | Phase::Stuck => {}
            }
        }
        while let Some(input) = self.replay.pop_front() {
            match input {
                Input::MainExited { instance, end } => self.on_main_exited(instance, end),
                Input::TreeEmpty { instance } => self.on_tree_empty(instance),
                _ => {}
            }
        }
        self.touch_all();
    }
}
