//! What follows a failure: a delay, or that the slot is given up.

use std::time::Duration;

use super::random::Random;
use super::slot::Rest;
use super::timer::Timer;
use super::tuning::JITTER;
use super::{Backoff, Event, Failure, Generation, Machine, Output, Restart, Why};

/// The delay after so many failures in a row.
pub(super) fn delay(backoff: &Backoff, failures: u32, random: &mut Random) -> Duration {
    if failures < 2 {
        return Duration::ZERO;
    }
    // From 2^63 on any `first` of a nanosecond is longer than `most` can be.
    let doubled = 2f64.powi((failures - 2).min(100) as i32) * backoff.first.as_secs_f64();
    let base = doubled.min(backoff.most.as_secs_f64());
    let base = Duration::try_from_secs_f64(base).unwrap_or(backoff.most);
    random.spread(base, 1.0 - JITTER, 1.0 + JITTER)
}

impl Machine {
    /// Counts a failure of a slot that is empty now, and lets it wait.
    pub(super) fn fail(&mut self, number: u32, generation: Generation, why: Why) {
        let now = self.now;
        let policy = self.policy(generation);
        let Some(slot) = self.slots.get_mut(&number) else {
            return;
        };
        slot.failures = slot.failures.saturating_add(1);
        let failures = slot.failures;
        let given_up = policy.backoff.tries > 0 && failures >= policy.backoff.tries;
        if given_up || policy.restart == Restart::Never {
            self.give_slot_up(number, why);
            return;
        }
        let delay = delay(&policy.backoff, failures, &mut self.random);
        slot.delay = delay;
        self.push(Output::Event(Event::Backoff {
            slot: number,
            failures,
            delay,
            why: why.clone(),
        }));
        if delay.is_zero() {
            self.rest(number, Rest::Asked, Some(why));
            self.push(Output::Ask { slot: number });
        } else {
            let until = now.saturating_add(delay);
            self.rest(number, Rest::Backoff { until }, Some(why));
            self.timers.arm(Timer::Backoff(number), until);
        }
    }

    /// The slot is failed at once: its instance ended with a code that says so.
    pub(super) fn fail_for_good(&mut self, number: u32, why: Why) {
        if let Some(slot) = self.slots.get_mut(&number) {
            slot.failures = slot.failures.saturating_add(1);
        }
        self.give_slot_up(number, why);
    }

    fn give_slot_up(&mut self, number: u32, why: Why) {
        let Some(slot) = self.slots.get(&number) else {
            return;
        };
        let failures = slot.failures;
        // Those who began to wait after the failure itself.
        if let Some((instance, what)) = slot.trouble.clone() {
            self.slot_failed(&Failure {
                slot: number,
                number: instance,
                what,
            });
        }
        self.rest(number, Rest::Failed, Some(why.clone()));
        self.push(Output::Event(Event::Failed {
            slot: number,
            failures,
            why,
        }));
    }

    pub(super) fn on_backoff_over(&mut self, number: u32) {
        let Some(slot) = self.slots.get_mut(&number) else {
            return;
        };
        if matches!(slot.rest, Rest::Backoff { .. }) && slot.current.is_none() {
            let why = slot.rest_why.clone();
            self.rest(number, Rest::Asked, why);
            self.push(Output::Ask { slot: number });
        }
    }

    pub(super) fn on_may_start(&mut self, number: u32) {
        let Some(slot) = self.slots.get_mut(&number) else {
            return;
        };
        if slot.rest == Rest::Asked && slot.current.is_none() {
            // Not by `rest`: there is nothing to be taken out of the queue.
            slot.rest = Rest::Due { turn: false };
            self.keep_slot(number);
        }
    }

    /// What the slot waits for from now on. What it waited for before is called off.
    pub(super) fn rest(&mut self, number: u32, rest: Rest, why: Option<Why>) {
        let now = self.now;
        let Some(slot) = self.slots.get_mut(&number) else {
            return;
        };
        if slot.rest == rest {
            slot.rest_why = why;
            return;
        }
        let asked = slot.rest == Rest::Asked;
        slot.rest = rest;
        slot.rest_why = why;
        slot.rest_since = now;
        self.timers.disarm(Timer::Backoff(number));
        if asked {
            self.push(Output::Unask { slot: number });
        }
        self.keep_slot(number);
    }
}
