//! Suspicion: what follows once somebody does not answer, until it objects or is given up.
//!
//! Everybody runs a timer for every suspicion. Those who found out for themselves, the accusers,
//! try once more before its end and then say that the member is down; the others act later, and
//! only if no accuser was left to do so. Only the subject can lift a suspicion, by raising its
//! incarnation; so whoever hears from it tells it what is held against it.

use std::sync::Arc;
use std::time::Duration;

use super::entry::{Entry, Held, Phase};
use super::message::Message;
use super::timer::Timer;
use super::tuning::*;
use super::{Machine, Output, Record};
use crate::Fingerprint;

/// One's own accusation of a suspected member.
#[derive(Debug, Clone, Copy)]
pub(super) struct Accusation {
    /// When it was made: only what was asked after this can settle it.
    since: Duration,
    /// When the member was last asked because something had come from it.
    pub(super) challenged: Duration,
    /// When the member is to be given up.
    until: Duration,
    /// Whether it did not answer in the second round either.
    confirmed: bool,
}

/// How much longer than others a member is waited for, because it was wrongly suspected.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    level: f64,
    at: Duration,
}

impl Patience {
    fn now(&self, now: Duration) -> f64 {
        let halvings = now.saturating_sub(self.at).as_secs_f64() / PATIENCE_HALVES.as_secs_f64();
        self.level * (-halvings).exp2()
    }
}

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
        let until = member.since + self.suspicion(who, member.phase);
        let since = match self.accused.get(&who) {
            Some(accusation) if phase != Phase::Condemned => accusation.since,
            _ => self.now,
        };
        self.accused.insert(
            who,
            Accusation {
                since,
                challenged: since,
                until,
                confirmed: false,
            },
        );
        self.arm_suspicion(who);
    }

    /// A probe found that the member does not answer.
    pub(super) fn on_guilty(&mut self, who: Fingerprint, hard: bool) {
        let stalled = self.is_acknowledged(who)
            && self
                .view
                .get(&who)
                .is_some_and(|member| member.phase < Phase::Stalled);
        match self.accused.get_mut(&who) {
            _ if hard => self.accuse(who, Phase::Condemned),
            _ if stalled => self.accuse(who, Phase::Stalled),
            Some(accusation) => {
                accusation.confirmed = true;
                let until = accusation.until;
                self.timers.arm(Timer::Suspicion(who), until);
            }
            None => self.accuse(who, Phase::Suspect),
        }
    }

    /// How long a suspicion lasts.
    fn suspicion(&self, who: Fingerprint, phase: Phase) -> Duration {
        let patience = self
            .patience
            .get(&who)
            .map_or(0.0, |patience| patience.now(self.now));
        match phase {
            Phase::Condemned => CONDEMNED,
            Phase::Stalled => STALL,
            _ => SUSPICION.mul_f64(1.0 + patience).min(SUSPICION_MAX),
        }
    }

    fn arm_suspicion(&mut self, who: Fingerprint) {
        let Some(member) = self.view.live_member(&who) else {
            return;
        };
        let (phase, since) = (member.phase, member.since);
        let at = match self.accused.get(&who) {
            Some(accusation) if phase == Phase::Condemned || accusation.confirmed => {
                accusation.until
            }
            Some(accusation) => accusation
                .until
                .saturating_sub(SECOND_ROUND)
                .min(self.now + PING_SUSPECT),
            None => {
                // Members are fewer than MAX_MEMBERS: the product is a few minutes at most.
                let spread = BACKUP_PER_MEMBER * self.view.live().len() as u32;
                let end = since + self.suspicion(who, phase) + BACKUP + self.random.time(spread);
                // Whoever has just been heard is given the time to object.
                end.max(self.now + PING_SUSPECT)
            }
        };
        self.timers.arm(Timer::Suspicion(who), at.max(self.now));
    }

    /// A suspicion nears its end.
    pub(super) fn on_suspicion_timer(&mut self, who: Fingerprint) {
        let Some(member) = self.view.live_member(&who) else {
            return;
        };
        let (phase, now) = (member.phase, self.now);
        if !phase.is_suspected() {
            return;
        }
        let confirmed = self
            .accused
            .get(&who)
            .is_some_and(|accusation| accusation.confirmed);
        if phase == Phase::Condemned || confirmed {
            self.claim(who, Phase::Down);
            return;
        }
        if self
            .accused
            .get(&who)
            .is_some_and(|accusation| accusation.until > now + SECOND_ROUND)
        {
            self.challenge(who);
            self.arm_suspicion(who);
            return;
        }
        // Whoever comes here without an accusation is late: the accusers have failed.
        self.accused.entry(who).or_insert(Accusation {
            since: now,
            challenged: now,
            until: now,
            confirmed: false,
        });
        self.probe(who, false);
        if !self.probes.contains_key(&who) {
            self.timers.arm(Timer::Suspicion(who), now + SUSPICION);
        }
    }

    /// This process was stopped for a while. What has come meanwhile is heard first, and whoever
    /// was being judged is judged anew.
    pub(super) fn on_late(&mut self) {
        let now = self.now;
        for who in self.probes.keys().copied().collect::<Vec<_>>() {
            self.end_probe(who);
        }
        for peer in self.links.iter().copied().collect::<Vec<_>>() {
            self.timers.arm(Timer::Silence(peer), now + LATE);
        }
        for (who, accusation) in &mut self.accused {
            accusation.confirmed = false;
            accusation.until = accusation.until.max(now + SUSPICION);
            self.timers.arm(Timer::Suspicion(*who), now + LATE);
        }
        // Of those whom only others accuse, news is still to come.
        let suspected = self.suspected().map(|record| record.fingerprint);
        let by_others = suspected.filter(|who| !self.accused.contains_key(who));
        for who in by_others.collect::<Vec<_>>() {
            self.timers.delay(Timer::Suspicion(who), now + SUSPICION);
        }
        // Who was to be tried for others was not.
        for who in self.errands.keys().copied().collect::<Vec<_>>() {
            self.answer_errand(who, None);
        }
    }

    /// The member was there at that time: nothing is held against it by us that is older, and it is
    /// told what others hold against it.
    pub(super) fn absolve(&mut self, who: Fingerprint, at: Duration) {
        if self
            .probes
            .get(&who)
            .is_some_and(|probe| !probe.hard && probe.since <= at)
        {
            self.end_probe(who);
        }
        if self
            .accused
            .get(&who)
            .is_some_and(|accusation| accusation.since <= at)
        {
            self.accused.remove(&who);
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

    /// Whether an entry is another's word that a member is down, of whom nothing was known to be
    /// wrong here, or whose time has not come: as when two circuits merge that had given each other
    /// up.
    pub(super) fn is_hearsay(&self, entry: &Entry) -> bool {
        let Some(member) = self.view.live_member(&entry.fingerprint) else {
            return false;
        };
        if entry.held.phase != Phase::Down || entry.held.count != member.record.count {
            return false;
        }
        let for_long = self.now.saturating_sub(member.since);
        let due = match member.phase {
            Phase::Alive => return true,
            Phase::Suspect => HEARSAY,
            // Its kernel answered: whoever gives it up before its time was cut off.
            Phase::Stalled => STALL.saturating_sub(HEARSAY),
            _ => Duration::ZERO,
        };
        entry.held.incarnation != member.incarnation || for_long < due
    }

    /// Suspects a member upon another's word that it is down.
    pub(super) fn doubt(&mut self, entry: Entry, from: Option<Fingerprint>) {
        let who = entry.fingerprint;
        let (since, until) = (self.now, self.now + HEARSAY_SUSPICION);
        let accusation = Accusation {
            since,
            challenged: since,
            until,
            confirmed: false,
        };
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
        } else if self.accused.contains_key(&who) {
            return;
        }
        self.accused.insert(who, accusation);
        self.arm_suspicion(who);
    }

    /// Something was said about this server: whatever is worse than the truth is outbid.
    pub(super) fn on_entry_about_me(&mut self, entry: &Entry, from: Option<Fingerprint>) {
        let (mine, me) = (self.my_held(), self.me.fingerprint);
        if self.leaving || entry.held == mine {
            return;
        }
        if entry.held < mine {
            if let Some(from) = from {
                self.tell(from, me);
            }
            return;
        }
        // Of two running processes with one key each outbids the other, but not without rest.
        if entry.held.count != mine.count {
            if self.outbid.is_some_and(|at| at + OUTBID > self.now) {
                return;
            }
            self.outbid = Some(self.now);
        }
        let (count, incarnation) = if entry.held.count == mine.count || mine.count == MAX_LIVES {
            let higher = (entry.held.incarnation + 1).min(MAX_INCARNATION);
            (mine.count, higher)
        } else {
            // The count that was kept has been set back: this life is a later one than it says.
            ((entry.held.count + 1).min(MAX_LIVES), 0)
        };
        if (count, incarnation) <= (mine.count, mine.incarnation) {
            // A hostile member has said the last word there is: to object would be no news.
            return;
        }
        if count != mine.count {
            self.me = Arc::new(Record {
                count,
                ..Record::clone(&self.me)
            });
        }
        self.incarnation = incarnation;
        let (held, record) = (self.my_held(), Arc::clone(&self.me));
        let notices = self.view.raise(me, held, Some(record), self.now);
        self.outputs.extend(notices.into_iter().map(Output::Notice));
        self.spread(me, None);
        // Who gave us up agrees to no link before it knows better.
        if let Some(from) = from {
            self.tell(from, me);
        }
    }

    /// What follows from a change: timers, links, and what is remembered of the member.
    pub(super) fn on_raised(&mut self, who: Fingerprint, before: Option<Held>, held: Held) {
        if held.phase.is_suspected() {
            if before.is_none_or(|before| !before.phase.is_suspected()) {
                self.note_failure();
            }
            // What we have against it ourselves was of an earlier incarnation, or weighs otherwise now.
            if before.is_some_and(|before| before.incarnation == held.incarnation) {
                let until = self.now + self.suspicion(who, held.phase);
                if let Some(accusation) = self.accused.get_mut(&who) {
                    accusation.until = until;
                    accusation.confirmed = false;
                }
            } else {
                self.accused.remove(&who);
            }
            self.arm_suspicion(who);
            if self.links.contains(&who) && self.missing() > 0 {
                self.timers.arm_by(Timer::Seek, self.now);
            }
            return;
        }
        self.timers.disarm(Timer::Suspicion(who));
        self.accused.remove(&who);
        self.end_probe(who);
        if held.phase == Phase::Alive {
            self.avoided.remove(&who);
            if before
                .is_some_and(|before| before.phase.is_suspected() && before.count == held.count)
            {
                self.be_patient(who);
            }
        } else {
            self.patience.remove(&who);
            self.answer_errand(who, Some(false));
            self.part(who);
        }
        self.timers.arm_by(Timer::Seek, self.now);
    }

    fn be_patient(&mut self, who: Fingerprint) {
        let now = self.now;
        self.patience.retain(|_, patience| patience.now(now) > 0.1);
        let patience = self.patience.entry(who).or_insert(Patience {
            level: 0.0,
            at: now,
        });
        *patience = Patience {
            level: patience.now(now) + 1.0,
            at: now,
        };
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
