//! The graph of links: random, and nearly regular.
//!
//! A server with too few links asks random others. Up to [`COMPLETE`] servers everybody has a
//! link to everybody; above, a newcomer splits links (u–v becomes u–x–v), which keeps all degrees
//! as they were and the graph connected and random (Law and Siu 2003; Pandurangan, Raghavan and
//! Upfal 2001 for the idea of repair by random choice). Random exchanges of ends (a–v, b–w become
//! a–b, v–w) keep it so as servers leave, and mix circuits that have merged.
//!
//! **Invariants:** a link is agreed by both ends, in order, on one connection. Nobody accepts more
//! than [`MAX_DEGREE`]. The second half of a split gives up the old link only once both new ones
//! are there.

use std::time::Duration;

use super::Machine;
use super::connection::Purpose;
use super::message::{Message, Wish};
use super::timer::Timer;
use super::tuning::*;
use crate::Fingerprint;

impl Machine {
    /// How many links this server wants.
    pub(super) fn wanted(&self) -> usize {
        DEGREE.min(self.view.live().len().saturating_sub(1))
    }

    /// Whether there are so few servers that everybody is linked with everybody.
    pub(super) fn is_complete(&self) -> bool {
        self.view.live().len() <= COMPLETE
    }

    /// How many links are missing, not counting those that are being made.
    pub(super) fn missing(&self) -> usize {
        let connecting = self
            .connecting
            .values()
            .filter_map(|purpose| match purpose {
                Purpose::Link(wish) => Some(wish),
                Purpose::Sync => None,
            });
        let coming: usize = connecting
            .chain(self.asked.values())
            .map(|wish| if *wish == Wish::Split { 2 } else { 1 })
            .sum();
        let wanted = self.wanted();
        let missing = wanted.saturating_sub(self.links.len() + coming);
        // Where most neighbours have failed at once, not all links can wait to be given up.
        let room = MAX_DEGREE.saturating_sub(self.links.len() + coming);
        let lifelines = self.lifelines().saturating_sub(coming);
        missing.max(lifelines.min(room))
    }

    /// How many links to servers that are not suspected are missing, and not even being looked at.
    fn lifelines(&self) -> usize {
        let sound =
            |who: &&Fingerprint| self.view.is_trusted(who) && !self.probes.contains_key(*who);
        let links = self.links.iter().filter(sound).take(LIFELINES).count();
        LIFELINES.min(self.wanted()).saturating_sub(links)
    }

    /// A server seems to be there: whoever has nearly lost the others clings to it, though it seeks
    /// others already, who may have failed too.
    pub(super) fn cling(&mut self, to: Fingerprint) {
        if self.lifelines() > self.asked.len() && self.seeking() < CLINGING && self.is_candidate(to)
        {
            self.seek(to, Wish::Plain);
        }
    }

    /// How many requests for links are under way.
    pub(super) fn seeking(&self) -> usize {
        self.asked.len()
            + self
                .connecting
                .values()
                .filter(|purpose| **purpose != Purpose::Sync)
                .count()
    }

    /// Seeks what links are missing.
    pub(super) fn on_seek_timer(&mut self) {
        let now = self.now;
        self.avoided.retain(|_, until| *until > now);
        while self.seeking() < SEEKING {
            let missing = self.missing();
            let Some(candidate) = (missing > 0).then(|| self.candidate()).flatten() else {
                break;
            };
            let wish = if missing >= 2 && !self.is_complete() {
                Wish::Split
            } else {
                Wish::Plain
            };
            self.seek(candidate, wish);
        }
        if self.links.len() < self.wanted() || self.missing() > 0 {
            self.timers
                .arm(Timer::Seek, now + SEEK_AGAIN + self.random.time(SEEK_AGAIN));
        }
    }

    /// A server to ask for a link.
    pub(super) fn candidate(&mut self) -> Option<Fingerprint> {
        let members = self.view.live().len();
        // Where there are many, a few random tries find one; where there are few, all are looked at.
        for _ in 0..8 {
            let who = self.view.random_live(&mut self.random)?;
            if self.is_candidate(who) {
                return Some(who);
            }
        }
        if members > 8 * COMPLETE {
            return None;
        }
        let all: Vec<_> = self
            .view
            .live()
            .iter()
            .map(|record| record.fingerprint)
            .filter(|who| self.is_candidate(*who))
            .collect();
        self.random.pick(&all)
    }

    fn is_candidate(&self, who: Fingerprint) -> bool {
        who != self.me.fingerprint
            && !self.links.contains(&who)
            && !self.asked.contains_key(&who)
            && !self.connecting.contains_key(&who)
            && self
                .avoided
                .get(&who)
                .is_none_or(|until| *until <= self.now)
            && self.view.is_trusted(&who)
    }

    /// Asks for a link, on a connection that there is or on a new one.
    pub(super) fn seek(&mut self, who: Fingerprint, wish: Wish) {
        if self.links.contains(&who) || self.asked.contains_key(&who) {
            return;
        }
        match self.connections.get(&who) {
            Some(_) => self.ask(who, wish),
            None => self.connect(who, Purpose::Link(wish)),
        }
    }

    /// Asks for a link on a connection.
    pub(super) fn ask(&mut self, peer: Fingerprint, wish: Wish) {
        if self.links.contains(&peer) || self.asked.contains_key(&peer) {
            return;
        }
        self.asked.insert(peer, wish);
        self.timers.arm(Timer::Asked(peer), self.now + ASK_WAIT);
        let degree = self.degree();
        self.send(peer, Message::Link { degree, wish });
    }

    /// A request was not answered.
    pub(super) fn on_asked_timer(&mut self, peer: Fingerprint) {
        if self.asked.remove(&peer).is_some() {
            self.avoid(peer, AVOID);
            self.timers.arm_by(Timer::Seek, self.now);
        }
    }

    /// Somebody asks for a link.
    pub(super) fn on_link(&mut self, from: Fingerprint, degree: u8, wish: Wish) {
        let Some(connection) = self.connections.get_mut(&from) else {
            return;
        };
        connection.degree = usize::from(degree);
        let mut other = None;
        let accepted = self.links.contains(&from)
            || self.view.live_member(&from).is_some() && {
                let full = self.links.len() >= self.wanted();
                match wish {
                    _ if !full => true,
                    Wish::Instead(old) if self.links.contains(&old) => {
                        other = Some(old);
                        true
                    }
                    Wish::Swap => {
                        other = self.neighbour_except(from, None);
                        other.is_some()
                    }
                    Wish::Split if self.links.len() < MAX_DEGREE => {
                        other = self.neighbour_except(from, None);
                        true
                    }
                    Wish::Plain | Wish::Instead(_) | Wish::Split => self.links.len() < MAX_DEGREE,
                }
            };
        if accepted {
            self.asked.remove(&from);
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

    /// The answer to our request.
    pub(super) fn on_link_reply(
        &mut self,
        from: Fingerprint,
        accepted: bool,
        other: Option<Fingerprint>,
    ) {
        let asked = self.asked.remove(&from);
        self.timers.disarm(Timer::Asked(from));
        if !self.connections.contains_key(&from) {
            return;
        }
        match (asked, accepted) {
            (Some(wish), true) => {
                self.link(from);
                match (wish, other.filter(|other| self.is_candidate(*other))) {
                    (Wish::Split, Some(other)) => self.seek(other, Wish::Instead(from)),
                    (Wish::Swap, Some(other)) => {
                        if self.links.len() > self.wanted()
                            && let Some(old) = self.neighbour_except(from, Some(other))
                        {
                            self.give_up(old, Some(other));
                        }
                    }
                    // The one that was given up is our neighbour already: it gets its link back.
                    (Wish::Swap, None) if self.links.len() > self.wanted() => {
                        self.give_up(from, other);
                    }
                    _ if self.links.len() > MAX_DEGREE => {
                        if let Some(old) = self.neighbour_except(from, None) {
                            self.give_up(old, None);
                        }
                    }
                    _ => {}
                }
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
        if self.is_complete() {
            return;
        }
        if let Some(other) = replacement
            && self.missing() > 0
            && self.is_candidate(other)
        {
            self.seek(other, Wish::Plain);
        } else if self.missing() == 1 && self.view.is_trusted(&from) {
            // Somebody is being told to link with us instead.
            let soon = HANDOVER + self.random.time(SEEK_AGAIN);
            self.timers.arm(Timer::Seek, self.now + soon);
        }
    }

    /// A trusted neighbour at random, but not these two.
    pub(super) fn neighbour_except(
        &mut self,
        one: Fingerprint,
        two: Option<Fingerprint>,
    ) -> Option<Fingerprint> {
        let all: Vec<_> = self
            .links
            .iter()
            .copied()
            .filter(|who| *who != one && Some(*who) != two && self.view.is_trusted(who))
            .collect();
        self.random.pick(&all)
    }

    /// Makes the connection a link.
    fn link(&mut self, peer: Fingerprint) {
        let Some(connection) = self.connections.get_mut(&peer) else {
            return;
        };
        if !self.links.insert(peer) {
            return;
        }
        connection.heard = self.now;
        connection.mismatches = 0;
        self.linked_once = true;
        self.avoided.remove(&peer);
        self.timers.disarm(Timer::Idle(peer));
        self.timers.arm(Timer::Silence(peer), self.now + SILENCE);
        self.catch_up(peer);
        self.heartbeat(peer);
    }

    /// Makes the link a mere connection.
    pub(super) fn unlink(&mut self, peer: Fingerprint) {
        if !self.links.remove(&peer) {
            return;
        }
        self.timers.disarm(Timer::Silence(peer));
        if let Some(connection) = self.connections.get_mut(&peer) {
            connection.changes = self.flood.next();
            connection.used = self.now;
        }
        self.timers.arm(Timer::Idle(peer), self.now + IDLE);
        let soon = self.random.time(SEEK_AGAIN / 10);
        self.timers.arm_by(Timer::Seek, self.now + soon);
        if self.links.is_empty() {
            // Whoever could not be reached for a while may be the only one that can be now.
            let soon = self.now + AVOID;
            self.avoided.retain(|_, until| *until <= soon);
            self.timers.arm_by(Timer::Grave, self.now + GRAVE_ISOLATED);
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
        let until = self.now + how_long;
        let known = self.avoided.entry(who).or_insert(until);
        *known = until.max(*known);
        self.timers.arm_by(Timer::Seek, self.now + SEEK_AGAIN);
    }

    /// Sends heartbeats.
    pub(super) fn on_heartbeat_timer(&mut self) {
        self.timers.arm(Timer::Heartbeat, self.now + HEARTBEAT);
        for peer in self.links.iter().copied().collect::<Vec<_>>() {
            self.heartbeat(peer);
        }
        self.trim();
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
