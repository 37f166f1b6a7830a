//! Intents that were taken and are not reached yet: what each still waits for.

use std::collections::BTreeSet;

use super::slot::Rest;
use super::{Failed, Failure, InstanceId, Machine, Outcome, Ticket, Verb};

/// What an intent waits for. It is reached when nothing is left.
#[derive(Debug, Clone)]
pub(super) struct Pursuit {
    /// What it is.
    pub(super) verb: Verb,
    /// The slots that must become ready, or finish, once.
    pub(super) ready: BTreeSet<u32>,
    /// Whether in the end all slots must be ready or finished at once.
    pub(super) all: bool,
    /// The slots that must go.
    pub(super) gone: BTreeSet<u32>,
    /// Whether no instance may be left.
    pub(super) stopped: bool,
    /// Whether the roll must come to its end.
    pub(super) roll: bool,
    /// The slot whose instance must be replaced.
    pub(super) restart: Option<u32>,
    /// The instances whose reload commands must end.
    pub(super) reload: BTreeSet<InstanceId>,
}

impl Pursuit {
    pub(super) fn new(verb: Verb) -> Pursuit {
        Pursuit {
            verb,
            ready: BTreeSet::new(),
            all: false,
            gone: BTreeSet::new(),
            stopped: false,
            roll: false,
            restart: None,
            reload: BTreeSet::new(),
        }
    }

    /// Whether a newer intent overtakes it: what it waits for will not come, or not because of it.
    fn is_overtaken_by(&self, verb: Verb, slot: Option<u32>) -> bool {
        match verb {
            Verb::Up => self.verb == Verb::Down,
            Verb::Down => self.verb != Verb::Down,
            Verb::Restart => match slot {
                Some(_) => self.restart == slot,
                None => self.roll || self.verb == Verb::Restart,
            },
            Verb::Reload => self.verb == Verb::Reload,
            Verb::Scale => self.verb == Verb::Scale,
            Verb::Update => matches!(self.verb, Verb::Update | Verb::Restart),
            Verb::Scrub => true,
        }
    }
}

impl Machine {
    /// Tells those that a new intent overtakes.
    pub(super) fn overtake(&mut self, by: Ticket, verb: Verb, slot: Option<u32>) {
        let overtaken: Vec<Ticket> = self
            .pursuits
            .iter()
            .filter(|(ticket, pursuit)| **ticket != by && pursuit.is_overtaken_by(verb, slot))
            .map(|(ticket, _)| *ticket)
            .collect();
        for ticket in overtaken {
            self.settle(ticket, Outcome::Superseded { by, verb });
        }
    }

    /// The intent that is pending, is the same as a new one of this kind, and is not overtaken by it: both have one
    /// end. Of the other kinds a new one overtakes what would be equal, so that few are pending.
    pub(super) fn equal(&self, verb: Verb) -> Option<Ticket> {
        if !matches!(verb, Verb::Up | Verb::Down) {
            return None;
        }
        let mut pending = self.pursuits.iter();
        let found = pending.find(|(_, pursuit)| pursuit.verb == verb);
        found.map(|(ticket, _)| *ticket)
    }

    /// Whether the last word on an intent of this life is still to come.
    pub(crate) fn is_pending(&self, ticket: Ticket) -> bool {
        self.pursuits.contains_key(&ticket)
    }

    /// The last word on an intent, unless it was said.
    pub(super) fn settle(&mut self, ticket: Ticket, outcome: Outcome) {
        if self.pursuits.remove(&ticket).is_some() {
            self.settled.push((ticket, outcome));
        }
    }

    /// A slot is ready, or finished.
    pub(super) fn slot_settled(&mut self, number: u32) {
        for pursuit in self.pursuits.values_mut() {
            self.stale |= pursuit.ready.remove(&number);
        }
    }

    /// A slot is not there any more.
    pub(super) fn slot_gone(&mut self, number: u32) {
        for pursuit in self.pursuits.values_mut() {
            pursuit.ready.remove(&number);
            pursuit.gone.remove(&number);
        }
    }

    /// A slot has failed: those that wait for it are told.
    pub(super) fn slot_failed(&mut self, failure: &Failure) {
        self.settle_where(failure, |pursuit| pursuit.ready.contains(&failure.slot));
    }

    /// A slot cannot be emptied: those that wait for that are told.
    pub(super) fn slot_stuck(&mut self, failure: &Failure) {
        self.settle_where(failure, |pursuit| {
            pursuit.stopped || pursuit.gone.contains(&failure.slot)
        });
    }

    fn settle_where(&mut self, failure: &Failure, concerns: impl Fn(&Pursuit) -> bool) {
        let failed: Vec<Ticket> = self
            .pursuits
            .iter()
            .filter(|(_, pursuit)| concerns(pursuit))
            .map(|(ticket, _)| *ticket)
            .collect();
        for ticket in failed {
            self.settle(ticket, Outcome::Failed(failure.clone()));
        }
    }

    /// The replacement that this one waited for is done.
    pub(super) fn replaced(&mut self, ticket: Ticket) {
        if let Some(pursuit) = self.pursuits.get_mut(&ticket) {
            pursuit.restart = None;
            self.stale = true;
        }
    }

    /// The roll that this one waited for is done.
    pub(super) fn rolled(&mut self, ticket: Ticket) {
        if let Some(pursuit) = self.pursuits.get_mut(&ticket) {
            pursuit.roll = false;
        }
    }

    /// A reload command has ended, or its instance.
    pub(super) fn reloaded(&mut self, id: InstanceId, ok: bool) {
        let failure = Failure {
            slot: id.slot,
            number: id.number,
            what: Failed::Reload,
        };
        if !ok {
            self.settle_where(&failure, |pursuit| pursuit.reload.contains(&id));
        }
        for pursuit in self.pursuits.values_mut() {
            self.stale |= pursuit.reload.remove(&id);
        }
    }

    /// Settles all that is reached.
    pub(super) fn settle_reached(&mut self) {
        let stopped = self.pursuits.values().any(|pursuit| pursuit.stopped);
        let empty = stopped && self.slots.values().all(|slot| slot.is_empty());
        let reached = |pursuit: &Pursuit| {
            pursuit.ready.is_empty()
                && pursuit.gone.is_empty()
                && (!pursuit.stopped || empty)
                && !pursuit.roll
                && pursuit.restart.is_none()
                && pursuit.reload.is_empty()
        };
        let near: Vec<Ticket> = self
            .pursuits
            .iter()
            .filter(|(_, pursuit)| reached(pursuit))
            .map(|(ticket, _)| *ticket)
            .collect();
        for ticket in near {
            let all = self.pursuits.get(&ticket).is_some_and(|it| it.all);
            let missing: BTreeSet<u32> = if all {
                let slots = self.slots.iter().filter(|(_, slot)| !slot.is_settled());
                slots.map(|(number, _)| *number).collect()
            } else {
                BTreeSet::new()
            };
            let given_up = missing.iter().find_map(|number| {
                let slot = self.slots.get(number)?;
                let (instance, what) = slot.trouble.clone()?;
                let failed = slot.current.is_none() && slot.rest == Rest::Failed;
                failed.then_some(Failure {
                    slot: *number,
                    number: instance,
                    what,
                })
            });
            if let Some(failure) = given_up {
                self.settle(ticket, Outcome::Failed(failure));
            } else if missing.is_empty() {
                self.settle(ticket, Outcome::Reached);
            } else if let Some(pursuit) = self.pursuits.get_mut(&ticket) {
                pursuit.ready = missing;
            }
        }
    }
}
