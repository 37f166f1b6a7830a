//! The graph of links: random, and nearly regular.
//!
//! A server with too few links asks random others. Up to [`COMPLETE`] servers everybody has a
//! link to everybody; above, a newcomer splits links (u–v becomes u–x–v), which keeps all degrees
//! as they were and the graph connected and random (Law and Siu 2003; Pandurangan, Raghavan and
//! Upfal 2001 for the idea of repair by random choice). Random exchanges of ends (a–v, b–w become
//! a–b, v–w) keep it so as servers leave, and mix circuits that have merged.
//!
//! [`Links`](super::links::Links) decides; here the machine asks it, and carries out the rest.
//!
//! **Invariants:** a link is agreed by both ends, in order, on one connection. The second half of a split gives up the old link only once both new ones
//! are there.

use std::time::Duration;

use super::Machine;
use super::detector::Detector;
use super::links::{Purpose, Step, is_complete};
use super::message::{Message, Wish};
use super::timer::Timer;
use super::tuning::*;
use super::view::View;
use crate::Fingerprint;

impl Machine {
    /// How many links are missing, not counting those that are being made.
    pub(super) fn missing(&self) -> usize {
        let (view, detector) = (&self.view, &self.detector);
        self.links
            .missing(view.live().len(), |who| is_sound(view, detector, who))
    }

    /// A server seems to be there: asks it for a link if nearly all neighbours are in doubt.
    pub(super) fn cling(&mut self, to: Fingerprint) {
        let (view, detector) = (&self.view, &self.detector);
        let sound = |who: &Fingerprint| is_sound(view, detector, who);
        if self.links.clings(to, view, self.now, sound) {
            self.seek(to, Wish::Plain);
        }
    }

    /// Carries out a decision of the overlay.
    pub(super) fn take_step(&mut self, step: Option<Step>) {
        match step {
            Some(Step::Seek(who, wish)) => self.seek(who, wish),
            Some(Step::GiveUp(who, replacement)) => self.give_up(who, replacement),
            None => {}
        }
    }

    /// Seeks the links that are missing.
    pub(super) fn on_seek_timer(&mut self) {
        let (now, members) = (self.now, self.len());
        self.links.expire(now);
        while self.links.seeking() < SEEKING {
            let missing = self.missing();
            if missing == 0 {
                break;
            }
            let candidate = self.links.candidate(&self.view, &mut self.random, now);
            let Some(candidate) = candidate else { break };
            let wish = if missing >= 2 && !is_complete(members) {
                Wish::Split
            } else {
                Wish::Plain
            };
            self.seek(candidate, wish);
        }
        if self.links.len() < self.links.wanted(members) || self.missing() > 0 {
            let again = now + SEEK_AGAIN + self.random.time(SEEK_AGAIN);
            self.timers.arm(Timer::Seek, again);
        }
    }

    /// Asks for a link, on a connection that there is or on a new one.
    pub(super) fn seek(&mut self, who: Fingerprint, wish: Wish) {
        if self.links.contains(&who) || self.links.is_asked(&who) {
            return;
        }
        match self.connections.get(&who) {
            Some(_) => self.ask(who, wish),
            None => self.connect(who, Purpose::Link(wish)),
        }
    }

    /// Asks for a link on a connection.
    pub(super) fn ask(&mut self, peer: Fingerprint, wish: Wish) {
        if self.links.contains(&peer) || self.links.is_asked(&peer) {
            return;
        }
        self.links.on_asked(peer, wish);
        self.timers.arm(Timer::Asked(peer), self.now + ASK_WAIT);
        let degree = self.degree();
        self.send(peer, Message::Link { degree, wish });
    }

    /// A request for a link was not answered.
    pub(super) fn on_asked_timer(&mut self, peer: Fingerprint) {
        if self.links.on_answered(&peer).is_some() {
            self.avoid(peer, AVOID);
            self.timers.arm_by(Timer::Seek, self.now);
        }
    }

    /// The other end asks for a link.
    pub(super) fn on_link(&mut self, from: Fingerprint, degree: u8, wish: Wish) {
        if !self.connections.contains_key(&from) {
            return;
        }
        self.links.on_degree(from, degree);
        let (accepted, other) = self.links.answer(from, wish, &self.view, &mut self.random);
        if accepted {
            self.links.on_answered(&from);
            self.timers.disarm(Timer::Asked(from));
        }
        self.send(from, Message::LinkReply { accepted, other });
        if accepted {
            self.link(from);
            if let (Wish::Instead(_) | Wish::Swap, Some(other)) = (wish, other) {
                self.give_up(other, None);
            }
        }
    }

    /// The other end answers our request for a link.
    pub(super) fn on_link_reply(
        &mut self,
        from: Fingerprint,
        accepted: bool,
        other: Option<Fingerprint>,
    ) {
        let asked = self.links.on_answered(&from);
        self.timers.disarm(Timer::Asked(from));
        if !self.connections.contains_key(&from) {
            return;
        }
        match (asked, accepted) {
            (Some(wish), true) => {
                self.link(from);
                let (view, random, now) = (&self.view, &mut self.random, self.now);
                let links = &self.links;
                let step = links.after_agreement(from, wish, other, view, random, now);
                self.take_step(step);
            }
            (Some(_), false) => self.avoid(from, AVOID),
            // Too late: it was given up, or the link has been agreed the other way round.
            (None, true) if !self.links.contains(&from) => {
                self.send(from, Message::Unlink { replacement: None })
            }
            (None, _) => {}
        }
        self.timers.arm_by(Timer::Seek, self.now);
    }

    /// The other end does not want the link any longer.
    pub(super) fn on_unlink(&mut self, from: Fingerprint, replacement: Option<Fingerprint>) {
        self.unlink(from);
        if is_complete(self.len()) {
            return;
        }
        if let Some(other) = replacement
            && self.missing() > 0
            && self.links.is_candidate(other, &self.view, self.now)
        {
            self.seek(other, Wish::Plain);
        } else if self.missing() == 1 && self.view.is_trusted(&from) {
            // Somebody is being told to link with us instead.
            let soon = HANDOVER + self.random.time(SEEK_AGAIN);
            self.timers.arm(Timer::Seek, self.now + soon);
        }
    }

    /// Makes the connection a link.
    fn link(&mut self, peer: Fingerprint) {
        let Some(connection) = self.connections.get_mut(&peer) else {
            return;
        };
        if !self.links.link(peer) {
            return;
        }
        connection.heard = self.now;
        self.timers.disarm(Timer::Idle(peer));
        self.timers.arm(Timer::Silence(peer), self.now + SILENCE);
        self.catch_up(peer);
        self.heartbeat(peer);
    }

    /// Makes the link a mere connection.
    pub(super) fn unlink(&mut self, peer: Fingerprint) {
        if !self.links.unlink(&peer, self.now) {
            return;
        }
        self.timers.disarm(Timer::Silence(peer));
        self.news.on_unlinked(peer);
        self.used(peer);
        self.timers.arm(Timer::Idle(peer), self.now + IDLE);
        let soon = self.random.time(SEEK_AGAIN / 10);
        self.timers.arm_by(Timer::Seek, self.now + soon);
        if self.links.len() == 0 {
            self.timers
                .arm_by(Timer::Tombstone, self.now + TOMBSTONE_PING_ISOLATED);
        }
    }

    /// Ends a link, telling the other end whom to link with instead.
    pub(super) fn give_up(&mut self, peer: Fingerprint, replacement: Option<Fingerprint>) {
        self.flush(peer);
        self.send(peer, Message::Unlink { replacement });
        self.unlink(peer);
    }

    /// Does not ask this server for a link for a while.
    pub(super) fn avoid(&mut self, who: Fingerprint, how_long: Duration) {
        self.links.avoid(who, self.now + how_long);
        self.timers.arm_by(Timer::Seek, self.now + SEEK_AGAIN);
    }

    /// Sends heartbeats.
    pub(super) fn on_heartbeat_timer(&mut self) {
        self.timers.arm(Timer::Heartbeat, self.now + HEARTBEAT);
        for peer in self.links.iter().collect::<Vec<_>>() {
            self.heartbeat(peer);
        }
        let step = self.links.trim(&self.view, &mut self.random, self.now);
        self.take_step(step);
    }

    fn heartbeat(&mut self, peer: Fingerprint) {
        let message = Message::Heartbeat {
            degree: self.degree(),
            digest: self.view.digest(),
        };
        self.send(peer, message);
    }

    fn degree(&self) -> u8 {
        // Nobody has more links than MAX_DEGREE and one or two under way.
        self.links.len().min(255) as u8
    }

    /// A link may have been silent for too long.
    pub(super) fn on_silence_timer(&mut self, peer: Fingerprint) {
        let Some(connection) = self.connections.get(&peer) else {
            return;
        };
        let end = connection.heard + SILENCE;
        if end > self.now {
            self.timers.arm(Timer::Silence(peer), end);
        } else {
            self.probe(peer, false);
        }
    }
}

/// Whether nothing is wrong with a neighbour, as far as this server knows.
fn is_sound(view: &View, detector: &Detector, who: &Fingerprint) -> bool {
    view.is_trusted(who) && !detector.is_probing(who)
}
