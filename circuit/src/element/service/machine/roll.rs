//! Replacements of instances by new ones, one by one as a roll, and how a roll ends.

use std::collections::BTreeSet;

use super::instance::Phase;
use super::slot::{Replace, Rest};
use super::stop::Verdict;
use super::timer::Timer;
use super::tuning::OLD;
use super::{
    AfterState, Event, Failed, Failure, Generation, InstanceId, Machine, Outcome, Output, Ticket,
    Why, backoff,
};

/// All slots get new instances, a few at a time.
#[derive(Debug, Clone)]
pub(super) struct Roll {
    /// Whether the definition changed; otherwise a person restarts.
    pub(super) update: bool,
    /// Who waits for it.
    pub(super) ticket: Option<Ticket>,
    /// The slots that have no new instance yet.
    pub(super) pending: BTreeSet<u32>,
    /// What halted it.
    pub(super) halted: Option<Failure>,
}

impl Machine {
    /// The generation with which the slot is started next.
    pub(super) fn next_generation(&self, number: u32) -> Generation {
        let Some(slot) = self.slots.get(&number) else {
            return self.generation;
        };
        if let Some(replace) = &slot.replace
            && replace.active
            && let Some(generation) = replace.generation
        {
            return self.known(generation);
        }
        let Some(roll) = &self.roll else {
            return self.generation;
        };
        let others = || {
            let ran = self.slots.values().filter_map(|slot| slot.ran_ready);
            ran.max().filter(|_| roll.halted.is_some())
        };
        let generation = slot.ran_ready.or_else(others).unwrap_or(self.generation);
        self.known(generation)
    }

    /// The generation, or the newest if its policy is not known.
    pub(super) fn known(&self, generation: Generation) -> Generation {
        if self.policies.contains_key(&generation) {
            generation
        } else {
            self.generation
        }
    }

    /// Begins a roll over these slots. There is none now.
    pub(super) fn begin_roll(&mut self, update: bool, pending: BTreeSet<u32>, ticket: Ticket) {
        let generation = self.generation;
        for &number in &pending {
            self.pardon(number);
            if let Some(slot) = self.slots.get_mut(&number) {
                slot.replace = Some(Replace {
                    why: if update { Why::Update } else { Why::Restart },
                    generation: Some(generation),
                    roll: true,
                    now: false,
                    active: false,
                    ticket: None,
                });
            }
        }
        self.roll = Some(Roll {
            update,
            ticket: Some(ticket),
            pending,
            halted: None,
        });
        self.stale = true;
    }

    /// A person wants the slot to run: failures are forgotten, and what it waited for is over.
    pub(super) fn pardon(&mut self, number: u32) {
        if let Some(slot) = self.slots.get_mut(&number) {
            slot.forgive();
            if slot.current.is_none() && !slot.is_replacing() {
                self.rest(number, Rest::Due { turn: true }, None);
            }
            self.keep_slot(number);
        }
    }

    /// Wants an instance replaced because of what it has become.
    pub(super) fn want_replacement(&mut self, id: InstanceId, why: Why) {
        if !self.is_current(id) || !self.is_desired(id.slot) {
            return;
        }
        let now = self.now;
        let Some(slot) = self.slots.get_mut(&id.slot) else {
            return;
        };
        let serves = slot.current.as_ref().is_some_and(|it| it.serves());
        if slot.replace.is_some() || !serves || slot.hold.is_some_and(|hold| hold > now) {
            return;
        }
        slot.replace = Some(Replace {
            why,
            generation: None,
            roll: false,
            now: false,
            active: false,
            ticket: None,
        });
        self.touch(id.slot);
    }

    pub(super) fn on_hold_over(&mut self, number: u32) {
        let now = self.now;
        let Some(slot) = self.slots.get_mut(&number) else {
            return;
        };
        slot.hold = None;
        self.touched.insert(number);
        self.stale = true;
        let Some(current) = &slot.current else {
            return;
        };
        let spawned = current.spawned.unwrap_or(now);
        if current
            .age
            .is_some_and(|age| spawned.saturating_add(age) <= now)
        {
            let id = InstanceId {
                slot: number,
                number: current.number,
            };
            self.want_replacement(id, Why::MaxAge);
        }
    }

    /// The services that a start with this generation waits for.
    pub(super) fn waits_for(&self, generation: Generation) -> Vec<(String, AfterState)> {
        let policy = self.policy(generation);
        let states = policy.after.iter().map(|name| {
            let state = self.after.get(name).copied();
            (name.clone(), state.unwrap_or(AfterState::Missing))
        });
        states
            .filter(|(_, state)| *state != AfterState::Ready)
            .collect()
    }

    /// Whether the slot, which has no instance in it, may get one: what is beside it is being
    /// replaced, and not being stopped for good.
    pub(super) fn may_fill(&self, number: u32) -> bool {
        let surge = self.policy(self.next_generation(number)).surge;
        self.slots.get(&number).is_some_and(|slot| {
            slot.current.is_none()
                && slot.old.len() <= OLD
                && slot.old.iter().all(|old| {
                    let why = old.stopping.as_ref().map(|stopping| &stopping.why);
                    surge && !matches!(why, Some(Why::Down | Why::Scale))
                })
        })
    }

    /// Begins the replacement that the slot wants. False if it cannot begin yet.
    pub(super) fn activate(&mut self, number: u32) -> bool {
        let Some(slot) = self.slots.get(&number) else {
            return false;
        };
        let Some(replace) = slot.replace.clone() else {
            return false;
        };
        let target = replace
            .generation
            .map_or_else(|| self.next_generation(number), |it| self.known(it));
        if !replace.now && !self.waits_for(target).is_empty() {
            return false;
        }
        let surge = self.policy(target).surge && !replace.now;
        let surge = surge && slot.current.as_ref().is_some_and(|it| it.serves());
        if surge && slot.old.len() >= OLD {
            return false;
        }
        let current = slot.current.as_ref().map(|instance| InstanceId {
            slot: number,
            number: instance.number,
        });
        if let Some(slot) = self.slots.get_mut(&number) {
            slot.turn = !replace.now;
            if let Some(replace) = &mut slot.replace {
                replace.active = true;
            }
        }
        self.keep_slot(number);
        match current {
            None => self.rest(number, Rest::Due { turn: false }, None),
            Some(id) if surge => {
                if let Some(slot) = self.slots.get_mut(&number) {
                    let serving = slot.current.take();
                    slot.old.extend(serving);
                }
                self.push(Output::Place {
                    instance: id,
                    old: true,
                });
                self.start(number, true);
            }
            Some(id) => self.stop(id, replace.why, Verdict::Planned),
        }
        true
    }

    /// The slot's instance is ready, or has done its work before it was: a start, and the replacement
    /// that it belongs to, is over.
    pub(super) fn started(&mut self, number: u32) {
        self.touch(number);
        let Some(slot) = self.slots.get_mut(&number) else {
            return;
        };
        slot.turn = false;
        let Some(current) = &mut slot.current else {
            return;
        };
        if !std::mem::take(&mut current.successor) {
            return;
        }
        let Some(replace) = slot.replace.take() else {
            return;
        };
        let old: Vec<u64> = slot.old.iter().map(|old| old.number).collect();
        for old in old {
            let id = InstanceId {
                slot: number,
                number: old,
            };
            self.stop(id, replace.why.clone(), Verdict::Planned);
        }
        if replace.roll {
            self.step_done(number);
        }
        if let Some(ticket) = replace.ticket {
            self.replaced(ticket);
        }
        self.keep_slot(number);
        self.keep_service();
    }

    /// A slot needs no new instance of the roll any more.
    pub(super) fn step_done(&mut self, number: u32) {
        if let Some(roll) = &mut self.roll
            && roll.halted.is_none()
            && roll.pending.remove(&number)
        {
            self.keep_service();
        }
    }

    /// The roll is over once nothing is pending.
    pub(super) fn finish_roll(&mut self) {
        let over = self
            .roll
            .as_ref()
            .is_some_and(|roll| roll.pending.is_empty() && roll.halted.is_none());
        if !over {
            return;
        }
        let ticket = self.roll.take().and_then(|roll| roll.ticket);
        self.forgetful = true;
        self.keep_service();
        self.push(Output::Event(Event::Rolled {
            generation: self.generation,
        }));
        if let Some(ticket) = ticket {
            self.rolled(ticket);
        }
    }

    /// An instance has failed. What waits for it is told; what follows in its slot is decided when
    /// it is over.
    pub(super) fn failed(&mut self, id: InstanceId, what: Failed) {
        if !self.is_current(id) {
            return;
        }
        self.touch(id.slot);
        let Some(slot) = self.slots.get_mut(&id.slot) else {
            return;
        };
        slot.turn = false;
        slot.trouble = Some((id.number, what.clone()));
        let successor = slot
            .current
            .as_mut()
            .is_some_and(|current| std::mem::take(&mut current.successor));
        let failure = Failure {
            slot: id.slot,
            number: id.number,
            what,
        };
        self.slot_failed(&failure);
        if successor {
            self.replacement_failed(failure);
        }
    }

    fn replacement_failed(&mut self, failure: Failure) {
        let now = self.now;
        let number = failure.slot;
        let Some(slot) = self.slots.get_mut(&number) else {
            return;
        };
        let Some(replace) = slot.replace.take() else {
            return;
        };
        if slot.has_predecessor() {
            if !replace.roll && replace.ticket.is_none() {
                // Nobody waits for it: it is tried again, later and later.
                slot.failures = slot.failures.saturating_add(1);
                let failures = slot.failures;
                let backoff = self.policy(self.next_generation(number)).backoff;
                let delay = backoff::delay(&backoff, failures, &mut self.random);
                let hold = now.saturating_add(delay.max(backoff.first));
                if let Some(slot) = self.slots.get_mut(&number) {
                    slot.hold = Some(hold);
                }
                self.timers.arm(Timer::Hold(number), hold);
            }
            self.restore(number);
        }
        self.keep_slot(number);
        self.keep_service();
        if let Some(ticket) = replace.ticket {
            self.settle(ticket, Outcome::Failed(failure.clone()));
        }
        if replace.roll {
            self.halt(failure);
        }
    }

    /// The instance that serves beside the slot gets its place back; the one in it, which is being
    /// stopped, goes beside.
    pub(super) fn restore(&mut self, number: u32) {
        let Some(slot) = self.slots.get_mut(&number) else {
            return;
        };
        let Some(at) = slot.old.iter().position(|old| old.stopping.is_none()) else {
            return;
        };
        let serving = slot.old.remove(at);
        let place = |instance: u64, old| Output::Place {
            instance: InstanceId {
                slot: number,
                number: instance,
            },
            old,
        };
        let back = place(serving.number, false);
        let aside = slot.current.replace(serving).map(|mut failed| {
            failed.successor = false;
            let aside = place(failed.number, true);
            slot.old.push(failed);
            aside
        });
        slot.turn = false;
        self.keep_slot(number);
        for output in aside.into_iter().chain([back]) {
            self.push(output);
        }
    }

    /// Ends the roll where it is: nothing is replaced by it any more.
    fn halt(&mut self, failure: Failure) {
        let Some(roll) = &mut self.roll else {
            return;
        };
        if roll.halted.is_some() {
            return;
        }
        roll.halted = Some(failure.clone());
        let ticket = roll.ticket.take();
        self.keep_service();
        self.push(Output::Event(Event::Halted {
            failure: failure.clone(),
        }));
        if let Some(ticket) = ticket {
            self.settle(ticket, Outcome::Failed(failure));
        }
        let steps: Vec<u32> = self
            .slots
            .iter()
            .filter(|(_, slot)| slot.replace.as_ref().is_some_and(|replace| replace.roll))
            .map(|(number, _)| *number)
            .collect();
        for number in steps {
            self.drop_replacement(number);
        }
    }

    /// Calls a replacement off: an instance that was to be replaced and still serves goes on. A new
    /// one that has nobody to go back to goes on, too.
    pub(super) fn drop_replacement(&mut self, number: u32) {
        let Some(slot) = self.slots.get_mut(&number) else {
            return;
        };
        let Some(replace) = slot.replace.take() else {
            return;
        };
        // A person who wants just this slot restarted, and whom nobody has overtaken, still wants it.
        let wanted = replace.ticket.filter(|it| self.pursuits.contains_key(it));
        slot.replace = wanted.map(|ticket| Replace {
            why: Why::Restart,
            generation: None,
            roll: false,
            now: replace.now,
            active: false,
            ticket: Some(ticket),
        });
        self.dirty_slots.insert(number);
        self.touched.insert(number);
        self.stale = true;
        if !replace.active {
            return;
        }
        let predecessor = slot.has_predecessor();
        match &mut slot.current {
            None => self.rest(number, Rest::Due { turn: true }, None),
            Some(current) => {
                current.successor = false;
                let id = InstanceId {
                    slot: number,
                    number: current.number,
                };
                if predecessor {
                    self.stop(id, Why::Superseded, Verdict::Planned);
                    self.restore(number);
                }
            }
        }
        let starting = self.slots.get(&number).is_some_and(|slot| {
            let starting =
                |it: &Phase| matches!(it, Phase::Before | Phase::Spawning | Phase::Starting);
            slot.current
                .as_ref()
                .is_some_and(|it| it.stopping.is_none() && starting(&it.phase))
        });
        if let Some(slot) = self.slots.get_mut(&number) {
            slot.turn = slot.turn && starting;
        }
    }

    /// Tells those who wait for something that a stuck instance keeps from coming. Under `surge` it
    /// keeps nothing back once its successor has the slot.
    pub(super) fn tell_stuck(&mut self) {
        let mut stuck = Vec::new();
        for slot in self.stuck_slots() {
            let Some(it) = self.slots.get(&slot) else {
                continue;
            };
            let current = it.current.as_ref().map(|it| it.number);
            for instance in it.all().filter(|it| it.phase == Phase::Stuck) {
                let number = instance.number;
                let what = Failed::Stuck;
                stuck.push((Failure { slot, number, what }, current == Some(number)));
            }
        }
        for (failure, current) in stuck {
            self.slot_stuck(&failure);
            if !current {
                continue;
            }
            self.slot_failed(&failure);
            let Some(slot) = self.slots.get_mut(&failure.slot) else {
                continue;
            };
            slot.trouble = Some((failure.number, Failed::Stuck));
            if std::mem::take(&mut slot.turn) {
                self.touched.insert(failure.slot);
                self.stale = true;
            }
            if slot.is_replacing() {
                self.replacement_failed(failure);
            }
        }
    }
}
