//! The plan: after each input, what is now to be started, replaced, removed and told.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use super::instance::Phase;
use super::slot::{Rest, Slot};
use super::stop::{Stopping, Verdict};
use super::timer::Timer;
use super::{InstanceId, Keep, Machine, Output, Want, Why};

/// How many times the plan is looked at after one input. Two are enough as far as is known; the
/// bound keeps a mistake from keeping the server busy.
const PASSES: usize = 16;

/// Which slots go first when there is not room for all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Rank {
    /// It may start whatever the others do.
    Free,
    /// It does not run.
    Idle,
    /// It runs, and a person wants just this one replaced.
    Asked,
    /// It runs, and is not ready.
    Unready,
    /// It runs, and is to be replaced.
    Running,
}

/// Whether the limit of automatic restarts lets an empty slot start now: that does not wait for a
/// roll.
fn is_granted(slot: &Slot) -> bool {
    slot.current.is_none() && slot.rest == (Rest::Due { turn: false })
}

/// What there is to be begun, kept up to date slot by slot: a service may have a thousand, and most
/// inputs concern one.
#[derive(Debug, Clone, Default)]
pub(super) struct Queue {
    order: BTreeSet<(Rank, u32)>,
    ranks: BTreeMap<u32, Rank>,
    /// The slots that take one of the places that `parallel` gives.
    turns: BTreeSet<u32>,
    /// The slots with an instance that cannot be stopped.
    stuck: BTreeSet<u32>,
}

fn mark(set: &mut BTreeSet<u32>, number: u32, is_in: bool) {
    if is_in {
        set.insert(number);
    } else {
        set.remove(&number);
    }
}

impl Machine {
    /// Does all that is due by now and all that follows from it.
    pub(super) fn go_on(&mut self) {
        for _ in 0..PASSES {
            while let Some(timer) = self.timers.take_due(self.now) {
                match timer {
                    Timer::Backoff(slot) => self.on_backoff_over(slot),
                    Timer::Hold(slot) => self.on_hold_over(slot),
                    Timer::Instance(id, clock) => self.on_clock(id, clock),
                }
            }
            if !std::mem::take(&mut self.stale) {
                break;
            }
            if std::mem::take(&mut self.all_touched) {
                self.make_slots();
                self.touched.extend(self.slots.keys());
            }
            self.clear();
            self.enqueue();
            self.start_due();
            self.tell_stuck();
            self.finish_roll();
            self.settle_reached();
            self.forget();
        }
        debug_assert!(!self.stale, "the plan does not come to rest");
        self.flush();
    }

    /// Whether the slot is to run.
    pub(super) fn is_desired(&self, number: u32) -> bool {
        self.want == Want::Up && number <= self.instances && !self.ending
    }

    /// Makes the slots that are missing, and lets those that were down be started.
    fn make_slots(&mut self) {
        if self.want == Want::Scrubbed {
            return;
        }
        for number in 1..=self.instances {
            match self.slots.get(&number) {
                None => {
                    let mut slot = Slot::new(self.first_number, self.now);
                    if self.want == Want::Down {
                        slot.rest = Rest::Down;
                    }
                    self.slots.insert(number, slot);
                    self.push(Output::SlotMade { slot: number });
                    self.keep_slot(number);
                }
                Some(slot) if slot.rest == Rest::Down && self.is_desired(number) => {
                    self.rest(number, Rest::Due { turn: true }, None);
                }
                Some(_) => {}
            }
        }
    }

    /// Stops what is not to run, and removes the slots that are not to be.
    fn clear(&mut self) {
        let unwanted: Vec<u32> = self
            .touched
            .iter()
            .copied()
            .filter(|number| !self.is_desired(*number))
            .collect();
        for number in unwanted {
            let extra = number > self.instances || self.want == Want::Scrubbed;
            let why = if extra && self.want == Want::Up {
                Why::Scale
            } else {
                Why::Down
            };
            let Some(slot) = self.slots.get_mut(&number) else {
                continue;
            };
            slot.turn = false;
            if !self.ending {
                slot.replace = None;
                self.timers.disarm(Timer::Hold(number));
            }
            let all: Vec<u64> = slot.all().map(|instance| instance.number).collect();
            for instance in all {
                let id = InstanceId {
                    slot: number,
                    number: instance,
                };
                self.stop(id, why.clone(), Verdict::Planned);
            }
            // What a slot waited for is kept when the server ends.
            if self.ending {
                continue;
            }
            self.step_done(number);
            let Some(slot) = self.slots.get(&number) else {
                continue;
            };
            if slot.is_empty() && extra {
                if slot.rest == Rest::Asked {
                    self.push(Output::Unask { slot: number });
                }
                if let Some(slot) = self.slots.remove(&number) {
                    self.first_number = self.first_number.max(slot.next);
                    self.keep_service();
                }
                self.timers.disarm(Timer::Backoff(number));
                self.push(Output::SlotGone { slot: number });
                self.keep_slot(number);
                self.slot_gone(number);
            } else if slot.current.is_none() {
                self.rest(number, Rest::Down, Some(why));
            }
        }
    }

    /// Brings the queue up to date.
    fn enqueue(&mut self) {
        for number in std::mem::take(&mut self.touched) {
            let rank = self.rank(number);
            let queue = &mut self.queue;
            if let Some(before) = queue.ranks.remove(&number) {
                queue.order.remove(&(before, number));
            }
            if let Some(rank) = rank {
                queue.ranks.insert(number, rank);
                queue.order.insert((rank, number));
            }
            let slot = self.slots.get(&number);
            mark(&mut queue.turns, number, slot.is_some_and(|it| it.turn));
            let stuck = |slot: &Slot| slot.all().any(|it| it.phase == Phase::Stuck);
            mark(&mut queue.stuck, number, slot.is_some_and(stuck));
        }
    }

    /// The slots with an instance that cannot be stopped.
    pub(super) fn stuck_slots(&self) -> Vec<u32> {
        self.queue.stuck.iter().copied().collect()
    }

    /// Starts and replaces as many slots as there is room for.
    fn start_due(&mut self) {
        let parallel = self.policy(self.generation).parallel.max(1);
        let parallel = usize::try_from(parallel).unwrap_or(usize::MAX);
        let mut room = parallel.saturating_sub(self.queue.turns.len());
        let mut next = self.queue.order.first().copied();
        while let Some((rank, number)) = next {
            if rank != Rank::Free && room == 0 {
                break;
            }
            let replace = self.slots.get(&number).is_some_and(|slot| {
                let single = slot.replace.as_ref().is_some_and(|it| it.ticket.is_some());
                slot.wants_replacement() && (single || !is_granted(slot))
            });
            let begun = !replace || self.activate(number);
            if begun {
                self.fill(number, rank != Rank::Free);
            }
            let took = self.slots.get(&number).is_some_and(|slot| slot.turn);
            if begun && took && rank != Rank::Free {
                room -= 1;
            }
            let after = (Bound::Excluded((rank, number)), Bound::Unbounded);
            next = self.queue.order.range(after).next().copied();
        }
    }

    /// Starts an instance in the slot if it is due and nothing is in its way.
    fn fill(&mut self, number: u32, turn: bool) {
        let due = self
            .slots
            .get(&number)
            .is_some_and(|slot| slot.current.is_none() && matches!(slot.rest, Rest::Due { .. }));
        if !due || !self.may_fill(number) {
            return;
        }
        let successor = self
            .slots
            .get(&number)
            .is_some_and(|slot| slot.is_replacing());
        if !self.waits_for(self.next_generation(number)).is_empty() {
            return;
        }
        if let Some(slot) = self.slots.get_mut(&number) {
            slot.turn = slot.turn || turn;
        }
        self.start(number, successor);
    }

    /// Whether there is something to begin in the slot, and when in comparison with others.
    fn rank(&self, number: u32) -> Option<Rank> {
        let slot = self
            .slots
            .get(&number)
            .filter(|_| self.is_desired(number))?;
        if let Some(replace) = slot.replace.as_ref().filter(|replace| !replace.active) {
            if slot.hold.is_some() && replace.ticket.is_none() && !replace.roll {
                return None;
            }
            let single = replace.ticket.is_some();
            let idle = slot.current.is_none();
            // A start that is under way has a place, and is not waited for.
            let placed = slot.turn && !idle;
            return Some(match (idle, single) {
                _ if replace.now || placed || is_granted(slot) => Rank::Free,
                (true, true) => Rank::Free,
                (true, false) => Rank::Idle,
                (false, true) => Rank::Asked,
                (false, false) if !slot.is_ready() => Rank::Unready,
                (false, false) => Rank::Running,
            });
        }
        if slot.current.is_some() {
            return None;
        }
        match slot.rest {
            Rest::Due { turn: false } => Some(Rank::Free),
            Rest::Due { turn: true } => Some(Rank::Idle),
            Rest::Backoff { .. } | Rest::Asked | Rest::Failed | Rest::Finished | Rest::Down => None,
        }
    }

    /// Drops the policies that nothing needs any more.
    fn forget(&mut self) {
        if !std::mem::take(&mut self.forgetful) || self.policies.len() == 1 {
            return;
        }
        let needed = self.generations();
        let forgotten: Vec<u64> = self
            .policies
            .keys()
            .copied()
            .filter(|generation| !needed.contains(generation))
            .collect();
        for generation in forgotten {
            self.policies.remove(&generation);
            self.push(Output::Forget { generation });
        }
    }

    /// The records that have changed, and then the answers.
    fn flush(&mut self) {
        if std::mem::take(&mut self.dirty) {
            self.push(Output::Keep(Keep::Service));
        }
        for slot in std::mem::take(&mut self.dirty_slots) {
            self.push(Output::Keep(Keep::Slot(slot)));
        }
        for (ticket, outcome) in std::mem::take(&mut self.settled) {
            self.push(Output::Settled { ticket, outcome });
        }
        let over = self.ending
            && self.slots.values().all(|slot| {
                let foreign = |it: &Stopping| it.foreign;
                slot.all()
                    .all(|it| it.stopping.as_ref().is_some_and(foreign))
            });
        if over && !std::mem::replace(&mut self.ended, true) {
            self.push(Output::Ended);
        }
    }

    /// Whether the queue is as it would be if it were made anew.
    #[cfg(test)]
    pub(super) fn queue_is_exact(&self) -> bool {
        let mut anew = self.clone();
        anew.touched = anew.slots.keys().copied().collect();
        anew.queue = Queue::default();
        anew.enqueue();
        let (one, other) = (&self.queue, &anew.queue);
        (&one.order, &one.ranks, &one.turns, &one.stuck)
            == (&other.order, &other.ranks, &other.turns, &other.stuck)
    }
}
