//! Keeping the graph random: exchanges of links, and bridges between merged circuits.

use super::Machine;
use super::links::is_complete;
use super::message::Wish;
use super::timer::Timer;
use super::tuning::*;
use crate::Fingerprint;

impl Machine {
    /// Exchanges a link at random.
    pub(super) fn on_rewire_timer(&mut self) {
        let pause = if self.links.is_mixing() {
            REWIRE_MIXING
        } else {
            REWIRE
        };
        let pause = pause / 2 + self.random.time(pause);
        self.timers.arm(Timer::Rewire, self.now + pause);
        let step = self.links.exchange(&self.view, &mut self.random, self.now);
        self.take_step(step);
    }

    /// A newcomer is to be mixed into the graph.
    pub(super) fn mix_in(&mut self) {
        if self.links.mix_in(self.len()) {
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
            _ if is_complete(self.len()) => Wish::Plain,
            0 => Wish::Swap,
            1 => Wish::Plain,
            _ => Wish::Split,
        };
        self.ask(peer, wish);
    }
}
