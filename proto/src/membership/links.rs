//! Which servers this one has links to, asks for links, and avoids: the state of the overlay, and
//! its decisions.
//!
//! It reads the view to choose among the live members. It knows nothing of connections, messages,
//! timers and failures: the machine tells it what has happened, and carries out each [`Step`].
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
    /// To learn what the other end holds.
    Sync,
}

/// What the machine is to do for the overlay.
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
    /// How many links the servers have that have said so.
    degrees: BTreeMap<Fingerprint, usize>,
    /// Which connections are being opened, and what for.
    connecting: BTreeMap<Fingerprint, Purpose>,
    /// Who was asked for a link and has not answered.
    asked: BTreeMap<Fingerprint, Wish>,
    /// Who is not to be asked for a link, until when.
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

    /// How many connections are being opened only to learn what their other ends hold.
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

    /// A connection has opened, or could not be: what it was for, if this server had wanted it.
    pub(super) fn on_opened(&mut self, to: &Fingerprint) -> Option<Purpose> {
        self.connecting.remove(to)
    }

    /// A server was asked for a link.
    pub(super) fn on_asked(&mut self, who: Fingerprint, wish: Wish) {
        self.asked.insert(who, wish);
    }

    /// A server has answered, or will not: how it was asked, if it was.
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
            // Whoever could not be reached for a while may be the only one that can be now.
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

    /// Forgets whom not to ask where the time is over.
    pub(super) fn expire(&mut self, now: Duration) {
        self.avoided.retain(|_, until| *until > now);
    }

    /// Who is avoided.
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

    /// Whether to agree to a link that this server asks for, and what to answer besides: the
    /// neighbour that is to give up its link, or that is given up.
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

    /// What follows from a link that was asked for so and that the other end has agreed to, naming
    /// another server.
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
    /// links with another server instead. So what is too much walks about until two meet.
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

    /// A link is to be exchanged now: whom to ask, unless links are missing or being made.
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
mod tests {
    use super::super::entry::{Held, Phase};
    use super::super::tests::random::{fingerprint, record};
    use super::*;
    use std::sync::Arc;

    const NOW: Duration = Duration::from_secs(100);

    /// This server is number 0; so many others live.
    fn known(others: u8) -> View {
        let mut view = View::new();
        for who in 0..=others {
            let held = Held {
                count: 0,
                incarnation: 0,
                phase: Phase::Alive,
            };
            view.raise(fingerprint(who), held, Some(Arc::new(record(who, 0))), NOW);
        }
        view
    }

    fn linked(with: std::ops::RangeInclusive<u8>) -> Links {
        let mut links = Links::new(fingerprint(0));
        with.for_each(|who| assert!(links.link(fingerprint(who))));
        links
    }

    #[test]
    fn as_many_links_are_missing_as_are_neither_there_nor_coming() {
        let sound = |_: &Fingerprint| true;
        let mut links = linked(1..=3);
        assert_eq!(links.missing(4, sound), 0, "so few servers");
        assert_eq!(links.missing(20, sound), 5);
        links.on_asked(fingerprint(4), Wish::Split);
        assert!(links.on_connecting(fingerprint(5), Purpose::Link(Wish::Plain)));
        assert!(!links.on_connecting(fingerprint(5), Purpose::Sync));
        assert!(links.on_connecting(fingerprint(6), Purpose::Sync));
        assert_eq!(links.missing(20, sound), 2, "a split makes two");
        assert_eq!((links.seeking(), links.meeting()), (2, 1));
        // Where nearly all neighbours are in doubt, two more than enough are sought.
        let links = linked(1..=8);
        let doubted = |who: &Fingerprint| *who == fingerprint(1);
        assert_eq!(links.missing(20, sound), 0);
        assert_eq!(links.missing(20, doubted), 1);
        assert_eq!(links.missing(20, |_| false), LIFELINES);
        assert_eq!(linked(1..=10).missing(20, |_| false), 0, "there is no room");
    }

    #[test]
    fn who_is_linked_asked_or_avoided_is_no_candidate() {
        let (view, mut random) = (known(6), Random::new(1));
        let mut links = linked(1..=2);
        links.on_asked(fingerprint(3), Wish::Plain);
        links.on_connecting(fingerprint(4), Purpose::Sync);
        links.avoid(fingerprint(5), NOW + AVOID);
        for _ in 0..20 {
            let who = links.candidate(&view, &mut random, NOW);
            assert_eq!(who, Some(fingerprint(6)));
        }
        links.avoid(fingerprint(6), NOW + AVOID);
        assert_eq!(links.candidate(&view, &mut random, NOW), None);
        assert!(links.candidate(&view, &mut random, NOW + AVOID).is_some());
        links.expire(NOW + AVOID);
        assert!(links.avoided.is_empty());
    }

    #[test]
    fn a_full_server_agrees_to_what_leaves_its_degree_as_it_is() {
        let (view, mut random) = (known(30), Random::new(1));
        let (full, packed) = (linked(1..=8), linked(1..=10));
        let mut ask = |links: &Links, wish| links.answer(fingerprint(20), wish, &view, &mut random);
        assert_eq!(
            ask(&linked(1..=7), Wish::Swap),
            (true, None),
            "it lacks one"
        );
        assert_eq!(ask(&full, Wish::Plain), (true, None), "one too many");
        assert_eq!(ask(&packed, Wish::Plain), (false, None));
        let old = fingerprint(3);
        assert_eq!(ask(&packed, Wish::Instead(old)), (true, Some(old)));
        assert_eq!(ask(&packed, Wish::Instead(fingerprint(20))), (false, None));
        for wish in [Wish::Swap, Wish::Split] {
            let (accepted, other) = ask(&full, wish);
            assert!(accepted && full.contains(&other.unwrap()), "{wish:?}");
        }
        assert_eq!(ask(&packed, Wish::Split), (false, None));
        let unknown = full.answer(fingerprint(99), Wish::Plain, &view, &mut random);
        assert_eq!(unknown, (false, None));
        let again = packed.answer(fingerprint(1), Wish::Plain, &view, &mut random);
        assert_eq!(again, (true, None), "it is a link already");
    }

    #[test]
    fn the_second_half_of_a_split_is_asked_for_once_the_first_is_there() {
        let (view, mut random) = (known(30), Random::new(1));
        let links = linked(1..=1);
        let mut after = |wish, other: u8| {
            let (from, other) = (fingerprint(1), Some(fingerprint(other)));
            links.after_agreement(from, wish, other, &view, &mut random, NOW)
        };
        let half = Wish::Instead(fingerprint(1));
        let expected = Some(Step::Seek(fingerprint(2), half));
        assert_eq!(after(Wish::Split, 2), expected);
        assert_eq!(after(Wish::Split, 1), None, "it is a neighbour already");
        assert_eq!(after(Wish::Plain, 2), None);
    }

    #[test]
    fn a_link_too_many_is_given_up_or_passed_on() {
        let (view, mut random) = (known(30), Random::new(1));
        let mut links = linked(1..=9);
        let mut trims = |links: &Links| {
            let steps = (0..200).filter_map(|_| links.trim(&view, &mut random, NOW));
            steps.collect::<Vec<_>>()
        };
        let passed_on = trims(&links);
        assert!(!passed_on.is_empty());
        for step in passed_on {
            let Step::GiveUp(peer, Some(other)) = step else {
                panic!("{step:?}");
            };
            assert!(links.contains(&peer) && !links.contains(&other));
        }
        links.on_degree(fingerprint(4), 9);
        let given_up = trims(&links);
        assert!(!given_up.is_empty());
        let expected = Step::GiveUp(fingerprint(4), None);
        assert!(given_up.iter().all(|step| *step == expected));
        assert_eq!(trims(&linked(1..=8)), []);
    }

    #[test]
    fn newcomers_are_owed_exchanges_in_a_large_circuit() {
        let mut links = linked(1..=8);
        assert!((0..100).all(|_| !links.mix_in(COMPLETE)));
        assert_eq!((1..100).find(|_| links.mix_in(16)), Some(8));
        let (view, mut random) = (known(30), Random::new(1));
        let step = links.exchange(&view, &mut random, NOW);
        assert!(matches!(step, Some(Step::Seek(_, Wish::Swap))));
        assert!(!links.is_mixing());
        links.on_asked(fingerprint(20), Wish::Plain);
        assert_eq!(links.exchange(&view, &mut random, NOW), None);
    }

    #[test]
    fn who_has_lost_all_links_asks_everybody_again_soon() {
        let mut links = linked(1..=1);
        assert!(!links.are_lost());
        links.avoid(fingerprint(2), NOW + AVOID_BLOCKED);
        assert!(links.unlink(&fingerprint(1), NOW));
        assert!(!links.unlink(&fingerprint(1), NOW));
        assert!(links.are_lost() && links.avoided.is_empty());
        assert!(!Links::new(fingerprint(0)).are_lost());
    }
}
