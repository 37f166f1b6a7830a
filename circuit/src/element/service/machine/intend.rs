//! What people want, and how it begins to be carried out.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::instance::Instance;
use super::pursuit::Pursuit;
use super::slot::{Replace, Rest, Slot};
use super::stop::Verdict;
use super::{
    Command, Event, Generation, InstanceId, Intent, Machine, Outcome, Output, Policy, Refused,
    Reload, Signal, Ticket, Verb, Want, Why,
};

impl Machine {
    /// Takes an intent, and begins to carry it out. The outputs are then to be polled: the service's
    /// record is among them, and what became of the intent, now or later.
    pub(crate) fn intend(&mut self, intent: Intent, now: Duration) -> Result<Ticket, Refused> {
        self.begin(now);
        let taken = self.check(&intent).map(|()| self.take(intent));
        self.go_on();
        taken
    }

    fn check(&self, intent: &Intent) -> Result<(), Refused> {
        if self.ending {
            return Err(Refused::Ending);
        }
        let down = self.want == Want::Down;
        match intent {
            // Whatever is wanted, the slot would be stuck for ever.
            Intent::Restart {
                slot: Some(slot),
                now: true,
            } if !self.foreign(*slot).is_empty() => Ok(()),
            _ if self.want == Want::Scrubbed => Err(Refused::Scrubbed),
            Intent::Restart { slot, .. } => match slot {
                Some(slot) if *slot == 0 || *slot > self.instances => Err(Refused::NoSlot),
                _ if down => Err(Refused::Down),
                _ => Ok(()),
            },
            Intent::Reload if self.policy(self.generation).reload.is_none() => {
                Err(Refused::NoReload)
            }
            Intent::Reload if down => Err(Refused::Down),
            Intent::Up
            | Intent::Down
            | Intent::Reload
            | Intent::Scale(_)
            | Intent::Update { .. }
            | Intent::Scrub => Ok(()),
        }
    }

    fn take(&mut self, intent: Intent) -> Ticket {
        let verb = intent.verb();
        let ticket = self.equal(verb).unwrap_or_else(|| {
            self.next_ticket += 1;
            Ticket(self.next_ticket - 1)
        });
        let slot = match intent {
            Intent::Restart { slot, .. } => slot,
            _ => None,
        };
        self.overtake(ticket, verb, slot);
        let new = || Pursuit::new(verb);
        self.pursuits.entry(ticket).or_insert_with(new);
        match intent {
            Intent::Up => self.up(ticket),
            Intent::Down => {
                self.push(Output::Event(Event::Down));
                self.end_all(ticket, Want::Down);
            }
            Intent::Scrub => {
                if self.want == Want::Up {
                    self.push(Output::Event(Event::Down));
                }
                self.end_all(ticket, Want::Scrubbed);
            }
            Intent::Restart { slot: None, now } => self.restart_all(ticket, now),
            Intent::Restart {
                slot: Some(slot),
                now,
            } => self.restart_one(ticket, slot, now),
            Intent::Reload => self.reload(ticket),
            Intent::Scale(to) => {
                let from = self.instances;
                self.resize(ticket, to);
                let gone = self.slots.keys().copied().filter(|number| *number > to);
                let gone = gone.collect();
                self.pursue(ticket, |pursuit| pursuit.gone = gone);
                if self.want == Want::Up && to > from {
                    let new = self.unsettled(from + 1..=to);
                    self.pursue(ticket, |pursuit| pursuit.ready = new);
                }
            }
            Intent::Update { policy, unchanged } => self.update(ticket, *policy, &unchanged),
        }
        if verb != Verb::Reload {
            self.keep_service();
        }
        self.forgetful = true;
        self.touch_all();
        ticket
    }

    fn pursue(&mut self, ticket: Ticket, change: impl FnOnce(&mut Pursuit)) {
        if let Some(pursuit) = self.pursuits.get_mut(&ticket) {
            change(pursuit);
        }
    }

    /// Which of these slots are neither ready nor finished.
    fn unsettled(&self, slots: impl Iterator<Item = u32>) -> BTreeSet<u32> {
        slots
            .filter(|number| self.slots.get(number).is_none_or(|slot| !slot.is_settled()))
            .collect()
    }

    fn up(&mut self, ticket: Ticket) {
        let was_up = self.want == Want::Up;
        self.want = Want::Up;
        self.push(Output::Event(Event::Up));
        for number in 1..=self.instances {
            let Some(slot) = self.slots.get_mut(&number) else {
                continue;
            };
            if was_up && slot.current.is_none() && slot.rest == Rest::Finished {
                continue;
            }
            // What is still being stopped is followed by a start, whatever it was stopped for; work that
            // was done is done, unless the service was down.
            if let Some(instance) = &mut slot.current
                && let Some(stopping) = &mut instance.stopping
                && !(was_up && stopping.verdict == Verdict::Finished)
            {
                stopping.verdict = Verdict::Planned;
            }
            self.pardon(number);
        }
        let ready = self.unsettled(1..=self.instances);
        self.pursue(ticket, |pursuit| {
            pursuit.ready = ready;
            pursuit.all = true;
        });
    }

    /// `down` and `scrub`.
    fn end_all(&mut self, ticket: Ticket, want: Want) {
        self.want = want;
        self.roll = None;
        for slot in self.slots.values_mut() {
            slot.replace = None;
        }
        self.pursue(ticket, |pursuit| pursuit.stopped = true);
    }

    fn drop_replacements(&mut self) {
        self.roll = None;
        for number in self.slots.keys().copied().collect::<Vec<_>>() {
            self.drop_replacement(number);
        }
    }

    fn restart_all(&mut self, ticket: Ticket, now: bool) {
        self.drop_replacements();
        let slots: BTreeSet<u32> = (1..=self.instances).collect();
        self.pursue(ticket, |pursuit| pursuit.all = true);
        if !now {
            self.begin_roll(false, slots, ticket);
            self.pursue(ticket, |pursuit| pursuit.roll = true);
            return;
        }
        for &number in &slots {
            self.pardon(number);
            if let Some(slot) = self.slots.get_mut(&number) {
                slot.replace = Some(Replace {
                    why: Why::Restart,
                    generation: None,
                    roll: false,
                    now: true,
                    active: false,
                    ticket: None,
                });
            }
        }
        self.pursue(ticket, |pursuit| pursuit.ready = slots);
    }

    /// The instances of a slot that may be alive where they cannot be seen.
    fn foreign(&self, number: u32) -> Vec<InstanceId> {
        let slot = self.slots.get(&number).into_iter();
        let all = slot.flat_map(|slot| slot.all());
        let is_foreign = |it: &&Instance| it.stopping.as_ref().is_some_and(|it| it.foreign);
        all.filter(is_foreign)
            .map(|instance| InstanceId {
                slot: number,
                number: instance.number,
            })
            .collect()
    }

    fn restart_one(&mut self, ticket: Ticket, number: u32, now: bool) {
        let foreign = if now {
            self.foreign(number)
        } else {
            Vec::new()
        };
        if !foreign.is_empty() {
            // A person says that they are gone, and nobody else can.
            for id in foreign {
                self.on_tree_empty(id);
            }
            if self.want == Want::Up {
                self.pursue(ticket, |pursuit| pursuit.ready = BTreeSet::from([number]));
            }
            return;
        }
        let Some(slot) = self.slots.get_mut(&number) else {
            return;
        };
        slot.forgive();
        let replace = slot.replace.get_or_insert(Replace {
            why: Why::Restart,
            generation: None,
            roll: false,
            now,
            active: false,
            ticket: None,
        });
        // A replacement that is wanted or under way gives the slot a new instance, too.
        replace.ticket = Some(ticket);
        if !replace.active {
            replace.now |= now;
        }
        self.pursue(ticket, |pursuit| pursuit.restart = Some(number));
    }

    fn reload(&mut self, ticket: Ticket) {
        let running: Vec<(InstanceId, Generation)> = self
            .slots
            .iter()
            .flat_map(|(number, slot)| slot.all().map(|instance| (*number, instance)))
            .filter(|(_, instance)| instance.serves())
            .map(|(slot, instance)| {
                let number = instance.number;
                (InstanceId { slot, number }, instance.generation)
            })
            .collect();
        for (id, generation) in running {
            let Some(kind) = self.policy(generation).reload else {
                continue;
            };
            self.push(Output::Event(Event::Reload { instance: id }));
            match kind {
                Reload::Signal => self.push(Output::Signal {
                    instance: id,
                    signal: Signal::Reload,
                    generation,
                }),
                Reload::Command => {
                    self.pursue(ticket, |pursuit| {
                        pursuit.reload.insert(id);
                    });
                    let Some(instance) = self.instance_mut(id) else {
                        continue;
                    };
                    if instance.commands.insert(Command::Reload) {
                        self.push(Output::Run {
                            instance: id,
                            command: Command::Reload,
                            generation,
                        });
                    } else {
                        instance.reload_again = true;
                    }
                }
            }
        }
    }

    /// Another number of slots. Who waits for one that goes is told.
    fn resize(&mut self, ticket: Ticket, to: u32) {
        let from = std::mem::replace(&mut self.instances, to);
        if from == to {
            return;
        }
        self.push(Output::Event(Event::Scale { from, to }));
        let verb = self.pursuits.get(&ticket).map_or(Verb::Scale, |it| it.verb);
        let overtaken: Vec<Ticket> = self
            .pursuits
            .iter()
            .filter(|(other, pursuit)| {
                let scale = pursuit.verb == Verb::Scale && **other != ticket;
                scale || pursuit.restart.is_some_and(|slot| slot > to)
            })
            .map(|(ticket, _)| *ticket)
            .collect();
        for overtaken in overtaken {
            self.settle(overtaken, Outcome::Superseded { by: ticket, verb });
        }
    }

    fn update(&mut self, ticket: Ticket, policy: Policy, unchanged: &[Generation]) {
        let from = self.instances;
        let instances = policy.instances;
        self.generation += 1;
        let generation = self.generation;
        let policy = Arc::new(policy);
        self.policies.insert(generation, Arc::clone(&policy));
        self.push(Output::Event(Event::Update { generation }));
        self.resize(ticket, instances);
        let stay = self.relabel(unchanged, generation);
        // A replacement under way whose new instance fits the new definition goes on; no other does.
        let mut going_on = BTreeSet::new();
        self.roll = None;
        for number in self.slots.keys().copied().collect::<Vec<_>>() {
            let fits = |slot: &Slot| {
                let current = slot.current.as_ref();
                slot.replace.as_ref().is_some_and(|replace| replace.roll)
                    && current.is_some_and(|it| it.successor && it.generation == generation)
            };
            if self.slots.get(&number).is_some_and(fits) {
                going_on.insert(number);
            } else {
                self.drop_replacement(number);
            }
        }
        for id in stay {
            self.watch_again(id, &policy);
        }
        self.pursue(ticket, |pursuit| pursuit.all = true);
        if self.want != Want::Up {
            self.pursue(ticket, |pursuit| pursuit.all = false);
            return;
        }
        let differs = |number: &u32| {
            self.slots
                .get(number)
                .is_some_and(|slot| match &slot.current {
                    Some(it) => it.generation != generation || it.stopping.is_some(),
                    None => slot.rest != Rest::Finished,
                })
        };
        let mut pending: BTreeSet<u32> = (1..=instances).filter(differs).collect();
        pending.retain(|number| !going_on.contains(number));
        if !pending.is_empty() || !going_on.is_empty() {
            self.begin_roll(true, pending, ticket);
            for number in going_on {
                if let Some(slot) = self.slots.get_mut(&number)
                    && let Some(replace) = &mut slot.replace
                {
                    replace.generation = Some(generation);
                }
                if let Some(roll) = &mut self.roll {
                    roll.pending.insert(number);
                }
            }
            self.pursue(ticket, |pursuit| pursuit.roll = true);
        }
        let new = self.unsettled(from + 1..=instances);
        self.pursue(ticket, |pursuit| pursuit.ready = new);
    }

    /// Lets the instances of these generations belong to another one. Returns them.
    fn relabel(&mut self, unchanged: &[Generation], generation: Generation) -> Vec<InstanceId> {
        let mut stay = Vec::new();
        for (number, slot) in &mut self.slots {
            if slot.ran_ready.is_some_and(|it| unchanged.contains(&it)) {
                slot.ran_ready = Some(generation);
            }
            for instance in slot.all_mut() {
                if unchanged.contains(&instance.generation) {
                    instance.generation = generation;
                    stay.push(InstanceId {
                        slot: *number,
                        number: instance.number,
                    });
                }
            }
            self.dirty_slots.insert(*number);
        }
        stay
    }
}
