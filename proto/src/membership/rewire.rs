//! Keeping the graph random: exchanges of links, bridges between merged circuits, trimming.

use super::Machine;
use super::message::Wish;
use super::timer::Timer;
use super::tuning::*;
use crate::Fingerprint;

impl Machine {
    /// Gives up a link if both its ends have too many.
    ///
    /// A server with one too many that has no such neighbour passes it on: a neighbour at random
    /// links with another server instead. So what is too much walks about until two meet.
    pub(super) fn trim(&mut self) {
        if self.is_complete() || self.links.len() <= DEGREE {
            return;
        }
        let crowded: Vec<_> = self
            .links
            .iter()
            .copied()
            .filter(|peer| {
                self.connections
                    .get(peer)
                    .is_some_and(|connection| connection.degree > DEGREE)
            })
            .collect();
        // Not at once: the other end may be about to do the same.
        if !crowded.is_empty() {
            if self.random.below(4) == 0
                && let Some(peer) = self.random.pick(&crowded)
            {
                self.give_up(peer, None);
            }
        } else if self.random.below(PASS_ON) == 0
            && let Some(other) = self.candidate()
            && let Some(peer) = self.neighbour_except(other, None)
        {
            self.give_up(peer, Some(other));
        }
    }

    /// Exchanges a link at random.
    pub(super) fn on_rewire_timer(&mut self) {
        let mixing = self.mixing >= 1.0;
        let pause = if mixing { REWIRE_MIXING } else { REWIRE };
        let pause = pause / 2 + self.random.time(pause);
        self.timers.arm(Timer::Rewire, self.now + pause);
        if self.is_complete() || self.links.len() < self.wanted() || self.seeking() > 0 {
            return;
        }
        self.mixing = (self.mixing - 1.0).max(0.0);
        if let Some(who) = self.candidate() {
            self.seek(who, Wish::Swap);
        }
    }

    /// A newcomer is to be mixed into the graph: each server exchanges, in all, as many of its
    /// links as would lead to newcomers if the graph were made anew.
    pub(super) fn mix_in(&mut self) {
        let members = self.view.live().len();
        if members <= COMPLETE {
            return;
        }
        // Each exchange moves two links at this end's cost of one: a quarter of the degree does.
        self.mixing = (self.mixing + DEGREE as f64 / 4.0 / members as f64).min(DEGREE as f64);
        if self.mixing >= 1.0 {
            let soon = self.random.time(REWIRE_MIXING);
            self.timers
                .arm_by(Timer::Rewire, self.now + soon + REWIRE_MIXING / 2);
        }
    }

    /// Two circuits have merged: link them.
    pub(super) fn on_bridge_timer(&mut self, peer: Fingerprint) {
        if self.links.contains(&peer)
            || !self.view.is_trusted(&peer)
            || !self.connections.contains_key(&peer)
        {
            return;
        }
        let wish = match self.missing() {
            _ if self.is_complete() => Wish::Plain,
            0 => Wish::Swap,
            1 => Wish::Plain,
            _ => Wish::Split,
        };
        self.ask(peer, wish);
    }
}
