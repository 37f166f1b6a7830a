//! Suspicion: a member does not answer, until it objects or is given up.
//!
//! Each server runs a timer for each suspicion. The accusers, which found out for themselves, probe
//! the member once more before the end and then say that it is down. The others act later, and only
//! if no accuser was left to do so. Only the subject can lift a suspicion, by raising its
//! incarnation; so a server that hears from the subject tells it of the suspicion.
//!
//! [`Detector`](super::detector::Detector) keeps the accusations and decides whose turn it is.

use std::sync::Arc;
use std::time::Duration;

use super::detector::Turn;
use super::entry::{Entry, Held, Phase};
use super::message::Message;
use super::timer::Timer;
use super::tuning::*;
use super::{Machine, Output, Record};
use crate::Fingerprint;

impl Machine {
    /// Says of a member that it is in this phase, unless worse is held already.
    pub(super) fn claim(&mut self, who: Fingerprint, phase: Phase) {
        let Some(member) = self.view.live_member(&who) else {
            return;
        };
        if who == self.me.fingerprint {
            return;
        }
        let held = Held {
            phase,
            ..member.held()
        };
        if held.phase > member.phase {
            self.adopt(
                Entry {
                    fingerprint: who,
                    held,
                    age: 0,
                    record: None,
                },
                None,
            );
        }
    }

    /// Suspects a member upon own evidence.
    pub(super) fn accuse(&mut self, who: Fingerprint, phase: Phase) {
        self.claim(who, phase);
        let Some(member) = self
            .view
            .live_member(&who)
            .filter(|member| member.phase.is_suspected())
        else {
            return;
        };
        let until = member.since + self.detector.suspicion(&who, member.phase, self.now);
        let anew = phase == Phase::Condemned;
        self.detector.accuse(who, until, anew, self.now);
        self.arm_suspicion(who);
    }

    /// A probe found that the member does not answer.
    pub(super) fn on_guilty(&mut self, who: Fingerprint, hard: bool) {
        let stalled = self.is_acknowledged(who)
            && self
                .view
                .get(&who)
                .is_some_and(|member| member.phase < Phase::Stalled);
        if hard {
            self.accuse(who, Phase::Condemned);
        } else if stalled {
            self.accuse(who, Phase::Stalled);
        } else if let Some(until) = self.detector.confirm(&who) {
            self.timers.arm(Timer::Suspicion(who), until);
        } else {
            self.accuse(who, Phase::Suspect);
        }
    }

    fn arm_suspicion(&mut self, who: Fingerprint) {
        let Some(member) = self.view.live_member(&who) else {
            return;
        };
        let (phase, since, members) = (member.phase, member.since, self.len());
        let (detector, random, now) = (&self.detector, &mut self.random, self.now);
        let at = detector.turn_at(&who, phase, since, members, random, now);
        self.timers.arm(Timer::Suspicion(who), at);
    }

    /// A suspicion nears its end.
    pub(super) fn on_suspicion_timer(&mut self, who: Fingerprint) {
        let Some(member) = self.view.live_member(&who) else {
            return;
        };
        let phase = member.phase;
        if !phase.is_suspected() {
            return;
        }
        match self.detector.turn(who, phase, self.now) {
            Turn::Down => self.claim(who, Phase::Down),
            Turn::Challenge => {
                self.challenge(who);
                self.arm_suspicion(who);
            }
            Turn::Probe => {
                self.probe(who, false);
                if !self.detector.is_probing(&who) {
                    let again = self.now + SUSPICION;
                    self.timers.arm(Timer::Suspicion(who), again);
                }
            }
        }
    }

    /// This process was stopped for a while. It hears first what has come meanwhile, and judges anew
    /// the servers that it was judging.
    pub(super) fn on_late(&mut self) {
        let now = self.now;
        for who in self.detector.probed() {
            self.end_probe(who);
        }
        for peer in self.links.iter() {
            self.timers.arm(Timer::Silence(peer), now + LATE);
        }
        for who in self.detector.judge_anew(now) {
            self.timers.arm(Timer::Suspicion(who), now + LATE);
        }
        // There may be news of the members that only others accuse.
        let suspected = self.suspected().map(|record| record.fingerprint);
        let by_others = suspected.filter(|who| !self.detector.accuses(who));
        for who in by_others.collect::<Vec<_>>() {
            self.timers.delay(Timer::Suspicion(who), now + SUSPICION);
        }
        // The servers that were to be tried for others were not tried.
        for who in self.detector.indirect_probes() {
            self.answer_indirect_probe(who, None);
        }
    }

    /// The member was there at that time: ends this server's own doubts that are older, and tells
    /// the member of the suspicion of the others.
    pub(super) fn absolve(&mut self, who: Fingerprint, at: Duration) {
        if self.detector.clears(&who, at) {
            self.end_probe(who);
        }
        if self.detector.absolve(&who, at) {
            self.warn(who);
        }
    }

    /// Tells a member that it is suspected, and leaves the rest to it and to others.
    pub(super) fn warn(&mut self, who: Fingerprint) {
        let Some(member) = self
            .view
            .live_member(&who)
            .filter(|member| member.phase.is_suspected())
        else {
            return;
        };
        let held = member.held();
        let nonce = self.nonce();
        self.say(who, Message::Ping { nonce, held });
        self.arm_suspicion(who);
    }

    /// Whether an entry says that a member is down which was not in doubt here, or not for long
    /// enough: as when two circuits merge that had given each other up.
    pub(super) fn is_hearsay(&self, entry: &Entry) -> bool {
        let Some(member) = self.view.live_member(&entry.fingerprint) else {
            return false;
        };
        if entry.held.phase != Phase::Down || !entry.held.is_of(&member.record) {
            return false;
        }
        let for_long = self.now.saturating_sub(member.since);
        let due = match member.phase {
            Phase::Alive => return true,
            Phase::Suspect => HEARSAY,
            // Its kernel answered: a server that gives it up before its time was cut off.
            Phase::Stalled => STALL.saturating_sub(HEARSAY),
            _ => Duration::ZERO,
        };
        entry.held.incarnation != member.incarnation || for_long < due
    }

    /// Suspects a member upon another's word that it is down.
    pub(super) fn doubt(&mut self, entry: Entry, from: Option<Fingerprint>) {
        let who = entry.fingerprint;
        let member = self.view.get(&who);
        let known = member
            .filter(|member| member.incarnation == entry.held.incarnation)
            .map(|member| member.phase);
        if known == Some(Phase::Stalled) {
            // It is waited for already.
            return;
        }
        if !known.is_some_and(Phase::is_suspected) {
            let held = Held {
                phase: Phase::Suspect,
                ..entry.held
            };
            self.adopt(
                Entry {
                    held,
                    age: 0,
                    ..entry
                },
                from,
            );
        } else if self.detector.accuses(&who) {
            return;
        }
        let until = self.now + HEARSAY_SUSPICION;
        self.detector.accuse(who, until, true, self.now);
        self.arm_suspicion(who);
    }

    /// An entry is about this server itself: outbids anything that is worse than the truth. Returns
    /// false if it is of no use without a record.
    pub(super) fn on_entry_about_me(&mut self, entry: &Entry, from: Option<Fingerprint>) -> bool {
        let (mine, me) = (self.my_held(), self.me.fingerprint);
        if self.leaving || entry.held == mine {
            return true;
        }
        if entry.held < mine {
            if let Some(from) = from {
                self.tell(from, me);
            }
            return true;
        }
        if !entry.held.is_of(&self.me) {
            return self.on_other_life_of_me(entry, from);
        }
        let incarnation = (entry.held.incarnation + 1).min(MAX_INCARNATION);
        // Else a hostile member has said the last word there is: to object would be no news.
        if incarnation > mine.incarnation {
            self.speak_of_me(mine.count, incarnation, from);
        }
        true
    }

    /// Raises the value that this server holds of itself, and tells everybody.
    pub(super) fn speak_of_me(&mut self, count: u64, incarnation: u64, from: Option<Fingerprint>) {
        if count != self.me.count {
            self.me = Arc::new(Record {
                count,
                ..Record::clone(&self.me)
            });
        }
        self.incarnation = incarnation;
        let (me, held, record) = (self.me.fingerprint, self.my_held(), Arc::clone(&self.me));
        let notices = self.view.raise(me, held, Some(record), self.now);
        self.outputs.extend(notices.into_iter().map(Output::Notice));
        self.spread(me, None);
        // A server that has given us up agrees to no link before it knows better.
        if let Some(from) = from {
            self.tell(from, me);
        }
    }

    /// The value that is held of a member was raised: adjusts timers, links and doubts.
    pub(super) fn on_raised(&mut self, who: Fingerprint, before: Option<Held>, held: Held) {
        if held.phase.is_suspected() {
            if before.is_none_or(|before| !before.phase.is_suspected()) {
                self.note_failure();
            }
            // Our own accusation was of an earlier incarnation, or weighs otherwise now.
            if before.is_some_and(|before| before.incarnation == held.incarnation) {
                let until = self.now + self.detector.suspicion(&who, held.phase, self.now);
                self.detector.reweigh(&who, until);
            } else {
                self.detector.withdraw(&who);
            }
            self.arm_suspicion(who);
            if self.links.contains(&who) && self.missing() > 0 {
                self.timers.arm_by(Timer::Seek, self.now);
            }
            return;
        }
        self.timers.disarm(Timer::Suspicion(who));
        self.detector.withdraw(&who);
        self.end_probe(who);
        if held.phase == Phase::Alive {
            self.links.avoid_no_more(&who);
            let is_same_life =
                |before: &Held| (before.count, before.instance) == (held.count, held.instance);
            if before.is_some_and(|before| before.phase.is_suspected() && is_same_life(&before)) {
                self.detector.raise_suspicion_factor(who, self.now);
            }
        } else {
            self.detector.forget(&who);
            self.answer_indirect_probe(who, Some(false));
            self.part(who);
        }
        self.timers.arm_by(Timer::Seek, self.now);
    }

    /// The member is live no longer: its connection goes, unless it can still be heard. Then it
    /// is left open for a while, for the member to object.
    fn part(&mut self, who: Fingerprint) {
        let Some(connection) = self.connections.get(&who) else {
            return;
        };
        if self.now.saturating_sub(connection.heard) < HEARTBEAT + FLUSH {
            self.tell(who, who);
            self.unlink(who);
        } else {
            self.close(who);
        }
    }
}
