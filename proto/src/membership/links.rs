//! The overlay: the links of one server, its requests for more, and its decisions about them.
//!
//! It reads the view to choose among the live members. It knows nothing of connections, messages,
//! timers and failures: the machine tells it of events, and carries out each [`Step`].
//!
//! **Invariant:** nobody is accepted beyond [`MAX_DEGREE`].

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::message::Wish;
use super::random::Random;
use super::tuning::*;
use super::view::View;
use crate::Fingerprint;

/// Why a connection is being opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// To become a link.
    Link(Wish),
    /// To learn the view of the other end.
    Sync,
}

/// Something that the machine is to do for the overlay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// Ask this server for a link.
    Seek(Fingerprint, Wish),
    /// End the link with this server, and name the one to link with instead, if there is one.
    GiveUp(Fingerprint, Option<Fingerprint>),
}

/// The links of one server.
#[derive(Debug, Clone)]
pub(super) struct Links {
    me: Fingerprint,
    links: BTreeSet<Fingerprint>,
    /// How many links other servers have, as they said last.
    degrees: BTreeMap<Fingerprint, usize>,
    /// The connections that are being opened, and their purposes.
    connecting: BTreeMap<Fingerprint, Purpose>,
    /// The servers that were asked for a link and have not answered.
    asked: BTreeMap<Fingerprint, Wish>,
    /// The servers that are not to be asked for a link, until then.
    avoided: BTreeMap<Fingerprint, Duration>,
    /// How many exchanges of links this server owes the newcomers.
    mixing: f64,
    /// Whether there ever was a link.
    linked_once: bool,
}

impl Links {
    /// A server without links.
    pub(super) fn new(me: Fingerprint) -> Links {
        Links {
            me,
            links: BTreeSet::new(),
            degrees: BTreeMap::new(),
            connecting: BTreeMap::new(),
            asked: BTreeMap::new(),
            avoided: BTreeMap::new(),
            mixing: 0.0,
            linked_once: false,
        }
    }

    /// The other ends of the links, in order.
    pub(super) fn iter(&self) -> impl Iterator<Item = Fingerprint> {
        self.links.iter().copied()
    }

    /// How many links there are.
    pub(super) fn len(&self) -> usize {
        self.links.len()
    }

    /// Whether there is a link to this server.
    pub(super) fn contains(&self, who: &Fingerprint) -> bool {
        self.links.contains(who)
    }

    /// Whether there were links and there are none.
    pub(super) fn are_lost(&self) -> bool {
        self.linked_once && self.links.is_empty()
    }

    /// Whether this server was asked for a link and has not answered.
    pub(super) fn is_asked(&self, who: &Fingerprint) -> bool {
        self.asked.contains_key(who)
    }

    /// How many links this server wants, of so many members.
    pub(super) fn wanted(&self, members: usize) -> usize {
        DEGREE.min(members.saturating_sub(1))
    }

    /// How many links are missing, not counting those that are being made. `is_sound` says of a
    /// neighbour whether nothing is wrong with it.
    pub(super) fn missing(&self, members: usize, is_sound: impl Fn(&Fingerprint) -> bool) -> usize {
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
        let wanted = self.wanted(members);
        let missing = wanted.saturating_sub(self.links.len() + coming);
        // Where most neighbours have failed at once, not all links can wait to be given up.
        let room = MAX_DEGREE.saturating_sub(self.links.len() + coming);
        let lifelines = self.lifelines(members, is_sound).saturating_sub(coming);
        missing.max(lifelines.min(room))
    }

    /// How many links to sound servers are missing, and not even being looked at.
    fn lifelines(&self, members: usize, is_sound: impl Fn(&Fingerprint) -> bool) -> usize {
        let sound = self.links.iter().filter(|who| is_sound(who));
        let wanted = LIFELINES.min(self.wanted(members));
        wanted.saturating_sub(sound.take(LIFELINES).count())
    }

    /// Whether a server that has been heard is to be asked for a link at once, because nearly all
    /// others are in doubt. They may have failed too, although they are being asked already.
    pub(super) fn clings(
        &self,
        to: Fingerprint,
        view: &View,
        now: Duration,
        is_sound: impl Fn(&Fingerprint) -> bool,
    ) -> bool {
        self.lifelines(view.live().len(), is_sound) > self.asked.len()
            && self.seeking() < CLINGING
            && self.is_candidate(to, view, now)
    }

    /// How many requests for links are under way.
    pub(super) fn seeking(&self) -> usize {
        let connecting = self.connecting.values();
        self.asked.len()
            + connecting
                .filter(|purpose| **purpose != Purpose::Sync)
                .count()
    }

    /// How many connections are being opened only to learn the view of their other ends.
    pub(super) fn meeting(&self) -> usize {
        let connecting = self.connecting.values();
        connecting
            .filter(|purpose| **purpose == Purpose::Sync)
            .count()
    }

    /// A connection is to be opened. Returns false if it is being opened already.
    pub(super) fn on_connecting(&mut self, to: Fingerprint, purpose: Purpose) -> bool {
        let new = !self.connecting.contains_key(&to);
        if new {
            self.connecting.insert(to, purpose);
        }
        new
    }

    /// A connection has opened, or could not be. Returns its purpose, if this server had one.
    pub(super) fn on_opened(&mut self, to: &Fingerprint) -> Option<Purpose> {
        self.connecting.remove(to)
    }

    /// A server was asked for a link.
    pub(super) fn on_asked(&mut self, who: Fingerprint, wish: Wish) {
        self.asked.insert(who, wish);
    }

    /// A server has answered, or will not. Returns what it was asked for, if it was asked.
    pub(super) fn on_answered(&mut self, who: &Fingerprint) -> Option<Wish> {
        self.asked.remove(who)
    }

    /// A server has said how many links it has.
    pub(super) fn on_degree(&mut self, who: Fingerprint, degree: u8) {
        self.degrees.insert(who, usize::from(degree));
    }

    /// There is no connection to this server any more, nor a link.
    pub(super) fn forget(&mut self, who: &Fingerprint) {
        self.degrees.remove(who);
        self.asked.remove(who);
    }

    /// There is a link to this server. Returns whether it is new.
    pub(super) fn link(&mut self, who: Fingerprint) -> bool {
        let new = self.links.insert(who);
        if new {
            self.linked_once = true;
            self.avoided.remove(&who);
        }
        new
    }

    /// There is no link to this server. Returns whether there was one.
    pub(super) fn unlink(&mut self, who: &Fingerprint, now: Duration) -> bool {
        let was = self.links.remove(who);
        if was && self.links.is_empty() {
            // A server that could not be reached for a while may be the only one that can be now.
            let soon = now + AVOID;
            self.avoided.retain(|_, until| *until <= soon);
        }
        was
    }

    /// Does not ask this server for a link for so long.
    pub(super) fn avoid(&mut self, who: Fingerprint, until: Duration) {
        let known = self.avoided.entry(who).or_insert(until);
        *known = until.max(*known);
    }

    /// This server may be asked again.
    pub(super) fn avoid_no_more(&mut self, who: &Fingerprint) {
        self.avoided.remove(who);
    }

    /// Everybody may be asked again.
    pub(super) fn avoid_nobody(&mut self) {
        self.avoided.clear();
    }

    /// Forgets the avoided servers whose time is over.
    pub(super) fn expire(&mut self, now: Duration) {
        self.avoided.retain(|_, until| *until > now);
    }

    /// The servers that are avoided.
    #[cfg(test)]
    pub(super) fn avoided(&self) -> impl Iterator<Item = Fingerprint> {
        self.avoided.keys().copied()
    }

    /// Whether this server can be asked for a link.
    pub(super) fn is_candidate(&self, who: Fingerprint, view: &View, now: Duration) -> bool {
        who != self.me
            && !self.links.contains(&who)
            && !self.asked.contains_key(&who)
            && !self.connecting.contains_key(&who)
            && self.avoided.get(&who).is_none_or(|until| *until <= now)
            && view.is_trusted(&who)
    }

    /// A server to ask for a link, at random.
    pub(super) fn candidate(
        &self,
        view: &View,
        random: &mut Random,
        now: Duration,
    ) -> Option<Fingerprint> {
        // Where there are many, a few random tries find one; where there are few, all are looked at.
        for _ in 0..8 {
            let who = view.random_live(random)?;
            if self.is_candidate(who, view, now) {
                return Some(who);
            }
        }
        if view.live().len() > 8 * COMPLETE {
            return None;
        }
        let all = view.live().iter().map(|record| record.fingerprint);
        let all: Vec<_> = all
            .filter(|who| self.is_candidate(*who, view, now))
            .collect();
        random.pick(&all)
    }

    /// A trusted neighbour at random, but not these two.
    pub(super) fn neighbour_except(
        &self,
        one: Fingerprint,
        two: Option<Fingerprint>,
        view: &View,
        random: &mut Random,
    ) -> Option<Fingerprint> {
        let fits = |who: &Fingerprint| *who != one && Some(*who) != two && view.is_trusted(who);
        let all: Vec<_> = self.iter().filter(fits).collect();
        random.pick(&all)
    }

    /// Whether to agree to a link that a server asks for, and the neighbour to name in the answer:
    /// after a split the one to link with next, after a swap the one that is given up.
    pub(super) fn answer(
        &self,
        from: Fingerprint,
        wish: Wish,
        view: &View,
        random: &mut Random,
    ) -> (bool, Option<Fingerprint>) {
        if self.links.contains(&from) {
            return (true, None);
        }
        if view.live_member(&from).is_none() {
            return (false, None);
        }
        let full = self.links.len() >= self.wanted(view.live().len());
        match wish {
            _ if !full => (true, None),
            Wish::Instead(old) if self.links.contains(&old) => (true, Some(old)),
            Wish::Swap => {
                let other = self.neighbour_except(from, None, view, random);
                (other.is_some(), other)
            }
            Wish::Split if self.links.len() < MAX_DEGREE => {
                (true, self.neighbour_except(from, None, view, random))
            }
            Wish::Plain | Wish::Instead(_) | Wish::Split => (self.links.len() < MAX_DEGREE, None),
        }
    }

    /// The step that follows a link that the other end has agreed to, naming another server.
    pub(super) fn after_agreement(
        &self,
        from: Fingerprint,
        wish: Wish,
        other: Option<Fingerprint>,
        view: &View,
        random: &mut Random,
        now: Duration,
    ) -> Option<Step> {
        let too_many = self.links.len() > self.wanted(view.live().len());
        match (
            wish,
            other.filter(|other| self.is_candidate(*other, view, now)),
        ) {
            (Wish::Split, Some(other)) => Some(Step::Seek(other, Wish::Instead(from))),
            (Wish::Swap, Some(other)) if too_many => {
                let old = self.neighbour_except(from, Some(other), view, random)?;
                Some(Step::GiveUp(old, Some(other)))
            }
            (Wish::Swap, Some(_)) => None,
            // The one that was given up is our neighbour already: it gets its link back.
            (Wish::Swap, None) if too_many => Some(Step::GiveUp(from, other)),
            _ if self.links.len() > MAX_DEGREE => {
                let old = self.neighbour_except(from, None, view, random)?;
                Some(Step::GiveUp(old, None))
            }
            _ => None,
        }
    }

    /// Whether this server is to give up a link, and which: where both ends have too many.
    ///
    /// A server with one too many that has no such neighbour passes it on: a neighbour at random
    /// links with another server instead. So a surplus link walks about until two meet.
    pub(super) fn trim(&self, view: &View, random: &mut Random, now: Duration) -> Option<Step> {
        if is_complete(view.live().len()) || self.links.len() <= DEGREE {
            return None;
        }
        let has_many = |peer: &Fingerprint| {
            self.degrees
                .get(peer)
                .is_some_and(|degree| *degree > DEGREE)
        };
        let crowded: Vec<_> = self.iter().filter(has_many).collect();
        if !crowded.is_empty() {
            // Not at once: the other end may be about to do the same.
            let now = random.below(4) == 0;
            let peer = now.then(|| random.pick(&crowded)).flatten()?;
            return Some(Step::GiveUp(peer, None));
        }
        if random.below(PASS_ON) != 0 {
            return None;
        }
        let other = self.candidate(view, random, now)?;
        let peer = self.neighbour_except(other, None, view, random)?;
        Some(Step::GiveUp(peer, Some(other)))
    }

    /// A newcomer is to be mixed into the graph: each server exchanges, in all, as many of its
    /// links as would lead to newcomers if the graph were made anew. Returns whether an exchange is
    /// due.
    pub(super) fn mix_in(&mut self, members: usize) -> bool {
        if is_complete(members) {
            return false;
        }
        // Each exchange moves two links at this end's cost of one: a quarter of the degree does.
        self.mixing = (self.mixing + DEGREE as f64 / 4.0 / members as f64).min(DEGREE as f64);
        self.is_mixing()
    }

    /// Whether an exchange for newcomers is due.
    pub(super) fn is_mixing(&self) -> bool {
        self.mixing >= 1.0
    }

    /// The step that exchanges a link at random, unless links are missing or being made.
    pub(super) fn exchange(
        &mut self,
        view: &View,
        random: &mut Random,
        now: Duration,
    ) -> Option<Step> {
        let members = view.live().len();
        if is_complete(members) || self.links.len() < self.wanted(members) || self.seeking() > 0 {
            return None;
        }
        self.mixing = (self.mixing - 1.0).max(0.0);
        let who = self.candidate(view, random, now)?;
        Some(Step::Seek(who, Wish::Swap))
    }
}

/// Whether there are so few members that everybody is linked with everybody.
pub(super) fn is_complete(members: usize) -> bool {
    members <= COMPLETE
}

#[cfg(test)]
mod tests;
